"""What ``benchmark all`` measures, the most important first: the laws, then cases of all suites."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import torch

from idm_bundle.benchmark.bars import BRAIN, LOW
from idm_bundle.benchmark.cases import STEP_SUITES, Case
from idm_bundle.benchmark.device import shrink
from idm_bundle.benchmark.operations import OPERATION_SUITES
from idm_bundle.benchmark.row import Row
from idm_bundle.benchmark.steps import run_case, run_cases
from idm_bundle.optional import require
from idm_bundle.verify import LAWS, Finding
from monai_idm.machine import device_name

__all__ = ["Part", "Unit", "plan"]

# of the suite paper: the cases that limits compare, then their counterparts in float32
FIRST = (
    *(LOW, f"{LOW}, stored", "base, low memory", "PatchDDM, low memory, checkpointed", "base", "MONAI's UNet, 24M"),
    *("paper", "paper, stored", "PatchDDM, checkpointed", "PatchDDM, low memory"),
)
EXPANDABLE = f"{BRAIN}, expandable segments"
ENERGY_WINDOW_S = 10.0  # the shortest in which a card's energy counter means something


@dataclass(frozen=True)
class Unit:
    """What is started and, if it takes too long, stopped as a whole; it can be pickled.

    Attributes:
        suite: Suite of its rows.
        case: Name of its case, or what stands for several, for the row of an error.
        rows: Measures its rows on a device.
    """

    suite: str
    case: str
    rows: Callable[[str], Iterator[Row]]


@dataclass(frozen=True)
class Part:
    """Units that one process runs, one after the other.

    Attributes:
        units: What it runs.
        share: Largest share of the time left when the part starts.
        allocator: ``PYTORCH_CUDA_ALLOC_CONF`` of the process; None: that of this process.
    """

    units: Sequence[Unit]
    share: float
    allocator: str | None = None


def plan(device: str, rehearsal: bool) -> list[Part]:
    """The parts of ``benchmark all``.

    Args:
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
        rehearsal: Whether to take small networks and volumes, and few laws, operations and cases.
    """
    cuda = device.startswith("cuda")
    cases = {
        (suite, case.name): case.small() if rehearsal else case
        for suite, listed in STEP_SUITES.items()
        if suite != "energy"  # a part of its own
        for case in listed(device)
    }
    low, *first = [cases.pop(("paper", name)) for name in FIRST]
    brain = cases["volume", BRAIN]
    parts = [
        Part([_law(law) for law in (LAWS[:1] if rehearsal else LAWS)], 0.2),
        Part([_step("paper", low), _estimate("paper", low), *(_step("paper", case) for case in first)], 0.4),
    ]
    if cuda:
        parts += [
            Part([_step("volume", brain, card_gb=8), _estimate("volume", brain)], 0.25),
            Part([_step("volume", brain, card_gb=6)], 0.2),
            Part([_step("volume", replace(brain, name=EXPANDABLE), card_gb=6)], 0.2, "expandable_segments:True"),
        ]
    else:
        parts.append(Part([_step("volume", cases.pop(("volume", BRAIN)))], 0.25))
    parts.append(Part([_operations(suite, 2 if rehearsal else None) for suite in OPERATION_SUITES], 0.3))
    if cuda:
        parts.append(Part([Unit("energy", "suite energy", _energy_rows)], 0.4))
    rest = [_step(suite, case) for (suite, _), case in cases.items()]
    if rehearsal:
        rest = list({unit.suite: unit for unit in rest}.values())
    return [*parts, Part(rest, 1.0)]


def _law(law: Callable[[torch.device], Iterator[Finding]]) -> Unit:
    return Unit("verify", law.__name__.strip("_"), partial(_law_rows, law))


def _law_rows(law: Callable[[torch.device], Iterator[Finding]], device: str) -> Iterator[Row]:
    for found in law(torch.device(device)):
        yield Row(suite="verify", case=found.law, device=device_name(device), value=found.value, bar=found.bar)


def _step(suite: str, case: Case, card_gb: float | None = None) -> Unit:
    """A case; with ``card_gb``, its process sees a smaller card from then on."""
    if card_gb is not None:
        case = replace(case, name=f"{case.name}, card of {card_gb:g} GB")
    return Unit(suite, case.name, partial(_step_rows, suite, case, card_gb))


def _step_rows(suite: str, case: Case, card_gb: float | None, device: str) -> Iterator[Row]:
    require(*case.packages)
    if card_gb is not None:
        shrink(device, card_gb)
    yield run_case(suite, case, device)


def _estimate(suite: str, case: Case) -> Unit:
    case = replace(case, name=f"{case.name}, estimate")
    return Unit(suite, case.name, partial(_estimate_rows, suite, case))


def _estimate_rows(suite: str, case: Case, device: str) -> Iterator[Row]:
    yield run_case(suite, case, "estimate")


def _operations(suite: str, rows: int | None) -> Unit:
    return Unit(suite, f"suite {suite}", partial(_operation_rows, suite, rows))


def _operation_rows(suite: str, rows: int | None, device: str) -> Iterator[Row]:
    yield from islice(OPERATION_SUITES[suite](device), rows)


def _energy_rows(device: str) -> Iterator[Row]:
    for row in run_cases("energy", device, {}, ENERGY_WINDOW_S):
        yield replace(row, case=f"{row.case}, energy")  # measured again: not the row that limits compare
