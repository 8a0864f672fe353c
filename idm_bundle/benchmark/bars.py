"""The limits that a benchmark has to keep: one printed line each, from the rows of one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from idm_bundle.benchmark.row import Row

__all__ = ["Bar", "bars"]

Rows = Mapping[str, Row]


@dataclass(frozen=True)
class Bar:
    """A limit: ``what`` is compared, the largest value allowed (``bar``), and the value ``found``.

    ``found`` is None where a row is missing or lacks the figure.
    """

    what: str
    bar: float
    found: float | None

    def __str__(self) -> str:
        found = "unknown" if self.found is None else f"{self.found:.3f}"
        missed = "  MISSED" if self.found is not None and self.found > self.bar else ""
        return f"{self.what:<84} {self.bar:>6} {found:>8}{missed}"


def bars(suite: str, rows: Sequence[Row]) -> Iterator[Bar]:
    """The limits of a suite, compared with its rows."""
    by_case = {row.case: row for row in rows}
    for what, bar, value in BARS.get(suite, ()):
        try:
            found = value(by_case)
        except (KeyError, TypeError, ValueError):  # a case was not run, or a figure is unknown
            found = None
        yield Bar(what, bar, found)


def _gb(case: str) -> Callable[[Rows], float]:
    return lambda rows: rows[case].peak_bytes / 1e9  # type: ignore[operator]


def _ratio(field: str, case: str, other: str) -> Callable[[Rows], float]:
    return lambda rows: getattr(rows[case], field) / getattr(rows[other], field)


def _activations(row: Row) -> int:
    return row.peak_bytes - row.resident_bytes  # type: ignore[operator]


def _relative_to_level_0(rows: Rows) -> float:
    alone = ", level 0 alone"
    return max(
        _activations(rows[case.removesuffix(alone)]) / _activations(row)
        for case, row in rows.items()
        if case.endswith(alone)
    )


def _card(measured: str, estimated: str) -> Callable[[Rows], float]:
    return lambda rows: rows[measured].card_bytes / rows[estimated].peak_bytes  # type: ignore[operator]


def _default(size: str, rebuilt: float, monai: float) -> list[tuple[str, float, Callable[[Rows], float]]]:
    """Limits on the time of a step with the default of train.yaml."""
    default = f"light, {size}, default"
    others = {f"light, {size}, rebuilt": rebuilt, f"MONAI's UNet, 3M, {size}": monai}
    return [
        (f"time of a step, {default} / {other}", bar, _ratio("step_s", default, other)) for other, bar in others.items()
    ]


def _missed_laws(rows: Rows) -> int:
    laws = [row for row in rows.values() if row.suite == "verify"]
    if not laws:
        raise ValueError("no law was measured")
    return sum(not row.value <= row.bar for row in laws)  # type: ignore[operator]


LOW = "paper, low memory"
BRAIN = "paper, 256 x 256 x 192, stride 2"
BARS: dict[str, list[tuple[str, float, Callable[[Rows], float]]]] = {
    "paper": [
        ("64^3, batch 4, float32 weights, GB", 3.2, _gb(LOW)),
        ("64^3, batch 4, bfloat16 weights, GB", 2.5, _gb(f"{LOW}, bfloat16 weights")),
        ("exact-mixed above mixed, GB", 0.4, lambda rows: _gb(f"{LOW}, exact")(rows) - _gb(LOW)(rows)),
        ("base / PatchDDM, switches off", 0.45, _ratio("peak_bytes", "base", "PatchDDM")),
        ("base / PatchDDM, switches on", 0.30, _ratio("peak_bytes", "base, low memory", "PatchDDM, low memory")),
        (
            "memory above weights and states, rebuilt / checkpointed",
            0.7,
            lambda rows: _activations(rows[LOW]) / _activations(rows[f"{LOW}, checkpointed"]),
        ),
        ("FLOPs, rebuilt / stored", 1.34, _ratio("flops", LOW, f"{LOW}, stored")),
        ("time of a step, rebuilt / stored", 1.4, _ratio("step_s", LOW, f"{LOW}, stored")),
    ],
    "sampling": [("memory above the weights, all levels / one coupling of level 0", 1.05, _relative_to_level_0)],
    "volume": [
        ("256 x 256 x 192, bookend stride 2, GB", 4.7, _gb(BRAIN)),
        ("128^3, bookend stride 1, GB", 5.2, _gb("paper, 128 x 128 x 128, stride 1")),
    ],
    "speed": [
        *_default("32^3", 0.4, 0.15),
        *_default("64^3", 0.3, 0.07),
    ],
    "all": [
        ("laws of verify that do not hold", 0, _missed_laws),
        ("time of a step, rebuilt / stored, low memory", 1.35, _ratio("step_s", LOW, f"{LOW}, stored")),
        (
            "time of a step, base / PatchDDM checkpointed, low memory",
            0.7,
            _ratio("step_s", "base, low memory", "PatchDDM, low memory, checkpointed"),
        ),
        ("time of a step, base / MONAI's UNet, both 24M, float32", 0.5, _ratio("step_s", "base", "MONAI's UNet, 24M")),
        ("card's memory / estimate, 64^3, batch 4", 1.25, _card(LOW, f"{LOW}, estimate")),
        ("card's memory / estimate, 256 x 256 x 192", 1.25, _card(f"{BRAIN}, card of 8 GB", f"{BRAIN}, estimate")),
    ],
}
