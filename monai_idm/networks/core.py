"""The invertible core of the network, built as a list of operations."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from monai_idm.networks.branch import ResidualBranch
from monai_idm.networks.compiled_branch import CompiledBranch
from monai_idm.reversible import (
    AdditiveCoupling,
    AttentionScale,
    CheckerboardAttention,
    Merge,
    OrthogonalDownsample,
    OrthogonalMixing,
    OrthogonalUpsample,
    ReversibleOperation,
    Split,
)

__all__ = ["invertible_core"]


def invertible_core(
    spatial_dims: int,
    channels: Sequence[int],
    num_res_blocks: Sequence[int],
    attention_levels: Sequence[bool],
    num_head_channels: int,
    norm_num_groups: int,
    embedding_channels: int,
    branch_batch: int | str,
    compile_branches: bool,
) -> tuple[list[ReversibleOperation], list[int]]:
    """The operations in the order in which they run, and the level of each.

    On the way down, every level has couplings, a mixing of its channels and a split: some channels wait as the skip
    connection, the others go down through a lossless resampling. The way up is the mirror image; at attention levels,
    the skip connection passes through attention before it is merged. The arguments are those of
    :class:`~monai_idm.networks.InvertibleDiffusionUNet`.

    Raises:
        ValueError: If the arguments do not fit together.
    """
    _check_arguments(spatial_dims, channels, num_res_blocks, attention_levels, norm_num_groups)

    branch = CompiledBranch if compile_branches else ResidualBranch

    def couplings(level: int, count: int) -> list[ReversibleOperation]:
        width = channels[level] // 2
        return [
            AdditiveCoupling(branch(spatial_dims, width, embedding_channels, norm_num_groups), branch_batch)
            for _ in range(count)
        ]

    bottom = len(channels) - 1
    operations = couplings(bottom, 2 * num_res_blocks[bottom])
    levels = [bottom] * len(operations)
    for level in reversed(range(bottom)):  # from the inside out
        c, low = channels[level], channels[level + 1] // 2**spatial_dims
        skip = c - low
        attention: list[ReversibleOperation] = []
        if attention_levels[level]:
            attention = [CheckerboardAttention(AttentionScale(spatial_dims, skip, num_head_channels, norm_num_groups))]
        down = [
            *couplings(level, num_res_blocks[level]),
            OrthogonalMixing(c),
            Split(skip // 2),
            OrthogonalDownsample(spatial_dims, low),
        ]
        up = [
            OrthogonalUpsample(spatial_dims, low),
            *attention,
            Merge(skip // 2),
            OrthogonalMixing(c),
            *couplings(level, num_res_blocks[level]),
        ]
        operations = [*down, *operations, *up]
        levels = [*[level] * len(down), *levels, *[level] * len(up)]
    return operations, levels


def _check_arguments(
    spatial_dims: int, channels: Sequence[int], blocks: Sequence[int], attention_levels: Sequence[bool], groups: int
) -> None:
    if spatial_dims not in (2, 3):
        raise ValueError(f"spatial_dims={spatial_dims}; the network is built for 2 or 3")
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
