"""Handlers by reference."""

from __future__ import annotations

from ignite.engine import Engine, Events

from monai_idm.handlers import AttachAll


def test_each_is_attached_in_its_turn():
    seen = []

    class Note:
        def __init__(self, name):
            self.name = name

        def attach(self, engine):
            engine.add_event_handler(Events.STARTED, lambda: seen.append(self.name))

    engine = Engine(lambda *_: None)
    AttachAll(Note(name) for name in "abc").attach(engine)
    engine.run([0])
    assert seen == ["a", "b", "c"]
