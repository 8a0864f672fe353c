"""Peak memory of small trainers: what is counted, and that no error is swallowed."""

import logging
from itertools import count

import pytest
import torch
from monai.handlers import CheckpointSaver, ValidationHandler
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from monai_idm.handlers import PeakMemoryHandler
from tests.handlers.clockwork import Clock, Seen, lines, make_trainer, rows

MIB = 2**20
N = MIB // 4


def make_scaled(*handlers, at_step=lambda step: None, samples=(1, 1, 1), max_epochs=2):
    """A trainer whose network has one parameter of 1 MiB, so that bytes can be counted by hand."""
    clock, steps = Clock(), count(1)
    clock.work = lambda: at_step(next(steps))
    return make_trainer(clock, handlers, max_epochs, samples, parameters=N)


def live_mib(seen):
    return [metrics["live_peak_gib"] * 2**30 / MIB for metrics in seen.metrics]


def test_the_count_holds_weights_gradients_states_batch_and_activations():
    seen = Seen()
    make_scaled(PeakMemoryHandler("cpu"), seen, samples=(1, 1)).run()
    one, two = live_mib(seen)
    # weight, gradient, two moments, image, label; prediction and its gradient; some more in the optimizer
    assert 8 <= one < 12
    assert one == pytest.approx(two, abs=0.01)


def test_the_second_iteration_is_measured_because_the_states_exist_then():
    single, longer = Seen(), Seen()
    make_scaled(PeakMemoryHandler("cpu"), single, samples=[1]).run()
    make_scaled(PeakMemoryHandler("cpu"), longer, samples=[1, 1], max_epochs=1).run()
    # with one iteration in the epoch, forward and backward of the first run without the two moments
    first, second = live_mib(single)
    assert first <= second
    assert live_mib(longer) == pytest.approx([second], abs=0.01)


def test_one_iteration_in_each_epoch_is_counted_and_none_beside_it():
    depths = []

    def look(step):
        depths.append(len(_get_current_dispatch_mode_stack()))

    make_scaled(PeakMemoryHandler("cpu"), samples=[1] * 4, at_step=look).run()
    assert depths == [0, 1, 0, 0] * 2


def test_the_log_speaks_first_and_when_the_peak_grows(caplog):
    kept = {}

    def grow(step):
        if step in (8, 11):  # the second iterations of the third and fourth epoch
            kept["now"] = torch.zeros(4 * N)

    with caplog.at_level(logging.INFO, logger="monai_idm"):
        make_scaled(PeakMemoryHandler("cpu"), at_step=grow, max_epochs=4).run()
    shown = [line.partition("_peak")[0] for line in lines(caplog)]
    assert shown == ["epoch 1, memory: live", "epoch 3, memory: live"]


def test_an_error_in_the_measured_iteration_ends_the_count_and_reaches_the_saver_of_the_last_checkpoint(tmp_path):
    def fail(step):
        if step == 2:
            raise ArithmeticError("on purpose")

    saver = CheckpointSaver(str(tmp_path), {"network": torch.nn.Linear(1, 1)}, save_final=True)
    with pytest.raises(ArithmeticError, match="on purpose"):
        make_scaled(PeakMemoryHandler("cpu"), saver, at_step=fail).run()
    assert _get_current_dispatch_mode_stack() == []
    assert list(tmp_path.glob("*.pt"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda_the_epoch_is_measured_and_validation_after_it_is_not(tmp_path):
    class Greedy:
        def run(self, epoch):
            torch.zeros(64 * N, device="cuda")

    handler = ValidationHandler(1, None)
    handler.validator = Greedy()
    file = tmp_path / "memory.csv"
    trainer = make_scaled(handler, PeakMemoryHandler("cuda", file))
    trainer.network.cuda()
    trainer.state.device = torch.device("cuda")
    trainer.run()
    for row in rows(file):
        assert 4 * MIB <= float(row["allocated_peak_gib"]) * 2**30 < 64 * MIB
        assert float(row["reserved_peak_gib"]) >= float(row["allocated_peak_gib"])
