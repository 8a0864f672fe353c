"""Checks and converts the inputs of transforms: metadata is kept, and the output has the type of the input."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from monai.data import MetaTensor
from monai.utils import convert_to_tensor
from torch import Tensor

__all__ = ["as_tensor", "require_record"]


def as_tensor(given: Any) -> Tensor:
    """Convert an array or a tensor to a tensor, with its metadata if it has any; none is made up."""
    return convert_to_tensor(given, track_meta=isinstance(given, MetaTensor))


def require_record(key: Hashable, given: Any, of: str) -> MetaTensor:
    """Return the volume on which a transform is to be inverted; it must be a MetaTensor, which keeps a record.

    Args:
        key: Key of the volume.
        given: The volume.
        of: What the record describes, for the error message.
    Raises:
        ValueError: If it is not a MetaTensor.
    """
    if not isinstance(given, MetaTensor):
        raise ValueError(
            f"'{key}' is a {type(given).__name__}, which keeps no record of {of}; to invert the transform, load it "
            "as a MetaTensor, with monai.data.set_track_meta(True)"
        )
    return given
