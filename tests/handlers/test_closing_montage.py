"""The picture at the end of an evaluation."""

from __future__ import annotations

import torch
from ignite.engine import Engine

from monai_idm.handlers import ClosingMontage


def run(volumes, file):
    engine = Engine(lambda engine, batch: None)
    seen = []

    def at_the_end():
        seen.append(engine.state.iteration)
        return volumes

    ClosingMontage(at_the_end, file, ["t1"], "a title").attach(engine)
    engine.run([0, 1, 2], max_epochs=1)
    return seen


def test_the_picture_shows_what_is_known_at_the_end(tmp_path):
    file = tmp_path / "folder" / "pair.png"
    assert run({"a sample": torch.rand(1, 8, 8, 8), "a case": torch.rand(1, 8, 8, 8)}, file) == [3]
    assert file.read_bytes()[1:4] == b"PNG"


def test_without_volumes_there_is_no_picture(tmp_path):
    assert run({}, tmp_path / "pair.png") == [3]
    assert list(tmp_path.iterdir()) == []
