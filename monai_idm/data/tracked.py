"""What a transform asks of its input: metadata, and the same type out as in."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from monai.data import MetaTensor
from monai.utils import convert_to_tensor
from torch import Tensor

__all__ = ["as_tensor", "require_record"]


def as_tensor(given: Any) -> Tensor:
    """An array or a tensor as a tensor, with its metadata if it has some; none are invented."""
    return convert_to_tensor(given, track_meta=isinstance(given, MetaTensor))


def require_record(key: Hashable, given: Any, of: str) -> MetaTensor:
    """The volume that a transform is to be undone on, which has to be a MetaTensor.

    Args:
        key: Key of the volume.
        given: The volume.
        of: What its record is of, for the error.
    Raises:
        ValueError: If it keeps no record.
    """
    if not isinstance(given, MetaTensor):
        raise ValueError(
            f"'{key}' is a {type(given).__name__}, which keeps no record of {of}; to go back, load it as a MetaTensor, "
            "with monai.data.set_track_meta(True)"
        )
    return given
