"""Save all that a training needs to go on, every epoch, and go on from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events

from monai_idm.atomic_file import atomic_file
from monai_idm.checkpoints import DamagedFile, read_checkpoint, write_checkpoint
from monai_idm.knobs import require_plain_paths

__all__ = ["TrainingCheckpoint"]

_TRAINER, _KEPT = "trainer", "kept"
_BEST = ("best_metric", "best_metric_epoch")


class TrainingCheckpoint:
    """Write ``checkpoint_epoch=N.pt`` at the end of every epoch; on request, go on from the newest. Attach it first.

    The end is after validation, so that what this found is in the file too; where a validation comes after the last
    epoch's end and finds something, the file is written again. A file is there when it is whole and
    on the disk, and older ones go after that. When a training goes on, the newest that holds what was written is
    taken, and a damaged one told.

    Args:
        directory: Where the checkpoints are.
        objects: What to save besides the trainer: name to anything with a ``state_dict`` of tensors and plain types.
        resume: Go on from the newest checkpoint; where there is none, say so and start anew.
        keep: How many of the newest to keep, at least 1; what other trainings left in the folder stays.
    Raises:
        OSError: At the start, if nothing can be written to the folder.
        ValueError: If ``keep`` is less, or the directory's path is one that a config rewrites (tools that skip a
            config's ``run`` meet it here); at the start, if all checkpoints are damaged, or the newest is of
            another training or of a later epoch than the last wanted.
    """

    def __init__(self, directory: str | Path, objects: dict[str, Any], resume: bool = False, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep={keep}; keep at least the newest checkpoint")
        require_plain_paths({"ckpt_dir": directory})
        self.directory = Path(directory)
        self.objects = objects
        self.resume = resume
        self.keep = keep
        self._kept: list[str] = []  # names, the newest last
        self._saved: tuple[int, dict[str, Any]] | None = None  # iteration, and the states of plain values

    def attach(self, engine: Engine) -> None:
        engine.state_dict_user_keys.extend(_BEST)
        engine.add_event_handler(Events.STARTED, self._start)

    def _start(self, engine: Engine) -> None:
        if idist.get_rank() == 0:
            _require_writable(self.directory)
            for left in self.directory.glob(".unfinished.*.pt"):  # by a training that was killed while it wrote
                left.unlink(missing_ok=True)
        # by time, not by epoch: the folder may hold later epochs of an earlier run
        files = sorted(self.directory.glob("checkpoint_epoch=*.pt"), key=_written, reverse=True)
        if self.resume:
            self._resume(engine, files)
        elif files:
            engine.logger.warning(
                f"{self.directory} holds checkpoints of an earlier training, the newest {files[0].name}, and this one "
                f"starts anew and will replace them; to go on from there, stop it and add --resume true"
            )
        if not engine.has_event_handler(self._save, Events.EPOCH_COMPLETED):
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)  # only now: after all other handlers
            engine.add_event_handler(Events.COMPLETED, self._save_again)

    def _save(self, engine: Engine) -> None:
        name = f"checkpoint_epoch={engine.state.epoch}.pt"
        self._kept = [*(kept for kept in self._kept if kept != name), name]
        old, self._kept = self._kept[: -self.keep], self._kept[-self.keep :]
        # in every process: states that processes share are put together by all
        content = {key: part.state_dict() for key, part in self._parts(engine).items()} | {_KEPT: self._kept}
        if idist.get_rank() == 0:
            write_checkpoint(self.directory / name, content)
            for name in old:
                (self.directory / name).unlink(missing_ok=True)
        self._saved = engine.state.iteration, _plain(content, self.objects)

    def _save_again(self, engine: Engine) -> None:
        """Where a validation after the last epoch's end has found a new best."""
        if self._saved is None or self._saved[0] != engine.state.iteration:
            return
        if any(self.objects[key].state_dict() != state for key, state in self._saved[1].items()):
            self._save(engine)

    def _resume(self, engine: Engine, files: list[Path]) -> None:
        if not files:
            engine.logger.info(f"nothing to resume in {self.directory}: starting anew")
            return
        file, content = next(self._sound(engine, files), (None, {}))
        if file is None:
            raise ValueError(
                f"all {len(files)} checkpoints in {self.directory} are damaged; the best weights, model.pt, may be "
                f"sound: move the checkpoints away to start anew"
            )
        parts, last = self._parts(engine), engine.state.max_epochs
        if missing := parts.keys() - content.keys():
            raise ValueError(
                f"{file} holds {', '.join(content)}, and this training needs {', '.join(sorted(missing))}, too: go on "
                f"with the config and the version that it was started with"
            )
        for key, part in parts.items():
            part.load_state_dict(content[key])
        if last is not None and engine.state.epoch > last:
            raise ValueError(
                f"{file} is of epoch {engine.state.epoch}, later than max_epochs={last}; give a larger --max_epochs"
            )
        engine.state.max_epochs = last
        self._kept = [name for name in content[_KEPT] if (self.directory / name).exists()]
        self._saved = engine.state.iteration, _plain(content, self.objects)
        engine.logger.info(f"resumed from {file}, epoch {engine.state.epoch}")

    def _sound(self, engine: Engine, files: list[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
        for file in files:
            try:
                yield file, read_checkpoint(file)
            except DamagedFile as error:
                engine.logger.warning(f"{error}; taking the one before")

    def _parts(self, engine: Engine) -> dict[str, Any]:
        return {**self.objects, _TRAINER: engine}


def _plain(content: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Those states that hold single numbers and texts alone, as the note of the best does."""
    return {name: content[name] for name in names if all(map(_is_plain, content[name].values()))}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _require_writable(folder: Path) -> None:
    """Now, and not when the first epoch is over."""
    probe = folder / "probe.pt"
    with atomic_file(probe) as unfinished:
        unfinished.touch()
    probe.unlink()


def _written(file: Path) -> tuple[int, int, str]:
    return file.stat().st_mtime_ns, len(file.name), file.name  # clocks of file systems are coarse
