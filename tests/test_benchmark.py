"""The benchmark's rows, at a size that takes no time."""

from __future__ import annotations

import json

import torch

from idm_bundle import benchmark as module
from idm_bundle.__main__ import main
from monai_idm.networks import InvertibleDiffusionUNet


def small(*_, **arguments):
    return InvertibleDiffusionUNet(3, 2, 2, (16, 32), 1, (False, False), **arguments)


KEYS = {
    *("suite", "case", "network", "parameters", "volume", "batch", "precision", "activations", "optimizer", "device"),
    *("estimated", "resident_bytes", "peak_bytes", "reserved_bytes", "flops", "step_s", "energy_j", "versions"),
}


def test_rows_are_written_one_object_a_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(module.InvertibleDiffusionUNet, "from_preset", small)
    assert main(["benchmark", "layers", "--json", str(tmp_path / "rows.jsonl")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert all(row.keys() == KEYS for row in rows)
    assert "exit bookend" in capsys.readouterr().out
    alive = {a: [r["peak_bytes"] for r in rows if r["activations"] == a] for a in ("rebuilt", "stored")}
    entry, behind_core = 0, -2
    grown = {a: bytes_[behind_core] - bytes_[entry] for a, bytes_ in alive.items()}
    assert alive["rebuilt"][entry] == alive["stored"][entry]
    assert grown["rebuilt"] < 0.25 * grown["stored"]


def test_a_step_is_measured():
    layer = torch.nn.Linear(8, 8)
    x = torch.randn(4, 8, requires_grad=True)
    row = module._measure(
        layer, lambda: layer(x), suite="s", case="c", network="n", volume=(1,), batch=4, precision="p", activations="a"
    )
    assert row.parameters == 72
    assert row.resident_bytes == 288
    assert row.flops == 3 * 2 * 4 * 8 * 8
    assert row.peak_bytes > row.resident_bytes
    assert row.step_s > 0


def test_attention_on_a_cpu_is_counted():
    q = torch.randn(1, 3, 64, 32, requires_grad=True)
    row = module._measure(
        torch.nn.Linear(1, 1),
        lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q),
        **dict.fromkeys(("suite", "case", "network", "precision", "activations"), ""),
        volume=(1,),
        batch=1,
    )
    assert row.flops == 7 * 2 * 3 * 64 * 64 * 32  # two products forward, five backward, one of them anew
