"""Completes the record of a run before it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from monai_idm.checkpoints import RunRecord

__all__ = ["RecordHandler"]


class RecordHandler:
    """Before training: write into the record what the data are, and protect an earlier model. Attach it to the trainer.

    Args:
        record: Already attached to the network.
        file: The model that training will replace, if it exists by then.
        data: Arguments of ``RunRecord.describe_data``.
    Raises:
        FileExistsError: At the start, if phantoms would replace data: see ``RunRecord.refuse_to_replace``.
        ValueError: At the start of a training that goes on, if it had other cases before.
    """

    def __init__(self, record: RunRecord, file: str | Path, data: dict[str, Any]) -> None:
        self.record = record
        self.file = file
        record.describe_data(**data)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        self.record.refuse_to_replace(self.file)
        if engine.state.iteration > 0:  # it goes on: the TrainingCheckpoint, attached before this, has loaded by now
            self.record.require_same_cases()
