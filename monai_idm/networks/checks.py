"""Checks of the networks' inputs and checkpoints, with errors that name the remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from monai.data import MetaTensor
from torch import Tensor, nn

from monai_idm.checkpoints import differences, read_sections

__all__ = [
    "check_context",
    "check_image",
    "check_no_classes",
    "check_residuals",
    "check_timesteps",
    "check_weights",
    "one_of",
    "voxels",
]


class Network(Protocol):
    """The attributes of a network that decide which images fit."""

    spatial_dims: int
    divisor: int


def voxels(x: Tensor) -> Tensor:
    """The image without the metadata of a MetaTensor, which costs time in every operation."""
    return x.as_tensor() if isinstance(x, MetaTensor) else x


def check_image(network: Network, x: Tensor, **channels: int) -> None:
    """Refuse an image unless its shape is ``(B, channels, *spatial)``, with every side divisible by ``divisor``.

    Args:
        network: The network that receives the image.
        x: The image.
        channels: Expected number of channels, under the name that the user knows: ``in_channels=2``.
    Raises:
        ValueError: If the shape does not fit; states the shape, the rule and the remedy.
    """
    ((name, count),) = channels.items()
    expected = ("B", count, *["side"] * network.spatial_dims)
    if x.ndim != len(expected) or x.shape[1] != count:
        fewer = x.ndim == len(expected) and x.shape[1] < count
        raise ValueError(
            f"input of shape {tuple(x.shape)}; the network expects ({', '.join(map(str, expected))}): "
            f"spatial_dims={network.spatial_dims}, {name}={count}"
            + "; is a condition missing, such as a modality or the coordinates (AddCoordinatesd)?"
            * fewer
        )
    size = tuple(x.shape[2:])
    if any(side % network.divisor for side in size):
        fits = tuple(-(-side // network.divisor) * network.divisor for side in size)
        raise ValueError(
            f"volume size {size} is not divisible by {network.divisor} on every axis; pad to {fits} "
            f"(DivisiblePadd with k={network.divisor}) or use fewer levels"
        )


def check_residuals(down: list[Tensor] | None, mid: Tensor | None) -> None:
    """Refuse the residuals that a ControlNet would add to the layers."""
    if down is not None or mid is not None:
        raise ValueError(
            "the network accepts no residuals of a ControlNet, whose inferers need DiffusionModelUNet; pass the image "
            'as a condition with mode="concat", raise in_channels by its channels, and use InvertibleDiffusionInferer'
        )


def check_no_classes(class_labels: Tensor | None) -> None:
    """Refuse class labels for a network without class conditioning."""
    if class_labels is not None:
        raise ValueError(
            "PatchDiffusionUNet has no class conditioning; leave class_labels out, or use InvertibleDiffusionUNet"
        )


def check_timesteps(timesteps: Tensor, batch: int) -> None:
    """Refuse timesteps that are neither one per image nor one for all."""
    if timesteps.shape not in ((1,), (batch,)):
        raise ValueError(
            f"timesteps of shape {tuple(timesteps.shape)} for a batch of {batch}; give one per image or one for all"
        )


def check_context(context: Tensor | None) -> None:
    """Refuse a context, which only cross-attention could use."""
    if context is not None:
        raise ValueError(
            'the network has no cross-attention and accepts no context; pass the condition with mode="concat" and '
            "raise in_channels by its channels"
        )


def one_of(name: str, value: object, allowed: Sequence[object]) -> None:
    """Refuse an argument whose value is not among those allowed."""
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is unknown; choose one of {', '.join(map(repr, allowed))}")


def check_weights(network: nn.Module, arguments: Mapping[str, Any], state_dict: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of a network with other arguments or other tensors."""
    different = differences(read_sections(state_dict).get("arguments", arguments), arguments)
    expected, loaded = ({name: t.shape for name, t in d.items()} for d in (network.state_dict(), state_dict))
    mismatched = sorted(name for name in expected.keys() | loaded.keys() if expected.get(name) != loaded.get(name))
    if "shortcut.project.weight" in mismatched and not different:
        raise ValueError(
            "the checkpoint was made by version 0.4.0 or earlier, where networks with bookend_stride=2 have another "
            "shortcut past the core; train it again, or use it with that version"
        )
    if mismatched and not different:
        different = [
            f"{len(mismatched)} of {len(expected)} tensors are missing, unknown or of another shape, "
            f"first {mismatched[0]}"
        ]
    if different:
        raise ValueError(
            f"the checkpoint belongs to another network ({'; '.join(different)}); build the network with the "
            f"checkpoint's arguments (the same preset), or choose another checkpoint"
        )
