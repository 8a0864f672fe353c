"""Laws of every handler that measures a trainer's epochs: when figures are published, where, by which process."""

import logging
from unittest.mock import ANY, Mock

import pytest
import torch
from ignite.engine import Engine, Events
from monai.handlers import StatsHandler, TensorBoardStatsHandler

from monai_idm.handlers import DataWaitHandler, EnergyHandler, PeakMemoryHandler
from tests.handlers.clockwork import FakeMeter, Loader, On, Seen, lines, make_trainer, rows

WAIT_S = 4.0  # for each batch, as long as a step takes


class FakeAllocator(FakeMeter):
    counts_storages = False

    def read(self):
        peak = super().read()["energy_j"]
        return {"allocated_peak_gib": peak, "reserved_peak_gib": 2 * peak}


def counted_memory(clock, file=None):
    return PeakMemoryHandler("cpu", file)


def allocated_memory(clock, file=None):
    handler = PeakMemoryHandler("cpu", file)
    handler.meter = FakeAllocator(clock)
    return handler


def energy(clock, file=None):
    return EnergyHandler("cpu", file, meter=FakeMeter(clock))


def waiting(clock, file=None):
    return DataWaitHandler(file)


FIGURES = {  # of each epoch, in the order of the columns
    counted_memory: {"live_peak_gib": ANY, "process_peak_gib": 1.5},
    allocated_memory: {"allocated_peak_gib": 300.0, "reserved_peak_gib": 600.0},
    energy: {
        "energy_j_per_step": 100.0,
        "energy_j_per_sample": 60.0,
        "mean_power_w": 25.0,
        "max_temperature_c": 61.0,
        "mean_utilisation_percent": 95.0,
    },
    waiting: {"data_wait_s": 12.0, "data_wait_percent": 50.0},
}


@pytest.fixture(params=FIGURES, ids=lambda make: make.__name__)
def make(request):
    return request.param


@pytest.fixture(autouse=True)
def _quick_and_repeatable(monkeypatch, caplog):
    monkeypatch.setattr("monai_idm.meters.memory._process_peak", lambda: {"process_peak_gib": 1.5})
    monkeypatch.setattr("os.fsync", lambda _: None)  # most of the time of a row
    caplog.set_level(logging.INFO, logger="monai_idm")


def run(clock, *handlers, max_epochs=2, epoch=0):
    """Two batches of two samples and one of one in each epoch."""

    def step(engine, batch):
        clock.work()
        return batch + 1

    engine = Engine(step)
    for handler in handlers:
        handler.attach(engine)
    batches = Loader(clock, [torch.ones(n, 10) for n in (2, 2, 1)], WAIT_S, WAIT_S)
    engine.state.epoch, engine.state.iteration = epoch, 3 * epoch
    engine.run(batches, max_epochs)
    return engine


def test_every_handler_of_the_end_of_an_epoch_sees_its_figures(make, clock):
    handler, before, after = make(clock), Seen(), Seen()
    run(clock, before, handler, after)
    assert before.metrics == after.metrics == [FIGURES[make]] * 2
    assert not hasattr(handler, "meter") or not handler.meter.running


def test_monais_trainer_has_the_figures_and_its_own_handlers_show_them(make, clock, capsys):
    writer = Mock()
    stats = StatsHandler(iteration_log=False, name=make.__name__)  # a logger keeps the stdout of its first test
    handlers = [TensorBoardStatsHandler(writer, iteration_log=False), make(clock), stats]
    trainer = make_trainer(clock, handlers, wait_s=WAIT_S)
    trainer.run()
    assert trainer.state.metrics == FIGURES[make]
    shown = capsys.readouterr().out.partition("Epoch[2] Metrics -- ")[2]
    assert all(f"{name}: " in shown for name in FIGURES[make])
    assert set(FIGURES[make]) <= {call.args[0] for call in writer.add_scalar.call_args_list}


def test_a_row_with_the_figures_is_in_the_file_as_soon_as_an_epoch_ends(make, clock, tmp_path):
    file, num_earlier = tmp_path / "made" / "figures.csv", []

    def compare(engine):
        *earlier, row = rows(file)
        now = {"epoch": engine.state.epoch, "iteration": engine.state.iteration, **engine.state.metrics}
        assert row == {name: f"{value:.6g}" for name, value in now.items()}
        num_earlier.append(len(earlier))

    run(clock, make(clock, str(file)), On(compare))
    assert num_earlier == [0, 1]
    assert list(rows(file)[0]) == ["epoch", "iteration", *FIGURES[make]]


def test_a_resumed_run_appends_and_replaces_rows_later_than_its_checkpoint(make, clock, tmp_path):
    file = tmp_path / "figures.csv"
    run(clock, make(clock, file))
    header_and_two = file.read_text().splitlines()
    with file.open("a") as stream:
        stream.write("\n2\n2,six,1,1\n")  # lines that are not rows do not end a run
    for max_epochs in (4, 3):
        run(clock, make(clock, file), max_epochs=max_epochs, epoch=2)
        assert file.read_text().splitlines()[:3] == header_and_two
        assert [row["epoch"] for row in rows(file)] == ["1", "2", "3", "4"][:max_epochs]


def test_a_file_with_other_columns_is_not_spoiled(make, clock, tmp_path):
    file = tmp_path / "figures.csv"
    file.write_text("epoch,iteration,other\n1,3,1.0\n")
    writes = ", ".join(FIGURES[make])
    with pytest.raises(ValueError, match=f"has the columns .*other, this run writes epoch, .*{writes}; .*another name"):
        run(clock, make(clock, file))
    assert file.read_text() == "epoch,iteration,other\n1,3,1.0\n"


@pytest.mark.parametrize("rank", [0, 1])
def test_only_the_first_process_logs_and_writes(make, clock, tmp_path, caplog, monkeypatch, rank):
    monkeypatch.setattr("ignite.distributed.get_rank", lambda: rank)
    file = tmp_path / "figures.csv"
    handler = make(clock, file)
    assert run(clock, handler).state.metrics == FIGURES[make]
    assert file.exists() == (rank == 0)
    logged_by = {record.name for record in caplog.records if record.name.startswith("monai_idm")}
    assert logged_by == ({type(handler).__module__} if rank == 0 else set())


def test_what_other_handlers_do_at_the_end_of_an_epoch_is_not_measured(make, clock, tmp_path):
    def validate(engine):
        clock.work(steps=50)
        torch.zeros(1000)

    quiet, disturbed = tmp_path / "quiet.csv", tmp_path / "disturbed.csv"
    run(clock, make(clock, quiet))
    run(clock, On(validate), make(clock, disturbed), On(validate))
    assert disturbed.read_text() == quiet.read_text()


def test_an_epoch_that_breaks_off_leaves_nothing(make, clock, tmp_path, caplog):
    file, undisturbed = tmp_path / "figures.csv", tmp_path / "undisturbed.csv"
    run(clock, make(clock, undisturbed))
    logged = lines(caplog)
    handler, starting = make(clock, file), Seen(Events.EPOCH_STARTED)
    for iteration in (5, 6):  # within the second epoch, and once it has been measured
        with pytest.raises(ZeroDivisionError):
            run(clock, handler, starting, On(lambda engine: 1 / 0, Events.ITERATION_COMPLETED(once=iteration)))
        assert [row["epoch"] for row in rows(file)] == ["1"]
    caplog.clear()
    run(clock, handler, starting)
    assert starting.metrics == [{}] * 6
    assert file.read_text() == undisturbed.read_text()
    assert set(lines(caplog)) <= set(logged)  # the peak of memory has been logged before


def test_an_epoch_that_ends_before_its_time_has_a_row(make, clock, tmp_path):
    file = tmp_path / "figures.csv"
    run(clock, make(clock, file), On(Engine.terminate_epoch, Events.ITERATION_COMPLETED(once=2)))
    assert [(row["epoch"], row["iteration"]) for row in rows(file)] == [("1", "2"), ("2", "5")]
    assert all("" not in row.values() for row in rows(file))
