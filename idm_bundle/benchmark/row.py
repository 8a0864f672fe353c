"""A row of the benchmark, and how rows are printed and written to files."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

from monai_idm.atomic_file import atomic_file
from monai_idm.machine import VERSIONS

__all__ = ["HEADER", "Row", "error_text", "read_rows", "write_rows"]

HEADER = (
    f"{'case':<46} {'precision':<23} {'activations':<13} {'optimizer':<24} {'GB':>8} {'TFLOP':>8} {'s':>8} {'J':>9}"
)


@cache
def _versions() -> dict[str, str]:
    folder = Path(__file__).parents[2]
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude=*"]
    if (folder / ".git").exists():  # a clone, not an installed copy
        with suppress(OSError, subprocess.CalledProcessError):
            commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
            return {**VERSIONS, "commit": commit}
    return VERSIONS


@dataclass(frozen=True, kw_only=True)
class Row:
    """A training step, an operation, the moment after a layer or a law; None where a figure is unknown.

    Attributes:
        case: Name of the case, unique in its suite.
        device: Device of the measurement, or ``"estimate"``.
        estimated: Whether the bytes were counted on fake tensors.
        resident_bytes: Weights, buffers and optimizer states, which exist between steps.
        peak_bytes: Largest number of bytes at any time, resident bytes included; None if the step did not fit.
        reserved_bytes: The same, with the cache of CUDA's allocator.
        card_bytes: The same, with all else that occupies the card: CUDA's context, kernels, other programs.
        step_s: Seconds of a step.
        energy_j: Joules of a step.
        value: Value of a law, in the suite ``verify``.
        bar: Largest value that keeps the law.
        error: Why the case has no figures, or not all of them; None if it has.
        versions: Of this project, MONAI and torch; in a clone also its commit.
    """

    suite: str
    case: str
    network: str | None = None
    parameters: int | None = None
    volume: tuple[int, ...] = ()
    batch: int | None = None
    precision: str | None = None
    activations: str | None = None
    optimizer: str | None = None
    device: str
    estimated: bool = False
    resident_bytes: int | None = None
    peak_bytes: int | None = None
    reserved_bytes: int | None = None
    card_bytes: int | None = None
    flops: int | None = None
    step_s: float | None = None
    energy_j: float | None = None
    value: float | None = None
    bar: float | None = None
    error: str | None = None
    versions: dict[str, str] = field(default_factory=_versions)

    def __str__(self) -> str:
        if self.error is not None:
            return f"{self.case:<46} {self.error}"
        if self.value is not None and self.bar is not None:
            missed = "" if self.value <= self.bar else "  MISSED"
            return f"{self.case:<84} {self.bar:>6.3g} {self.value:>8.3g}{missed}"
        gb = "no room" if self.peak_bytes is None else f"{self.peak_bytes / 1e9:.3f}"
        tflop = "" if self.flops is None else f"{self.flops / 1e12:.4f}"
        seconds = "" if self.step_s is None else f"{self.step_s:.4f}"
        joules = "" if self.energy_j is None else f"{self.energy_j:.1f}"
        return (
            f"{self.case:<46} {self.precision or '':<23} {self.activations or '':<13} {self.optimizer or '':<24} "
            f"{gb:>8} {tflop:>8} {seconds:>8} {joules:>8}"
        )


def write_rows(rows: Sequence[Row], file: str | Path) -> None:
    """Write rows to a file, one JSON object per line."""
    with atomic_file(Path(file)) as unfinished:
        unfinished.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))


def read_rows(file: str | Path) -> list[Row]:
    """Read the rows that :func:`write_rows` wrote."""
    return [Row(**json.loads(line)) for line in Path(file).read_text().splitlines()]


def error_text(error: BaseException) -> str:
    """An error on one line: a message of CUDA may have many."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
