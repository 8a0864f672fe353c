"""The doctor names what is missing, and the way out."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from idm_bundle import doctor as module
from idm_bundle.__main__ import main
from idm_bundle.doctor import doctor


def test_it_tells_versions_bundle_and_devices(capsys):
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert torch.__version__ in printed
    assert "bundle: " in printed
    assert "cpu: " in printed


def test_a_missing_package_is_named_with_what_it_is_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    (line,) = [line for line in doctor() if "bitsandbytes" in line]
    assert line.startswith("! ")
    assert 'pip install "monai-idm[low-memory]"' in line


def test_a_machine_that_cannot_compile_is_said(monkeypatch):
    def fail():
        raise ValueError("no compiler")

    monkeypatch.setattr(module, "check_compiler", fail)
    assert "! no compiler" in doctor()
    monkeypatch.setattr(module, "check_compiler", lambda: None)
    assert "torch.compile: works" in doctor()


def test_a_folder_without_a_bundle_is_said(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert any(line.startswith("! ") and "bundle_root" in line for line in doctor())


@pytest.mark.parametrize("native", [True, False])
def test_a_card_without_native_bfloat16_is_said(native, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.no_grad())
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (7 * 10**9, 8 * 10**9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    # emulated, it is there; asked whether it is native, it may not be
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    meter = SimpleNamespace(available=False, reason="no counter", source=None)
    monkeypatch.setattr(module, "EnergyMeter", lambda device: meter)
    lines = doctor()
    assert any("a card, 8.0 GB, 7.0 GB free" in line for line in lines)
    assert any("no native bfloat16" in line for line in lines) != native
    assert "! cuda:0 energy: no counter" in lines
