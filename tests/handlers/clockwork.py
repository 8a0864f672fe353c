"""A small trainer whose clock and energy are advanced by hand, and helpers that read what its handlers write."""

import csv

import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from torch import nn

STEP_S, STEP_J = 4.0, 100.0


class Clock:
    """The time in seconds, and the joules spent so far."""

    now_s, spent_j = 100.0, 0.0

    def __call__(self):
        return self.now_s

    def work(self, steps=1):
        self.now_s += steps * STEP_S
        self.spent_j += steps * STEP_J


class Loader:
    """Batches that take time to arrive: every epoch waits for its start and each batch, the first one differently."""

    def __init__(self, clock, batches=range(3), first_s=0.0, later_s=0.0, start_s=0.0):
        self.clock, self.batches = clock, batches
        self.wait_s, self.later_s, self.start_s = first_s, later_s, start_s

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        self.clock.now_s += self.start_s
        wait_s, self.wait_s = self.wait_s, self.later_s
        for batch in self.batches:
            self.clock.now_s += wait_s
            yield batch


class FakeMeter:
    """Reads what the clock has spent since ``start``; must be started and stopped in turn, like the real one."""

    available, reason, source = True, None, "energy counter"

    def __init__(self, clock):
        self.clock = clock
        self.running, self.reads, self.absent = False, 0, set()

    @property
    def elapsed_s(self):
        return self.clock.now_s - self._start_s

    def start(self):
        assert not self.running
        self.running = True
        self._start_s, self._start_j = self.clock.now_s, self.clock.spent_j

    def read(self):
        assert self.running
        self.reads += 1
        figures = {
            "energy_j": self.clock.spent_j - self._start_j,
            "mean_power_w": STEP_J / STEP_S,
            "max_temperature_c": 61.0,
            "mean_utilisation_percent": 95.0,
            "duration_s": self.elapsed_s,
        }
        return {name: value for name, value in figures.items() if name not in self.absent}

    def stop(self):
        figures, self.running = self.read(), False
        return figures


class Working(nn.Module):
    """A few parameters; each forward pass advances the clock by a step."""

    def __init__(self, work, parameters):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(parameters))
        self.work = work

    def forward(self, x):
        self.work()
        return x * self.weight


def make_trainer(clock, handlers, max_epochs=2, samples=(2, 2, 1), parameters=10, wait_s=0.0):
    """MONAI's trainer, with a batch for each number of samples."""
    network = Working(clock.work, parameters)
    batches = [{"image": torch.ones(n, parameters), "label": torch.zeros(n, parameters)} for n in samples]
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=max_epochs,
        train_data_loader=Loader(clock, batches, wait_s, wait_s),
        network=network,
        optimizer=torch.optim.AdamW(network.parameters(), foreach=False),
        loss_function=nn.MSELoss(),
        optim_set_to_none=True,
        train_handlers=handlers,
    )


class On:
    """A handler that does something at an event, by default the end of an epoch."""

    def __init__(self, act, event=Events.EPOCH_COMPLETED):
        self.act, self.event = act, event

    def attach(self, engine):
        engine.add_event_handler(self.event, self.act)


class Seen(On):
    """Collects the metrics at every occurrence of an event."""

    def __init__(self, event=Events.EPOCH_COMPLETED):
        self.metrics = []
        super().__init__(lambda engine: self.metrics.append(dict(engine.state.metrics)), event)


def rows(file):
    if not file.exists():
        return []
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def lines(caplog):
    return [record.getMessage() for record in caplog.records if record.name.startswith("monai_idm")]
