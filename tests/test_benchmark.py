"""The benchmark at a tiny size: its rows, limits and figures."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from idm_bundle import benchmark as module
from idm_bundle.__main__ import main
from idm_bundle.benchmark import SUITES, Row, bars, cases, operations, read_rows, steps
from idm_bundle.benchmark.cases import LOW, STORED, Case
from idm_bundle.benchmark.device import shrink
from idm_bundle.benchmark.figures import draw
from monai_idm.meters import EnergySample
from monai_idm.networks import InvertibleDiffusionUNet, PatchDiffusionUNet

KEYS = {
    *("suite", "case", "network", "parameters", "volume", "batch", "precision", "activations", "optimizer", "device"),
    *("estimated", "resident_bytes", "peak_bytes", "reserved_bytes", "card_bytes", "flops", "step_s", "energy_j"),
    *("value", "bar", "error", "versions"),
}


def small(*_, **arguments):
    for size in ("num_res_blocks", "channels", "attention_levels"):
        arguments.pop(size, None)
    channels = (arguments.pop("in_channels", 2), arguments.pop("out_channels", 2))
    return InvertibleDiffusionUNet(3, *channels, (16, 32), 1, (False, False), **arguments)


@pytest.fixture
def tiny(monkeypatch):
    """Every suite, on small networks and volumes."""
    monkeypatch.setattr(operations.InvertibleDiffusionUNet, "from_preset", small)
    patch = PatchDiffusionUNet(3, 8, 1, channels=(8, 16), norm_num_groups=4)
    monkeypatch.setattr(cases.PatchDiffusionUNet, "from_preset", lambda _, activations, **__: patch)
    for name in ("MONAI 3M", "MONAI 24M", "MONAI 348M"):
        monkeypatch.setitem(cases.NETWORKS, name, lambda case: patch)
    monkeypatch.setattr(
        Case, "shape", property(lambda case: (2, 2 if case.network in OURS and not case.segments else 8, 8, 8, 8))
    )


OURS = ("light", "base", "paper")


@pytest.fixture(scope="module")
def found():
    return {}


@pytest.fixture
def once(found, tiny, monkeypatch):
    """Estimate once the cases that become the same network and step when all are small."""
    estimated = steps._estimated

    def estimate(suite, case):
        network = "paper" if case.network in OURS else case.network
        small = replace(case, name="", volume=(), num_res_blocks=None, network=network)
        if small not in found:
            found[small] = estimated(suite, case)
        return replace(found[small], suite=suite, case=case.name, network=case.network, volume=case.volume)

    monkeypatch.setattr(steps, "_estimated", estimate)


@pytest.mark.parametrize("suite", sorted(set(SUITES) - {"energy", "attention", "all"}))
def test_a_suite_is_estimated_row_by_row_and_drawn(suite, once, tmp_path, capsys):
    file, picture = tmp_path / "rows.jsonl", tmp_path / "rows.png"
    assert main(["benchmark", suite, "--json", str(file), "--figure", str(picture)]) == 0
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert all(row.keys() == KEYS for row in rows)
    assert all(row["estimated"] and row["device"] == "estimate" and row["step_s"] is None for row in rows)
    assert len({(row["case"], row["activations"]) for row in rows}) == len(rows)
    assert picture.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert rows[-1]["case"] in printed
    for bar in bars(suite, read_rows(file)):
        assert str(bar) in printed
        assert bar.found is not None or "time" in bar.what


def test_a_step_is_measured_and_agrees_with_its_estimate(tiny):
    case = Case("c", "light", **{**STORED, "optimizer": "in backward"})
    measured = steps._measured("s", case, torch.device("cpu"))
    estimated = steps._estimated("s", case)
    assert not measured.estimated
    assert measured.step_s > 0
    assert measured.flops == estimated.flops > 0
    assert measured.parameters == estimated.parameters
    assert measured.resident_bytes == pytest.approx(estimated.resident_bytes, rel=0.01)
    assert measured.peak_bytes == pytest.approx(estimated.peak_bytes, rel=0.02)


def test_counting_flops_may_need_more_room_than_the_step(tiny, monkeypatch):
    measured = []
    peaks = steps.peaks
    monkeypatch.setattr(steps, "peaks", lambda *step: measured.append("peaks") or peaks(*step))
    monkeypatch.setattr(steps, "seconds", lambda *_: measured.append("seconds") or 1.0)

    def full(step):
        step()
        assert measured == ["peaks", *["seconds"] * 3]  # what it allocates must not count
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(steps, "count_flops", full)
    row = steps._measured("s", Case("c", "light"), torch.device("cpu"))
    assert row.peak_bytes > row.resident_bytes > 0
    assert row.step_s == 1.0
    assert row.flops is None
    assert row.error is None


def test_8bit_states_are_as_large_as_estimated():
    pytest.importorskip("bitsandbytes")
    network = torch.nn.Sequential(torch.nn.Linear(90, 70), torch.nn.Linear(70, 10))
    optimizer = steps.OPTIMIZERS[LOW["optimizer"]](network)
    network(torch.randn(3, 90)).sum().backward()
    own = ("state1", "state2", "absmax1", "absmax2")  # all share the quantisation maps
    formula = steps.OPTIMIZERS[LOW["optimizer"]].bytes
    for p in network.parameters():
        assert sum(t.nbytes for key, t in optimizer.state[p].items() if key in own) == formula.state_bytes(p)


def test_kernels_are_those_of_training(monkeypatch):
    found = []

    def rows(suite, device, series):
        found.append((torch.backends.cudnn.deterministic, torch.backends.cudnn.conv.fp32_precision))
        return iter(())

    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.setattr(module, "_rows", rows)
    module.benchmark("depth", "cpu")
    assert found == [(True, "ieee")]


def test_what_does_not_fit_is_a_row_too(tiny, monkeypatch, caplog):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(steps, "denoising_step", full)
    row = steps._measured("s", Case("c", "light"), torch.device("cpu"))
    assert row.peak_bytes is None
    assert "no room: OutOfMemoryError: CUDA out of memory" in str(row)
    assert "does not fit" in caplog.text


def row(case, **figures):
    return Row(
        **{
            **dict.fromkeys(("suite", "network", "precision", "activations", "device"), "paper"),
            **{"case": case, "parameters": 1, "volume": (1,), "batch": 1, "estimated": True, "resident_bytes": 10**9},
            **{"peak_bytes": 2 * 10**9, **figures},
        }
    )


def test_a_missed_bar_says_so_and_a_missing_figure_is_unknown():
    rows = [row("paper, low memory", peak_bytes=3_300_000_000), row("paper, low memory, bfloat16 weights")]
    printed = [str(bar) for bar in bars("paper", rows)]
    assert "3.300  MISSED" in printed[0]
    assert "2.000" in printed[1]
    assert "MISSED" not in printed[1]
    assert all("unknown" in line for line in printed[2:])
    assert "unknown" in str(next(bars("paper", [replace(rows[0], peak_bytes=None)])))


def test_energy_is_drawn_over_time(tmp_path):
    series = {"a": [EnergySample(t, 100.0 * t, 60.0 + t, None) for t in range(5)]}
    draw([row("a")], series, tmp_path / "energy.png")
    assert (tmp_path / "energy.png").stat().st_size > 5_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["energy"], "nothing is run; use --device cuda, or another suite"),
        (["energy", "--device", "cpu"], "cpu is not an NVIDIA GPU"),
        (["paper", "--device", "cuda"], "sees no CUDA device; use cpu or estimate"),
        (["paper", "--card_gb", "6"], "--card_gb makes a CUDA device seem smaller than it is"),
    ],
)
def test_impossible_devices_are_refused(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["benchmark", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_a_smaller_card_is_a_share_of_the_card(tiny, monkeypatch):
    shares = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (24 * 10**9 - outside, 24 * 10**9))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, device: shares.append(share))
    outside = 0
    shrink("cuda", 6.0)
    outside = 3 * 10**9  # what the context and other programs occupy is missing on the smaller card too
    shrink("cuda", 6.0)
    assert shares == [0.25, 0.125]
    for impossible in (25.0, 3.0):
        with pytest.raises(ValueError, match=r"on cuda of 24\.0 GB, of which 3\.0 are occupied"):
            shrink("cuda", impossible)


def test_layers_that_rebuild_keep_nothing(tiny):
    rows = list(operations.OPERATION_SUITES["layers"]("cpu"))
    alive = {a: [r.peak_bytes for r in rows if r.activations == a] for a in ("rebuilt", "stored")}
    entry, core_end = 0, -2
    grown = {a: bytes_[core_end] - bytes_[entry] for a, bytes_ in alive.items()}
    assert grown["rebuilt"] < 0.25 * grown["stored"]


def test_sampling_takes_no_more_than_weights_and_what_level_0_takes():
    rows = list(operations.OPERATION_SUITES["sampling"]("estimate"))
    beyond = [row.peak_bytes - row.resident_bytes for row in rows]
    assert beyond[0] == beyond[1] > 64**3 * 64 * 4  # one stream at least
    assert beyond[2] == beyond[3]
    assert rows[0].resident_bytes == 4 * rows[0].parameters > 10 * rows[1].resident_bytes


def test_an_operation_is_measured(monkeypatch):
    measured = []
    for name in ("peaks", "seconds", "count_flops"):
        function = getattr(operations, name)
        monkeypatch.setattr(operations, name, lambda *a, f=function: measured.append(f.__name__) or f(*a))
    layer = torch.nn.Linear(8, 8)
    x = torch.randn(4, 8, requires_grad=True)
    found = operations._measure(
        layer, lambda: layer(x), suite="s", case="c", network="n", volume=(1,), batch=4, precision="p",
        activations="a", estimated=False,
    )  # fmt: skip
    assert found.parameters == 72
    assert found.resident_bytes == 288
    assert found.flops == 3 * 2 * 4 * 8 * 8
    assert measured == ["peaks", *["seconds"] * 3, "count_flops"]  # what counting allocates must not count
    assert found.peak_bytes > found.resident_bytes
    assert found.step_s > 0
