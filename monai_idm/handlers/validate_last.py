"""Validate what a training ends with."""

from __future__ import annotations

import math
from collections.abc import Sized
from typing import Any

from ignite.engine import Engine, Events

from monai_idm.failures import BadNumbers

__all__ = ["ValidateLast"]


class ValidateLast:
    """Run a validation where a training ends, unless its last epoch was validated already.

    A training that is shorter than the interval of MONAI's ``ValidationHandler``, or whose last epochs come after the
    last validation, would otherwise end without weights, or with old ones. Attach it to the trainer after the
    ``ValidationHandler``, with the same validator. A training that fails, or that is stopped within an epoch, is not
    validated; one that had been finished before and is resumed is, once more. Where no validation has given a number
    for the key metric, so that there are no best weights, the training fails.

    Args:
        validator: A MONAI evaluator. Without cases, which a warning reports, nothing is validated.
    Raises:
        BadNumbers: At the end of a training, if its key metric was never a finite number.
    """

    def __init__(self, validator: Any) -> None:
        self.validator = validator
        self._validated: int | None = None  # the trainer's iteration
        self._whole: int | None = None  # the same, at the end of its last whole epoch

    def attach(self, engine: Engine) -> None:
        self.validator.add_event_handler(Events.COMPLETED, self._note, engine)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_completed)
        engine.add_event_handler(Events.COMPLETED, self._completed)

    def _note(self, engine: Engine) -> None:
        self._validated = engine.state.iteration

    def _epoch_completed(self, engine: Engine) -> None:
        self._whole = engine.state.iteration
        if engine.state.epoch == engine.state.max_epochs or engine.should_terminate:
            self._validate(engine)  # now, before the epoch's checkpoint is written

    def _completed(self, engine: Engine) -> None:
        state = engine.state
        nothing_to_do = self._whole is None and state.epoch == state.max_epochs and state.epoch > 0
        if self._whole == state.iteration or nothing_to_do:
            self._validate(engine)

    def _validate(self, engine: Engine) -> None:
        if self._validated != engine.state.iteration:
            cases = self.validator.data_loader
            if isinstance(cases, Sized) and not len(cases):
                engine.logger.warning("there is no case to validate with: model.pt is not written")
                return
            self.validator.run(engine.state.epoch)
        self._require_best()

    def _require_best(self) -> None:
        state = self.validator.state
        if state.key_metric_name is not None and not math.isfinite(float(state.best_metric)):
            raise BadNumbers(
                f"no validation of this training gave a number for {state.key_metric_name} (the best is "
                f"{state.best_metric}), so that no weights were kept; look at validation's table for the cases that "
                "give none"
            )
