"""Energy of small trainers, by a fake meter: over which windows, and per step, sample and parameter."""

import logging

import pytest
import torch
from ignite.engine import Engine, Events

from monai_idm.handlers.energy import FIGURES, EnergyHandler
from tests.handlers.clockwork import FakeMeter, On, Seen, lines, make_trainer, rows


@pytest.fixture
def meter(clock):
    return FakeMeter(clock)


@pytest.fixture(autouse=True)
def _info(caplog):
    caplog.set_level(logging.INFO, logger="monai_idm")


def test_the_first_two_minutes_of_training_and_the_run_have_a_line_each(clock, meter, caplog):
    spend_more = On(lambda engine: clock.work(steps=50))  # outside the measured windows
    # 12 s and 5 samples per epoch: 120 s are the end of the tenth
    make_trainer(clock, [EnergyHandler("cpu", meter=meter), spend_more], max_epochs=15).run()
    shares = "25 W, 100 J per step, 60 J per sample"
    misleading = "(misleading: at equal energy a larger network looks better)"
    by = "by energy counter"
    assert lines(caplog) == [
        f"energy of training, the first 120 s, {by}: {shares}, 300 J per parameter {misleading}",
        f"energy of training, the whole run, {by}: {shares}, 450 J per parameter {misleading}",
    ]


def test_the_first_two_minutes_may_end_within_an_epoch(clock, meter, caplog):
    make_trainer(clock, [EnergyHandler("cpu", first_s=17, meter=meter)], max_epochs=3).run()
    # five steps; the first three with 5 samples, then 2 and 2
    assert lines(caplog)[0].startswith(
        "energy of training, the first 20 s, by energy counter: 25 W, 100 J per step, 55.56 J per sample, 50 J per p"
    )
    assert len(lines(caplog)) == 2


def test_the_device_is_asked_once_an_epoch_and_once_for_the_first_minutes(clock, meter):
    make_trainer(clock, [EnergyHandler("cpu", first_s=1, meter=meter)], max_epochs=3, samples=[1] * 50).run()
    assert meter.reads == 3 + 1


def test_a_figure_that_one_epoch_lacks_is_empty_not_zero_and_not_the_last_one(clock, meter, tmp_path, caplog):
    file = tmp_path / "energy.csv"

    def lose_energy(engine):
        meter.absent = {"energy_j", "mean_power_w"} if engine.state.epoch == 1 else set()

    seen = Seen()
    make_trainer(clock, [EnergyHandler("cpu", file, meter=meter), On(lose_energy), seen], max_epochs=3).run()
    figures = set(FIGURES)
    assert [set(metrics) for metrics in seen.metrics] == [figures, set(FIGURES[3:]), figures]
    assert [row["energy_j_per_step"] for row in rows(file)] == ["100", "", "100"]
    assert [row["mean_power_w"] for row in rows(file)] == ["25", "", "25"]
    # the steps of the epoch without energy do not dilute the energy of the others
    assert "100 J per step, 60 J per sample, 60 J per parameter" in lines(caplog)[-1]


@pytest.mark.parametrize("rank", [0, 1])
def test_where_energy_is_unavailable_one_line_says_why_and_nothing_is_written(
    clock, tmp_path, caplog, monkeypatch, rank
):
    monkeypatch.setattr("ignite.distributed.get_rank", lambda: rank)
    file = tmp_path / "energy.csv"
    trainer = make_trainer(clock, [EnergyHandler("cpu", file)])
    trainer.run()
    assert lines(caplog) == ["energy: unavailable (cpu is not an NVIDIA GPU)"] * (rank == 0)
    assert trainer.state.metrics == {}
    assert not file.exists()


@pytest.mark.parametrize(("stop", "rows_of_it"), [(Engine.terminate, 0), (Engine.terminate_epoch, 1)])
def test_a_run_stopped_within_an_epoch_counts_what_it_did(clock, meter, tmp_path, caplog, stop, rows_of_it):
    file = tmp_path / "energy.csv"
    trainer = make_trainer(clock, [EnergyHandler("cpu", file, meter=meter)], max_epochs=1)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=2), stop)
    trainer.run()
    assert not meter.running
    assert "100 J per step, 50 J per sample, 20 J per parameter" in lines(caplog)[-1]
    assert trainer.state.metrics["energy_j_per_sample"] == 50
    assert [row["energy_j_per_sample"] for row in rows(file)] == ["50"] * rows_of_it


@pytest.mark.parametrize(
    ("batch", "samples"),
    [
        (torch.ones(4, 3), 4),
        ({"case": ["a", "b"], "scale": torch.tensor(1.0), "image": torch.ones(2, 3)}, 2),
        ((torch.ones(5, 3), torch.zeros(5)), 5),
        ([{"image": [torch.ones(3)]}], 3),
    ],
)
def test_the_first_tensor_of_a_batch_tells_its_samples(clock, meter, caplog, batch, samples):
    engine = Engine(lambda engine, batch: clock.work())
    EnergyHandler("cpu", meter=meter).attach(engine)
    engine.run([batch, batch])
    assert lines(caplog)[-1].endswith(f"100 J per step, {100 / samples:.4g} J per sample")  # no network, no parameters


def test_a_batch_without_tensors_has_a_bill_per_step_only(clock, meter, caplog):
    engine = Engine(lambda engine, batch: clock.work())
    EnergyHandler("cpu", meter=meter).attach(engine)
    engine.run(iter(["a", "b", "c"]), max_epochs=1)  # of unknown length
    assert "energy_j_per_sample" not in engine.state.metrics
    assert engine.state.metrics["energy_j_per_step"] == 100
    assert lines(caplog)[-1].endswith("25 W, 100 J per step")
