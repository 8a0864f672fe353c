"""One generated volume per validation, to look at."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from monai.networks.schedulers.scheduler import Scheduler
from torch import Tensor

__all__ = ["GenerateVolume"]


class GenerateVolume:
    """Sample a volume with an evaluator's network and InvertibleDiffusionInferer; the same noise every time.

    Args:
        spatial_size: In voxels.
        channels: Of the image.
        network_range: What the network sees of intensities in [0, 1].
        scheduler: Of sampling; None: the training scheduler, every step.
        seed: Of the noise.
        class_label: Of the volume, for networks that know classes.
    """

    def __init__(
        self,
        spatial_size: Sequence[int],
        channels: int,
        network_range: tuple[float, float] = (-1.0, 1.0),
        scheduler: Scheduler | None = None,
        seed: int = 0,
        class_label: int | None = None,
    ) -> None:
        # of two small ones the first is shown: on a CPU, PyTorch convolves one on a path four times slower
        self.shape = (2 if prod(spatial_size) < 64**3 else 1, channels, *spatial_size)
        self.network_range = network_range
        self.scheduler = scheduler
        self.seed = seed
        self.class_label = class_label

    def __call__(self, engine: Any) -> Tensor:
        """A volume ``(C, *spatial_size)`` in [0, 1]."""
        low, high = self.network_range
        # forked: sampling must not change what training draws next
        with engine.mode(engine.network), torch.random.fork_rng():
            torch.manual_seed(self.seed)
            noise = torch.randn(self.shape).to(engine.state.device)
            options: dict[str, Any] = {"scheduler": self.scheduler, "verbose": False}
            if self.class_label is not None:
                options["class_labels"] = torch.full((len(noise),), self.class_label, device=noise.device)
            sample = engine.inferer.sample(noise, engine.network, **options)
        return ((sample[0] - low) / (high - low)).clamp(0, 1)
