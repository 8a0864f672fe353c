"""How long small engines wait for data, by a clock that is advanced by hand."""

import pytest
from ignite.engine import Engine, Events

from monai_idm.handlers import DataWaitHandler
from tests.handlers.clockwork import Loader, Seen, lines, rows


def make_engine(clock, file=None):
    engine = Engine(lambda engine, batch: clock.work())
    DataWaitHandler(file).attach(engine)
    return engine


def test_waiting_is_counted_per_epoch_and_as_a_share_of_it(clock):
    seen, engine = Seen(), make_engine(clock)
    seen.attach(engine)
    engine.run(Loader(clock, first_s=4.0, later_s=1.0), max_epochs=3)
    later = {"data_wait_s": 3.0, "data_wait_percent": 20.0}
    assert seen.metrics == [{"data_wait_s": 12.0, "data_wait_percent": 50.0}, later, later]


def test_the_figures_are_up_to_date_after_every_iteration(clock):
    seen, engine = Seen(Events.ITERATION_COMPLETED), make_engine(clock)
    seen.attach(engine)
    engine.run(Loader(clock, first_s=1.0))
    assert seen.metrics == [{"data_wait_s": n, "data_wait_percent": 20.0} for n in (1.0, 2.0, 3.0)]


def test_the_start_of_a_loader_within_an_epoch_is_waiting_too(clock):
    engine = make_engine(clock)
    engine.run(Loader(clock, start_s=4.0), max_epochs=2)
    assert engine.state.metrics == {"data_wait_s": 4.0, "data_wait_percent": 25.0}


def test_one_warning_names_the_way_out(clock, caplog):
    make_engine(clock).run(Loader(clock, later_s=4.0), max_epochs=4)
    assert lines(caplog) == [
        "epoch 2 waited for data for 12 s, 50 % of its time; give the DataLoader more num_workers, "
        "or keep preprocessed volumes in memory with CacheDataset"
    ]


@pytest.mark.parametrize(("first_s", "later_s"), [(50.0, 0.0), (50.0, 0.2)])
def test_neither_the_first_epoch_nor_less_than_five_percent_warns(clock, caplog, first_s, later_s):
    engine = make_engine(clock)
    for _ in range(2):  # a second run fills its caches again
        engine.run(Loader(clock, first_s=first_s, later_s=later_s), max_epochs=3)
    assert lines(caplog) == []


def test_an_engine_without_data_waits_for_none(clock):
    engine = make_engine(clock)
    engine.run(epoch_length=3, max_epochs=2)
    assert engine.state.metrics == {"data_wait_s": 0.0, "data_wait_percent": 0.0}


def test_an_epoch_without_an_iteration_has_no_figures(clock, tmp_path):
    file, seen = tmp_path / "wait.csv", Seen()
    engine = make_engine(clock, file)
    seen.attach(engine)
    engine.add_event_handler(Events.GET_BATCH_STARTED, lambda e: e.state.epoch == 2 and e.terminate_epoch())
    engine.run(Loader(clock, first_s=1.0, later_s=1.0), max_epochs=3)
    assert [row["epoch"] for row in rows(file)] == ["1", "3"]
    assert seen.metrics[1] == {}
