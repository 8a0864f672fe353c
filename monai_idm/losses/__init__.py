"""Losses."""

from monai_idm.losses.invertible_diffusion import InvertibleDiffusionLoss, min_snr_weights

__all__ = ["InvertibleDiffusionLoss", "min_snr_weights"]
