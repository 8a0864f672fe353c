"""Waiting of small engines, by a clock that is moved by hand."""

import csv
import logging

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer

from monai_idm.handlers.data_wait import DataWaitHandler

STEP_S = 2.0


class Clock:
    now_s = 100.0

    def __call__(self):
        return self.now_s

    def pass_time(self, seconds):
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("ignite.handlers.timing.perf_counter", clock)
    return clock


class Loader:
    """Three batches; the first epoch waits for each, and for its start, another time than later ones."""

    def __init__(self, clock, first_s, later_s, start_s=0.0):
        self.clock, self.wait_s, self.later_s, self.start_s = clock, first_s, later_s, start_s

    def __len__(self):
        return 3

    def __iter__(self):
        self.clock.pass_time(self.start_s)
        wait_s, self.wait_s = self.wait_s, self.later_s
        for n in range(3):
            self.clock.pass_time(wait_s)
            yield n


def make_engine(clock, file=None):
    engine = Engine(lambda engine, batch: clock.pass_time(STEP_S))
    DataWaitHandler(file).attach(engine)
    return engine


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_waiting_is_counted_per_epoch_and_as_a_share_of_it(clock):
    seen = []
    engine = Engine(lambda engine, batch: clock.pass_time(STEP_S))
    see = {"event_name": Events.EPOCH_COMPLETED, "handler": lambda e: seen.append(dict(e.state.metrics))}
    engine.add_event_handler(**see)  # attached before, sees the figures all the same
    DataWaitHandler().attach(engine)
    engine.add_event_handler(**see)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda e: clock.pass_time(1000))  # validation
    engine.run(Loader(clock, 2.0, 0.5), max_epochs=3)
    first = {"data_wait_s": 6.0, "data_wait_percent": 50.0}
    later = {"data_wait_s": 1.5, "data_wait_percent": 20.0}
    assert seen == [first, first, later, later, later, later]


def test_the_start_of_a_loader_within_an_epoch_is_waiting_too(clock):
    engine = make_engine(clock)
    engine.run(Loader(clock, 0.0, 0.0, start_s=2.0), max_epochs=2)
    assert engine.state.metrics == {"data_wait_s": 2.0, "data_wait_percent": 25.0}


def test_monais_trainer_has_the_figures_in_its_metrics(clock):
    network = torch.nn.Linear(2, 1)
    network.register_forward_hook(lambda *_: clock.pass_time(STEP_S))

    class Batches(Loader):
        def __iter__(self):
            for _ in super().__iter__():
                yield {"image": torch.ones(1, 2), "label": torch.ones(1, 1)}

    trainer = SupervisedTrainer(
        torch.device("cpu"),
        2,
        Batches(clock, 1.0, 1.0),
        network,
        torch.optim.SGD(network.parameters(), 0.1),
        torch.nn.MSELoss(),
        train_handlers=[DataWaitHandler()],
    )
    trainer.run()
    assert trainer.state.metrics == {"data_wait_s": 3.0, "data_wait_percent": pytest.approx(100 / 3)}


def test_one_warning_names_the_way_out(clock, caplog):
    make_engine(clock).run(Loader(clock, 0.0, 2.0), max_epochs=4)
    assert warnings(caplog) == [
        "epoch 2 waited for data for 6 s, 50 % of its time; give the DataLoader more num_workers, "
        "or keep preprocessed volumes in memory with CacheDataset"
    ]


@pytest.mark.parametrize(("first_s", "later_s"), [(50.0, 0.0), (50.0, 0.1)])
def test_neither_the_first_epoch_nor_less_than_five_percent_warns(clock, caplog, first_s, later_s):
    engine = make_engine(clock)
    for _ in range(2):  # a second run fills its caches again
        engine.run(Loader(clock, first_s, later_s), max_epochs=3)
    assert warnings(caplog) == []


def test_an_engine_without_data_waits_for_none(clock, caplog):
    engine = make_engine(clock)
    engine.run(epoch_length=3, max_epochs=2)
    assert engine.state.metrics == {"data_wait_s": 0.0, "data_wait_percent": 0.0}


def test_an_epoch_without_an_iteration_has_no_figures(clock, tmp_path):
    file = tmp_path / "wait.csv"
    engine = make_engine(clock, file)
    engine.add_event_handler(Events.GET_BATCH_STARTED, lambda e: e.state.epoch == 1 and e.terminate_epoch())
    engine.run(Loader(clock, 1.0, 1.0), max_epochs=2)
    with file.open(newline="") as stream:
        assert [row["epoch"] for row in csv.DictReader(stream)] == ["2"]


def test_a_row_per_epoch_is_in_the_file(clock, tmp_path):
    file = tmp_path / "made" / "wait.csv"
    make_engine(clock, str(file)).run(Loader(clock, 2.0, 0.5), max_epochs=2)
    assert file.read_text().splitlines() == ["epoch,iteration,data_wait_s,data_wait_percent", "1,3,6,50", "2,6,1.5,20"]


def test_only_the_first_process_warns_and_writes(clock, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("monai_idm.handlers.data_wait.idist.get_rank", lambda: 1)
    file = tmp_path / "wait.csv"
    engine = make_engine(clock, file)
    engine.run(Loader(clock, 2.0, 2.0), max_epochs=2)
    assert engine.state.metrics["data_wait_percent"] == 50
    assert warnings(caplog) == []
    assert not file.exists()
