"""Shared by all tests: one seed, and what a gradient error is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def brats_sample() -> Path:
    """The folder with the two real cases; the test is skipped where it is absent."""
    folder = os.environ.get("IDM_BRATS_SAMPLE", "")
    if not Path(folder).is_dir() or not folder:
        pytest.skip("IDM_BRATS_SAMPLE names no folder with the two real cases")
    return Path(folder)
