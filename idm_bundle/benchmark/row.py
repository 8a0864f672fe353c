"""A row of the benchmark, and how rows are printed and written to files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from monai_idm.atomic_file import atomic_file
from monai_idm.machine import VERSIONS

__all__ = ["HEADER", "Row", "read_rows", "write_rows"]

HEADER = (
    f"{'case':<46} {'precision':<23} {'activations':<13} {'optimizer':<24} {'GB':>8} {'TFLOP':>8} {'s':>8} {'J':>9}"
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A training step, or, in the suite ``layers``, the moment after a layer; None where a figure is unknown.

    Attributes:
        case: Name of the case, unique in its suite.
        device: Device of the measurement, or ``"estimate"``.
        estimated: Whether the bytes were counted on fake tensors.
        resident_bytes: Weights, buffers and optimizer states, which exist between steps.
        peak_bytes: Largest number of bytes at any time, resident bytes included; None if the step did not fit.
        reserved_bytes: The same, with the cache of CUDA's allocator.
        step_s: Seconds of a step.
        energy_j: Joules of a step.
    """

    suite: str
    case: str
    network: str
    parameters: int
    volume: tuple[int, ...]
    batch: int
    precision: str
    activations: str
    optimizer: str | None = None
    device: str
    estimated: bool
    resident_bytes: int
    peak_bytes: int | None
    reserved_bytes: int | None = None
    flops: int | None = None
    step_s: float | None = None
    energy_j: float | None = None
    versions: dict[str, str] = field(default_factory=lambda: VERSIONS)

    def __str__(self) -> str:
        gb = "no room" if self.peak_bytes is None else f"{self.peak_bytes / 1e9:.3f}"
        tflop = "" if self.flops is None else f"{self.flops / 1e12:.4f}"
        seconds = "" if self.step_s is None else f"{self.step_s:.4f}"
        joules = "" if self.energy_j is None else f"{self.energy_j:.1f}"
        return (
            f"{self.case:<46} {self.precision:<23} {self.activations:<13} {self.optimizer or '':<24} {gb:>8} "
            f"{tflop:>8} {seconds:>8} {joules:>8}"
        )


def write_rows(rows: Sequence[Row], file: str | Path) -> None:
    """Write rows to a file, one JSON object per line."""
    with atomic_file(Path(file)) as unfinished:
        unfinished.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))


def read_rows(file: str | Path) -> list[Row]:
    """Read the rows that :func:`write_rows` wrote."""
    return [Row(**json.loads(line)) for line in Path(file).read_text().splitlines()]
