"""The reversible engine. It depends on torch alone, not on images, diffusion or MONAI."""

from monai_idm.float32 import true_float32
from monai_idm.reversible.attention import AttentionScale, CheckerboardAttention
from monai_idm.reversible.chunks import AUTO_VOXELS, recomputed_in_chunks
from monai_idm.reversible.convolution import convolution
from monai_idm.reversible.coupling import AdditiveCoupling
from monai_idm.reversible.engine import ACTIVATIONS, ReversibleSequence
from monai_idm.reversible.fixed_point import LARGEST
from monai_idm.reversible.memory_format import (
    fastest_format,
    in_format,
    is_channels_last,
    memory_format_of,
    voxel_rows,
)
from monai_idm.reversible.mixing import OrthogonalMixing
from monai_idm.reversible.operation import ReversibleOperation
from monai_idm.reversible.orthogonal import Orthogonal, fixed_matrices
from monai_idm.reversible.resample import Merge, OrthogonalDownsample, OrthogonalUpsample, Split
from monai_idm.reversible.spot_check import relative_error

__all__ = [
    "ACTIVATIONS",
    "AUTO_VOXELS",
    "LARGEST",
    "AdditiveCoupling",
    "AttentionScale",
    "CheckerboardAttention",
    "Merge",
    "Orthogonal",
    "OrthogonalDownsample",
    "OrthogonalMixing",
    "OrthogonalUpsample",
    "ReversibleOperation",
    "ReversibleSequence",
    "Split",
    "convolution",
    "fastest_format",
    "fixed_matrices",
    "in_format",
    "is_channels_last",
    "memory_format_of",
    "recomputed_in_chunks",
    "relative_error",
    "true_float32",
    "voxel_rows",
]
