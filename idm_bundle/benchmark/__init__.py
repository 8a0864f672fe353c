"""``python -m idm_bundle benchmark``: bytes, FLOPs, seconds and joules of training steps.

A row is one case: a network at one size with its optimizer, or a part of it. Bytes are those of tensors, counted, on a
CPU; the allocator's own on CUDA; counted on fake tensors, with the optimizer's added by formula, where they are
estimated. An estimate and a measurement never stand in one ratio.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from idm_bundle.benchmark.bars import bars
from idm_bundle.benchmark.figures import draw
from idm_bundle.benchmark.operations import OPERATION_SUITES
from idm_bundle.benchmark.row import HEADER, Row, read_rows, write_rows
from idm_bundle.benchmark.steps import STEP_SUITES, run_cases
from monai_idm.meters import EnergySample

__all__ = ["SUITES", "Row", "benchmark", "read_rows"]

SUITES = (*STEP_SUITES, *OPERATION_SUITES)


def benchmark(
    suite: str, device: str = "cpu", file: str | Path | None = None, figure: str | Path | None = None
) -> list[Row]:
    """Run a suite, print a table and its bars, and write the rows down.

    Args:
        suite: One of ``SUITES``.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, or ``"estimate"``: nothing is computed, no device is needed.
        file: To write, one JSON object per line; None: none.
        figure: PNG to draw; None: none.
    Raises:
        ValueError: If the device is not there or cannot run the suite.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {device}, but this PyTorch sees no CUDA device; take cpu or estimate")
    series: dict[str, list[EnergySample]] = {}
    rows: list[Row] = []
    for row in _rows(suite, device, series):
        if not rows:
            print(HEADER)
        rows.append(row)
        print(row, flush=True)
        if file is not None:
            write_rows(rows, file)  # after each: a suite may take an hour
    for bar in bars(suite, rows):
        print(bar)
    if figure is not None:
        draw(rows, series, figure)
    return rows


def _rows(suite: str, device: str, series: dict[str, list[EnergySample]]) -> Iterator[Row]:
    return OPERATION_SUITES[suite](device) if suite in OPERATION_SUITES else run_cases(suite, device, series)
