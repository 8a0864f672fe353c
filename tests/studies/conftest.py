"""Shared by the tests of studies."""

from __future__ import annotations

import pytest

from monai_idm.handlers import MontageHandler


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """Pictures take longer than everything else here, and no study uses them."""
    monkeypatch.setattr(MontageHandler, "_draw", lambda *_: None)
