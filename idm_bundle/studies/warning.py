"""Whether an evaluation warns of generated volumes that are wrong, and of no others.

A network is trained on phantoms; then the same weights sample as they should, and with faults planted.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from idm_bundle.studies.configs import configured
from idm_bundle.studies.runs import demo, evaluate, train
from monai_idm.tasks import GenerateVolumes

__all__ = ["STUDIES"]


def _sampler(**settings: Any) -> dict[str, Any]:
    """The sampler of the training's settings, but for these."""
    return {
        "few_step_scheduler": "$monai_idm.schedulers.named_sampler(@sampler, num_inference_steps=@num_inference_steps, "
        f"**{{**@scheduler.settings, **{settings}}})"
    }


_PLANTED: dict[str, dict[str, Any]] = {
    "another prediction_type": _sampler(prediction_type="epsilon"),
    "another schedule": _sampler(schedule="linear_beta"),
    "another range": _sampler(clip_sample_min=0.0),
    "one noise for all": {"validate#generate#_target_": "idm_bundle.studies.warning.SameVolumes"},
}


class SameVolumes(GenerateVolumes):
    """Volumes that all start from the same noise: a fault to plant."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seeds = self.seeds[:1] * len(self.seeds)


def warned(steps: int, side: int, seed: int = 0) -> dict[str, list[str]]:
    """Train, with five validations, then evaluate with and without faults.

    Returns:
        The warnings, by where they came from: the ``training`` and its last weights (``clean``), and what was planted.
    """
    with tempfile.TemporaryDirectory() as folder:
        values = demo(folder, steps, side, validations=5)
        found = {"training": _warnings(lambda: train(values, seed=seed))}
        found["clean"] = _warnings(lambda: evaluate(values, "evaluate"))
        for name, changes in _PLANTED.items():
            found[f"planted: {name}"] = _warnings(partial(evaluate, {**values, **changes}, "evaluate"))
        untrained = {**values, "ckpt_file": str(Path(folder) / "untrained.pt")}
        torch.save(configured(values).get_parsed_content("network").state_dict(), untrained["ckpt_file"])
        found["planted: weights that were not trained"] = _warnings(lambda: evaluate(untrained, "evaluate"))
    return found


def _warnings(run: Callable[[], Any]) -> list[str]:
    """What the watch says while something runs."""
    said: list[str] = []
    listener = logging.Handler(logging.WARNING)
    listener.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    watch = logging.getLogger("monai_idm.handlers.sample_watch")
    watch.addHandler(listener)
    try:
        run()
    finally:
        watch.removeHandler(listener)
    return said


STUDIES = {"warnings": {f"seed {seed}": partial(warned, seed=seed) for seed in (0, 1, 2)}}
