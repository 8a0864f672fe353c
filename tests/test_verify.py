"""The command that measures the engine's laws; the laws themselves are tested with the engine."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from idm_bundle import verify as module
from idm_bundle.__main__ import main
from idm_bundle.verify import Finding
from monai_idm.reversible import CheckerboardAttention


@pytest.fixture
def laws(monkeypatch):
    def use(*findings):
        monkeypatch.setattr(module, "LAWS", (lambda device: iter(findings),))

    return use


def test_findings_are_printed_and_written(laws, tmp_path, capsys):
    laws(Finding("a law", 1.0, 0.5), Finding("another", 0.0, 0.0))
    assert main(["verify", "--json", str(tmp_path / "found.json")]) == 0
    assert "a law" in capsys.readouterr().out
    record = json.loads((tmp_path / "found.json").read_text())
    assert record["findings"][0] == {"law": "a law", "bar": 1.0, "value": 0.5, "holds": True}
    assert record["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize("value", [2.0, float("nan")])
def test_a_missed_law_is_an_error_and_still_written(laws, tmp_path, capsys, value):
    laws(Finding("a law", 1.0, value), Finding("another", 1.0, 0.0))
    assert main(["verify", "--json", str(tmp_path / "found.json")]) == 1
    assert "1 laws do not hold here: a law" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "found.json").read_text())["findings"]) == 2


def test_the_measured_memory_and_bits_are_those_of_the_engine(monkeypatch):
    half = {"channels": (8, 16, 32), "num_head_channels": 4, "norm_num_groups": 4, "embedding_channels": 16}
    monkeypatch.setattr(module, "THREE_LEVELS", {**module.THREE_LEVELS, **half})
    found = {f.law: f for f in module._memory(torch.device("cpu"))}
    assert all(f.holds for f in found.values()), [f for f in found.values() if not f.holds]


def test_exact_memory_on_cuda_is_that_of_attention_by_plain_products(monkeypatch):
    monkeypatch.setattr(CheckerboardAttention, "_kernels", lambda self, y: sdpa_kernel(SDPBackend.MATH))
    net = module._network(torch.device("cpu"), 0, **module.THREE_LEVELS, num_res_blocks=4, precision="exact")
    peaks = {a: module._peak_above_weights(net.with_activations(a), (1, 2, 32, 32, 32)) for a in ("rebuilt", "stored")}
    assert 0.6 < peaks["rebuilt"] / peaks["stored"] < module.EXACT_ON_CUDA  # 0.2 with the attention of a CPU
