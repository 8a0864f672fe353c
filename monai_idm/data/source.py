"""Finds where a run's cases come from: a data folder, generated phantoms if none is given, or another tool."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist

from monai_idm.checkpoints import PHANTOM
from monai_idm.data.evaluation import split_of
from monai_idm.data.grid import grid_spacing_mm
from monai_idm.data.phantom import write_phantoms

__all__ = ["data_source", "dataset_or_phantoms", "describe_data"]

_logger = logging.getLogger(__name__)


def dataset_or_phantoms(
    dataset_dir: str | os.PathLike[str] | None,
    phantom_dir: str | os.PathLike[str],
    num_subjects: int,
    spatial_size: Sequence[int],
    seed: int,
) -> str:
    """The dataset's folder or, without one, a folder of generated phantoms, which is logged as a warning.

    Args:
        dataset_dir: A folder in one of BraTS's layouts, or None.
        phantom_dir: Folder to write phantoms to, or with those of an earlier run.
        num_subjects: Number of phantoms to generate.
        spatial_size: Size of a phantom in voxels.
        seed: Seed of the phantoms.
    """
    if dataset_dir is not None:
        return str(dataset_dir)
    if idist.get_rank() == 0:
        _logger.warning(
            f"no dataset_dir given: this run uses {num_subjects} generated phantoms in {phantom_dir}, not "
            f"patient data; give --dataset_dir for real volumes"
        )
    with idist.one_rank_first():  # rank 0 writes them, the other ranks find them
        return str(write_phantoms(phantom_dir, num_subjects, spatial_size, seed))


def describe_data(
    training: Any,
    validation: Any,
    dataset_dir: str | os.PathLike[str] | None,
    output_dir: str | os.PathLike[str],
    spatial_size: Sequence[int],
) -> dict[str, Any]:
    """Describe the data of a training run for its record, as arguments of ``RunRecord.describe_data``.

    Args:
        training: Training dataset.
        validation: Validation dataset, by which the best weights are chosen.
        dataset_dir: See :func:`dataset_or_phantoms`.
        output_dir: Folder of the run, with its phantoms and its datalist.
        spatial_size: Size of the training grid in voxels.
    """
    folder = Path(output_dir)
    return {
        "source": data_source(training, dataset_dir, folder / "phantoms"),
        "num_cases": len(training),
        "spatial_size": spatial_size,
        "spacing_mm": grid_spacing_mm(validation),
        "split": split_of(training, validation, folder / "datalist.json"),
    }


def data_source(dataset: Any, dataset_dir: str | os.PathLike[str] | None, phantom_dir: str | os.PathLike[str]) -> str:
    """Name the source of the cases that a network is trained on, for its record.

    Args:
        dataset: Training dataset, or its cases, with the paths of their ``image``. The cases of a dataset are in its
            ``data``, if it has any. MONAI Label passes its own cases, and users of a workflow their own dataset.
        dataset_dir: See :func:`dataset_or_phantoms`.
        phantom_dir: See :func:`dataset_or_phantoms`.
    Returns:
        ``dataset_dir`` if given; otherwise :data:`PHANTOM` if the first case is from ``phantom_dir``, or the folder of
        its image, or, if it has no path, the type of the dataset.
    """
    if dataset_dir is not None:
        return str(dataset_dir)
    cases = getattr(dataset, "data", dataset)
    first = _first_path(cases)
    if first is None:
        return f"a {type(dataset).__name__} that names no files"
    return PHANTOM if Path(phantom_dir).resolve() in first.parents else str(first.parent)


def _first_path(cases: Any) -> Path | None:
    try:
        image = cases[0]["image"]
    except (KeyError, IndexError, TypeError):  # a user's own dataset may have any structure
        return None
    if isinstance(image, Sequence) and not isinstance(image, str) and image:
        image = image[0]
    return Path(image).resolve() if isinstance(image, str | os.PathLike) else None
