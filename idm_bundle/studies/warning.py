"""Whether an evaluation warns of generated volumes that are wrong, and only of these.

A network is trained on phantoms; then the same weights generate volumes, without faults and with planted ones.
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
    """A sampler with the settings of the training run, except for these."""
    return {
        "generating_scheduler": "$monai_idm.schedulers.named_sampler(@sampler, timestep_spacing=@timestep_spacing, "
        f"num_inference_steps=@num_inference_steps, **{{**@scheduler.settings, **{settings}}})"
    }


_PLANTED: dict[str, dict[str, Any]] = {
    "another prediction_type": _sampler(prediction_type="epsilon"),
    "another schedule": _sampler(schedule="linear_beta"),
    "another range": _sampler(clip_sample_min=0.0),
    "one noise for all": {"validate#generate#_target_": "idm_bundle.studies.warning.SameVolumes"},
}


class SameVolumes(GenerateVolumes):
    """Volumes that all start from the same noise: a planted fault."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seeds = self.seeds[:1] * len(self.seeds)


def warned(steps: int, side: int, seed: int = 0) -> dict[str, list[str]]:
    """Train, with five validations, then evaluate with and without faults.

    Returns:
        The warnings of the ``training``, of an evaluation of its weights (``clean``), and of each planted fault.
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
    """Warnings of the watch while something runs."""
    messages: list[str] = []
    listener = logging.Handler(logging.WARNING)
    listener.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    watch = logging.getLogger("monai_idm.handlers.sample_watch")
    watch.addHandler(listener)
    try:
        run()
    finally:
        watch.removeHandler(listener)
    return messages


STUDIES = {"warnings": {f"seed {seed}": partial(warned, seed=seed) for seed in (0, 1, 2)}}
