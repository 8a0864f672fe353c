"""``benchmark all``: what it plans, and that time limits, errors and crashes cost no other row."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch

from idm_bundle import benchmark as module
from idm_bundle import measure
from idm_bundle.__main__ import main
from idm_bundle.benchmark import Row, bars, limited, row, steps
from idm_bundle.benchmark.cases import STEP_SUITES
from idm_bundle.benchmark.operations import OPERATION_SUITES
from idm_bundle.benchmark.plan import Part, Unit, plan
from idm_bundle.verify import LAWS
from monai_idm.machine import VERSIONS, device_name


def good(name, device):
    yield Row(suite="s", case=name, device="a card", value=0.5, bar=1.0)


def raises(error, device):
    yield Row(suite="s", case="before the error", device="a card")
    raise error


def crashes(device):
    os._exit(7)


def hangs(device):
    yield Row(suite="s", case="before it hangs", device="a card")
    time.sleep(600)


def environment(device):
    for variable in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        yield Row(suite="s", case=os.environ.get(variable, "unset"), device="a card")


def lines(file, device):
    yield Row(suite="s", case="lines", device="a card", value=len(Path(file).read_text().splitlines()), bar=9)


def process(device):
    yield Row(suite="s", case="process", device="a card", value=os.getpid(), bar=0)


def unit(rows, name="u"):
    return Unit("s", name, rows)


def named(*names):
    return [unit(partial(good, name), name) for name in names]


@pytest.fixture
def fork(monkeypatch):
    """Forked processes instead of new ones, which import torch for seconds; on a CPU both do the same."""
    monkeypatch.setattr(limited, "get_context", lambda method: multiprocessing.get_context("fork"))
    monkeypatch.setattr(limited, "LEAST_S", 0.01)


def run(*parts, minutes=1.0):
    return list(limited.run_within(minutes, parts, "cpu"))


def test_errors_and_crashes_are_rows_and_the_rest_goes_on(fork, capfd):
    bad = [unit(partial(raises, RuntimeError("CUDA error:\nan illegal access")), "bad"), unit(crashes, "crash")]
    bad += [unit(partial(raises, ValueError("einops is needed")), "lacks"), *named("last")]
    found = run(Part(bad, 1.0))
    assert [(r.case, r.error) for r in found] == [
        ("before the error", None),
        ("bad", "RuntimeError: CUDA error: an illegal access"),
        ("crash", "its process ended with exit code 7"),
        ("before the error", None),
        ("lacks", "ValueError: einops is needed"),
        ("last", None),
    ]
    assert found[2].device == device_name("cpu")  # not "cpu": as the rows before it say
    printed = capfd.readouterr().err
    assert "Traceback" in printed
    assert "einops" not in printed  # our own check, not a surprise


def test_a_process_is_kept_after_a_check_and_replaced_after_any_other_error(fork):
    for error, kept in ((ValueError("x"), True), (RuntimeError("x"), False)):
        found = run(Part([unit(process), unit(partial(raises, error)), unit(process)], 1.0))
        assert (found[0].value == found[-1].value) is kept


def test_a_part_has_a_process_of_its_own_and_its_allocator(fork, monkeypatch):
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "mine")
    found = run(
        Part([unit(process)], 0.5),
        Part([unit(environment)], 0.5, "expandable_segments:True"),
        Part([unit(process), unit(environment)], 1.0),
    )
    assert found[0].value != found[3].value
    assert [r.case for r in found[1:3]] == ["expandable_segments:True"] * 2
    assert [r.case for r in found[4:]] == ["unset", "mine"]


def test_what_takes_too_long_is_stopped_and_what_has_no_time_is_left_out(fork, caplog):
    caplog.set_level("INFO")
    started = time.monotonic()
    found = run(
        Part([unit(hangs, "slow"), *named("in the other half")], 0.5),
        Part([unit(hangs, "slow again")], 0.2),
        Part(named("next"), 1.0),
        minutes=8 / 60,
    )
    assert time.monotonic() - started < 8
    assert [r.case for r in found] == [
        *("before it hangs", "slow", "in the other half", "before it hangs", "slow again", "next"),
    ]
    assert [r.error for r in found if r.error] == ["stopped after 2 s", "stopped after 1 s"]
    limited.LEAST_S = 60.0
    assert run(Part(named("a", "b"), 0.5), Part(named("c"), 1.0), minutes=0.5) == []
    assert [record.message for record in caplog.records] == ["left out, no time: a; b", "left out, no time: c"]


def test_a_row_is_in_the_file_before_the_next_is_measured(fork, monkeypatch, tmp_path, capsys):
    file = tmp_path / "rows.jsonl"
    units = [*named("first"), unit(partial(lines, str(file))), unit(crashes, "crash"), *named("last")]
    monkeypatch.setattr(module, "plan", lambda device, rehearsal: [Part(units, 1.0)])
    assert main(["benchmark", "all", "--device", "cpu", "--minutes", "1", "--json", str(file)]) == 3
    rows = module.read_rows(file)
    assert [r.case for r in rows] == ["first", "lines", "crash", "last"]
    assert rows[1].value == 1
    assert all(r.versions["torch"] == torch.__version__ and r.device == "a card" for r in rows)
    printed = capsys.readouterr().out
    assert all(str(line) in printed for line in [*rows, *bars("all", rows)])


def units_of(device, rehearsal=False):
    return [unit for part in plan(device, rehearsal) for unit in part.units]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_law_case_and_suite_is_planned_once_the_most_important_first(device):
    planned = [(u.suite, u.case) for u in units_of(device)]
    extra = [case for _, case in planned if "card of" in case or case.endswith(", estimate")]
    assert [suite for suite, _ in planned[: len(LAWS) + 1]] == ["verify"] * len(LAWS) + ["paper"]
    expected = [("verify", law.__name__.strip("_")) for law in LAWS]
    expected += [(s, case.name) for s in STEP_SUITES if s != "energy" for case in STEP_SUITES[s](device)]
    expected += [(s, f"suite {s}") for s in OPERATION_SUITES] + [("energy", "suite energy")] * (device == "cuda")
    assert Counter(one for one in planned if one[1] not in extra) == Counter(expected)
    assert len(extra) == (5 if device == "cuda" else 1)


def test_limits_find_their_rows_in_the_plan():
    figures = {"device": "a card", "step_s": 0.5, "peak_bytes": 10, "card_bytes": 12, "value": 0.0, "bar": 0.0}
    rows = [Row(suite=u.suite, case=u.case, **figures) for u in units_of("cuda")]
    found = [bar.found for bar in bars("all", rows)]
    assert found == [0, 1.0, 1.0, 1.0, 1.2, 1.2]
    assert [bar.bar for bar in bars("all", rows)] == [0, 1.35, 0.7, 0.5, 1.25, 1.25]
    rows[0] = Row(suite="verify", case=rows[0].case, device="a card", value=float("nan"), bar=0.0)
    assert next(bars("all", rows)).found == 1
    assert "MISSED" in str(rows[0])
    assert all(bar.found is None for bar in bars("all", []))


def test_a_rehearsal_takes_every_kind_of_network_at_a_small_size():
    cases = [case for suite in STEP_SUITES if suite != "energy" for case in STEP_SUITES[suite]("cuda")]
    small = {case.network: case.small() for case in cases}
    assert {case.network for case in small.values()} == {"light", "PatchDDM light", "MONAI small"}
    for case in {case.network: case for case in small.values()}.values():
        assert steps.run_case("s", case, "estimate").peak_bytes < 0.1e9
    assert len(units_of("cpu", rehearsal=True)) < len(units_of("cpu")) / 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["paper", "--minutes", "8"], "--minutes with the suite paper: it belongs to the suite all"),
        (["paper", "--rehearse"], "--rehearse with the suite paper: it belongs to the suite all"),
        (["all"], "the suite all measures on a device; add --device cuda"),
        (["all", "--device", "cpu", "--card_gb", "8"], "which imitates smaller cards by itself"),
        (["all", "--device", "cpu", "--figure", "a.png"], "a figure shows one suite"),
        (["all", "--device", "cpu", "--minutes", "0"], "--minutes 0; give a number above 0"),
        (["all", "--device", "cpu", "--minutes", "nan"], "give a number above 0"),
        (["all", "--device", "cuda", "--minutes", "8"], "sees no CUDA device"),
    ],
)
def test_options_that_do_not_go_together_are_refused(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["benchmark", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_the_memory_of_a_card_is_the_reserved_peak_and_all_that_is_not_the_allocators(monkeypatch):
    class Meter:
        def __init__(self, device):
            pass

        def start(self, *baseline):
            pass

        def stop(self):
            return {"allocated_peak_gib": 3.0, "reserved_peak_gib": 4.0}

    gib = 2**30
    monkeypatch.setattr(measure, "PeakMemoryMeter", Meter)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (17 * gib, 24 * gib))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 2 * gib)  # some was given back after the peak
    found = measure.peaks(lambda: None, torch.device("cuda"))
    assert found == {"peak_bytes": 3 * gib, "reserved_bytes": 4 * gib, "card_bytes": (4 + 24 - 17 - 2) * gib}


def test_rows_name_the_commit_of_a_clone():
    clone = (Path(row.__file__).parents[2] / ".git").exists()
    assert row._versions().keys() == {*VERSIONS, *(["commit"] if clone else [])}
    json.dumps(row._versions())
