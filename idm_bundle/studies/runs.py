"""Training and evaluation with the bundle's configs, with a few values changed."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from shutil import rmtree
from statistics import mean, median
from typing import Any

from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.utils import set_determinism
from torch import Tensor

from idm_bundle.studies.configs import configured
from monai_idm.atomic_file import write_json
from monai_idm.meters import estimate_flops

__all__ = ["demo", "draw", "evaluate", "train", "train_once"]


def demo(folder: str, steps: int, side: int, epochs: int = 10, validations: int = 2) -> dict[str, Any]:
    """Values of train.yaml for a run of some steps on phantoms of ``side``^3 voxels that writes to a folder."""
    return {
        "output_dir": f"{folder}/output",
        "ckpt_dir": f"{folder}/models",
        "demo#spatial_size": [side] * 3,
        "demo#epoch_length": steps // epochs,
        "demo#max_epochs": epochs,
        "demo#val_interval": epochs // validations,
    }


def train(values: Mapping[str, Any], *overlays: str, seed: int = 0) -> tuple[ConfigParser, dict[str, Any]]:
    """Train.

    Args:
        values: Values of train.yaml and the overlays, by their ids.
        overlays: Names of further configs, without suffix.
        seed: Seed of weights and batches; the phantoms stay the same.
    Returns:
        The config, and ``parameters``, ``peak_mib``, ``step_gflop``, ``step_s`` (median), ``losses`` of every step
        that this call took, and ``loss``, the mean over the last tenth of the training, or what of it was left to do.
    """
    set_determinism(seed)
    config = configured({"train#batches#seed": seed, **values}, *overlays)
    trainer: Engine = config.get_parsed_content("train#trainer")
    seconds: list[float] = []
    losses: list[float] = []
    trainer.add_event_handler(Events.ITERATION_STARTED, lambda _: seconds.append(time.perf_counter()))
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda _: seconds.append(time.perf_counter() - seconds.pop()))
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: losses.append(float(engine.state.output[0]["loss"]))
    )
    trainer.run()
    network, batch, size = (config.get_parsed_content(name) for name in ("network", "batch_size", "spatial_size"))
    size = config.get_parsed_content("patch_size") if "patch_size" in config else size
    metrics = trainer.state.metrics
    return config, {
        "parameters": sum(p.numel() for p in network.parameters()),
        "peak_mib": 1024 * metrics["allocated_peak_gib" if "allocated_peak_gib" in metrics else "live_peak_gib"],
        "step_gflop": estimate_flops(network, (batch, network.in_channels, *size)) / 1e9,
        "step_s": median(seconds),
        "losses": losses,
        "loss": mean(losses[-max(1, trainer.state.iteration // 10) :]),
    }


def train_once(file: Path, values: Mapping[str, Any], *overlays: str, seed: int = 0) -> dict[str, Any]:
    """Train, or resume an interrupted training, unless a file holds what it measured.

    Args:
        file: The file, which is written at the end of the training.
        values: Values of train.yaml and the overlays, by their ids.
        overlays: Names of further configs, without suffix.
        seed: The same as in :func:`train`.
    Returns:
        What :func:`train` measured since the last interruption, with some 200 of its ``losses``.
    """
    if not file.is_file():
        _, measured = train({**values, "resume": True}, *overlays, seed=seed)
        measured["losses"] = measured["losses"][:: max(1, len(measured["losses"]) // 200)]
        write_json(file, measured)
    return json.loads(file.read_text())


def evaluate(values: Mapping[str, Any], *overlays: str) -> Engine:
    """Evaluate model.pt of a run with the same values; returns the evaluator, whose state holds the metrics."""
    evaluator: Engine = configured(values, *overlays).get_parsed_content("validate#evaluator")
    evaluator.run()
    return evaluator


def draw(values: Mapping[str, Any]) -> list[tuple[Tensor, dict[str, str]]]:
    """Draw samples with inference.yaml, which also saves them.

    Args:
        values: Values of inference.yaml that are changed; what ``output_dir`` holds is deleted, since samples that are
            there already would not be drawn again.
    Returns:
        In the order of their seeds, volumes ``(C, *spatial)``, 0 to 1, each with the values of the conditions that it
        was drawn with, by name.
    """
    rmtree(values["output_dir"], ignore_errors=True)
    evaluator: Engine = configured(values, of="inference").get_parsed_content("evaluator")
    drawn: list[tuple[Tensor, dict[str, str]]] = []

    @evaluator.on(Events.ITERATION_COMPLETED)
    def _keep(engine: Any) -> None:
        state = engine.state
        for item, output in zip(state.batch, state.output, strict=True):
            drawn.append((output["pred"].as_tensor(), item.get("condition_values", {})))

    evaluator.run()
    return drawn
