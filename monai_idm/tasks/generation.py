r"""Generation: all MRI contrasts of a brain are drawn together, from noise alone.

.. math:: \mathrm{pack}(x_t) = x_t, \qquad w = 1
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import PrepareBatch
from monai.networks.schedulers.scheduler import Scheduler
from monai.utils.enums import CommonKeys
from torch import Tensor

from monai_idm.data.modalities import title_of
from monai_idm.noise import seeded_noise
from monai_idm.schedulers import check_sampler
from monai_idm.tasks.task import Task

__all__ = ["GenerateVolumes", "Generation", "SamplingPrepareBatch"]


class Generation(Task):
    """Draw all contrasts of a brain from noise alone. The ``image`` of a batch holds them.

    Args:
        modalities: Names of the contrasts.
        classes: Names of the classes that the network is conditioned on; None: no classes.
        numeric_conditions: What else it is conditioned on, such as age and sex, and how that becomes numbers: see
            :func:`~monai_idm.data.fit_conditions`; None: nothing.
    """

    name = "generation"
    title = "BraTS MRI invertible diffusion"
    description = "Draws 3D brain MRI from noise, by a reversible diffusion model"
    defaults: ClassVar[Mapping[str, Any]] = {
        "modalities": ["t1", "t2"],
        "classes": None,
        "numeric_conditions": None,
    }

    def __init__(
        self,
        modalities: Sequence[str],
        classes: Sequence[str] | None = None,
        numeric_conditions: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        self.modalities = list(modalities)
        self.classes = None if classes is None else list(classes)
        self.numeric_conditions = None if numeric_conditions is None else [dict(c) for c in numeric_conditions]

    @property
    def inputs(self) -> list[str]:
        return [f"noisy {name}" for name in self.drawn]

    @property
    def drawn(self) -> list[str]:
        return [title_of(name) for name in self.modalities]

    @property
    def num_classes(self) -> int | None:
        return len(self.classes) if self.classes else None

    def image(self, batch: Mapping[str, Any]) -> Tensor:
        return batch[CommonKeys.IMAGE]


class SamplingPrepareBatch(PrepareBatch):
    """``prepare_batch`` of a MONAI SupervisedEvaluator whose inferer is a SamplingInferer.

    The batch's ``image`` is the noise, ``(B, C, *spatial)``; its ``seed`` and, if present, its ``class_label`` and its
    ``conditions`` are passed to the inferer as ``seeds``, ``class_labels`` and ``conditions``.
    """

    def __call__(self, batchdata: Any, device: Any = None, non_blocking: bool = False, **kwargs: Any) -> Any:
        noise = batchdata[CommonKeys.IMAGE].to(device, non_blocking=non_blocking, **kwargs)
        arguments = {"seeds": batchdata["seed"].tolist()}
        for key, name in (("class_label", "class_labels"), ("conditions", "conditions")):
            if key in batchdata:
                arguments[name] = batchdata[key].to(device, non_blocking=non_blocking)
        return noise, None, (), arguments


class GenerateVolumes:
    """Sample volumes at the end of an evaluation and leave them in ``engine.state.generated``.

    They start from the same noise every time, and are of the first class if the network is conditioned on classes;
    numeric conditions are unknown. The evaluator's inferer must be an InvertibleDiffusionInferer. Attach this before
    handlers that read the volumes.

    Args:
        task: Task of the network.
        spatial_size: Size of a volume in voxels.
        network_range: Values of the network that stand for the intensities 0 and 1.
        scheduler: Scheduler to sample with; None: the training scheduler, at every timestep.
        num_volumes: Number of volumes. From 64^3 voxels on they are sampled one by one, which needs no more memory than
            a single one.
        seed: Seed of the first volume; volume i starts from the noise of ``seed + i``.
    Raises:
        ValueError: If ``scheduler`` cannot be sampled with.
    """

    def __init__(
        self,
        task: Generation,
        spatial_size: Sequence[int],
        network_range: tuple[float, float] = (-1.0, 1.0),
        scheduler: Scheduler | None = None,
        num_volumes: int = 2,
        seed: int = 0,
    ) -> None:
        check_sampler(scheduler)
        self.shape = (len(task.drawn), *spatial_size)
        self.network_range = network_range
        self.scheduler = scheduler
        self.seeds = list(range(seed, seed + num_volumes))
        self.knows_classes = task.num_classes is not None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Sample volumes ``(num_volumes, C, *spatial_size)`` with intensities in [0, 1]."""
        low, high = self.network_range
        batch_size = len(self.seeds) if prod(self.shape[1:]) < 64**3 else 1
        # forked: MONAI's stochastic samplers take no seeds, and would change what training draws next
        with engine.mode(engine.network), torch.random.fork_rng():
            torch.manual_seed(self.seeds[0])
            starts = range(0, len(self.seeds), batch_size)
            batches = [self._sample(engine, self.seeds[i : i + batch_size]) for i in starts]
        engine.state.generated = ((torch.cat(batches) - low) / (high - low)).clamp(0, 1)

    def _sample(self, engine: Any, seeds: Sequence[int]) -> Tensor:
        noise = torch.stack([seeded_noise(self.shape, seed) for seed in seeds]).to(engine.state.device)
        options: dict[str, Any] = {"scheduler": self.scheduler, "seeds": seeds, "verbose": False}
        if self.knows_classes:
            options["class_labels"] = torch.zeros(len(noise), dtype=torch.long, device=noise.device)
        return engine.inferer.sample(noise, engine.network, **options).cpu()
