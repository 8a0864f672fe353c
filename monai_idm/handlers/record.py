"""Complete the record of a run before it trains."""

from __future__ import annotations

from pathlib import Path

from ignite.engine import Engine, Events

from monai_idm.checkpoints import RunRecord

__all__ = ["RecordHandler"]


class RecordHandler:
    """Before training: write into the record what the data are, and protect an earlier model. Attach it to the trainer.

    Args:
        record: Already attached to the network.
        file: The model that training will replace, if it exists by then.
        data: Where the cases came from; ``PHANTOM`` for generated ones.
        num_cases: Number of training cases.
        spacing_mm: Voxel size of the training grid.
    Raises:
        FileExistsError: At the start, if phantoms would replace data: see ``RunRecord.refuse_to_replace``.
    """

    def __init__(self, record: RunRecord, file: str | Path, data: str, num_cases: int, spacing_mm: float) -> None:
        self.record = record
        self.file = file
        record.describe_data(data, num_cases, spacing_mm)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        self.record.refuse_to_replace(self.file)
