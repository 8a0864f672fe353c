"""Save all that a training needs to go on, every epoch, and go on from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.handlers import CheckpointLoader, CheckpointSaver

__all__ = ["TrainingCheckpoint"]


class TrainingCheckpoint:
    """Write ``checkpoint_epoch=N.pt`` after every epoch; on request, resume from the newest. Attach it first.

    Args:
        directory: Where the checkpoints are.
        objects: What to save besides the trainer: name to anything with a ``state_dict``.
        resume: Load the newest checkpoint before training starts; where there is none, say so and start anew.
        keep: How many of the newest to keep.
        device: Where to load to.
    """

    def __init__(
        self,
        directory: str | Path,
        objects: dict[str, Any],
        resume: bool = False,
        keep: int = 2,
        device: Any = None,
    ) -> None:
        self.directory = Path(directory)
        self.objects = objects
        self.resume = resume
        self.keep = keep
        self.device = device

    def attach(self, engine: Engine) -> None:
        objects = {**self.objects, "trainer": engine}
        if self.resume:
            engine.add_event_handler(Events.STARTED, self._resume, objects)
        CheckpointSaver(str(self.directory), objects, save_interval=1, n_saved=self.keep).attach(engine)

    def _resume(self, engine: Engine, objects: dict[str, Any]) -> None:
        # by time, not by epoch: the folder may hold later epochs of an earlier run
        earlier = sorted(self.directory.glob("checkpoint_epoch=*.pt"), key=_written)
        if not earlier:
            engine.logger.info(f"nothing to resume in {self.directory}: starting anew")
            return
        CheckpointLoader(str(earlier[-1]), objects, map_location=self.device)(engine)
        engine.logger.info(f"resumed from {earlier[-1]}, epoch {engine.state.epoch}")
        # those just resumed go when as many new ones are there
        enough = Events.EPOCH_COMPLETED(once=engine.state.epoch + self.keep)
        engine.add_event_handler(enough, self._forget, earlier, _written(earlier[-1]))

    def _forget(self, files: list[Path], latest: float) -> None:
        for file in files:
            if file.exists() and _written(file) <= latest:
                file.unlink(missing_ok=True)


def _written(file: Path) -> float:
    return file.stat().st_mtime
