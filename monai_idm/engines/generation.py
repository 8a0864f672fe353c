"""A few generated volumes per validation, to look at and to watch."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.networks.schedulers.scheduler import Scheduler
from torch import Tensor

from monai_idm.noise import seeded_noise
from monai_idm.schedulers import check_sampler

__all__ = ["GenerateVolumes"]


class GenerateVolumes:
    """At the end of an evaluation, sample volumes into ``engine.state.generated``; from the same noise every time.

    The evaluator has an InvertibleDiffusionInferer. Attach it before what looks at the volumes.

    Args:
        spatial_size: In voxels.
        channels: Of the image.
        network_range: What the network sees of intensities in [0, 1].
        scheduler: Scheduler to sample with; None: the training scheduler, every step.
        num_volumes: How many; from 64^3 voxels on one after the other, which takes no more memory than one.
        seed: Volume i starts from the noise of ``seed + i``.
        class_label: Of the volumes, for networks that know classes.
    Raises:
        ValueError: If the scheduler cannot be sampled with.
    """

    def __init__(
        self,
        spatial_size: Sequence[int],
        channels: int,
        network_range: tuple[float, float] = (-1.0, 1.0),
        scheduler: Scheduler | None = None,
        num_volumes: int = 2,
        seed: int = 0,
        class_label: int | None = None,
    ) -> None:
        check_sampler(scheduler)
        self.shape = (channels, *spatial_size)
        self.network_range = network_range
        self.scheduler = scheduler
        self.seeds = list(range(seed, seed + num_volumes))
        self.class_label = class_label

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Leave ``(num_volumes, C, *spatial_size)`` in [0, 1]."""
        low, high = self.network_range
        at_once = len(self.seeds) if prod(self.shape[1:]) < 64**3 else 1
        # forked: a stochastic sampler of MONAI's, which takes no seeds, must not change what training draws next
        with engine.mode(engine.network), torch.random.fork_rng():
            torch.manual_seed(self.seeds[0])
            parts = [self._sample(engine, self.seeds[i : i + at_once]) for i in range(0, len(self.seeds), at_once)]
        engine.state.generated = ((torch.cat(parts) - low) / (high - low)).clamp(0, 1)

    def _sample(self, engine: Any, seeds: Sequence[int]) -> Tensor:
        noise = torch.stack([seeded_noise(self.shape, seed) for seed in seeds]).to(engine.state.device)
        options: dict[str, Any] = {"scheduler": self.scheduler, "seeds": seeds, "verbose": False}
        if self.class_label is not None:
            options["class_labels"] = torch.full((len(noise),), self.class_label, device=noise.device)
        return engine.inferer.sample(noise, engine.network, **options).cpu()
