"""Save everything a run needs to resume, every epoch, and resume from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events

from monai_idm.atomic_file import atomic_file
from monai_idm.checkpoints import DamagedFile, read_checkpoint, read_sections, write_checkpoint
from monai_idm.knobs import require_plain_paths

__all__ = ["TrainingCheckpoint"]

_TRAINER, _KEPT = "trainer", "kept"
_BEST = ("best_metric", "best_metric_epoch")


class TrainingCheckpoint:
    """Write ``checkpoint_epoch=N.pt`` at the end of every epoch; on request, resume from the newest. Attach it first.

    A checkpoint is written after validation, so that it includes the result; if a validation after the end of the last
    epoch finds a new best, it is written again. A file gets its name once it is complete and on the disk, and only then
    are older ones deleted. A resumed run starts from the newest checkpoint that is undamaged; damaged ones are logged.

    Args:
        directory: Folder of the checkpoints.
        objects: What to save besides the trainer: objects with a ``state_dict`` of tensors and plain types, by name.
        resume: Resume from the newest checkpoint; if there is none, log that and start from scratch.
        keep: Number of checkpoints to keep, at least 1; files that other runs left in the folder stay.
    Raises:
        OSError: At the start, if the folder is not writable.
        ValueError: If ``keep`` is below 1, or a config would rewrite the directory's path (checked here for tools that
            skip a config's ``run``); at the start, if all checkpoints are damaged, or the newest belongs to another
            run or to an epoch after ``max_epochs``.
    """

    def __init__(self, directory: str | Path, objects: dict[str, Any], resume: bool = False, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep={keep}; keep at least the newest checkpoint")
        require_plain_paths({"ckpt_dir": directory})
        self.directory = Path(directory)
        self.objects = objects
        self.resume = resume
        self.keep = keep
        self._names: list[str] = []  # of the checkpoints of this run, the newest last
        self._saved: tuple[int, dict[str, Any]] | None = None  # iteration, and the states without tensors

    def attach(self, engine: Engine) -> None:
        engine.state_dict_user_keys.extend(_BEST)
        engine.add_event_handler(Events.STARTED, self._start)

    def _start(self, engine: Engine) -> None:
        if idist.get_rank() == 0:
            _require_writable(self.directory)
            for unfinished in self.directory.glob(".unfinished.*.pt"):  # left by a run killed while writing
                unfinished.unlink(missing_ok=True)
        # by time, not by epoch: the folder may hold later epochs of an earlier run
        files = sorted(self.directory.glob("checkpoint_epoch=*.pt"), key=_write_time, reverse=True)
        if self.resume:
            self._resume(engine, files)
        elif files:
            engine.logger.warning(
                f"{self.directory} holds checkpoints of an earlier run, the newest {files[0].name}; this run starts "
                f"from scratch and will replace them. To resume the earlier run instead, stop this one and add "
                f"--resume true"
            )
        if not engine.has_event_handler(self._save, Events.EPOCH_COMPLETED):
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)  # only now: after all other handlers
            engine.add_event_handler(Events.COMPLETED, self._save_again)

    def _save(self, engine: Engine) -> None:
        name = f"checkpoint_epoch={engine.state.epoch}.pt"
        self._names = [*(earlier for earlier in self._names if earlier != name), name]
        old, self._names = self._names[: -self.keep], self._names[-self.keep :]
        # in every process: sharded states are gathered from all of them
        content = {key: part.state_dict() for key, part in self._parts(engine).items()} | {_KEPT: self._names}
        if idist.get_rank() == 0:
            write_checkpoint(self.directory / name, content)
            for name in old:
                (self.directory / name).unlink(missing_ok=True)
        self._saved = engine.state.iteration, _states_without_tensors(content, self.objects)

    def _save_again(self, engine: Engine) -> None:
        """Save again if a validation after the end of the last epoch has found a new best."""
        if self._saved is None or self._saved[0] != engine.state.iteration:
            return
        if any(self.objects[key].state_dict() != state for key, state in self._saved[1].items()):
            self._save(engine)

    def _resume(self, engine: Engine, files: list[Path]) -> None:
        if not files:
            engine.logger.info(f"no checkpoint to resume from in {self.directory}: starting from scratch")
            return
        file, content = next(self._sound(engine, files), (None, {}))
        if file is None:
            raise ValueError(
                f"all {len(files)} checkpoints in {self.directory} are damaged; move them away to start from scratch "
                f"(the best weights, model.pt, may still be intact)"
            )
        parts, last = self._parts(engine), engine.state.max_epochs
        if missing := parts.keys() - content.keys():
            raise ValueError(
                f"{file} holds {', '.join(content)}, but this run also needs {', '.join(sorted(missing))}; resume with "
                f"the config and the version that the earlier run was started with"
            )
        for key, part in parts.items():
            part.load_state_dict(content[key])
            if hasattr(part, "resume_choices"):
                part.resume_choices(read_sections(content[key]).get("choices"))
        if last is not None and engine.state.epoch > last:
            raise ValueError(
                f"{file} is from epoch {engine.state.epoch}, later than max_epochs={last}; give a larger --max_epochs"
            )
        engine.state.max_epochs = last
        self._names = [name for name in content[_KEPT] if (self.directory / name).exists()]
        self._saved = engine.state.iteration, _states_without_tensors(content, self.objects)
        engine.logger.info(f"resumed from {file}, epoch {engine.state.epoch}")

    def _sound(self, engine: Engine, files: list[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
        for file in files:
            try:
                yield file, read_checkpoint(file)
            except DamagedFile as error:
                engine.logger.warning(f"{error}; taking the one before it")

    def _parts(self, engine: Engine) -> dict[str, Any]:
        return {**self.objects, _TRAINER: engine}


def _states_without_tensors(content: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """States that hold only numbers and texts, such as the record of the best validation."""
    return {name: content[name] for name in names if all(map(_is_plain, content[name].values()))}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _require_writable(folder: Path) -> None:
    """Fail now rather than at the end of the first epoch."""
    probe = folder / "probe.pt"
    with atomic_file(probe) as unfinished:
        unfinished.touch()
    probe.unlink()


def _write_time(file: Path) -> tuple[int, int, str]:
    return file.stat().st_mtime_ns, len(file.name), file.name  # file clocks are coarse: a tie goes to the later epoch
