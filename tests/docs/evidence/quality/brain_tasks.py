"""QUALITY.md: tasks on real brains."""

from __future__ import annotations

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


def mean(name: str, method: str, metric: str) -> float:
    return FOUND[name]["summary"][REGIONS[name.partition(",")[0]]][method][metric]["mean"]


def tasks_judged() -> Table:
    def scores(name: str, method: str) -> list[str]:
        return [f"{mean(name, method, 'psnr'):.2f}", f"{mean(name, method, 'ssim'):.3f}"]

    table = [["task", "method", "PSNR, dB", "SSIM"]]
    for task, title in TITLES.items():
        table += [
            [title, "mean of five draws", *scores(task, "ensemble")],
            ["", "one draw", *scores(task, "draw")],
            ["", "regression, one pass", *scores(f"{task}, regression", "draw")],
            *(["", label, *scores(task, name)] for name, label in BASELINES[task].items()),
        ]
    return table


def tasks_segmented_back() -> Table:
    of = {"real brains": FOUND["semantic"]["dice"]["real"]}
    of |= {"draws": FOUND["semantic"]["dice"]["drawn"], "regression": FOUND["semantic, regression"]["dice"]["drawn"]}
    return [
        ["Dice", *of["draws"]],
        *([name, *(f"{dice:.2f}" for dice in found.values())] for name, found in of.items()),
    ]


def gain(name: str, method: str, baseline: str, metric: str = "psnr") -> float:
    return mean(name, method, metric) - mean(name, baseline, metric)


TEXT: list[Evidence] = [
    ("5.2 dB", gain("semantic", "ensemble", "lookup")),
    ("0.07", gain("semantic", "ensemble", "lookup", "ssim")),
    ("0.8 dB", gain("inpainting", "ensemble", "harmonic")),
    ("1.4 dB", gain("super_resolution", "ensemble", "interpolated")),
    ("3.2 dB", gain("super_resolution, regression", "draw", "interpolated")),
    ("1 dB", "a target"),
    ("0.05", "a target"),
    ("2 dB", "a target"),
    ("0.10", "a target"),
    ("1.5 dB", "a target"),
    ("6 mm", "the default of super_resolution.yaml"),
    ("2.7 mm", "by hand: spacing_mm in the record of the trainings"),
]
