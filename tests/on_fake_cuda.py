"""Runs a program on fake CUDA tensors, in a process of its own: they have to be there before torch is imported."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch


def run(program: str, *arguments: str) -> str:
    """What a program prints that imports ``tests.fake_cuda`` first; skips the test where it cannot run."""
    if shutil.which("g++") is None or torch.version.cuda is not None:
        pytest.skip("needs a C++ compiler and a PyTorch without CUDA")
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
