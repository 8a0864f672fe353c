"""Where a run's cases come from: a folder, or, if none is given, generated phantoms."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from monai_idm.data.phantom import write_phantoms

__all__ = ["dataset_or_phantoms"]

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
    _logger.warning(
        f"no dataset_dir given: this run uses {num_subjects} generated phantoms in {phantom_dir}, no patient's data; "
        f"give --dataset_dir for real volumes"
    )
    return str(write_phantoms(phantom_dir, num_subjects, spatial_size, seed))
