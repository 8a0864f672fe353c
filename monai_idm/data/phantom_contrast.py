r"""The MRI contrasts of a synthetic head.

With :math:`w_t` the share of tissue t at a point, contrast m is

.. math:: s_m = b_m \Big( \sum_t w_t (c_{tm} + a_t q_m) + \rho_m \Big)

with tissue values c, a texture q whose amplitude a differs by tissue, regional differences :math:`\rho`
and a smooth bias field b. No table from the intensity of one contrast to that of another can be right:

- the textures of T1 and of T2 or FLAIR are a quarter wave apart: a single voxel of one does not determine the
  other, but its neighbourhood does;
- T2 and FLAIR vary from front to back, from base to top and with the distance to the ventricles, T1 hardly does;
- oedema and CSF look alike in T2 and opposite in FLAIR;
- every contrast has a bias field of its own.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from monai_idm.data.phantom_anatomy import Anatomy, Field, Points, Waves

__all__ = ["CONTRASTS", "TISSUES", "Contrast", "show_contrast"]


class Contrast(NamedTuple):
    """How a modality differs from the others beyond its tissue values; all relative to a signal of 1.

    Attributes:
        values: Index of the column in ``TISSUES``.
        quarter: 1 if the texture is a quarter wave behind T1's, otherwise 0.
        texture: Strength of the texture.
        to_back: Added to cerebral tissue at the back, subtracted at the front.
        to_top: Added to cerebral tissue at the top, subtracted at the base.
        near_ventricle: Added to white matter next to the ventricles, decaying over 8 mm.
        bias: Standard deviation of the bias field's logarithm.
    """

    values: int
    quarter: int
    texture: float
    to_back: float
    to_top: float
    near_ventricle: float
    bias: float


# tissue: values in T1, T1ce, T2, FLAIR (1 is about the brightest healthy tissue) and the amplitude of its texture
TISSUES = {
    "csf": (0.28, 0.28, 0.86, 0.16, 0.01),
    "cortex": (0.52, 0.54, 0.49, 0.58, 0.03),
    "white": (0.76, 0.76, 0.42, 0.50, 0.035),
    "cerebellar cortex": (0.54, 0.57, 0.52, 0.56, 0.025),
    "cerebellar white": (0.74, 0.75, 0.43, 0.50, 0.02),
    "stem": (0.72, 0.73, 0.46, 0.49, 0.02),
    "thalamus": (0.63, 0.65, 0.47, 0.56, 0.02),
    "striatum": (0.54, 0.56, 0.40, 0.58, 0.02),
    "oedema": (0.48, 0.50, 0.80, 0.88, 0.04),
    "ventricle": (0.20, 0.20, 0.96, 0.12, 0.01),
    "rim": (0.54, 1.10, 0.66, 0.76, 0.03),
    "core": (0.34, 0.36, 0.78, 0.48, 0.04),
}
CONTRASTS = {  # T1's bias field is strong, as at 3 T: a neighbourhood reveals it, a single voxel does not
    "t1": Contrast(0, quarter=0, texture=1.0, to_back=0.00, to_top=0.03, near_ventricle=0.00, bias=0.20),
    "t1ce": Contrast(1, quarter=0, texture=1.0, to_back=0.00, to_top=0.03, near_ventricle=0.00, bias=0.20),
    "t2": Contrast(2, quarter=1, texture=0.9, to_back=0.08, to_top=0.04, near_ventricle=0.08, bias=0.06),
    "flair": Contrast(3, quarter=1, texture=0.8, to_back=-0.04, to_top=0.03, near_ventricle=0.10, bias=0.08),
}


def show_contrast(
    rng: np.random.Generator,
    modality: str,
    anatomy: Anatomy,
    waves: tuple[Field, Field],
    scanner_mm: Points,
) -> Field:
    """One contrast of a head, without noise.

    Args:
        rng: Source of the scanner's random numbers: its bias field, and a factor per tissue (1 with an SD of 2 %).
        modality: A key of ``CONTRASTS``.
        anatomy: The head, at M points.
        waves: A texture and its copy shifted by a quarter wave, each ``(M,)``.
        scanner_mm: Scanner coordinates of the points in mm, three arrays ``(M,)``.

    Returns:
        The signal, ``(M,)``; 1 is about the brightest healthy tissue.
    """
    contrast = CONTRASTS[modality]
    factors = rng.normal(1, 0.02, len(TISSUES)).tolist()
    signal = np.zeros_like(waves[0])
    texture = contrast.texture * waves[contrast.quarter]
    for (tissue, (*values, amplitude)), factor in zip(TISSUES.items(), factors, strict=True):
        signal += anatomy.weights[tissue] * (factor * values[contrast.values] + amplitude * texture)
    _, y, z = anatomy.points
    region = contrast.to_back * np.tanh(y / 25) + contrast.to_top * np.tanh((z - 8) / 18)
    signal += (anatomy.weights["cortex"] + anatomy.weights["white"]) * region
    signal += contrast.near_ventricle * anatomy.weights["white"] * np.exp(anatomy.ventricle_mm / -8)
    return signal * np.exp(contrast.bias * Waves(rng, 5, 190.0)(scanner_mm))
