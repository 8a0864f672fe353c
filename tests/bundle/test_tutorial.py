"""The tutorial does what it describes."""

from __future__ import annotations

import importlib.util

import nibabel as nib
import pytest

from monai_idm.data import write_phantoms
from tests.bundle.workspace import CONFIGS, TINY

SHORT = {**TINY, "demo#max_epochs": 1, "max_epochs": 1, "epoch_length": 2, "val_interval": 1}


@pytest.fixture(scope="module")
def tutorial():
    spec = importlib.util.spec_from_file_location("tutorial", CONFIGS.parent / "docs" / "tutorial.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.tutorial


def test_a_folder_becomes_a_synthetic_volume(tutorial, tmp_path, capsys):
    folder = write_phantoms(tmp_path / "data", 4, (32, 32, 24))
    (folder / "PHANTOM_002" / "PHANTOM_002_t2.nii.gz").unlink()
    file = tutorial(str(tmp_path / "out"), str(folder), spatial_size=[16, 16, 16], **SHORT)
    assert nib.load(file).shape == (16, 16, 16)
    shown = capsys.readouterr().out
    assert "PHANTOM_002: lacks t2" in shown
    assert f"trained on 1 case(s) of {folder}" in shown
    assert "live_peak_gib" in shown
    assert "t2, reconstruction: PSNR " in shown
