"""Validate at the end of a run."""

from __future__ import annotations

import math
from collections.abc import Sized
from typing import Any

from ignite.engine import Engine, Events

from monai_idm.failures import BadNumbers

__all__ = ["ValidateLast"]


class ValidateLast:
    """Run a validation at the end of a run, unless the last epoch has been validated already.

    Without it, a run that is shorter than the interval of MONAI's ``ValidationHandler``, or that ends between two
    validations, would leave no weights, or old ones. Attach it to the trainer after the ``ValidationHandler``, with the
    same validator. A run that fails, or is stopped within an epoch, is not validated; a finished run that is resumed is
    validated once more. If the key metric was never finite, so that there are no best weights, the run fails.

    Args:
        validator: A MONAI evaluator. If it has no cases, a warning is logged and nothing is validated.
    Raises:
        BadNumbers: At the end of a run, if the key metric was never finite.
    """

    def __init__(self, validator: Any) -> None:
        self.validator = validator
        self._validated: int | None = None  # the trainer's iteration at the last validation
        self._epoch_end: int | None = None  # and at the end of the last complete epoch

    def attach(self, engine: Engine) -> None:
        self.validator.add_event_handler(Events.COMPLETED, self._validation_completed, engine)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_completed)
        engine.add_event_handler(Events.COMPLETED, self._completed)

    def _validation_completed(self, engine: Engine) -> None:
        self._validated = engine.state.iteration

    def _epoch_completed(self, engine: Engine) -> None:
        self._epoch_end = engine.state.iteration
        if engine.state.epoch == engine.state.max_epochs or engine.should_terminate:
            self._validate(engine)  # now, before the epoch's checkpoint is written

    def _completed(self, engine: Engine) -> None:
        state = engine.state
        nothing_to_do = self._epoch_end is None and state.epoch == state.max_epochs and state.epoch > 0
        if self._epoch_end == state.iteration or nothing_to_do:
            self._validate(engine)

    def _validate(self, engine: Engine) -> None:
        if self._validated != engine.state.iteration:
            cases = self.validator.data_loader
            if isinstance(cases, Sized) and not len(cases):
                engine.logger.warning("there are no validation cases: model.pt is not written")
                return
            self.validator.run(engine.state.epoch)
        self._require_best()

    def _require_best(self) -> None:
        state = self.validator.state
        if state.key_metric_name is not None and not math.isfinite(float(state.best_metric)):
            raise BadNumbers(
                f"no validation of this run gave a finite {state.key_metric_name} (the best is {state.best_metric}), "
                "so no weights were saved; check the validation table for the cases that are NaN or infinite"
            )
