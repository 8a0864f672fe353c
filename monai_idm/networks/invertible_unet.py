r"""The paper's network: a U-Net whose core between two bookends is invertible.

.. math:: U(x, t) = \mathrm{exit}(\mathrm{core}(\mathrm{entry}(x), \mathrm{embed}(t)))

On the way down, every level has couplings, an orthogonal mixing of its channels and a split: a fraction
:math:`1 - 2^{1-d}` of its C channels waits as the skip connection, the rest goes down through a lossless resampling to
2C channels. The way up is the mirror image; at attention levels, the skip connection passes through invertible
attention before it is merged.

Source: section 4 and figure 1 of arXiv:2504.10883.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from monai_idm.checkpoints import sign
from monai_idm.networks.bookends import (
    DepthToSpace,
    EntryBookend,
    ExitBookend,
    Shortcut,
    SpaceToDepth,
    bypass,
    enter,
    halves,
    leave,
)
from monai_idm.networks.checks import (
    check_context,
    check_image,
    check_residuals,
    check_timesteps,
    check_weights,
    one_of,
    voxels,
)
from monai_idm.networks.compiled_branch import check_compilable
from monai_idm.networks.core import invertible_core
from monai_idm.networks.embedding import TimestepEmbedding
from monai_idm.networks.inverse_head import InverseHead, without_inverse_head
from monai_idm.networks.presets import PRESETS
from monai_idm.networks.step_choices import StepChoices, computing
from monai_idm.reversible import (
    AdditiveCoupling,
    Orthogonal,
    ReversibleOperation,
    ReversibleSequence,
    relative_error,
)

__all__ = ["InvertibleDiffusionUNet"]


class InvertibleDiffusionUNet(StepChoices):
    """Reversible U-Net for diffusion models; its training memory does not grow with its depth.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the noisy image and of a condition concatenated to it.
        out_channels: Channels of the prediction.
        channels: C of each level; each must be twice the one before.
        num_res_blocks: Couplings per level on each side, as one number or one per level; the last level has those of
            both sides.
        attention_levels: Levels whose skip connections pass through invertible attention; the last level has no skip
            connection and must be False.
        num_head_channels: Channels per attention head.
        norm_num_groups: Groups of every GroupNorm.
        embedding_channels: Width of the timestep embedding.
        bookends: Whether the ends are convolutions. If False, voxels become channels instead (the paper's ablation);
            ``channels[0]`` must then be ``in_channels`` times a power of ``2 ** spatial_dims``, and ``out_channels``
            must equal ``in_channels``.
        bookend_stride: 1, or 2 for large volumes: the bookends halve and double the resolution, and part of the input
            bypasses the core (:class:`monai_idm.networks.bookends.Shortcut`).
        inverse_head: Whether to create the parameters of ``inverse``, which eq. 8's lambda_R term trains.
        num_class_embeds: Number of classes to condition on, or None.
        activations: What the core keeps for the backward pass: ``"rebuilt"`` nothing, ``"checkpointed"`` the input
            of every operation, ``"stored"`` everything; or one of these per level; or ``"auto"``: store as many of the
            deep levels as memory allows, because there storing saves most time for its memory; this is chosen in the
            first training step on a shape. Gradients, weights and ``state_dict`` are the same for all.
        precision: ``"float32"``; ``"mixed"``: float32 streams, bfloat16 inside branches and bookends; ``"exact"`` and
            ``"exact-mixed"``: streams on a grid, so that every policy gives the same gradients bit for bit, at a cost
            of about 1.7 bytes per element of the first level. This needs operations that repeat bit for bit (on CUDA:
            ``torch.backends.cudnn.deterministic``). ``"auto"``: training steps are mixed where the device has
            instructions for bfloat16; predictions, which need no gradients, are float32 on every device.
        memory_budget_gib: For ``"auto"``: GiB for a training step, including weights, gradients and the optimizer's
            states. None: what is free on the device, with a margin.
        branch_batch: Samples per evaluation of a branch, the same in every policy, so that the working memory of a
            branch does not grow with the batch; ``"auto"`` chooses by the size of the volume.
        weight_dtype: ``"float32"``, or ``"bfloat16"``, which halves the memory of the weights of the core's
            convolutions and linear layers, 99 % of all weights; norms, biases and orthogonal generators stay float32.
            It needs a mixed precision, which computes with bfloat16 weights anyway, and an optimizer that rounds
            stochastically (``AdamWInBackward``): rounded to nearest, most updates would be lost.
        gradient_dtype: ``"float32"``, or ``"bfloat16"``: the precision in which the gradients of the streams wait
            between operations. Nothing is rebuilt from them, so every policy still gives the same gradients, and with
            exact precision the same bits; those of the weights are added up in float32.
        compile_branches: Whether the branches of the couplings are compiled (``torch.compile``) into fewer and larger
            kernels, which is for GPUs: on two CPU cores a step is not faster, and on a GPU it has not been measured.
            Compiling takes a minute or two for each new size; results are the same up to rounding. Not with exact
            precision.
        num_conditions: K, the number of numeric conditions per image, such as age, sex (0 or 1) and volumes of regions.
    Raises:
        ValueError: If the arguments do not fit together, or if branches are to be compiled and no compiler is found.
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
        inverse_head: bool = False,
        num_class_embeds: int | None = None,
        activations: str | Sequence[str] = "rebuilt",
        precision: str = "float32",
        memory_budget_gib: float | None = None,
        branch_batch: int | str = "auto",
        weight_dtype: str = "float32",
        gradient_dtype: str = "float32",
        compile_branches: bool = False,
        num_conditions: int = 0,
    ) -> None:
        super().__init__(len(channels), precision, activations, memory_budget_gib)
        blocks = [num_res_blocks] * len(channels) if isinstance(num_res_blocks, int) else list(num_res_blocks)
        if bookend_stride not in (1, 2):
            raise ValueError(
                f"bookend_stride={bookend_stride}; choose 1, or 2 to halve the resolution inside the network"
            )
        if branch_batch != "auto" and (isinstance(branch_batch, str) or branch_batch < 1):
            raise ValueError(f"branch_batch={branch_batch!r}; choose a number of samples, 1 or more, or 'auto'")
        one_of("weight_dtype", weight_dtype, ("float32", "bfloat16"))
        one_of("gradient_dtype", gradient_dtype, ("float32", "bfloat16"))
        if weight_dtype == "bfloat16" and not precision.endswith("mixed"):
            raise ValueError(
                f"weight_dtype='bfloat16' with precision={precision!r}; choose 'mixed' or 'exact-mixed', which compute "
                f"with bfloat16 weights, or weight_dtype='float32'"
            )
        if compile_branches:
            check_compilable(precision)
        self.branch_batch = branch_batch
        self.gradient_dtype = gradient_dtype
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.num_class_embeds = num_class_embeds
        stride = bookend_stride if bookends else _factor(spatial_dims, in_channels, out_channels, channels[0])
        self.divisor = stride * max(2 ** (len(channels) - 1), bookend_stride)  # the shortcut's blocks have 4 voxels
        # recorded in checkpoints: the arguments that determine names and shapes of the weights
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
            "inverse_head": inverse_head,
            "num_class_embeds": num_class_embeds,
            # left out if there are none, as in checkpoints up to version 0.4.0
            **({"num_conditions": num_conditions} if num_conditions else {}),
        }

        operations, self.levels = invertible_core(
            spatial_dims,
            channels,
            blocks,
            attention_levels,
            num_head_channels,
            norm_num_groups,
            embedding_channels,
            branch_batch,
            compile_branches,
        )
        self.embedding = TimestepEmbedding(channels[0], embedding_channels, num_class_embeds, num_conditions)
        self.core = ReversibleSequence(
            operations, precision.startswith("exact"), torch.bfloat16 if gradient_dtype == "bfloat16" else None
        )

        def entry(image_channels: int) -> nn.Module:
            if not bookends:
                return SpaceToDepth(spatial_dims, stride)
            return EntryBookend(spatial_dims, image_channels, channels[0], stride)

        def exit_(image_channels: int) -> nn.Module:
            if not bookends:
                return DepthToSpace(spatial_dims, stride)
            return ExitBookend(spatial_dims, channels[0], image_channels, stride, norm_num_groups)

        self.entry: nn.Module = entry(in_channels)
        self.exit: nn.Module = exit_(out_channels)
        self.shortcut: Shortcut | None = None
        if bookends and bookend_stride == 2:
            self.shortcut = Shortcut(
                spatial_dims, channels[0] // 2, in_channels, out_channels, embedding_channels, norm_num_groups
            )
        self.inverse_head: nn.Module | None = None
        if inverse_head:
            self.inverse_head = InverseHead(entry(out_channels), exit_(in_channels), embedding_channels)
        if weight_dtype == "bfloat16":
            for name, p in self.core.named_parameters():
                if p.ndim >= 2 and not name.endswith("generator"):
                    p.data = p.data.bfloat16()
        sign(self, "arguments", attrgetter("arguments"))

    @classmethod
    def from_preset(cls, preset: str | Mapping[str, Any], **overrides: Any) -> InvertibleDiffusionUNet:
        """A network of a named size: ``"light"``, ``"base"`` or ``"paper"``; 3D, two channels in and out.

        Args:
            preset: The name, or a mapping of arguments such as a checkpoint records.
            overrides: Any argument of the class.
        """
        if isinstance(preset, str):
            one_of("preset", preset, tuple(PRESETS))
            preset = PRESETS[preset]
        return cls(**{"spatial_dims": 3, "in_channels": 2, "out_channels": 2, **preset, **overrides})

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor | None = None,
        context: Tensor | None = None,
        class_labels: Tensor | None = None,
        down_block_additional_residuals: list[Tensor] | None = None,
        mid_block_additional_residual: Tensor | None = None,
        conditions: Tensor | None = None,
    ) -> Tensor:
        """Predict flow, velocity, noise or sample, whatever the network is trained for.

        Args:
            x: Noisy images, ``(B, in_channels, *spatial)``; every side divisible by ``divisor``.
            timesteps: ``(B,)``, or ``(1,)`` for all images; integer or float. None, for tools that only check shapes,
                means zeros, and class 0 if a class is needed and not given.
            context: Must be None; concatenate a condition to ``x`` (``mode="concat"`` of the inferers).
            class_labels: ``(B,)``, if the network was built with ``num_class_embeds``.
            down_block_additional_residuals, mid_block_additional_residual: Must be None; ControlNet is not supported.
            conditions: ``(B, K)``, if the network was built with ``num_conditions``: standardised values, NaN where
                unknown; None: all are unknown.
        Returns:
            ``(B, out_channels, *spatial)``.
        Raises:
            ValueError: If a shape does not fit, or a context, the residuals of a ControlNet, or classes or conditions
                that the network was not built for are given.
        """
        check_context(context)
        check_residuals(down_block_additional_residuals, mid_block_additional_residual)
        if timesteps is None:
            timesteps = torch.zeros(1, device=x.device)
            if self.num_class_embeds is not None and class_labels is None:
                class_labels = torch.zeros(x.shape[0], dtype=torch.long, device=x.device)
        if torch.jit.is_scripting():
            embedding = self.embedding(timesteps.to(x.device).expand(x.shape[0]), class_labels, conditions)
            streams = self.core.plain(halves(self.entry(x), x.dtype), embedding)
            y = self.exit(torch.cat(streams, 1))
            return y if self.shortcut is None else self.shortcut(y, self.shortcut.gates(streams[1]), x, embedding)
        else:
            x = voxels(x)
            embedding = self._embed(x, timesteps, class_labels, conditions)
            with self.in_precision(x.device):
                policies = self._policies(x)
                stored = policies[0] == "stored"
                streams = self.core(iter(enter(self.entry, x, self.branch_batch, stored)), embedding, policies)
                if self.shortcut is None:
                    return leave(self.exit, streams, self.branch_batch, stored, self.core.gradient_dtype)
                gates = leave(self.shortcut.gates, streams[1:], self.branch_batch, stored, self.core.gradient_dtype)
                y = leave(self.exit, streams, self.branch_batch, stored, self.core.gradient_dtype)
            return bypass(self.shortcut, y, gates, x, embedding, branch_batch=self.branch_batch, stored=stored)

    def freeze(self) -> InvertibleDiffusionUNet:
        """Build the orthogonal matrices once and keep them, for inference and for a smaller export to ONNX.

        They are built again if the weights change in any way, and wherever gradients are needed. ``train()``, loading
        weights and a move to another type or device discard them.

        Returns:
            The network itself.
        """
        for operation in self.core.operations:
            if isinstance(operation, Orthogonal):
                operation.freeze()
        return self

    def deep_couplings(self, num_levels: int) -> list[ReversibleOperation]:
        """The couplings of the deepest levels, in their order: few activations, and most of the weights.

        Args:
            num_levels: Number of levels; 0: none.
        Raises:
            ValueError: If the network has not so many levels.
        """
        if num_levels not in range(self.num_levels + 1):
            raise ValueError(
                f"the couplings of {num_levels!r} levels are asked for (offload_levels); choose a whole number from 0 "
                f"to {self.num_levels}, the levels of the network"
            )
        of_level = zip(self.core.operations, self.levels, strict=True)
        deep = [operation for operation, level in of_level if level >= self.num_levels - num_levels]
        return [operation for operation in deep if isinstance(operation, AdditiveCoupling)]

    def inverse(self, y: Tensor) -> Tensor:
        """U^-1 of eq. 8: the network's input from its prediction, without the timestep.

        Args:
            y: The prediction that ``forward`` returned, ``(B, out_channels, *spatial)``.
        Returns:
            ``(B, in_channels, *spatial)``.
        Raises:
            ValueError: If the network was built without ``inverse_head``, or the shape does not fit.
        """
        if self.inverse_head is None:
            raise ValueError("the network was built without the parameters of its inverse; set inverse_head=True")
        y = voxels(y)
        check_image(self, y, out_channels=self.out_channels)
        with self.in_precision(y.device):
            return self.inverse_head(y, self.core, self._policies(y), self.branch_batch)

    @torch.no_grad()
    def reconstruction_error(self, x: Tensor, timesteps: Tensor | None = None) -> float:
        """Error of the core's inverse at its entry, see :func:`~monai_idm.reversible.relative_error`.

        Args:
            x: Images, ``(B, in_channels, *spatial)``.
            timesteps: The same as in ``forward``.
        """
        x = voxels(x)
        # any class will do: it makes no difference to rounding
        classes = None if self.num_class_embeds is None else x.new_zeros(len(x), dtype=torch.long)
        embedding = self._embed(x, x.new_zeros(1) if timesteps is None else timesteps, classes)
        with computing(self.training_precision(), x.device):
            stream = enter(self.entry, x, self.branch_batch, stored=True)
            rebuilt = self.core.inverse(self.core(stream, embedding, "stored"), embedding)
        return float(relative_error(stream, rebuilt))

    def training_error(self) -> Tensor | None:
        """Relative error of the first rebuilt operation's inputs in the last training step, over a sample of them.

        A number on the device, for which nobody has waited; None if nothing was rebuilt.
        """
        check = self.core.spot_check
        return None if check is None else check.error

    def stream_peak(self) -> Tensor | None:
        """Where the streams of the last training step became too large for exact precision.

        Returns:
            ``(2,)``, on the device: the largest magnitude of the first operation of the core that is above
            :data:`~monai_idm.reversible.LARGEST`, or else of the last, and the operation's position, whose level is in
            ``levels``. None in another precision.
        """
        return self.core.peak

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Like ``nn.Module.load_state_dict``, but a strict load of another network's checkpoint names the difference.

        A network without the parameters of ``inverse`` ignores those of a checkpoint: predictions do not use them.

        Raises:
            ValueError: If the checkpoint was made by a network with other arguments, or with other tensors.
        """
        if self.inverse_head is None:
            state_dict = without_inverse_head(state_dict)
        if strict:
            check_weights(self, self.arguments, state_dict)
        return super().load_state_dict(state_dict, strict, assign)

    def _policies(self, x: Tensor) -> list[str]:
        """The policy of every operation of the core."""
        policies = self.policies(x)
        return [policies[level] for level in self.levels]

    def _embed(
        self, x: Tensor, timesteps: Tensor, class_labels: Tensor | None, conditions: Tensor | None = None
    ) -> Tensor:
        check_image(self, x, in_channels=self.in_channels)
        check_timesteps(timesteps, x.shape[0])
        return self.embedding(timesteps.to(x.device).expand(x.shape[0]), class_labels, conditions)


def _factor(spatial_dims: int, in_channels: int, out_channels: int, channels: int) -> int:
    """The factor by which every side must be divided to turn ``in_channels`` into ``channels``."""
    factor = 1
    while in_channels * factor**spatial_dims < channels:
        factor *= 2
    if in_channels * factor**spatial_dims != channels or in_channels != out_channels:
        raise ValueError(
            f"in_channels={in_channels}, out_channels={out_channels}, channels[0]={channels}; without bookends, "
            f"channels[0] is in_channels times a power of {2**spatial_dims}, and both ends have as many channels"
        )
    return factor
