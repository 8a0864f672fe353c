"""One picture at the end of an evaluation, of volumes that are known only then."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import ignite.distributed as idist
from ignite.engine import Engine, Events
from torch import Tensor

from monai_idm.atomic_file import atomic_file
from monai_idm.handlers.montage import montage

__all__ = ["ClosingMontage"]


class ClosingMontage:
    """Draw volumes side by side when the epoch is complete, for example samples beside their nearest training cases.

    The file is replaced in one step. In distributed runs process 0 draws. The handler must come after that which
    completes what the volumes are taken from, such as the report of the same metrics.

    Args:
        volumes: Function that returns volumes ``(C, D, H, W)`` in RAS orientation and [0, 1], by heading; if it
            returns none, no picture is written.
        file: File of the picture, a PNG.
        modalities: Names of the channels in order.
        title: Line above the picture.
    """

    def __init__(
        self, volumes: Callable[[], Mapping[str, Tensor]], file: str | Path, modalities: Sequence[str], title: str = ""
    ) -> None:
        self.volumes = volumes
        self.file = Path(file)
        self.modalities = tuple(modalities)
        self.title = title

    def attach(self, engine: Engine) -> None:
        """Subscribe to an evaluator.

        Args:
            engine: An Ignite engine that runs one epoch.
        """
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._completed)

    def _completed(self, engine: Engine) -> None:
        volumes = self.volumes() if idist.get_rank() == 0 else {}
        if volumes:
            with atomic_file(self.file) as unfinished:
                montage(volumes, self.modalities, title=self.title).savefig(unfinished, format="png", facecolor="black")
