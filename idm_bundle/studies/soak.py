"""Whether memory and the error of rebuilt activations stay constant during a long training run.

The study runs train.yaml with all its handlers on a network and volumes so small that tens of thousands of steps take
minutes; checkpoints and validations are as frequent as in long runs.
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

_EVERY = 500  # iterations between two measurements
_PARTS = 5  # during the first part, caches and pools fill


def soaked(steps: int, side: int) -> dict[str, Any]:
    """Train for many steps.

    Args:
        steps: Number of steps; an epoch has 500, and every tenth epoch is validated.
        side: Voxels per axis.
    Returns:
        ``mb_per_10000_steps``, the slope of the process's resident memory after the first fifth; the means of each
        fifth of resident ``mb``, of relative ``errors`` of rebuilt activations, and of ``losses``; the
        ``largest_error``; and ``seconds``.
    """
    begin = time.perf_counter()
    iterations: list[int] = []
    memory: list[float] = []
    errors: list[float] = []
    losses: list[float] = []

    def measure(engine: Engine) -> None:
        iterations.append(engine.state.iteration)
        memory.append(_resident_mb())
        errors.append(float(network.training_error()))
        losses.append(float(engine.state.output[0]["loss"]))  # type: ignore[index]

    set_determinism(0)
    with tempfile.TemporaryDirectory() as folder:
        epochs = max(1, steps // _EVERY)
        config = configured({**demo(folder, steps, side, epochs, max(1, epochs // 10)), **SMALLEST})
        network = config.get_parsed_content("network")
        trainer: Engine = config.get_parsed_content("train#trainer")
        trainer.add_event_handler(Events.ITERATION_COMPLETED(every=_EVERY), measure)
        trainer.run()
    warm = len(memory) // _PARTS
    return {
        "mb_per_10000_steps": 1e4 * linear_regression(iterations[warm:], memory[warm:]).slope,
        "mb": _fifths(memory),
        "errors": _fifths(errors),
        "losses": _fifths(losses),
        "largest_error": max(errors),
        "seconds": round(time.perf_counter() - begin),
    }


def _fifths(values: list[float]) -> list[float]:
    size = len(values) / _PARTS
    return [mean(values[int(i * size) : int((i + 1) * size)]) for i in range(_PARTS)]


def _resident_mb() -> float:
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * resource.getpagesize() / 1e6


STUDIES = {"soak": {"train.yaml": soaked}}
