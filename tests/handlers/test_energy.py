"""Energy of small trainers, told by a meter that is made up: which windows, per what, and where it is written."""

import csv
import logging

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from monai.handlers import ValidationHandler

from monai_idm.handlers.energy import FIGURES, EnergyHandler

STEP_S, STEP_J = 4.0, 100.0


class FakeMeter:
    """Reads what the work below has spent since ``start``; opens and closes in turn, as the real one."""

    available, reason, source = True, None, "energy counter"

    def __init__(self):
        self.now_s = self.spent_j = 0.0
        self.running = False
        self.absent = set()
        self.reads = 0

    def work(self, steps=1):
        self.now_s += steps * STEP_S
        self.spent_j += steps * STEP_J

    @property
    def elapsed_s(self):
        return self.now_s - self._start[0]

    def start(self):
        assert not self.running
        self.running = True
        self._start = (self.now_s, self.spent_j)

    def read(self):
        assert self.running
        self.reads += 1
        figures = {
            "energy_j": self.spent_j - self._start[1],
            "mean_power_w": STEP_J / STEP_S,
            "max_temperature_c": 61.0,
            "mean_utilisation_percent": 95.0,
            "duration_s": self.elapsed_s,
        }
        return {name: value for name, value in figures.items() if name not in self.absent}

    def stop(self):
        figures = self.read()
        self.running = False
        return figures


class Working(torch.nn.Module):
    """Ten parameters, and energy spent in each forward pass."""

    def __init__(self, meter):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(10))
        self.meter = meter

    def forward(self, x):
        self.meter.work()
        return x * self.weight


def make_trainer(meter, handlers, batches=3, max_epochs=2):
    """MONAI's trainer with batches of 2, 2 and 1 samples."""
    network = Working(meter)
    sizes = [2 if n < batches - 1 else 1 for n in range(batches)]
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=max_epochs,
        train_data_loader=[{"image": torch.ones(n, 10), "label": torch.zeros(n, 10)} for n in sizes],
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.1),
        loss_function=torch.nn.MSELoss(),
        train_handlers=handlers,
    )


class AtEpochsEnd:
    def __init__(self, act):
        self.act = act

    def attach(self, engine):
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.act)


def rows(file):
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def lines(caplog):
    return [record.getMessage() for record in caplog.records if record.name.startswith("monai_idm")]


@pytest.fixture
def meter():
    return FakeMeter()


@pytest.fixture(autouse=True)
def _info(caplog):
    caplog.set_level(logging.INFO, logger="monai_idm")


def test_figures_stand_in_the_metrics_before_any_handler_of_the_epochs_end(meter):
    seen = []
    see = AtEpochsEnd(lambda engine: seen.append(dict(engine.state.metrics)))
    make_trainer(meter, [see, EnergyHandler("cpu", meter=meter), see]).run()
    expected = {
        "energy_j_per_step": 100,
        "energy_j_per_sample": 300 / 5,
        "mean_power_w": 25,
        "max_temperature_c": 61,
        "mean_utilisation_percent": 95,
    }
    assert seen == [expected] * 4
    assert tuple(expected) == FIGURES


@pytest.mark.parametrize("first", [True, False])
def test_validation_at_the_epochs_end_stays_outside(meter, caplog, first):
    class Validator:
        def run(self, epoch):
            meter.work(steps=50)

    validation = ValidationHandler(1, None)
    validation.validator = Validator()
    energy = EnergyHandler("cpu", meter=meter)
    trainer = make_trainer(meter, [validation, energy] if first else [energy, validation])
    trainer.run()
    assert trainer.state.metrics["energy_j_per_step"] == 100
    assert "100 J per step" in lines(caplog)[-1]


def test_the_first_two_minutes_of_training_and_the_run_have_a_line_each(meter, caplog):
    spend_more = AtEpochsEnd(lambda engine: setattr(meter, "spent_j", meter.spent_j + 1e4))  # outside of windows
    # 12 s and 5 samples per epoch: 120 s are the end of the tenth
    make_trainer(meter, [EnergyHandler("cpu", meter=meter), spend_more], max_epochs=15).run()
    shares = "25 W, 100 J per step, 60 J per sample"
    misleading = "(misleading: a larger network looks better for the same bill)"
    by = "by energy counter"
    assert lines(caplog) == [
        f"energy of training, the first 120 s, {by}: {shares}, 300 J per parameter {misleading}",
        f"energy of training, the whole run, {by}: {shares}, 450 J per parameter {misleading}",
    ]


def test_the_first_two_minutes_may_end_within_an_epoch(meter, caplog):
    make_trainer(meter, [EnergyHandler("cpu", first_s=17, meter=meter)], max_epochs=3).run()
    # five steps; the first three with 5 samples, then 2 and 2
    assert lines(caplog)[0].startswith(
        "energy of training, the first 20 s, by energy counter: 25 W, 100 J per step, 55.56 J per sample, 50 J per p"
    )
    assert len(lines(caplog)) == 2


def test_the_device_is_asked_once_an_epoch_and_once_for_the_first_minutes(meter):
    make_trainer(meter, [EnergyHandler("cpu", first_s=1, meter=meter)], batches=50, max_epochs=3).run()
    assert meter.reads == 3 + 1


def test_rows_are_appended_with_one_header_also_by_a_resumed_run(meter, tmp_path):
    file = tmp_path / "made" / "energy.csv"
    make_trainer(meter, [EnergyHandler("cpu", file, meter=meter)]).run()
    resumed = make_trainer(meter, [EnergyHandler("cpu", str(file), meter=meter)], max_epochs=3)
    resumed.state.epoch, resumed.state.iteration = 2, 6
    resumed.run()
    assert [(row["epoch"], row["iteration"]) for row in rows(file)] == [("1", "3"), ("2", "6"), ("3", "9")]
    assert list(rows(file)[0].values()) == ["1", "3", "100", "60", "25", "61", "95"]
    assert list(rows(file)[0]) == ["epoch", "iteration", *FIGURES]


def test_a_file_with_other_columns_is_not_spoiled(meter, tmp_path):
    file = tmp_path / "energy.csv"
    file.write_text("epoch,iteration,live_peak_gib\n1,3,1.0\n")
    with pytest.raises(ValueError, match=r"this run writes epoch, iteration, energy_j_per_step.*another name"):
        make_trainer(meter, [EnergyHandler("cpu", file, meter=meter)]).run()
    assert len(file.read_text().splitlines()) == 2


def test_a_figure_that_one_epoch_lacks_is_empty_not_zero_and_not_the_last_one(meter, tmp_path, caplog):
    file = tmp_path / "energy.csv"

    def lose_energy(engine):
        meter.absent = {"energy_j", "mean_power_w"} if engine.state.epoch == 1 else set()

    trainer = make_trainer(meter, [EnergyHandler("cpu", file, meter=meter), AtEpochsEnd(lose_energy)], max_epochs=3)
    seen = []
    AtEpochsEnd(lambda engine: seen.append(set(engine.state.metrics))).attach(trainer)
    trainer.run()
    assert seen == [set(FIGURES), {"max_temperature_c", "mean_utilisation_percent"}, set(FIGURES)]
    assert [row["energy_j_per_step"] for row in rows(file)] == ["100", "", "100"]
    assert [row["mean_power_w"] for row in rows(file)] == ["25", "", "25"]
    # the steps of the epoch without energy do not share in the bill of the others
    assert "100 J per step, 60 J per sample, 60 J per parameter" in lines(caplog)[-1]


def test_where_energy_is_unavailable_one_line_says_why_and_nothing_is_written(tmp_path, caplog):
    file = tmp_path / "energy.csv"
    trainer = make_trainer(FakeMeter(), [EnergyHandler("cpu", file)])
    trainer.run()
    assert lines(caplog) == ["energy: unavailable (cpu is not an NVIDIA GPU)"]
    assert set(FIGURES).isdisjoint(trainer.state.metrics)
    assert not file.exists()


def test_only_the_first_process_logs_and_writes(meter, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("monai_idm.handlers.energy.idist.get_rank", lambda: 1)
    file = tmp_path / "energy.csv"
    trainer = make_trainer(meter, [EnergyHandler("cpu", file, first_s=1, meter=meter), EnergyHandler("cpu")])
    trainer.run()
    assert trainer.state.metrics["energy_j_per_step"] == 100
    assert lines(caplog) == []
    assert not file.exists()


@pytest.mark.parametrize("stop", [Engine.terminate, Engine.terminate_epoch])
def test_a_run_stopped_within_an_epoch_counts_what_it_did(meter, caplog, stop):
    trainer = make_trainer(meter, [EnergyHandler("cpu", meter=meter)], max_epochs=1)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=2), stop)
    trainer.run()
    assert not meter.running
    assert "100 J per step, 50 J per sample, 20 J per parameter" in lines(caplog)[-1]


def test_an_epoch_that_ends_before_its_time_has_its_figures(meter, tmp_path):
    file = tmp_path / "energy.csv"
    trainer = make_trainer(meter, [EnergyHandler("cpu", file, meter=meter)])
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=1), Engine.terminate_epoch)
    trainer.run()
    assert [(row["energy_j_per_step"], row["energy_j_per_sample"]) for row in rows(file)] == [
        ("100", "50"),
        ("100", "60"),
    ]


def test_a_run_after_one_that_broke_off_starts_from_nothing(meter, caplog):
    handler = EnergyHandler("cpu", meter=meter)
    broken = make_trainer(meter, [handler])
    broken.add_event_handler(Events.ITERATION_COMPLETED(once=5), lambda engine: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        broken.run()
    assert meter.running
    make_trainer(meter, [handler], max_epochs=1).run()
    assert "30 J per parameter" in lines(caplog)[-1]


@pytest.mark.parametrize(
    ("batch", "samples"),
    [
        (torch.ones(4, 3), 4),
        ({"case": ["a", "b"], "scale": torch.tensor(1.0), "image": torch.ones(2, 3)}, 2),
        ((torch.ones(5, 3), torch.zeros(5)), 5),
        ([{"image": [torch.ones(3)]}], 3),
    ],
)
def test_the_first_tensor_of_a_batch_tells_its_samples(meter, caplog, batch, samples):
    engine = Engine(lambda engine, batch: meter.work())
    EnergyHandler("cpu", meter=meter).attach(engine)
    engine.run([batch, batch])
    assert lines(caplog)[-1].endswith(f"100 J per step, {100 / samples:.4g} J per sample")  # no network, no parameters


def test_a_batch_without_tensors_has_a_bill_per_step_only(meter, caplog):
    engine = Engine(lambda engine, batch: meter.work())
    EnergyHandler("cpu", meter=meter).attach(engine)
    engine.run(iter(["a", "b", "c"]), max_epochs=1)  # of unknown length
    assert "energy_j_per_sample" not in engine.state.metrics
    assert engine.state.metrics["energy_j_per_step"] == 100
    assert lines(caplog)[-1].endswith("25 W, 100 J per step")
