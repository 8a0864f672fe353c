"""The three bundles that a training can become, and how each says what its network takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Task", "task_of"]

_NAMES = {"t1": "T1", "t1ce": "T1 with contrast agent", "t2": "T2", "flair": "FLAIR"}
_REGIONS = {
    **{"core": "tumour core", "whole": "whole tumour", "enhancing": "enhancing tumour", "oedema": "oedema"},
    **{"necrosis": "necrosis", "cyst": "cystic part", "cavity": "resection cavity", "lesion": "lesion"},
}
_PREDICTED = {"v_prediction": "velocity of", "epsilon": "noise of", "sample": ""}


@dataclass(frozen=True)
class Task:
    """What a bundle is for.

    Attributes:
        name: Of the bundle.
        title: The same for people.
        description: What it does.
        configs: Its config files, and what each is merged of.
        channels: From the convention of a training to what the channels of the network's input and output hold.
        label_classes: What labels say, where there are any.
    """

    name: str
    title: str
    description: str
    configs: Mapping[str, tuple[str, ...]]
    channels: Callable[[Mapping[str, Any]], tuple[list[str], list[str]]]
    label_classes: str = "none"


def task_of(convention: Mapping[str, Any]) -> Task:
    """The task that weights were trained for, which their convention tells."""
    if "regions" in convention:
        return _SEGMENTATION
    return _SYNTHESIS if "known" in convention else _GENERATION


def _noisy_contrasts(convention: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    names = [_NAMES[modality] for modality in convention["modalities"]]
    predicted = _PREDICTED[convention["prediction_type"]]
    return [f"noisy {name}" for name in names], [f"{predicted} {name}".strip() for name in names]


def _known_or_noisy_contrasts(convention: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    names = [_NAMES[modality] for modality in convention["modalities"]]
    return [f"{name}, noisy where not known" for name in names], _noisy_contrasts(convention)[1]


def _masks_and_condition(convention: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    regions = [_REGIONS[region] for region in convention["regions"]]
    contrasts = [_NAMES[modality] for modality in convention["modalities"]]
    coordinates = [f"coordinate, {axis}" for axis in ("left to right", "back to front", "down to up")]
    if not convention.get("coordinates", True):
        coordinates = []
    predicted = _PREDICTED[convention["prediction_type"]]
    inputs = [f"noisy mask of the {region}" for region in regions]
    return [*inputs, *contrasts, *coordinates], [f"{predicted} {region}".strip() for region in regions]


_GENERATION = Task(
    "brats_mri_invertible_diffusion",
    "BraTS MRI invertible diffusion",
    "Draws 3D brain MRI from noise, by a reversible diffusion model",
    {
        "train": ("train",),
        "evaluate": ("train", "evaluate"),
        "evaluate_generation": ("train", "evaluate_generation"),
        "inference": ("inference",),
    },
    _noisy_contrasts,
)
_SEGMENTATION = Task(
    "brats_mri_invertible_diffusion_segmentation",
    "BraTS MRI segmentation by invertible diffusion",
    "Draws the mask of a brain tumour under the condition of MRI contrasts, by a reversible diffusion model",
    {
        "train": ("train", "segmentation"),
        "evaluate": ("train", "segmentation", "evaluate_segmentation"),
        "inference": ("inference_segmentation",),
    },
    _masks_and_condition,
    "BraTS's labels",
)
_SYNTHESIS = Task(
    "brats_mri_invertible_diffusion_synthesis",
    "BraTS MRI synthesis of missing contrasts by invertible diffusion",
    "Makes the MRI contrasts of a brain that were not scanned from those that were, by a reversible diffusion model",
    {
        "train": ("train", "synthesis"),
        "evaluate": ("train", "synthesis", "evaluate_synthesis"),
        "inference": ("inference_synthesis",),
    },
    _known_or_noisy_contrasts,
)
