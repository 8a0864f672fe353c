"""Where a run's cases come from: a folder, or, if none is given, generated phantoms, or what another tool handed in."""

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
    """The dataset's folder; without one, a folder of phantoms, which a log line says loudly.

    Args:
        dataset_dir: A folder in one of BraTS's layouts, or None.
        phantom_dir: Where to write phantoms, or to find those of an earlier run.
        num_subjects: Phantoms to generate.
        spatial_size: Of a phantom, in voxels.
        seed: Of the phantoms.
    """
    if dataset_dir is not None:
        return str(dataset_dir)
    if idist.get_rank() == 0:
        _logger.warning(
            f"no dataset_dir given: this run uses {num_subjects} generated phantoms in {phantom_dir}, no patient's "
            f"data; give --dataset_dir for real volumes"
        )
    with idist.one_rank_first():  # which writes, and the others find
        return str(write_phantoms(phantom_dir, num_subjects, spatial_size, seed))


def describe_data(
    training: Any,
    validation: Any,
    dataset_dir: str | os.PathLike[str] | None,
    output_dir: str | os.PathLike[str],
    spatial_size: Sequence[int],
) -> dict[str, Any]:
    """What the record of a training says of its data: arguments of ``RunRecord.describe_data``.

    Args:
        training: Dataset that is trained on.
        validation: Dataset that chooses the best weights.
        dataset_dir: As of :func:`dataset_or_phantoms`.
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
    """What a record calls the source of a training's cases.

    Args:
        dataset: Dataset of the training, whose ``data``, where it has them, are cases with the paths of their
            ``image``; or these cases. MONAI Label hands in its own cases, and users of a workflow their own dataset.
        dataset_dir: As of :func:`dataset_or_phantoms`.
        phantom_dir: The same.
    Returns:
        The dataset's folder; without one, :data:`PHANTOM` for cases from ``phantom_dir``, the folder of others, or,
        where no case has a path, the kind of the dataset.
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
        given = cases[0]["image"]
    except (KeyError, IndexError, TypeError):  # of someone's own dataset nothing is known
        return None
    if isinstance(given, Sequence) and not isinstance(given, str) and given:
        given = given[0]
    return Path(given).resolve() if isinstance(given, str | os.PathLike) else None
