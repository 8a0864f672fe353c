"""Whether a long training stays as it began: its memory, and the error of the activations that it rebuilds.

train.yaml as it is, with all its handlers, on a network and volumes so small that tens of thousands of steps take
minutes; checkpoints and validations come as often as in long trainings.
"""

from __future__ import annotations

import resource
import tempfile
import time
from statistics import linear_regression, mean
from typing import Any

from ignite.engine import Engine, Events
from monai.utils import set_determinism

from idm_bundle.studies.configs import SMALLEST, configured
from idm_bundle.studies.runs import demo

__all__ = ["STUDIES"]

_EVERY = 500  # iterations between two looks
_WARM_UP = 0.2  # of the steps, in which caches and pools fill


def soaked(steps: int, side: int) -> dict[str, Any]:
    """Train for long.

    Args:
        steps: Of the training; an epoch has 500, and every tenth is validated.
        side: Voxels per axis.
    Returns:
        ``mb_per_10000_steps``, the slope of the process's resident memory after the first fifth; ``first_mb`` and
        ``last_mb``, at that fifth and at the end; ``first_error`` and ``last_error``, of rebuilt activations in units
        of the stream, means over the first and the last fifth; ``largest_error``; ``loss`` of the same two fifths; and
        ``seconds``.
    """
    begin = time.perf_counter()
    memory: list[tuple[int, float]] = []
    errors: list[float] = []
    losses: list[float] = []

    def look(engine: Engine) -> None:
        memory.append((engine.state.iteration, _resident_mb()))
        errors.append(network.training_error())
        losses.append(float(engine.state.output[0]["loss"]))  # type: ignore[index]

    set_determinism(0)
    with tempfile.TemporaryDirectory() as folder:
        epochs = max(1, steps // _EVERY)
        config = configured({**demo(folder, steps, side, epochs, max(1, epochs // 10)), **SMALLEST})
        network = config.get_parsed_content("network")
        trainer: Engine = config.get_parsed_content("train#trainer")
        trainer.add_event_handler(Events.ITERATION_COMPLETED(every=_EVERY), look)
        trainer.run()
    part = max(1, int(_WARM_UP * len(memory)))
    slope, _ = linear_regression(*zip(*memory[part:], strict=True))
    return {
        "mb_per_10000_steps": 1e4 * slope,
        "first_mb": memory[part][1],
        "last_mb": memory[-1][1],
        "first_error": mean(errors[:part]),
        "last_error": mean(errors[-part:]),
        "largest_error": max(errors),
        "first_loss": mean(losses[:part]),
        "last_loss": mean(losses[-part:]),
        "seconds": round(time.perf_counter() - begin),
    }


def _resident_mb() -> float:
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * resource.getpagesize() / 1e6


STUDIES = {"soak": {"train.yaml": soaked}}
