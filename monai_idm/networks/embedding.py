"""Embed the timestep, and optionally a class and numeric conditions, in one vector."""

from __future__ import annotations

import torch
from monai.networks.nets.diffusion_model_unet import get_timestep_embedding
from torch import Tensor, nn

from monai_idm.networks.conditions import NumericConditions

__all__ = ["TimestepEmbedding"]


class TimestepEmbedding(nn.Module):
    """Sinusoidal features of the timestep through a two-layer perceptron, plus vectors of the class and the conditions.

    Args:
        num_features: Number of sinusoidal features.
        embedding_channels: E, the width of the embedding.
        num_class_embeds: Number of classes, or None.
        num_conditions: K, the number of numeric conditions.
    Shape: timesteps ``(B,)`` to ``(B, E)``.
    Source: as in MONAI's DiffusionModelUNet.
    """

    def __init__(
        self, num_features: int, embedding_channels: int, num_class_embeds: int | None = None, num_conditions: int = 0
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.perceptron = nn.Sequential(
            nn.Linear(num_features, embedding_channels), nn.SiLU(), nn.Linear(embedding_channels, embedding_channels)
        )
        self.classes = None if num_class_embeds is None else nn.Embedding(num_class_embeds, embedding_channels)
        self.conditions = NumericConditions(num_conditions, embedding_channels) if num_conditions else None

    def forward(
        self, timesteps: Tensor, class_labels: Tensor | None = None, conditions: Tensor | None = None
    ) -> Tensor:
        features = get_timestep_embedding(timesteps, self.num_features)
        embedding = self.perceptron(features.to(self.perceptron[0].weight))  # type: ignore[arg-type]
        if not torch.jit.is_scripting():
            self._check_classes(timesteps, class_labels)
            self._check_conditions(timesteps, conditions)
        if self.classes is not None and class_labels is not None:
            embedding = embedding + self.classes(class_labels)
        if self.conditions is not None:
            if conditions is None:
                # unknown, rather than left out: in every step, every process then has the same gradients to send
                conditions = embedding.new_full((embedding.shape[0], self.conditions.num_conditions), float("nan"))
            embedding = embedding + self.conditions(conditions)
        # applied once here: every branch would apply the same nonlinearity before its linear projection
        return torch.nn.functional.silu(embedding)

    def _check_classes(self, timesteps: Tensor, class_labels: Tensor | None) -> None:
        if (self.classes is None) == (class_labels is None):
            return
        expected = "no class_labels" if self.classes is None else f"class_labels of shape {tuple(timesteps.shape)}"
        raise ValueError(
            f"the network was built with num_class_embeds="
            f"{None if self.classes is None else self.classes.num_embeddings} and needs {expected}, got "
            f"{None if class_labels is None else tuple(class_labels.shape)}"
        )

    def _check_conditions(self, timesteps: Tensor, conditions: Tensor | None) -> None:
        count = 0 if self.conditions is None else self.conditions.num_conditions
        fitting = (timesteps.shape[0], count)  # not len, which fixes the batch size of an export
        if conditions is None or (count and conditions.shape == fitting):
            return
        expected = f"conditions of shape {fitting}, NaN where unknown" if count else "no conditions"
        raise ValueError(
            f"the network was built with num_conditions={count} and needs {expected}, got {tuple(conditions.shape)}"
        )
