r"""The paper's network: a U-Net whose core between two bookends is invertible.

.. math:: U(x, t) = \mathrm{exit}(\mathrm{core}(\mathrm{entry}(x), \mathrm{embed}(t)))

On the way down every level has couplings, an orthogonal mixing of its channels, and a split: of C channels
:math:`1 - 2^{1-d}` wait as skip connection, the others go down through a lossless resampling that doubles C. The way up
is the mirror image; where asked for, the skip connection passes an invertible attention before it is merged.

Source: section 4 and figure 1 of arXiv:2504.10883.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from monai_idm.networks.bookends import DepthToSpace, EntryBookend, ExitBookend, SpaceToDepth
from monai_idm.networks.branch import ResidualBranch
from monai_idm.networks.embedding import TimestepEmbedding
from monai_idm.networks.presets import PRESETS
from monai_idm.reversible import (
    ACTIVATIONS,
    AdditiveCoupling,
    AttentionScale,
    CheckerboardAttention,
    Merge,
    OrthogonalDownsample,
    OrthogonalMixing,
    OrthogonalUpsample,
    ReversibleOperation,
    ReversibleSequence,
    Split,
)

__all__ = ["InvertibleDiffusionUNet"]

_PRECISIONS = ("float32", "mixed", "exact", "exact-mixed")


class InvertibleDiffusionUNet(nn.Module):
    """Reversible U-Net for diffusion models; its training memory does not grow with its depth.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Of the noisy image, and of a condition concatenated to it.
        out_channels: Of the prediction.
        channels: C per level; each twice the one before.
        num_res_blocks: Couplings per level and side, one number or one per level; the last level has both sides.
        attention_levels: Whose skip connections pass the invertible attention; the last has none.
        num_head_channels: Channels per attention head.
        norm_num_groups: Groups of every GroupNorm.
        embedding_channels: Width of the timestep embedding.
        bookends: False: none, voxels become channels instead (the paper's ablation); ``channels[0]`` is then
            ``in_channels`` times a power of ``2 ** spatial_dims``, and ``out_channels`` equals ``in_channels``.
        bookend_stride: 1, or 2: the bookends halve and double the resolution, for large volumes.
        num_class_embeds: Number of classes to condition on, or None.
        activations: What the core keeps for the backward pass: ``"rebuilt"`` nothing, ``"checkpointed"`` the input
            of every operation, ``"stored"`` everything. Same gradients, same weights, same ``state_dict``.
        precision: ``"float32"``; ``"mixed"``: float32 streams, bfloat16 inside branches and bookends; ``"exact"`` and
            ``"exact-mixed"``: streams on a grid, so that every policy gives the same gradients bit for bit, for some
            3.4 bytes per element of the first level. It needs operations that repeat bit for bit (on CUDA:
            ``torch.backends.cudnn.deterministic``).
    Raises:
        ValueError: If the arguments do not fit each other.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int] = (64, 128, 256, 512, 1024, 2048),
        num_res_blocks: int | Sequence[int] = 2,
        attention_levels: Sequence[bool] = (False, False, False, True, True, False),
        num_head_channels: int = 64,
        norm_num_groups: int = 8,
        embedding_channels: int = 768,
        bookends: bool = True,
        bookend_stride: int = 1,
        num_class_embeds: int | None = None,
        activations: str = "rebuilt",
        precision: str = "float32",
    ) -> None:
        super().__init__()
        blocks = [num_res_blocks] * len(channels) if isinstance(num_res_blocks, int) else list(num_res_blocks)
        _check_arguments(spatial_dims, channels, blocks, attention_levels, norm_num_groups, bookend_stride)
        _one_of("activations", activations, ACTIVATIONS)
        _one_of("precision", precision, _PRECISIONS)
        self.activations = activations
        self.precision = precision
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.out_channels = out_channels
        stride = bookend_stride if bookends else _factor(spatial_dims, in_channels, out_channels, channels[0])
        self.divisor = stride * 2 ** (len(channels) - 1)
        # what a checkpoint says about its network: the arguments that decide the weights
        self.arguments: dict[str, Any] = {
            "spatial_dims": spatial_dims,
            "in_channels": in_channels,
            "out_channels": out_channels,
            "channels": list(channels),
            "num_res_blocks": blocks,
            "attention_levels": list(attention_levels),
            "num_head_channels": num_head_channels,
            "norm_num_groups": norm_num_groups,
            "embedding_channels": embedding_channels,
            "bookends": bookends,
            "bookend_stride": bookend_stride,
            "num_class_embeds": num_class_embeds,
        }

        def couplings(level: int, count: int) -> list[ReversibleOperation]:
            width = channels[level] // 2
            return [
                AdditiveCoupling(ResidualBranch(spatial_dims, width, embedding_channels, norm_num_groups))
                for _ in range(count)
            ]

        down: list[ReversibleOperation] = []
        up: list[ReversibleOperation] = []
        for level, c in enumerate(channels[:-1]):
            low = channels[level + 1] // 2**spatial_dims
            skip = c - low
            attention: list[ReversibleOperation] = []
            if attention_levels[level]:
                scale = AttentionScale(spatial_dims, skip, num_head_channels, norm_num_groups)
                attention = [CheckerboardAttention(scale)]
            down += [
                *couplings(level, blocks[level]),
                OrthogonalMixing(c),
                Split(skip // 2),
                OrthogonalDownsample(spatial_dims, low),
            ]
            up = [
                OrthogonalUpsample(spatial_dims, low),
                *attention,
                Merge(skip // 2),
                OrthogonalMixing(c),
                *couplings(level, blocks[level]),
                *up,
            ]
        bottom = couplings(len(channels) - 1, 2 * blocks[-1])

        self.embedding = TimestepEmbedding(channels[0], embedding_channels, num_class_embeds)
        self.entry: nn.Module
        self.exit: nn.Module
        if bookends:
            self.entry = EntryBookend(spatial_dims, in_channels, channels[0], stride)
        else:
            self.entry = SpaceToDepth(spatial_dims, stride)
        self.core = ReversibleSequence([*down, *bottom, *up], exact=precision.startswith("exact"))
        if bookends:
            self.exit = ExitBookend(spatial_dims, channels[0], out_channels, stride, norm_num_groups)
        else:
            self.exit = DepthToSpace(spatial_dims, stride)
        self.register_state_dict_post_hook(_sign)

    @classmethod
    def from_preset(cls, preset: str, **overrides: Any) -> InvertibleDiffusionUNet:
        """A network of a named size: ``"light"``, ``"base"`` or ``"paper"``; 3D, two channels in and out.

        Args:
            preset: The name.
            overrides: Any argument of the class.
        """
        _one_of("preset", preset, tuple(PRESETS))
        return cls(**{"spatial_dims": 3, "in_channels": 2, "out_channels": 2, **PRESETS[preset], **overrides})

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor | None = None,
        context: Tensor | None = None,
        class_labels: Tensor | None = None,
    ) -> Tensor:
        """Predict noise, velocity or sample, whatever the network is trained for.

        Args:
            x: Noisy images, ``(B, in_channels, *spatial)``; every side divisible by ``divisor``.
            timesteps: ``(B,)``, or ``(1,)`` for all; integer or float; None means zeros.
            context: None; a condition is concatenated to ``x`` (``mode="concat"`` of the inferers).
            class_labels: ``(B,)``, if the network was built with ``num_class_embeds``.
        Returns:
            ``(B, out_channels, *spatial)``.
        Raises:
            ValueError: If a shape does not fit, or for a context.
        """
        if context is not None:
            raise ValueError(
                'the network has no cross-attention and takes no context; pass the condition with mode="concat" and '
                "raise in_channels by its channels"
            )
        x = x.as_subclass(Tensor)  # metadata of a MetaTensor costs time in every operation
        embedding = self._embed(x, timesteps, class_labels)
        with self._autocast(x.device):
            halves = self.core(self._enter(x), embedding, self.activations)
            return self.exit(torch.cat(halves, 1)).to(x.dtype)

    def with_activations(self, activations: str) -> InvertibleDiffusionUNet:
        """The same network, sharing its parameters, with another policy for the backward pass."""
        _one_of("activations", activations, ACTIVATIONS)
        twin = copy.copy(self)
        twin.activations = activations
        return twin

    @torch.no_grad()
    def reconstruction_error(self, x: Tensor, timesteps: Tensor | None = None) -> float:
        """How well the core inverts itself: max |stream - rebuilt stream| over its entry.

        Args:
            x: Images, ``(B, in_channels, *spatial)``.
            timesteps: As in ``forward``.
        """
        x = x.as_subclass(Tensor)
        embedding = self._embed(x, timesteps, None)
        with self._autocast(x.device):
            stream = self._enter(x)
            rebuilt = self.core.inverse(self.core(stream, embedding, "stored"), embedding)
        return max(float((a - b).abs().max()) for a, b in zip(stream, rebuilt, strict=True))

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As ``nn.Module``'s, but a strict load of another network's checkpoint says so.

        Raises:
            ValueError: If the checkpoint was made by a network with other arguments, or with other tensors.
        """
        if strict:
            self._check_checkpoint(state_dict)
        return super().load_state_dict(state_dict, strict, assign)

    def _check_checkpoint(self, state_dict: Mapping[str, Any]) -> None:
        theirs = getattr(state_dict, "_metadata", {}).get("", {}).get("arguments", self.arguments)
        different = [
            f"{name}: {theirs.get(name)} in the checkpoint, {value} here"
            for name, value in self.arguments.items()
            if theirs.get(name) != value
        ]
        ours, found = ({name: t.shape for name, t in d.items()} for d in (self.state_dict(), state_dict))
        unlike = sorted(name for name in ours.keys() | found.keys() if ours.get(name) != found.get(name))
        if unlike and not different:
            different = [
                f"{len(unlike)} of {len(ours)} tensors are missing, unknown or of another shape, first {unlike[0]}"
            ]
        if different:
            raise ValueError(
                f"the checkpoint belongs to another network ({'; '.join(different)}); build the network with the "
                f"checkpoint's arguments (the same preset), or choose another checkpoint"
            )

    def _embed(self, x: Tensor, timesteps: Tensor | None, class_labels: Tensor | None) -> Tensor:
        self._check_image(x)
        batch = x.shape[0]
        if timesteps is None:
            timesteps = x.new_zeros(batch)
        if timesteps.shape not in ((1,), (batch,)):
            raise ValueError(
                f"timesteps of shape {tuple(timesteps.shape)} for a batch of {batch}; give one per image or one for all"
            )
        return self.embedding(timesteps.to(x.device).expand(batch), class_labels)

    def _enter(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.entry(x)
        # the stream stays in the precision of the weights, also under autocast: in bfloat16 it could not be rebuilt
        a, b = (half.to(x.dtype).contiguous() for half in h.chunk(2, 1))
        return a, b

    def _autocast(self, device: torch.device) -> AbstractContextManager:
        if not self.precision.endswith("mixed"):
            return nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False)

    def _check_image(self, x: Tensor) -> None:
        expected = ("B", self.in_channels, *["side"] * self.spatial_dims)
        if x.ndim != len(expected) or x.shape[1] != self.in_channels:
            raise ValueError(
                f"input of shape {tuple(x.shape)}; the network takes ({', '.join(map(str, expected))}): "
                f"spatial_dims={self.spatial_dims}, in_channels={self.in_channels}"
            )
        size = tuple(x.shape[2:])
        if any(side % self.divisor for side in size):
            fits = tuple(-(-side // self.divisor) * self.divisor for side in size)
            raise ValueError(
                f"volume size {size} is not divisible by {self.divisor} on every axis; pad to {fits} "
                f"(DivisiblePadd with k={self.divisor}) or use fewer levels"
            )


def _one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is unknown; choose one of {', '.join(map(repr, allowed))}")


def _check_arguments(
    spatial_dims: int,
    channels: Sequence[int],
    blocks: Sequence[int],
    attention_levels: Sequence[bool],
    groups: int,
    stride: int,
) -> None:
    if spatial_dims not in (2, 3):
        raise ValueError(f"spatial_dims={spatial_dims}; the network is built for 2 or 3")
    if stride not in (1, 2):
        raise ValueError(f"bookend_stride={stride}; choose 1, or 2 to halve the resolution inside the network")
    if not len(channels) == len(blocks) == len(attention_levels):
        raise ValueError(
            f"{len(channels)} channels, {len(blocks)} num_res_blocks and {len(attention_levels)} attention_levels; "
            f"give one of each per level"
        )
    if attention_levels[-1]:
        raise ValueError("attention_levels ends with True, but the last level has no skip connection; end with False")
    if any(after != 2 * before for before, after in pairwise(channels)):
        raise ValueError(
            f"channels={tuple(channels)}; resampling is lossless, so each level has twice the channels before it"
        )
    if channels[0] % (2 * groups) or channels[0] % 2**spatial_dims:
        raise ValueError(
            f"channels[0]={channels[0]} must be a multiple of 2 * norm_num_groups = {2 * groups} and of "
            f"{2**spatial_dims}; change channels or norm_num_groups"
        )


def _factor(spatial_dims: int, in_channels: int, out_channels: int, channels: int) -> int:
    """How often a side is divided until ``in_channels`` have become ``channels``."""
    factor = 1
    while in_channels * factor**spatial_dims < channels:
        factor *= 2
    if in_channels * factor**spatial_dims != channels or in_channels != out_channels:
        raise ValueError(
            f"in_channels={in_channels}, out_channels={out_channels}, channels[0]={channels}; without bookends, "
            f"channels[0] is in_channels times a power of {2**spatial_dims}, and both ends have as many channels"
        )
    return factor


def _sign(module: nn.Module, state_dict: dict, prefix: str, local_metadata: dict) -> None:
    """Checkpoints carry the arguments of their network beside the weights, where no loader trips over them."""
    local_metadata["arguments"] = copy.deepcopy(module.arguments)
