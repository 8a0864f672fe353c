"""Publish the results of an evaluation: a table in the log, files, and scalars for other handlers."""

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
    """Interface of a metrics object: see :class:`~monai_idm.metrics.ReconstructionMetrics`."""

    required: Mapping[str, str]  # argument of update, by item of a case
    optional: Mapping[str, str]

    def reset(self) -> None: ...
    def update(self, subject: str, **tensors: Tensor) -> None: ...
    def gather(self) -> None: ...
    def rows(self) -> list[dict[str, Any]]: ...
    def summary(self) -> dict[str, Any]: ...
    def scalars(self) -> dict[str, float]: ...
    def table(self) -> str: ...


class EvaluationReport:
    """Pass an evaluator's cases to a metrics object, and publish its results at the end of the epoch.

    The metrics object names the items of a case that it requires, and those that it uses if present. Items are taken
    from the evaluator's output, then from its batch. At the end of the epoch the table is logged, ``<prefix>.json``
    (summary and cases; null for values that are not finite) and ``<prefix>.csv`` (the metrics' rows) are replaced, and
    ``metrics.scalars()`` goes into ``engine.state.metrics``. In distributed runs the cases of all processes are pooled
    first; every process gets the scalars, process 0 logs and writes.

    Handlers that read the scalars at the end of the epoch (CheckpointSaver, StatsHandler) must come after this one in
    the list. To make a scalar the evaluator's key metric, give the report as ``key_val_metric``, instead of in the
    list or in both: ``key_val_metric: {psnr_brain: "@report"}``.

    Args:
        metrics: A :class:`~monai_idm.metrics.ReconstructionMetrics` or
            :class:`~monai_idm.metrics.SegmentationMetrics`.
        output_dir: Folder for the files; ``None``: no files are written.
        prefix: Name of the files without suffix.
    Raises:
        ValueError: While evaluating, if a case lacks an item that the metrics require; at the end of the epoch, if
            the key metric is not one of the scalars.
    """

    def __init__(
        self, metrics: CaseMetrics, output_dir: str | Path | None = None, prefix: str = "reconstruction"
    ) -> None:
        self.metrics = metrics
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.prefix = prefix
        self._key: str | None = None

    def attach(self, engine: Engine, name: str | None = None) -> None:
        """Subscribe to an evaluator; handlers are added only once.

        Args:
            engine: A MONAI evaluator with ``decollate=True``.
            name: Scalar that is the key metric; MONAI passes it if the report is given as ``key_val_metric``.
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
                    f"{case['subject']}: neither output nor batch holds {missing}, only {sorted(case)}; "
                    f"the metrics require {', '.join(map(repr, self.metrics.required))}"
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
