"""Losses."""

from monai_idm.losses.invertible_diffusion import InvertibleDiffusionLoss

__all__ = ["InvertibleDiffusionLoss"]
