"""Embed the timestep, and optionally a class, in one vector."""

from __future__ import annotations

import torch
from monai.networks.nets.diffusion_model_unet import get_timestep_embedding
from torch import Tensor, nn

__all__ = ["TimestepEmbedding"]


class TimestepEmbedding(nn.Module):
    """Sinusoidal features of the timestep through a two-layer perceptron, plus a learned class vector.

    Args:
        num_features: Number of sinusoidal features.
        embedding_channels: E, the width of the embedding.
        num_class_embeds: Number of classes, or None.
    Shape: timesteps ``(B,)`` to ``(B, E)``.
    Source: as in MONAI's DiffusionModelUNet.
    """

    def __init__(self, num_features: int, embedding_channels: int, num_class_embeds: int | None = None) -> None:
        super().__init__()
        self.num_features = num_features
        self.perceptron = nn.Sequential(
            nn.Linear(num_features, embedding_channels), nn.SiLU(), nn.Linear(embedding_channels, embedding_channels)
        )
        self.classes = None if num_class_embeds is None else nn.Embedding(num_class_embeds, embedding_channels)

    def forward(self, timesteps: Tensor, class_labels: Tensor | None = None) -> Tensor:
        features = get_timestep_embedding(timesteps, self.num_features)
        embedding = self.perceptron(features.to(self.perceptron[0].weight))  # type: ignore[arg-type]
        if not torch.jit.is_scripting():
            self._check(timesteps, class_labels)
        if self.classes is not None and class_labels is not None:
            embedding = embedding + self.classes(class_labels)
        # applied once here: every branch would apply the same nonlinearity before its linear projection
        return torch.nn.functional.silu(embedding)

    def _check(self, timesteps: Tensor, class_labels: Tensor | None) -> None:
        if (self.classes is None) == (class_labels is None):
            return
        expected = "no class_labels" if self.classes is None else f"class_labels of shape {tuple(timesteps.shape)}"
        raise ValueError(
            f"the network was built with num_class_embeds="
            f"{None if self.classes is None else self.classes.num_embeddings} and needs {expected}, got "
            f"{None if class_labels is None else tuple(class_labels.shape)}"
        )
