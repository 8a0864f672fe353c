"""Peak memory of small trainers: what is measured, where it is written, and that nothing is swallowed."""

import csv
import logging

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.handlers import CheckpointSaver, StatsHandler, TensorBoardStatsHandler, ValidationHandler
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils.tensorboard import SummaryWriter

from monai_idm.handlers import PeakMemoryHandler

MIB = 2**20
N = MIB // 4


class Scaled(torch.nn.Module):
    """One parameter of 1 MiB, so that bytes can be told by hand."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(N))

    def forward(self, x):
        return x * self.weight


def make_trainer(handlers, batches=3, max_epochs=2, network=None):
    network = network or Scaled()
    data = [{"image": torch.ones(1, N), "label": torch.zeros(1, N)} for _ in range(batches)]
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=max_epochs,
        train_data_loader=data,
        network=network,
        optimizer=torch.optim.AdamW(network.parameters(), foreach=False),
        loss_function=torch.nn.MSELoss(),
        optim_set_to_none=True,
        train_handlers=handlers,
    )


class Seen:
    """A handler that copies the metrics at the end of each epoch."""

    def __init__(self):
        self.epochs = []

    def attach(self, engine):
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda e: self.epochs.append(dict(e.state.metrics)))


def read(file):
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_figures_stand_in_the_metrics_before_any_handler_of_the_epochs_end():
    first, last = Seen(), Seen()
    make_trainer([first, PeakMemoryHandler("cpu"), last]).run()
    assert first.epochs == last.epochs
    assert all(set(epoch) == {"live_peak_gib", "process_peak_gib"} for epoch in first.epochs)


def test_the_count_holds_weights_gradients_states_batch_and_activations():
    seen = Seen()
    make_trainer([PeakMemoryHandler("cpu"), seen]).run()
    one, two = (epoch["live_peak_gib"] * 2**30 / MIB for epoch in seen.epochs)
    # weight, gradient, two moments, image, label; prediction and its gradient; some more in the optimizer
    assert 8 <= one < 12
    assert one == pytest.approx(two, abs=0.01)


def test_the_second_iteration_is_measured_because_the_states_exist_then():
    seen = Seen()
    make_trainer([PeakMemoryHandler("cpu"), seen], batches=1).run()
    first, second = (epoch["live_peak_gib"] * 2**30 / MIB for epoch in seen.epochs)
    longer = Seen()
    make_trainer([PeakMemoryHandler("cpu"), longer], batches=2, max_epochs=1).run()
    assert longer.epochs[0]["live_peak_gib"] * 2**30 / MIB == pytest.approx(second, abs=0.01)
    # with one iteration in the epoch, forward and backward of the first run without the two moments
    assert first <= second


def test_one_iteration_in_each_epoch_is_counted_and_none_beside_it():
    depths = []

    class Spy(Scaled):
        def forward(self, x):
            depths.append(len(_get_current_dispatch_mode_stack()))
            return super().forward(x)

    make_trainer([PeakMemoryHandler("cpu")], batches=4, network=Spy()).run()
    assert depths == [0, 1, 0, 0] * 2


def test_rows_are_appended_with_one_header_also_by_a_resumed_run(tmp_path):
    file = tmp_path / "made" / "memory.csv"
    make_trainer([PeakMemoryHandler("cpu", file)]).run()
    resumed = make_trainer([PeakMemoryHandler("cpu", str(file))], max_epochs=3)
    resumed.state.epoch, resumed.state.iteration = 2, 6
    resumed.run()
    rows = read(file)
    assert [(row["epoch"], row["iteration"]) for row in rows] == [("1", "3"), ("2", "6"), ("3", "9")]
    assert list(rows[0]) == ["epoch", "iteration", "live_peak_gib", "process_peak_gib"]
    assert all(float(row["live_peak_gib"]) > 0 for row in rows)


def test_rows_behind_the_checkpoint_that_a_training_goes_on_from_are_replaced(tmp_path):
    file = tmp_path / "memory.csv"
    make_trainer([PeakMemoryHandler("cpu", file)], max_epochs=4).run()
    killed = read(file)
    resumed = make_trainer([PeakMemoryHandler("cpu", file)], max_epochs=3)
    resumed.state.epoch, resumed.state.iteration = 2, 6
    resumed.run()
    assert [row["epoch"] for row in killed] == ["1", "2", "3", "4"]
    assert [row["epoch"] for row in read(file)] == ["1", "2", "3"]
    assert read(file)[:2] == killed[:2]


def test_lines_that_are_no_rows_do_not_end_a_training(tmp_path):
    file = tmp_path / "memory.csv"
    make_trainer([PeakMemoryHandler("cpu", file)], max_epochs=1).run()
    file.write_text(file.read_text() + "\n2\n2,six,1,1\n")
    resumed = make_trainer([PeakMemoryHandler("cpu", file)], max_epochs=2)
    resumed.state.epoch, resumed.state.iteration = 1, 3
    resumed.run()
    assert [row["epoch"] for row in read(file)] == ["1", "2"]


def test_a_row_is_in_the_file_as_soon_as_its_epoch_ends(tmp_path):
    file = tmp_path / "memory.csv"
    lengths = []

    class Reader(Seen):
        def attach(self, engine):
            engine.add_event_handler(Events.EPOCH_COMPLETED, lambda e: lengths.append(len(read(file))))

    make_trainer([PeakMemoryHandler("cpu", file), Reader()]).run()
    assert lengths == [1, 2]


def test_a_file_with_other_columns_is_not_spoiled(tmp_path):
    file = tmp_path / "memory.csv"
    file.write_text("epoch,iteration,allocated_peak_gib,reserved_peak_gib\n1,3,1.0,2.0\n")
    with pytest.raises(ValueError, match=r"this run writes epoch, iteration, live_peak_gib.*another name"):
        make_trainer([PeakMemoryHandler("cpu", file)]).run()
    assert len(file.read_text().splitlines()) == 2


def test_the_log_speaks_first_and_when_the_peak_grows(caplog):
    class Growing(Scaled):
        steps = 0

        def forward(self, x):
            self.steps += 1
            if self.steps in (8, 11):  # the second iterations of the third and fourth epoch
                self.kept = torch.zeros(4 * N)
            return super().forward(x)

    with caplog.at_level(logging.INFO, logger="monai_idm"):
        make_trainer([PeakMemoryHandler("cpu")], max_epochs=4, network=Growing()).run()
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("monai_idm")]
    assert [line.split(",")[0] for line in lines] == ["epoch 1", "epoch 3"]
    assert "live_peak_gib" in lines[0]


class Failing(Scaled):
    steps = 0

    def forward(self, x):
        self.steps += 1
        if self.steps == 2:
            raise ArithmeticError("on purpose")
        return super().forward(x)


def test_an_error_in_the_measured_iteration_ends_the_count_and_comes_through():
    with pytest.raises(ArithmeticError, match="on purpose"):
        make_trainer([PeakMemoryHandler("cpu")], network=Failing()).run()
    assert _get_current_dispatch_mode_stack() == []


def test_an_error_still_reaches_the_handler_that_saves_the_last_checkpoint(tmp_path):
    network = Failing()
    saver = CheckpointSaver(str(tmp_path), {"network": network}, save_final=True)
    with pytest.raises(ArithmeticError):
        make_trainer([PeakMemoryHandler("cpu"), saver], network=network).run()
    assert list(tmp_path.glob("*.pt"))


def test_monais_own_handlers_show_the_figures(tmp_path, capsys):
    tags = set()

    class Written(SummaryWriter):
        def add_scalar(self, tag, *args, **kwargs):
            tags.add(tag)
            super().add_scalar(tag, *args, **kwargs)

    writer = Written(str(tmp_path))
    stats = StatsHandler(iteration_log=False, name="stats")
    board = TensorBoardStatsHandler(writer, iteration_log=False)
    make_trainer([board, PeakMemoryHandler("cpu"), stats]).run()
    writer.close()
    assert {"live_peak_gib", "process_peak_gib"} <= tags
    assert "Epoch[2] Metrics -- live_peak_gib: " in capsys.readouterr().out


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda_the_epoch_is_measured_and_validation_after_it_is_not(tmp_path):
    class Greedy:
        def run(self, epoch):
            torch.zeros(64 * N, device="cuda")

    handler = ValidationHandler(1, None)
    handler.validator = Greedy()
    file, network = tmp_path / "memory.csv", Scaled().cuda()
    trainer = make_trainer([handler, PeakMemoryHandler("cuda", file)], network=network)
    trainer.state.device = torch.device("cuda")
    trainer.run()
    for row in read(file):
        assert 4 * MIB <= float(row["allocated_peak_gib"]) * 2**30 < 64 * MIB
        assert float(row["reserved_peak_gib"]) >= float(row["allocated_peak_gib"])
