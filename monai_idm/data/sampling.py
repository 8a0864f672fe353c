"""Inputs and outputs of pure sampling: seeded noise, the affine of the samples and a record of their settings."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor, get_track_meta
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_tensor

from monai_idm.atomic_file import write_json
from monai_idm.data.conditions import VALUES
from monai_idm.data.table import is_missing
from monai_idm.file_stem import UniqueStems, file_stem
from monai_idm.machine import VERSIONS
from monai_idm.noise import seeded_noise

__all__ = ["DrawNoised", "PlaceOnTrainingGridd", "SaveSettingsd", "sample_list"]

_TRAINING_ONLY = ("split", "earlier")  # parts of a training record that do not affect a sample

_logger = logging.getLogger(__name__)


def sample_list(
    num_samples: int,
    seed: int = 0,
    classes: Sequence[int] = (),
    output_dir: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    conditions: Mapping[str, Sequence[str]] | None = None,
) -> list[dict[str, Any]]:
    """List the samples that are still to be drawn, as datalist items: ``{"subject": "sample_000", "seed": ...}``.

    Args:
        num_samples: Number of samples.
        seed: Seed of the first sample; sample i has ``seed + i``.
        classes: Class numbers, assigned to the samples in turn by seed; empty for networks without classes.
        output_dir: Folder with the records of :class:`SaveSettingsd`; samples recorded there are not drawn again.
        settings: Settings of the samples; see SaveSettingsd.
        conditions: Values by the name of a condition, each assigned to the samples in turn by seed; see
            :func:`~monai_idm.data.asked_conditions`. None or empty: all are unknown.
    Raises:
        ValueError: If an earlier run has drawn a sample with other settings.
    """
    samples = []
    for number in range(seed, seed + num_samples):
        sample: dict[str, Any] = {"subject": f"sample_{number:03d}", "seed": number}
        if classes:
            sample["class_label"] = classes[number % len(classes)]
        if conditions:
            sample[VALUES] = {name: values[number % len(values)] for name, values in conditions.items()}
        if output_dir is None or not _drawn_before(Path(output_dir), sample, settings or {}):
            samples.append(sample)
    if len(samples) < num_samples:
        _logger.info("%d of %d samples are in %s already", num_samples - len(samples), num_samples, output_dir)
    return samples


class DrawNoised(MapTransform):
    """Draw normal noise from the item's seed, the same on every machine.

    Args:
        keys: Keys that receive the noise, ``(channels, *spatial_size)``.
        channels: Number of channels of the image.
        spatial_size: Size of the image in voxels; None if unknown.
    Raises:
        ValueError: When called, if the size is unknown.
    """

    def __init__(self, keys: KeysCollection, channels: int, spatial_size: Sequence[int] | None) -> None:
        super().__init__(keys)
        self.channels = channels
        self.spatial_size = spatial_size

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        if self.spatial_size is None:
            raise ValueError(
                "the checkpoint does not record the grid it was trained on; give the size of the samples in voxels "
                "with --spatial_size"
            )
        noise = seeded_noise((self.channels, *self.spatial_size), int(data["seed"]))
        noises = {key: convert_to_tensor(noise, track_meta=get_track_meta()) for key in self.keys}
        return {**data, **noises}


class PlaceOnTrainingGridd(MapTransform):
    """Give samples the affine of the grid that the network was trained on: RAS, isotropic, centred on the origin.

    Args:
        keys: Keys of the samples, ``(C, *spatial)``.
        spacing_mm: Voxel size of that grid.
    """

    def __init__(self, keys: KeysCollection, spacing_mm: float) -> None:
        super().__init__(keys)
        self.spacing_mm = spacing_mm

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        placed = dict(data)
        for key in self.keys:
            sides = torch.tensor(data[key].shape[1:], dtype=torch.float64)
            affine = torch.eye(4, dtype=torch.float64) * self.spacing_mm
            affine[:3, 3] = -self.spacing_mm * (sides - 1) / 2
            affine[3, 3] = 1
            placed[key] = MetaTensor(convert_to_tensor(data[key], track_meta=False), affine=affine)
        return placed


class SaveSettingsd(Transform):
    """Write the settings of a result next to it, as ``<subject>.json``. Place it last: it marks a result as complete.

    In the file name the subject is its :func:`~monai_idm.file_stem.file_stem`. The file holds the item's ``seed``,
    ``class_label`` and known ``condition_values``, the settings, the checkpoint's record and the package versions.
    Items without a subject are skipped: MONAI Label and Deploy write results themselves and pass none.

    Args:
        output_dir: Folder to write to.
        settings: Everything else that the result depends on, in plain types.
        record: Training record of the weights.
    Raises:
        ValueError: When called, if another subject has the same file name.
    """

    def __init__(
        self, output_dir: str | os.PathLike[str], settings: Mapping[str, Any], record: Mapping[str, Any]
    ) -> None:
        self.output_dir = Path(output_dir)
        self.settings = dict(settings)
        self.record = {name: value for name, value in record.items() if name not in _TRAINING_ONLY}
        self._stem = UniqueStems()

    def __call__(self, data: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
        if "subject" not in data:
            return data
        content = {
            **_of_sample(data),
            "settings": self.settings,
            "checkpoint": self.record,
            "versions": VERSIONS,
        }
        write_json(_settings_file(self.output_dir, self._stem(data["subject"])), content)
        return data


def _drawn_before(folder: Path, sample: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    file = _settings_file(folder, file_stem(sample["subject"]))
    if not file.is_file():
        return False
    written = json.loads(file.read_text())
    before = {**written["settings"], **_of_sample(written)}
    now = {**json.loads(json.dumps(dict(settings))), **_of_sample(sample)}
    different = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    if different:
        raise ValueError(
            f"{file} is from a sample with other settings ({', '.join(different)}); give another output_dir, or move "
            "the old samples away"
        )
    return True


def _of_sample(sample: Mapping[Any, Any]) -> dict[str, Any]:
    """What differs from sample to sample, in plain types."""
    numbers = {key: int(sample[key]) for key in ("seed", "class_label") if key in sample}
    known = {name: cell for name, cell in sample.get(VALUES, {}).items() if not is_missing(cell)}
    return {**numbers, **({VALUES: known} if known else {})}


def _settings_file(folder: Path, stem: str) -> Path:
    return folder / f"{stem}.json"
