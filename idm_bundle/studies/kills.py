"""Whether a training run that is killed again and again ends with the same weights as an undisturbed one.

Short runs, each in a separate process, are ended with ``kill -9`` at random moments: some while they start, others in
one of their next epochs, every second one while a checkpoint is half written. The next one continues with ``resume``.
"""

from __future__ import annotations

import math
import multiprocessing
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from monai.utils import set_determinism

from idm_bundle.studies.configs import SMALLEST, configured
from idm_bundle.studies.runs import demo
from monai_idm.checkpoints import read_checkpoint

__all__ = ["STUDIES"]


def killed(
    steps: int, side: int, kills: int = 30, overlays: tuple[str, ...] = (), seed: int = 0, **changes: Any
) -> dict[str, Any]:
    """Train undisturbed, and with interruptions; compare everything in the last checkpoints and the best weights.

    Args:
        steps: Number of steps, each an epoch with a checkpoint; every twentieth epoch is validated.
        side: Voxels per axis.
        kills: Number of interruptions.
        overlays: Names of configs after train.yaml, without suffix.
        seed: Seed of the moments of interruption.
        changes: Values of the configs that are changed.
    Returns:
        ``kills``; the number of them that left a checkpoint ``half_written``; the ``epochs`` saved at each; how many of
        the ``compared`` tensors and numbers are ``different``; and the ``seconds`` of the study.
    Raises:
        RuntimeError: If a run fails, or ends before it is killed.
    """
    begin, chance = time.perf_counter(), random.Random(seed)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__])  # children start with everything imported
    _finish(processes.Process(target=time.time))  # starts the server, so that later timings leave it out
    with tempfile.TemporaryDirectory() as folder:
        values = {**SMALLEST, "spatial_size": [side] * 3, **changes}
        whole, cut = ({**demo(f"{folder}/{name}", steps, side, steps, max(1, steps // 20)), **values} for name in "ab")
        undisturbed = processes.Process(target=_train, args=(whole, overlays, False))
        started = time.perf_counter()
        undisturbed.start()
        _wait(undisturbed, partial(_reached, whole, 1))
        warm_up = time.perf_counter() - started
        _finish(undisturbed)
        epoch_time = (time.perf_counter() - started - warm_up) / steps
        half_written, epochs = 0, []
        for number in range(kills):
            training = processes.Process(target=_train, args=(cut, overlays, number > 0))
            training.start()
            if number % 3:  # in one of the next epochs
                _wait(training, partial(_reached, cut, _epoch(cut) + chance.randint(1, 2)))
                training.join(chance.uniform(0, epoch_time))
            else:  # while it starts
                _wait(training, partial(_reached, cut, _epoch(cut) + 1), chance.uniform(0, warm_up))
            unfinished = partial(_unfinished, cut, training)
            if number % 2:
                _wait(training, unfinished)
            training.kill()
            training.join()
            half_written += unfinished()
            epochs.append(_epoch(cut))
        _finish(processes.Process(target=_train, args=(cut, overlays, True)))
        expected, found = (dict(_contents(values)) for values in (whole, cut))
    return {
        "kills": kills,
        "half_written": half_written,
        "epochs": epochs,
        "compared": len(expected),
        "different": sum(not _equal(expected.get(name), found.get(name)) for name in {**expected, **found}),
        "seconds": round(time.perf_counter() - begin),
    }


def _train(values: Mapping[str, Any], overlays: tuple[str, ...], resume: bool) -> None:
    set_determinism(0)
    torch.set_num_threads(1)
    configured({**values, "resume": resume}, *overlays).get_parsed_content("train#trainer").run()


def _wait(training: BaseProcess, seen: Callable[[], bool], seconds: float = math.inf) -> None:
    end = time.perf_counter() + seconds
    while not seen() and time.perf_counter() < end:
        if not training.is_alive():
            raise RuntimeError("a run ended before it was killed; see its output above, or give more --steps")
        time.sleep(5e-4)


def _finish(training: BaseProcess) -> None:
    if training.pid is None:
        training.start()
    training.join()
    if training.exitcode:
        raise RuntimeError(f"a run failed with exit code {training.exitcode}; see its output above")


def _unfinished(values: Mapping[str, Any], training: BaseProcess) -> bool:
    return bool(list(Path(values["ckpt_dir"]).glob(f".unfinished.{training.pid}.checkpoint*")))


def _reached(values: Mapping[str, Any], epoch: int) -> bool:
    return _epoch(values) >= epoch


def _epoch(values: Mapping[str, Any]) -> int:
    """Epoch of the last checkpoint; 0 if there is none."""
    files = Path(values["ckpt_dir"]).glob("checkpoint_epoch=*.pt")
    return max((int(file.stem.partition("=")[2]) for file in files), default=0)


def _contents(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """All tensors and numbers of the last checkpoint and of the best weights, by name."""
    models = Path(values["ckpt_dir"])
    yield from _leaves("", read_checkpoint(models / f"checkpoint_epoch={_epoch(values)}.pt"))
    yield from _leaves("model.pt", torch.load(models / "model.pt", weights_only=True))


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping | list):
        yield name, value
        return
    for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
        yield from _leaves(f"{name}/{key}", item)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    return type(one) is type(other) and one == other


STUDIES = {
    "kills": {
        "AdamW": killed,
        "native.yaml: AdamW in backward, 8-bit states, bfloat16 weights": partial(
            killed, overlays=("native",), seed=1, weight_dtype="bfloat16", bookend_stride=1, zoom=True
        ),
    }
}
