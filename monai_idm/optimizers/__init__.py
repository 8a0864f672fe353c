"""Optimizers."""

from monai_idm.optimizers.in_backward import AdamWInBackward
from monai_idm.optimizers.weight_norm import AdamWWeightNorm, weight_norm_groups

__all__ = ["AdamWInBackward", "AdamWWeightNorm", "weight_norm_groups"]
