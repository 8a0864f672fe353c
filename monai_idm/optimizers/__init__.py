"""Optimizers."""

from monai_idm.optimizers.weight_norm import AdamWWeightNorm, weight_norm_groups

__all__ = ["AdamWWeightNorm", "weight_norm_groups"]
