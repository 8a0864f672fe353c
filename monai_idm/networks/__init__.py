"""The networks that a config's ``network_def`` can name."""

from monai_idm.networks.invertible_unet import InvertibleDiffusionUNet
from monai_idm.networks.patch_unet import PatchDiffusionUNet
from monai_idm.networks.presets import PRESETS

__all__ = ["PRESETS", "InvertibleDiffusionUNet", "PatchDiffusionUNet"]
