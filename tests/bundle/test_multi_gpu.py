"""Two processes started by torchrun train as one, and end together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ignite.engine import Events
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from idm_bundle.studies.configs import SMALLEST
from monai_idm.checkpoints import read_record
from tests.bundle.workspace import CONFIGS, TINY, train

# in float32, because two batches are rounded to bfloat16 differently from one
SHORT = {**TINY, **SMALLEST, "demo#spatial_size": [8, 8, 8], "demo#epoch_length": 3, "precision": "float32"}
SHORT["activations"] = "auto"  # which the processes must choose alike


class Die:
    """Kills process 1 in its third step, as the system does when memory runs out."""

    def attach(self, engine) -> None:
        if os.environ["RANK"] == "1":
            engine.add_event_handler(Events.ITERATION_STARTED(once=3), lambda _: os.kill(os.getpid(), signal.SIGKILL))


def torchrun(folder: Path, *overlays: str | Path, **changes) -> subprocess.CompletedProcess:
    """Train the demo in two processes, at tiny size."""
    files = [str(CONFIGS / f"{name}.yaml") for name in ("train", "multi_gpu_train")] + [str(file) for file in overlays]
    places = {"ckpt_dir": str(folder / "models"), "output_dir": str(folder / "output")}
    values = {**SHORT, "device": "$idist.device()", **places, **changes}
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node=2",
        "-m",
        "monai.bundle",
        "run",
        "training",
    ]
    command += [
        "--config_file",
        str(files),
        *(text for name, value in values.items() for text in (f"--{name}", str(value))),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    root = CONFIGS.parents[1]
    return subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        env=environment,
        cwd=root,
        check=False,
    )


def losses(folder: Path) -> list[float]:
    events = EventAccumulator(str(folder / "output" / "tensorboard"))
    events.Reload()
    return [point.value for point in events.Scalars("train_loss")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """A run of one process, with the batch of both."""
    folder = tmp_path_factory.mktemp("alone")
    train(folder, **{**SHORT, "batch_size": 4})
    return folder


@pytest.mark.parametrize("overlay", [None, "fsdp_train"])
def test_two_processes_train_as_one(overlay, alone, tmp_path):
    overlays = [] if overlay is None else [CONFIGS / f"{overlay}.yaml"]
    run = torchrun(tmp_path, *overlays)
    assert run.returncode == 0, run.stdout
    assert losses(tmp_path) == pytest.approx(losses(alone), rel=1e-5)
    for name in ("checkpoint_epoch=2.pt", "model.pt"):
        expected, found = (torch.load(f / "models" / name, weights_only=True) for f in (alone, tmp_path))
        for one, other in zip(_tensors(expected), _tensors(found), strict=True):
            assert (one - other).norm() <= 1e-2 * one.norm() + 1e-6
    assert read_record(tmp_path / "models" / "model.pt")["convention"]
    files = [sorted(file.name for file in f.rglob("*") if "events" not in file.name) for f in (alone, tmp_path)]
    assert files[0] == files[1]
    assert len(list((tmp_path / "output" / "tensorboard").iterdir())) == 1  # only process 0 writes
    assert run.stdout.count("no dataset_dir given") == 1
    assert run.stdout.count("INFO monai_idm.networks.plan: activations: stored on all levels (") == 1


def test_a_process_that_dies_ends_the_training_with_a_message(tmp_path):
    overlay = tmp_path / "die.yaml"
    overlay.write_text(f"+train#handlers: [{{_target_: {__name__}.Die}}]\n")
    run = torchrun(tmp_path, overlay)
    assert run.returncode != 0
    assert "SIGKILL" in run.stdout
    assert "rank      : 1" in run.stdout


def _tensors(content):
    """All floating-point tensors of a checkpoint, optimizer and average included."""
    if isinstance(content, torch.Tensor):
        return [content] if content.is_floating_point() else []
    return [t for value in content.values() for t in _tensors(value)] if isinstance(content, dict) else []
