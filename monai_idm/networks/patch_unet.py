r"""The network of PatchDDM: an ordinary U-Net for diffusion models, the baseline for the reversible U-Net.

.. math:: U(x, t) = \mathrm{exit}(\mathrm{decoder}(\mathrm{middle}(\mathrm{encoder}(x, e), e), e)), \quad
    e = \mathrm{embed}(t)

Each output of the encoder is a skip connection, and is averaged with the decoder's :math:`h`, not concatenated to it:
:math:`h \mapsto (h + \mathrm{skip}) / 2`. The decoder's blocks are then as narrow as without skip connections. With the
usual concatenation, :math:`h \mapsto [h, \mathrm{skip}]`, their first convolutions have twice as many input channels.

Source: arXiv:2303.15288; blocks after Dhariwal and Nichol 2021, arXiv:2105.05233, without attention.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from monai_idm.networks.checks import (
    check_context,
    check_image,
    check_no_classes,
    check_residuals,
    check_timesteps,
    one_of,
    voxels,
)
from monai_idm.networks.embedding import TimestepEmbedding
from monai_idm.networks.presets import PATCH_PRESETS
from monai_idm.reversible import convolution

__all__ = ["PatchDiffusionUNet"]

_ACTIVATIONS = ("stored", "checkpointed")
_SKIPS = ("averaged", "concatenated")


class PatchDiffusionUNet(nn.Module):
    """U-Net for diffusion models with averaged skip connections and no attention.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the noisy image and of a condition and coordinates concatenated to it.
        out_channels: Channels of the prediction.
        channels: C of each level; the timestep embedding has four times the first.
        num_res_blocks: Residual blocks per level of the encoder; the decoder has one more per level.
        norm_num_groups: Groups of every GroupNorm; must divide each of ``channels``.
        skips: ``"averaged"``, or ``"concatenated"`` as in other U-Nets.
        activations: What is kept for the backward pass: ``"stored"`` everything, ``"checkpointed"`` the input of every
            residual block. Gradients, weights and ``state_dict`` are the same for both.
        precision: ``"float32"``, or ``"mixed"``: bfloat16 where autocast uses it.
    Raises:
        ValueError: If the arguments do not fit together.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int] = (29, 87, 116, 116, 116, 116, 116),
        num_res_blocks: int = 2,
        norm_num_groups: int = 29,
        skips: str = "averaged",
        activations: str = "stored",
        precision: str = "float32",
    ) -> None:
        super().__init__()
        one_of("spatial_dims", spatial_dims, (2, 3))
        one_of("skips", skips, _SKIPS)
        one_of("activations", activations, _ACTIVATIONS)
        one_of("precision", precision, ("float32", "mixed"))
        if any(width % norm_num_groups for width in channels):
            raise ValueError(
                f"channels={tuple(channels)} must be multiples of norm_num_groups={norm_num_groups}; change one of them"
            )
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.divisor = 2 ** (len(channels) - 1)
        self.skips = skips
        self.activations = activations
        self.precision = precision
        conv = convolution(spatial_dims)

        def block(before: int, after: int) -> nn.Module:
            return ResidualBlock(spatial_dims, before, after, 4 * channels[0], norm_num_groups)

        self.embedding = TimestepEmbedding(channels[0], 4 * channels[0])
        self.encoder = nn.ModuleList([conv(in_channels, channels[0], 3, padding=1)])
        widths = [channels[0]]  # output channels of each layer of the encoder
        for level, width in enumerate(channels):
            if level > 0:
                self.encoder.append(conv(widths[-1], widths[-1], 3, stride=2, padding=1))
                widths.append(widths[-1])
            for _ in range(num_res_blocks):
                self.encoder.append(block(widths[-1], width))
                widths.append(width)
        self.middle = nn.ModuleList([block(widths[-1], widths[-1]) for _ in range(2)])
        self.decoder = nn.ModuleList()
        for level in reversed(range(len(channels))):
            for _ in range(num_res_blocks + 1):
                before = widths.pop()
                after = widths[-1] if widths else before  # as wide as the next skip connection
                self.decoder.append(block(before if skips == "averaged" else 2 * before, after))
            if level > 0:
                up = nn.Upsample(scale_factor=2.0, mode="nearest")
                self.decoder.append(nn.Sequential(up, conv(after, after, 3, padding=1)))
        self.exit = nn.Sequential(
            GroupNorm(norm_num_groups, channels[0]),
            nn.SiLU(),
            _zeros(conv(channels[0], out_channels, 3, padding=1)),
        )

    @classmethod
    def from_preset(cls, preset: str, **overrides: Any) -> PatchDiffusionUNet:
        """A network of a named size: ``"patchddm"``, PatchDDM's own, 24.26M parameters; ``"light"``, 2.9M, for CPUs.

        Args:
            preset: The name.
            overrides: Any argument of the class.
        """
        one_of("preset", preset, tuple(PATCH_PRESETS))
        return cls(**{**PATCH_PRESETS[preset], **overrides})

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor | None = None,
        context: Tensor | None = None,
        class_labels: Tensor | None = None,
        down_block_additional_residuals: list[Tensor] | None = None,
        mid_block_additional_residual: Tensor | None = None,
    ) -> Tensor:
        """Predict flow, velocity, noise or sample, whatever the network is trained for.

        Args:
            x: Noisy images, ``(B, in_channels, *spatial)``; every side divisible by ``divisor``.
            timesteps: ``(B,)``, or ``(1,)`` for all images; integer or float; None means zeros.
            context: Must be None; concatenate a condition to ``x`` (``mode="concat"`` of the inferers).
            class_labels: Must be None; the network has no class conditioning.
            down_block_additional_residuals, mid_block_additional_residual: Must be None; ControlNet is not supported.
        Returns:
            ``(B, out_channels, *spatial)``, in the dtype of ``x``.
        Raises:
            ValueError: If a shape does not fit, or a context, class labels or the residuals of a ControlNet are given.
        """
        check_context(context)
        check_residuals(down_block_additional_residuals, mid_block_additional_residual)
        check_no_classes(class_labels)
        x = voxels(x)
        timesteps = torch.zeros(1) if timesteps is None else timesteps
        check_image(self, x, in_channels=self.in_channels)
        check_timesteps(timesteps, x.shape[0])
        embedding = self.embedding(timesteps.to(x.device).expand(x.shape[0]))
        mixed = self.precision == "mixed"
        with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False) if mixed else nullcontext():
            h, skips = x, []
            for layer in self.encoder:
                h = self._run(layer, h, embedding)
                skips.append(h)
            for layer in self.middle:
                h = self._run(layer, h, embedding)
            for layer in self.decoder:
                if isinstance(layer, ResidualBlock):
                    skip = skips.pop()
                    h = (h + skip) / 2 if self.skips == "averaged" else torch.cat([h, skip], 1)
                h = self._run(layer, h, embedding)
            return self.exit(h).to(x.dtype)

    def with_activations(self, activations: str) -> PatchDiffusionUNet:
        """The same network, sharing its parameters, with another policy for the backward pass."""
        one_of("activations", activations, _ACTIVATIONS)
        twin = copy.copy(self)
        twin.activations = activations
        return twin

    def _run(self, layer: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
        if not isinstance(layer, ResidualBlock):
            return layer(h)
        if self.activations == "checkpointed" and torch.is_grad_enabled():
            return checkpoint(layer, h, embedding, use_reentrant=False)
        return layer(h, embedding)


class ResidualBlock(nn.Module):
    """Two convolutions with the embedding added between them, and a shortcut. A new block equals its shortcut.

    The embedding is added before the normalisation, as in PatchDDM. With one channel per group, as in the first level
    there, the normalisation removes it.
    """

    def __init__(self, spatial_dims: int, before: int, after: int, embedding_channels: int, groups: int) -> None:
        super().__init__()
        conv = convolution(spatial_dims)
        self.first = nn.Sequential(GroupNorm(groups, before), nn.SiLU(), conv(before, after, 3, padding=1))
        self.project = nn.Linear(embedding_channels, after)
        last = _zeros(conv(after, after, 3, padding=1))
        self.second = nn.Sequential(GroupNorm(groups, after), nn.SiLU(), last)
        self.shortcut = nn.Identity() if before == after else conv(before, after, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.first(x) + self.project(embedding).unflatten(1, (-1, *[1] * (x.ndim - 2)))
        return self.shortcut(x) + self.second(h)


class GroupNorm(nn.GroupNorm):
    """Group normalisation that computes in the dtype of its weights and returns that of its input, as in PatchDDM.

    Left to autocast, it would compute in bfloat16 on a CPU and return float32 on CUDA, which takes more memory.
    """

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.to(self.weight.dtype)).to(input.dtype)


def _zeros(module: nn.Module) -> nn.Module:
    """Set the parameters of a module to zero, and return the module."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
