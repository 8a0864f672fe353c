"""Shared by all tests: the seed, and the folder with the real cases."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes: one thread each, also for programs they start
    os.environ["OMP_NUM_THREADS"] = "1"

import torch  # reads the variable
from torch.utils.data import _utils

from monai_idm.data import phantom

# seconds until data workers end: if their iterator is garbage-collected in a cycle, its queue goes first and cannot
# tell them to stop
_utils.MP_STATUS_CHECK_INTERVAL = 0.1


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _heads_are_made_once():
    """Most runs here are of the same few phantoms, which take longer to make than the run."""
    made = functools.cache(phantom.generate_phantom)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phantom, "generate_phantom", lambda seed, size, names: made(seed, tuple(size), tuple(names)))
        yield


@pytest.fixture(scope="session")
def brats_sample() -> Path:
    """The folder with the two real cases; the test is skipped where it is absent."""
    folder = os.environ.get("IDM_BRATS_SAMPLE", "")
    if not Path(folder).is_dir() or not folder:
        pytest.skip("IDM_BRATS_SAMPLE names no folder with the two real cases")
    return Path(folder)
