"""Complete the record of a run before it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from monai_idm.checkpoints import RunRecord

__all__ = ["RecordHandler"]


class RecordHandler:
    """Describe the data in the record before training, and protect an earlier model. Attach it to the trainer.

    Args:
        record: Record of the run, which signs the network.
        file: File of the model that training will write; it may exist already.
        data: Arguments of ``RunRecord.describe_data``.
    Raises:
        FileExistsError: At the start, if a model trained on phantoms would replace one trained on data: see
            ``RunRecord.refuse_to_replace``.
        ValueError: At the start of a resumed run, if its cases have changed.
    """

    def __init__(self, record: RunRecord, file: str | Path, data: dict[str, Any]) -> None:
        self.record = record
        self.file = file
        record.describe_data(**data)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        self.record.refuse_to_replace(self.file)
        if engine.state.iteration > 0:  # resumed: the TrainingCheckpoint, attached before this, has loaded by now
            self.record.require_same_cases()
