"""Anatomy of generated brains: volumes of regions beside real ones, and whether ventricles grow with the age asked for.

A small network segments both alike (see :mod:`idm_bundle.studies.tissues`). The samples are those of the training with
age and sex of the study ``brains``, in the same folder ``--work``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from scipy.stats import linregress, t
from torch import Tensor

from idm_bundle.studies import brains, tissues
from idm_bundle.studies.configs import configured
from idm_bundle.studies.runs import draw
from monai_idm.atomic_file import atomic_file
from monai_idm.data.conditions import number_in
from monai_idm.handlers.montage import montage
from monai_idm.metrics import compare_region_shares, region_shares
from monai_idm.metrics.set_figures import mmd

__all__ = ["STUDIES", "regression"]

_NUM_SAMPLES = 60
_AGES = (20, 80)
_GUIDANCE = (0.0, 1.0, 2.0, 4.0)
_STEPS = 10
_AIR = 0.1  # where the pictured samples are brighter than this on average, there is brain
_PICTURED = 8  # samples, at equal steps of age
_SOURCE = "Generated brains at the age and sex asked for. Trained on IXI (brain-development.org), CC BY-SA 3.0."
_REGIONS = {name: [number] for number, name in enumerate(tissues.TISSUES, 1) if name not in ("fluid", "rest")}


def with_guidance(
    guidance_scale: float, seed: int, steps: int, side: int, dataset_dir: str, work: str
) -> dict[str, Any]:
    """Draw brains of all ages, and compare their regions with those of the test cases.

    Eight of them, evenly spaced in age, are drawn side by side in ``guidance_SCALE_seed_SEED.png`` of the training's
    output.

    Args:
        guidance_scale: Scale of guidance by age and sex; 0: neither is used.
        seed: Seed of the first sample; those that follow have the following ones.
        steps: Iterations of the training of the study ``brains``.
        side: Voxels per axis of a volume.
        dataset_dir: Folder of the cases, with T1, labels ``*_dlmuse.nii.gz`` beside them, and ``participants.csv``.
        work: Folder that keeps the trainings.
    Returns:
        ``age``, the :func:`regression` on the age asked for; ``regions``, shares of regions beside those of the test
        cases, see :func:`monai_idm.metrics.compare_region_shares`; and ``tissue_mmd``, the MMD of the segmenting
        network's features.
    """
    values = brains.kept(brains.AGED, dataset_dir, work, steps, side)
    config = configured(values)
    datalist = config.get_parsed_content("datalist")
    network, _ = tissues.segmenter(datalist, side, tissues.STEPS, Path(work, "tissues.pt"))

    low, high = _AGES
    asked = [low + (high - low) * i / (_NUM_SAMPLES - 1) for i in range(_NUM_SAMPLES)]
    folder = Path(values["output_dir"], f"guidance_{guidance_scale:g}_seed_{seed}")
    drawn = draw(
        {
            "ckpt_file": str(Path(values["ckpt_dir"], "model.pt")),
            "output_dir": str(folder),
            "num_samples": _NUM_SAMPLES,
            "seed": seed,
            "num_inference_steps": _STEPS,
            "condition_values": {"Age": asked, "Sex": ["F", "M"]},
            "guidance_scale": guidance_scale,
            "precision": values["precision"],
        }
    )
    volumes = [volume for volume, _ in drawn]
    ages = [float(cells["Age"]) for _, cells in drawn]
    numbers = sorted({i * (_NUM_SAMPLES - 1) // (_PICTURED - 1) for i in range(_PICTURED)})
    pictured = {f"{ages[i]:.0f} years, {drawn[i][1]['Sex']}": volumes[i] for i in numbers}
    with atomic_file(folder.with_name(f"{folder.name}.png")) as unfinished:
        brain = torch.stack([*pictured.values()]).mean(0) > _AIR
        montage(pictured, ["t1"], brain, _SOURCE).savefig(unfinished, format="png", facecolor="black")
    test = brains.preprocessed(config, datalist["test"])
    of_samples, of_test = ([_without_fluid(tissues.segment(network, v)) for v in some] for some in (volumes, test))
    return {
        "age": regression(ages, of_samples),
        "regions": compare_region_shares(of_samples, of_test, _REGIONS),
        "tissue_mmd": mmd(*(torch.stack([tissues.features(network, v) for v in some]) for some in (volumes, test))),
    }


def of_real(steps: int, side: int, dataset_dir: str, work: str) -> dict[str, Any]:
    """The same for real brains; arguments as in :func:`with_guidance`.

    Returns:
        The segmenting network's ``dice``, and ``age``, the :func:`regression` on the age of all cases that have one.
    """
    config = configured(brains.values_of(brains.AGED, dataset_dir, work, steps, side))
    datalist = config.get_parsed_content("datalist")
    network, dice = tissues.segmenter(datalist, side, tissues.STEPS, Path(work, "tissues.pt"))
    known = [item for part in ("training", "validation", "test") for item in datalist[part] if _age(item) is not None]
    labels = [tissues.segment(network, volume) for volume in brains.preprocessed(config, known)]
    return {"dice": dice, "age": regression([_age(item) for item in known], labels)}


def regression(ages: Sequence[Any], labels: Sequence[Tensor]) -> dict[str, Any]:
    """Linear regression of the ventricles' share of the brain, in percent, on age.

    Args:
        ages: Age of each brain in years.
        labels: Its tissues, numbered as in ``TISSUES``.
    Returns:
        ``n``, ``correlation``, and ``slope`` in percent of the brain per decade with its 95 % interval, ``slope_ci95``.
    """
    ventricles = {"ventricles": _REGIONS["ventricles"]}
    shares = [100 * region_shares(_without_fluid(label), ventricles)["ventricles"] for label in labels]
    fit = linregress(ages, shares)
    half = float(t.ppf(0.975, len(ages) - 2) * fit.stderr)
    slope = 10 * float(fit.slope)
    return {
        "n": len(ages),
        "correlation": float(fit.rvalue),
        "slope": slope,
        "slope_ci95": [slope - 10 * half, slope + 10 * half],
    }


def _without_fluid(label: Tensor) -> Tensor:
    """The label without the fluid around the brain, which is not part of it."""
    return torch.where(label == 1, 0, label)


def _age(item: dict[str, Any]) -> float | None:
    return number_in(item["condition_values"]["Age"])


STUDIES = {
    "anatomy": {
        "real": of_real,
        **{f"guidance {scale:g}": partial(with_guidance, scale, 0) for scale in _GUIDANCE},
        # noise may happen to agree with the age asked for, alike at all scales
        **{f"guidance {scale:g}, other noise": partial(with_guidance, scale, 1000) for scale in (0.0, 1.0)},
    }
}
