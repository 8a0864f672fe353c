"""QUALITY.md: tasks on real brains."""

from __future__ import annotations

from collections.abc import Sequence

from tests.docs.evidence.kinds import Evidence, Table
from tests.docs.evidence.results import study

FOUND = study("brain_tasks")
TITLES = {"semantic": "brain from its labels", "inpainting": "inpainting", "super_resolution": "thin slices from thick"}
REGIONS = {"semantic": "brain", "inpainting": "hole", "super_resolution": "brain"}
BASELINES = {
    "semantic": {"lookup": "lookup from labels"},
    "inpainting": {"harmonic": "harmonic fill", "mirrored": "other hemisphere"},
    "super_resolution": {"interpolated": "linear interpolation"},
}


def mean(name: str, method: str, metric: str, steps: int = 20) -> float:
    found = FOUND[name]
    summary = found["summary"] if steps == 20 else found["few_steps"][str(steps)]
    return summary[REGIONS[name.partition(",")[0]]][method][metric]["mean"]


def scores(name: str, method: str, steps: int = 20) -> list[str]:
    return [f"{mean(name, method, 'psnr', steps):.2f}", f"{mean(name, method, 'ssim', steps):.3f}"]


def judged(task: str, few_steps: Sequence[int] = (1, 2, 4)) -> Table:
    return [
        *([f"one draw, {steps} step{'s' * (steps > 1)}", *scores(task, "draw", steps)] for steps in few_steps),
        ["one draw, 20 steps", *scores(task, "draw")],
        ["mean of five draws, 20 steps", *scores(task, "ensemble")],
        ["regression, one pass", *scores(f"{task}, regression", "draw")],
        *([label, *scores(task, name)] for name, label in BASELINES[task].items()),
    ]


def tasks_judged() -> Table:
    table = [["task", "method", "PSNR, dB", "SSIM"]]
    for task, title in TITLES.items():
        table += [[title * (i == 0), *row] for i, row in enumerate(judged(task))]
    return table


def one_task(task: str) -> Table:
    return [[f"15 real brains, in the {REGIONS[task]}", "PSNR, dB", "SSIM"], *judged(task, (1,))]


def tasks_segmented_back() -> Table:
    of = {"real brains": FOUND["semantic"]["dice"]["real"]}
    of |= {"draws": FOUND["semantic"]["dice"]["drawn"], "regression": FOUND["semantic, regression"]["dice"]["drawn"]}
    return [
        ["Dice", *of["draws"]],
        *([name, *(f"{dice:.2f}" for dice in found.values())] for name, found in of.items()),
    ]


def gain(name: str, method: str, baseline: str, metric: str = "psnr", steps: int = 20) -> float:
    return mean(name, method, metric, steps) - mean(name, baseline, metric, steps)


TEXT: list[Evidence] = [
    ("5.2 dB", gain("semantic", "ensemble", "lookup")),
    ("0.07", gain("semantic", "ensemble", "lookup", "ssim")),
    ("2.1 dB", gain("inpainting", "ensemble", "harmonic")),
    ("0.065", gain("inpainting", "ensemble", "harmonic", "ssim")),
    ("2.4 dB", gain("inpainting, regression", "draw", "harmonic")),
    ("19.38 dB", "by hand: without the smooth fill, trained at 5d5374d"),
    ("2.2 dB", gain("super_resolution", "ensemble", "interpolated")),
    ("2.2 dB", gain("super_resolution", "draw", "interpolated", steps=1)),
    ("18.20 dB", "by hand: a flow without the smooth fill, trained at 76344e3"),
    ("1.4 dB", "by hand: a flow, trained at 1b04958"),
    ("3.2 dB", gain("super_resolution, regression", "draw", "interpolated")),
    ("1 dB", "a target"),
    ("0.05", "a target"),
    ("2 dB", "a target"),
    ("0.10", "a target"),
    ("1.5 dB", "a target"),
    ("6 mm", "the default of super_resolution.yaml"),
    ("2.7 mm", "by hand: spacing_mm in the record of the trainings"),
]
