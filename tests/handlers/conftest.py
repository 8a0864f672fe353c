import pytest

from tests.handlers.clockwork import Clock


@pytest.fixture
def clock(monkeypatch):
    """A clock that is advanced by hand, also for Ignite's timers."""
    clock = Clock()
    monkeypatch.setattr("ignite.handlers.timing.perf_counter", clock)
    return clock
