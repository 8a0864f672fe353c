"""``python -m idm_bundle benchmark``: bytes, FLOPs, seconds and joules of training steps.

A row is one case: a network at one size with its optimizer, or a part of a network. On a CPU, bytes are counted from
tensor sizes; on CUDA they are the allocator's own figures; an estimate counts fake tensors, and adds the optimizer's
bytes by formula. No ratio mixes an estimate with a measurement.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from idm_bundle.benchmark.bars import bars
from idm_bundle.benchmark.cases import STEP_SUITES
from idm_bundle.benchmark.device import kernels_of_training, shrink
from idm_bundle.benchmark.figures import draw
from idm_bundle.benchmark.limited import run_within
from idm_bundle.benchmark.operations import OPERATION_SUITES
from idm_bundle.benchmark.plan import plan
from idm_bundle.benchmark.row import HEADER, Row, read_rows, write_rows
from idm_bundle.benchmark.steps import run_cases
from idm_bundle.optional import require
from monai_idm.meters import EnergySample

__all__ = ["SUITES", "Row", "benchmark", "read_rows"]

SUITES = (*STEP_SUITES, *OPERATION_SUITES, "all")
MINUTES = 8.0


def benchmark(
    suite: str,
    device: str = "estimate",
    file: str | Path | None = None,
    figure: str | Path | None = None,
    card_gb: float | None = None,
    minutes: float | None = None,
    rehearse: bool = False,
) -> list[Row]:
    """Run a suite, print its table and its limits, and write the rows to a file.

    Args:
        suite: One of ``SUITES``. ``"all"`` measures the laws of ``verify`` and the cases of all suites, the most
            important first, in processes of its own: a script that calls it needs ``if __name__ == "__main__":``.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, or ``"estimate"``, which computes nothing and needs no device.
        file: File to write, with one JSON object per line; None: no file.
        figure: PNG to draw; None: no figure.
        card_gb: GB that a CUDA device shall seem to have, to imitate a smaller card; None: all of its memory.
        minutes: Time for the suite ``"all"``; None: 8.
        rehearse: Run the suite ``"all"`` with small networks and volumes, to try it before a GPU is there.
    Raises:
        ValueError: If the device is missing or too small, or cannot run the suite; if options do not go together; if a
            package is missing.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {device}, but this PyTorch sees no CUDA device; use cpu or estimate")
    _check_options(suite, device, figure, card_gb, minutes, rehearse)
    series: dict[str, list[EnergySample]] = {}
    rows: list[Row] = []
    if card_gb is not None:
        shrink(device, card_gb)
    require(*_needed(suite, device))
    with kernels_of_training(device):
        if suite == "all":
            measured = run_within(minutes or MINUTES, plan(device, rehearse), device)
        else:
            measured = _rows(suite, device, series)
        for row in measured:
            if not rows:
                print(HEADER)
            rows.append(row)
            print(row, flush=True)
            if file is not None:
                write_rows(rows, file)  # after each: a suite may take an hour
    if rehearse:
        print("This was a rehearsal with small networks: the ratios below mean nothing.")
    for bar in bars(suite, rows):
        print(bar)
    if figure is not None:
        draw(rows, series, figure)
    return rows


def _check_options(
    suite: str, device: str, figure: str | Path | None, card_gb: float | None, minutes: float | None, rehearse: bool
) -> None:
    if suite != "all":
        for option, given in (("--minutes", minutes is not None), ("--rehearse", rehearse)):
            if given:
                raise ValueError(f"{option} with the suite {suite}: it belongs to the suite all; leave it out")
    elif device == "estimate":
        raise ValueError("the suite all measures on a device; add --device cuda, or run a single suite to estimate it")
    elif card_gb is not None:
        raise ValueError("--card_gb with the suite all, which imitates smaller cards by itself; leave it out")
    elif figure is not None:
        raise ValueError("--figure with the suite all: a figure shows one suite; leave it out, or run a single suite")
    elif minutes is not None and not minutes > 0:
        raise ValueError(f"--minutes {minutes:g}; give a number above 0")


def _needed(suite: str, device: str) -> set[str]:
    """Packages that a suite needs, if only in its last rows, after an hour; ``all`` has rows that need none."""
    cases = STEP_SUITES[suite](device) if suite in STEP_SUITES else []
    needed = {package for case in cases for package in case.packages}
    return needed - {"bitsandbytes"} if device == "estimate" else needed


def _rows(suite: str, device: str, series: dict[str, list[EnergySample]]) -> Iterator[Row]:
    return OPERATION_SUITES[suite](device) if suite in OPERATION_SUITES else run_cases(suite, device, series)
