"""AdamW variants: one steps during the backward pass, one adds eq. 8's norm of the weights."""

from monai_idm.optimizers.in_backward import AdamWInBackward
from monai_idm.optimizers.weight_norm import AdamWWeightNorm, weight_norm_groups

__all__ = ["AdamWInBackward", "AdamWWeightNorm", "weight_norm_groups"]
