"""The table at the end of an evaluation: log, files, and scalars for other handlers."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import ignite.distributed as idist
from ignite.engine import Engine, Events
from torch import Tensor

from monai_idm.atomic_file import atomic_file, write_json
from monai_idm.handlers.evaluated_cases import evaluated_cases

__all__ = ["EvaluationReport"]

logger = logging.getLogger(__name__)


class CaseMetrics(Protocol):
    """What the report asks of a metrics object: see :class:`~monai_idm.metrics.ReconstructionMetrics`."""

    required: Mapping[str, str]  # item of a case: argument of update
    optional: Mapping[str, str]

    def reset(self) -> None: ...
    def update(self, subject: str, **tensors: Tensor) -> None: ...
    def gather(self) -> None: ...
    def rows(self) -> list[dict[str, Any]]: ...
    def summary(self) -> dict[str, Any]: ...
    def scalars(self) -> dict[str, float]: ...
    def table(self) -> str: ...


class EvaluationReport:
    """Feed an evaluator's cases to a metrics object, and publish what it says when the epoch ends.

    The metrics object names the items of a case that it needs, and those that it uses where they are. Items are
    looked for in the evaluator's output, then in its batch. At the end of the epoch the table is logged,
    ``<prefix>.json`` (summary and cases; null for what is not finite) and ``<prefix>.csv`` (one row for each of the
    metrics' rows) are replaced, and ``metrics.scalars()`` goes into ``engine.state.metrics``. In distributed runs
    the cases of all processes are pooled first; every process gets the scalars, the first one logs and writes.

    Handlers that read the scalars at the end of the epoch (CheckpointSaver, StatsHandler) must stand after
    this one in the list. For the evaluator's own key metric, name the report there instead of in the list, or
    in both: ``key_val_metric: {psnr_brain: "@report"}``.

    Args:
        metrics: A :class:`~monai_idm.metrics.ReconstructionMetrics` or
            :class:`~monai_idm.metrics.SegmentationMetrics`.
        output_dir: Folder for the files; ``None``: none are written.
        prefix: Their name without suffix.
    Raises:
        ValueError: While evaluating, if a case lacks what the metrics need; at the end of the epoch, if the key
            metric asked for is none of the scalars.
    """

    def __init__(
        self, metrics: CaseMetrics, output_dir: str | Path | None = None, prefix: str = "reconstruction"
    ) -> None:
        self.metrics = metrics
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.prefix = prefix
        self._key: str | None = None

    def attach(self, engine: Engine, name: str | None = None) -> None:
        """Subscribe to an evaluator; a second time on the same evaluator changes nothing.

        Args:
            engine: A MONAI evaluator with ``decollate=True``.
            name: The scalar that is the key metric, which MONAI passes where this stands as
                ``key_val_metric``.
        """
        self._key = name or self._key
        if engine.has_event_handler(self._completed, Events.EPOCH_COMPLETED):
            return
        engine.add_event_handler(Events.EPOCH_STARTED, self._started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._update)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._completed)

    def _started(self, engine: Engine) -> None:
        self.metrics.reset()

    def _update(self, engine: Engine) -> None:
        for case in evaluated_cases(engine):
            missing = [key for key in self.metrics.required if key not in case]
            if missing:
                raise ValueError(
                    f"{case['subject']}: neither output nor batch holds {missing}, only {sorted(case)}; the "
                    f"evaluator must leave {', '.join(map(repr, self.metrics.required))}"
                )
            items = {**self.metrics.required, **self.metrics.optional}
            tensors = {name: case[key] for key, name in items.items() if isinstance(case.get(key), Tensor)}
            self.metrics.update(str(case["subject"]), **tensors)

    def _completed(self, engine: Engine) -> None:
        self.metrics.gather()
        scalars = self.metrics.scalars()
        if self._key is not None and self._key not in scalars:
            raise ValueError(f"the key metric {self._key!r} is not one of {sorted(scalars)}; name one of these")
        engine.state.metrics.update(scalars)
        if idist.get_rank() != 0:
            return
        logger.info("epoch %d\n%s", engine.state.epoch, self.metrics.table())
        if self.output_dir is not None:
            self._write(self.output_dir / self.prefix, engine.state.epoch)

    def _write(self, stem: Path, epoch: int) -> None:
        rows = self.metrics.rows()
        report = {"epoch": epoch, "summary": self.metrics.summary(), "cases": rows}
        write_json(stem.with_name(f"{stem.name}.json"), report)
        with (
            atomic_file(stem.with_name(f"{stem.name}.csv")) as file,
            file.open("w", newline="", encoding="utf-8") as stream,
        ):
            writer = csv.DictWriter(stream, list(rows[0]) if rows else ["case"])
            writer.writeheader()
            writer.writerows(rows)
