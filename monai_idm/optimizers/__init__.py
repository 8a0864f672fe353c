"""AdamW, with Muon for kernels and with eq. 8's norm of the weights; one steps during the backward pass."""

from monai_idm.optimizers.in_backward import AdamWInBackward
from monai_idm.optimizers.weight_norm import AdamWWeightNorm, weight_norm_groups

__all__ = ["AdamWInBackward", "AdamWWeightNorm", "weight_norm_groups"]
