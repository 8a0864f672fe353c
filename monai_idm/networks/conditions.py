r"""Embed numbers that describe an image, such as an age or a volume; each of them may be unknown.

.. math::
    e = \sum_k W_k\, \varphi(v_k), \qquad
    \varphi(v) = (0, v, \sin \omega_1 v, \sin \omega_2 v, \sin \omega_3 v, \cos \omega_1 v, \dots), \qquad
    \varphi(\mathrm{unknown}) = (1, 0, \dots, 0)

The first column of :math:`W_k` thus stands for "unknown". The periods :math:`2 \pi / \omega` are 8, 4 and 2 standard
deviations: fine enough for curves, too coarse to recognise a subject by its age.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["NumericConditions"]


class NumericConditions(nn.Module):
    """Linear maps of Fourier features. They start at 0: a network that gets a new condition predicts as before.

    Args:
        num_conditions: K, the number of values per image.
        embedding_channels: E, the width of the embedding.
    Shape: ``(B, K)``, standardised and NaN where unknown, to ``(B, E)``.
    Source: Fourier features are those of Tancik et al. 2020, arXiv:2006.10739.
    """

    def __init__(self, num_conditions: int, embedding_channels: int) -> None:
        super().__init__()
        self.num_conditions = num_conditions
        self.num_frequencies = 3
        features = 2 + 2 * self.num_frequencies
        self.weight = nn.Parameter(torch.zeros(embedding_channels, num_conditions * features))

    def forward(self, conditions: Tensor) -> Tensor:
        v = conditions.to(self.weight).unsqueeze(-1)
        unknown = v.isnan()
        angles = v * (torch.pi / 4 * 2 ** torch.arange(self.num_frequencies, dtype=v.dtype, device=v.device))
        known = torch.cat([v, angles.sin(), angles.cos()], -1).masked_fill(unknown, 0.0)
        features = torch.cat([unknown.to(v), known], -1)
        return nn.functional.linear(features.flatten(1), self.weight)
