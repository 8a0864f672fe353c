"""Where each figure on the pages comes from.

``TABLES`` are built from the result files and have to be on their page as they are here, cell by cell. ``ROWS`` are
rows of other tables, found by a word in them. ``TEXT`` lists every other figure: an expression over the result files,
or, where no file has it, the reason why. A figure is a number with decimals, an exponent or a unit (``dB``, ``GB``,
``MB``, ``%``, ``M``); ``TEXT`` may list plain integers too, which then have to be on the page.

When a result file changes, the tests show what the pages have to say; when a sentence goes, its line here goes with it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from idm_bundle.benchmark import Row, read_rows
from idm_bundle.benchmark.bars import BARS, bars
from idm_bundle.verify import EXACT_ON_CUDA
from monai_idm.networks.plan import SHARES
from tests.docs.pages import DOCS

QUALITY = "bundle/docs/QUALITY.md"
BENCHMARKS = "bundle/docs/BENCHMARKS.md"
RELIABILITY = "bundle/docs/RELIABILITY.md"
EVALUATION = "bundle/docs/EVALUATION.md"
KNOBS = "bundle/docs/KNOBS.md"
TASKS = "bundle/docs/TASKS.md"
BUNDLE = "bundle/docs/README.md"
NOTES = "monai_idm/reversible/NOTES.md"

Table = list[list[str]]
READ: set[str] = set()  # result files that were read


class AtMost(float):
    """A bound: a figure that is shown as this value or, rounded up, as a little more."""


# result files


@cache
def content(file: str) -> Any:
    """A JSON file beside the pages."""
    READ.add(file)
    return json.loads((DOCS / file).read_text())


def study(name: str) -> dict[str, Any]:
    """The results of a study, by variant."""
    return content(f"study_{name}.json")["results"]


GPU = content("gpu_h200.json")


@cache
def rows(name: str) -> list[Row]:
    """The rows of a benchmark."""
    READ.add(f"benchmark_{name}.jsonl")
    return read_rows(DOCS / f"benchmark_{name}.jsonl")


def row(name: str, case: str) -> Any:
    """The row of one case."""
    (found,) = (row for row in rows(name) if row.case == case)
    return found


def gb(name: str, case: str) -> float:
    """Peak memory of one case in GB."""
    return row(name, case).peak_bytes / 1e9


def bar(suite: str, what: str) -> Any:
    """What the benchmark prints below its table: a limit and a value, here from the estimated rows."""
    (found,) = (bar for bar in bars(suite, rows(f"{suite}_estimate")) if bar.what == what)
    return found


# units


def million(number: float, digits: int = 1) -> str:
    return f"{number / 1e6:.{digits}f}M"


def mb(mib: float) -> str:
    return f"{mib * 2**20 / 1e6:.0f}"


def squared_error(psnr: float) -> float:
    return 10 ** (-psnr / 10)


# QUALITY.md

PREDICTIONS = {
    "velocity, low noise more often (default)": "v, little noise more often",
    "velocity, uniform": "v, uniform",
    "velocity, uniform, min-SNR weights (5)": "v, uniform, min-SNR 5",
    "velocity, low noise more often, zero terminal SNR": "v, little noise more often, zero terminal SNR",
    "velocity, low noise more often, no weight averaging": "v, little noise more often, no average of weights",
    "noise, uniform (the paper)": "noise, uniform (the paper)",
    "noise, uniform, min-SNR weights (5)": "noise, uniform, min-SNR 5",
    "image, uniform": "image, uniform",
}
SET_METRICS = {
    "mmd_intensity": 1,
    "mmd_texture": 2,
    "mmd_layout": 1,
    "histogram_distance": 3,
    "diversity_ssim": 2,
    "nearest_rmse": 3,
}


def reconstructed(found: dict[str, Any], method: str = "reconstruction") -> list[str]:
    """PSNR and SSIM in the brain from timesteps 250 and 500."""
    return [
        f"{found[t][f'{method}_{metric}_brain']:.{digits}f}"
        for t in ("t250", "t500")
        for metric, digits in (("psnr", 2), ("ssim", 3))
    ]


def blur_and_lookup() -> Table:
    default, chain, t2 = study("quality")[PREDICTIONS[next(iter(PREDICTIONS))]], study("chain"), study("synthesis")
    early, late, t2 = default["t250"], chain["reversible"]["DPM-Solver++, 20 of 2000 steps"], t2["T1 to T2"]["t1"]
    scores = [
        (early["reconstruction_psnr_brain"], early["reconstruction_ssim_brain"]),
        (early["gaussian_blur_psnr_brain"], early["gaussian_blur_ssim_brain"]),
        (late["reconstruction_psnr_brain"], late["reconstruction_ssim_brain"]),
        (late["gaussian_blur_psnr_brain"], late["gaussian_blur_ssim_brain"]),
        (t2["psnr_t2_brain"], t2["ssim_t2_brain"]),
        (t2["lookup_psnr_t2_brain"], t2["lookup_ssim_t2_brain"]),
    ]
    shown = [(f"{psnr:.2f}", f"{ssim:.3f}") for psnr, ssim in scores]
    tasks = {
        "reconstruction from timestep 250 of 2000": "best Gaussian blur",
        "reconstruction from timestep 500 of 2000, trained longer": "best Gaussian blur",
        "T2 from T1, mean of five draws": "best intensity lookup",
    }
    return [
        ["task, 8 test phantoms", "PSNR in the brain, dB", "SSIM", "baseline"],
        *(
            [task, *shown[2 * i], f"{baseline}: {', '.join(shown[2 * i + 1])}"]
            for i, (task, baseline) in enumerate(tasks.items())
        ),
    ]


def predictions_reconstructed() -> Table:
    found = study("quality")
    whole = "_ssim_whole"
    return [
        ["prediction, timesteps", "PSNR 250, dB", "SSIM 250", "PSNR 500, dB", "SSIM 500", "SSIM 500, whole"],
        *(
            [label, *reconstructed(found[name]), f"{found[name]['t500']['reconstruction' + whole]:.3f}"]
            for label, name in PREDICTIONS.items()
        ),
        [
            "best Gaussian blur",
            *reconstructed(found["v, uniform"], "gaussian_blur"),
            f"{found['v, uniform']['t500']['gaussian_blur' + whole]:.3f}",
        ],
    ]


def predictions_sampled() -> Table:
    found = {name: result["generation"] for name, result in study("quality").items()}
    header = ["MMD intensity", "MMD texture", "MMD layout", "histogram distance", "diversity (SSIM)", "nearest RMSE"]
    return [
        ["prediction, timesteps", *header],
        *(
            [label, *(f"{found[name][metric]:.{digits}f}" for metric, digits in SET_METRICS.items())]
            for label, name in PREDICTIONS.items()
        ),
        [
            "training cases instead of samples",
            *(f"{found['v, uniform'][f'real_{metric}']:.{digits}f}" for metric, digits in SET_METRICS.items()),
        ],
    ]


def samplers() -> Table:
    found = study("chain")["reversible"]

    def scores(result: dict[str, float], method: str = "reconstruction") -> list[str]:
        return [
            f"{result[f'{method}_psnr_brain']:.2f}",
            *(f"{result[f'{method}_ssim_{region}']:.4f}" for region in ("brain", "whole")),
        ]

    any_of = next(iter(found.values()))
    return [
        ["sampler", "steps", "PSNR, brain", "SSIM, brain", "SSIM, whole"],
        *([*name.removesuffix(" of 2000 steps").split(", "), *scores(result)] for name, result in found.items()),
        ["one pass of the network, no sampler", "", *scores(any_of, "one_step")],
        ["best Gaussian blur", "", *scores(any_of, "gaussian_blur")],
    ]


def peers() -> Table:
    networks = {
        "ours": "reversible",
        "MONAI's, 5e-4": "MONAI's DiffusionModelUNet",
        "MONAI's, 1.5e-3": "MONAI's at our learning rate",
    }
    reconstruction = ["PSNR 250, dB", "SSIM 250", "PSNR 500, dB", "SSIM 500"]
    table = [["network", "seed", *reconstruction, "MMD intensity", "MMD layout", "peak, MB", "GFLOP per step"]]
    for label, name in networks.items():
        for seed in (0, 1, 2):
            if (found := study("peers").get(f"{name}, seed {seed}")) is not None:
                samples = [f"{found['generation'][metric]:.1f}" for metric in ("mmd_intensity", "mmd_layout")]
                cost = [mb(found["peak_mib"]), f"{found['step_gflop']:.0f}"]
                table.append([label, str(seed), *reconstructed(found), *samples, *cost])
    return table


def peers_difference() -> Table:
    summary = content("study_peers.json")["summary"]
    return [
        ["from timestep", "mean difference", "95 % interval"],
        *(
            [t[1:], f"{found['mean']:+.4f}", " to ".join(f"{end:.4f}" for end in found["ci95"])]
            for t, found in summary.items()
        ),
    ]


def contrasts() -> Table:
    one = {"T2 from T1": ("T1 to T2", "t1"), "T1 from T2": ("T2 to T1", "t2")}
    one |= {"FLAIR from T1, T1ce, T2": ("three to FLAIR", "t1, t1ce, t2")}
    every = {
        "FLAIR from T1, T1ce, T2": ("any to any", "t1, t1ce, t2"),
        "T1ce, T2 from T1, FLAIR": ("any to any", "t1, flair"),
        "T1ce, T2, FLAIR from T1": ("any to any", "t1"),
        "T1, T1ce, FLAIR from T2": ("any to any", "t2"),
    }
    methods = ["mean of five draws, dB", "SSIM", "one draw, dB", "SSIM", "lookup, dB", "SSIM", "mean image, dB"]
    table = [["contrasts", *methods]]
    for title, labels in {"*one network for each task*": one, "*one network for any of four contrasts*": every}.items():
        table.append([title, *[""] * 7])
        for label, (variant, known) in labels.items():
            found = study("synthesis")[variant][known]
            cells = [
                f"{found[f'{method}{metric}_brain']:.{digits}f}"
                for method in ("", "draw_", "lookup_")
                for metric, digits in (("psnr", 2), ("ssim", 3))
            ]
            table.append([label, *cells, f"{found['mean_image_psnr_brain']:.2f}"])
    return table


def short_runs() -> Table:
    measured = ["final loss", "PSNR in the brain, dB", "mean error of the inverse"]
    table = [["study", "variant", "steps", "volume", *measured]]
    for name in ("precision", "bookends", "inverse", "optimizer"):
        steps, side = content(f"study_{name}.json")["steps"], content(f"study_{name}.json")["side"]
        for variant, found in study(name).items():
            error = f"{found['inverse_error']:.3f}" if "inverse_error" in found else ""
            scores = [f"{found['loss']:.4f}", f"{found['psnr_brain_db']:.2f}", error]
            table.append([name, variant, str(steps), f"{side}^3", *scores])
    return table


def grid() -> Table:
    now = study("grid")["bookend_stride 2"]
    samples = {"mmd_intensity": 1, "mmd_texture": 1, "mmd_layout": 1, "nearest_rmse": 3}
    of_t = ["PSNR {}, dB", "SSIM {}", "SSIM {}, whole"]

    def row(method: str) -> list[str]:
        brain, whole = reconstructed(now, method), [f"{ssim(now[t], method, 'whole'):.3f}" for t in ("t250", "t500")]
        return [*brain[:2], whole[0], *brain[2:], whole[1]]

    return [
        [
            "",
            *(name.format(t) for t in (250, 500) for name in of_t),
            *["MMD intensity", "MMD texture", "MMD layout", "nearest RMSE"],
        ],
        [
            "now: a shortcut with gates",
            *row("reconstruction"),
            *(f"{now['generation'][metric]:.{digits}f}" for metric, digits in samples.items()),
        ],
        [
            "before: a shortcut without gates",
            *["26.38", "0.922", "0.810", "23.83", "0.866", "0.781"],  # study_grid.json of commit ba7a3e1
            *["2.1", "2.9", "0.7", "0.117"],
        ],
        [
            "at first: no shortcut, half of the bookend's channels",
            *["23.39", "0.849", "", "19.08", "0.686", ""],  # study_grid.json of commit 1897f09
            *["422.5", "46.8", "115.2", "0.137"],
        ],
        ["best Gaussian blur", *row("gaussian_blur"), *[""] * 4],
    ]


# real brains: the figures of samples that are shown, and their digits
BRAIN_FIGURES = {
    "MMD intensity": ("mmd_intensity", 2),
    "MMD texture": ("mmd_texture", 1),
    "MMD layout": ("mmd_layout", 1),
    "diversity (MS-SSIM)": ("diversity_ms_ssim", 3),
    "nearest RMSE": ("nearest_rmse", 3),
}


def brains_reconstructed() -> Table:
    def scores(of: dict[str, float], method: str) -> list[str]:
        psnr, *ssim = (of[f"{method}_{name}"] for name in ("psnr_brain", "ssim_brain", "ssim_whole"))
        return [f"{psnr:.2f}", *(f"{value:.3f}" for value in ssim)]

    found = {name: result["reconstruction"] for name, result in study("brains").items()}
    return [
        ["trained", "iterations", "hours", "PSNR, dB", "SSIM", "SSIM, whole volume"],
        *(
            [name, str(run["iterations"]), f"{run['hours']:.1f}", *scores(found[name], "reconstruction")]
            for name, run in study("course").items()
        ),
        ["best Gaussian blur", "", "", *scores(next(iter(found.values())), "gaussian_blur")],
    ]


def brains_sampled() -> Table:
    table = [["trained", "sampler, steps", *BRAIN_FIGURES]]
    real: dict[str, float] = {}
    for name, found in study("brains").items():
        for way, compared in found.items():
            if isinstance(compared, dict) and "figures" in compared:
                of, spread, real = (compared[part] for part in ("figures", "sd_of_halves", "real"))
                cells = [f"{of[key]:.{n}f} ± {spread[key]:.{n}f}" for key, n in BRAIN_FIGURES.values()]
                table.append([name, way, *cells])
    return [*table, ["real cases", "", *(f"{real[key]:.{n}f}" for key, n in BRAIN_FIGURES.values())]]


def brains_by_age() -> Table:
    return [
        ["", "brains", "correlation", "slope, % per decade", "95 % interval"],
        *(
            [
                name,
                str(found["age"]["n"]),
                f"{found['age']['correlation']:.2f}",
                f"{found['age']['slope']:.2f}",
                " to ".join(f"{end:.2f}" for end in found["age"]["slope_ci95"]),
            ]
            for name, found in study("anatomy").items()
        ),
    ]


def brains_regions() -> Table:
    scales = [name for name in study("anatomy") if name.startswith("guidance") and "noise" not in name]
    found = {name: study("anatomy")[name]["regions"] for name in scales}
    return [
        ["region", "real, %", *(f"{name}: %, distance" for name in scales), "distance by chance"],
        *(
            [
                region,
                f"{100 * found[scales[0]][region]['real']['mean']:.1f}",
                *(f"{100 * f[region]['generated']['mean']:.1f}, {f[region]['distance']:.2f}" for f in found.values()),
                f"{found[scales[0]][region]['distance_by_chance']:.2f}",
            ]
            for region in found[scales[0]]
        ),
    ]


def brains_course() -> Table:
    course = study("course")
    psnr = {name: dict(run["psnr_brain"]) for name, run in course.items()}
    (epochs,) = {tuple(found) for found in psnr.values() if len(found) > 5} or {()}
    return [
        ["epochs of 100 iterations", *map(str, epochs)],
        *([name, *(f"{found[e]:.2f}" for e in epochs)] for name, found in psnr.items() if len(found) > 5),
    ]


def real_cases() -> Table:
    both, found = study("real")["reconstruction and generation"], study("real")
    table = [["task", "PSNR in the brain, dB", "SSIM", "baselines: PSNR, SSIM"]]
    for t in (250, 500):
        scores = {
            method: [f"{both[f't{t}'][f'{method}_psnr_brain']:.2f}", f"{both[f't{t}'][f'{method}_ssim_brain']:.3f}"]
            for method in ("reconstruction", "gaussian_blur")
        }
        blur = f"best Gaussian blur {', '.join(scores['gaussian_blur'])}"
        table.append([f"reconstruction from timestep {t}", *scores["reconstruction"], blur])
    for label, result in {"T2 from T1": found["T1 to T2"]["t1"], "T1 from T2": found["T2 to T1"]["t2"]}.items():
        mean_of_five, draw, lookup = (
            [f"{result[f'{method}psnr_brain']:.2f}", f"{result[f'{method}ssim_brain']:.3f}"]
            for method in ("", "draw_", "lookup_")
        )
        baselines = f"one draw {', '.join(draw)}; lookup {', '.join(lookup)}"
        table.append([f"{label}, mean of five draws", *mean_of_five, baselines])
    return table


def warnings() -> Table:
    seeds = study("warnings").values()
    faults = [texts for found in seeds for name, texts in found.items() if name.startswith("planted")]
    validations = 5 * len(seeds)  # of each training run
    return [
        ["evaluated", "warnings"],
        ["with a deliberate fault", f"{sum(map(bool, faults))} of {len(faults)}"],
        ["finished weights, no fault", f"{sum(bool(found['clean']) for found in seeds)} of {len(seeds)}"],
        ["validations during training", f"{sum(len(found['training']) for found in seeds)} of {validations}"],
    ]


def roughness(seed: int, what: str) -> float:
    """Of the volumes that a warning during training was about, or of real ones."""
    (warning,) = study("warnings")[f"seed {seed}"]["training"]
    match = re.search(rf"{what} (\d+\.\d+)", warning)
    assert match is not None
    return float(match[1])


# BENCHMARKS.md


def step(found: Row, *more: str) -> list[str]:
    """Memory and FLOPs of a training step."""
    assert found.peak_bytes is not None
    assert found.flops is not None
    size = [f"{found.resident_bytes / 1e9:.2f}", f"{found.peak_bytes / 1e9:.2f}", f"{found.flops / 1e12:.2f}"]
    return [*more, *size]


SIZE = ["resident, GB", "peak, GB", "TFLOP"]


def steps(name: str) -> Table:
    return [
        ["case", "parameters", "precision", "activations", "optimizer", *SIZE],
        *(step(r, r.case, million(r.parameters), r.precision, r.activations, str(r.optimizer)) for r in rows(name)),
    ]


def in_short() -> Table:
    low, whole = "paper, low memory", "paper, 256 x 256 x 192, stride 2"
    counted = "estimated; counted in a real step on a CPU:"

    def peak(case: str, name: str = "paper_estimate") -> str:
        return f"{gb(name, case):.2f} GB"

    return [
        ["training step", "peak memory", "how it was obtained"],
        ["the paper's setting (64^3, batch 4), float32, AdamW", peak("paper"), "estimated"],
        ["the same with the low-memory settings", peak(low), f"{counted} {COUNTED[low]}"],
        ["and with bfloat16 weights", peak(f"{low}, bfloat16 weights"), "estimated"],
        [
            "one whole brain, 256 x 256 x 192, `native.yaml`",
            peak(whole, "volume_estimate"),
            f"{counted.replace('counted', 'before the change, counted')} {COUNTED[whole]}",
        ],
        [
            "for comparison, 64^3, batch 4: `base`, our network with 24M parameters, float32, AdamW",
            peak("base"),
            "estimated",
        ],
        ["PatchDDM, 24M, the same", peak("PatchDDM"), "estimated"],
        ["MONAI's DiffusionModelUNet, 24M, the same", peak("MONAI's UNet, 24M"), "estimated"],
    ]


def cost_in_short() -> Table:
    laws = {finding["law"]: finding["value"] for finding in content("verify_cpu.json")["findings"]}
    return [
        ["rebuilt activations cost", "relative to stored ones", "how it was obtained"],
        ["operations of a step, paper's network", f"{bar('paper', 'FLOPs, rebuilt / stored').found:.3f}", "counted"],
        [
            "time of a step, small networks",
            f"{laws['time of a step, rebuilt / stored']:.3g}",
            "measured on a CPU",
        ],
        ["time of a step, paper's network, low memory", f"{REBUILT_TIME:.2f}", "measured on an H200"],
        ["energy on a GPU", "unknown", "not measured"],
    ]


def gpu_step(case: str) -> dict[str, Any]:
    """A training step on a GPU at 64^3, batch 4."""
    (found,) = (found for found in GPU["steps"]["results"] if found["case"] == case)
    return found


def gpu_ratio(case: str, other: str, what: str = "step_s") -> float:
    return gpu_step(case)[what] / gpu_step(other)[what]


REBUILT_TIME = gpu_ratio("paper, low memory", "paper, low memory, stored")
ABOVE_ESTIMATE = [f["peak_bytes"] / 1e9 - gb("paper_estimate", f["case"]) for f in GPU["steps"]["results"]]

# No file has these: one training step on real tensors, counted by hand (commit bbc08fd).
COUNTED = {"paper, low memory": "3.061 GB", "paper, 256 x 256 x 192, stride 2": "4.219 GB"}
COUNTED_BY_TRAINER = "4.320 GB"
WHOLE_BEFORE = 4.219029804  # GB, benchmark_volume_estimate.jsonl of commit aa9bc42, before the shortcut had gates


def limits() -> Table:
    gigabytes = {
        "64^3, batch 4, float32 weights": ("paper", "64^3, batch 4, float32 weights, GB"),
        "64^3, batch 4, bfloat16 weights": ("paper", "64^3, batch 4, bfloat16 weights, GB"),
        "exact-mixed above mixed precision": ("paper", "exact-mixed above mixed, GB"),
        "one volume 256 x 256 x 192, bookend stride 2": ("volume", "256 x 256 x 192, bookend stride 2, GB"),
        "one volume 128^3, bookend stride 1": ("volume", "128^3, bookend stride 1, GB"),
    }
    memory = "memory above weights and states, rebuilt / checkpointed"
    ratios = {
        "`base` / PatchDDM, both 24M, switches off": ("paper", "base / PatchDDM, switches off"),
        "`base` / PatchDDM, switches on": ("paper", "base / PatchDDM, switches on"),
        memory: ("paper", memory),
        "FLOPs of a step, rebuilt / stored": ("paper", "FLOPs, rebuilt / stored"),
    }

    return [
        ["quantity", "limit", "estimated"],
        *([label, f"{bar(*which).bar} GB", f"{bar(*which).found:.2f} GB"] for label, which in gigabytes.items()),
        *([label, str(bar(*which).bar), f"{bar(*which).found:.3f}"] for label, which in ratios.items()),
        [
            "time of a step, rebuilt / stored",
            str(bar("paper", "time of a step, rebuilt / stored").bar),
            f"measured on an H200: {REBUILT_TIME:.3f}",
        ],
    ]


def steps_on_gpu() -> Table:
    return [
        ["case", "precision", "activations", "optimizer", "peak, GB", "estimated, GB", "TFLOP", "s"],
        *(
            [
                *(found[name] for name in ("case", "precision", "activations", "optimizer")),
                f"{found['peak_bytes'] / 1e9:.2f}",
                f"{gb('paper_estimate', found['case']):.2f}",
                f"{found['flops'] / 1e12:.2f}",
                f"{found['step_s']:.2f}",
            ]
            for found in GPU["steps"]["results"]
        ),
    ]


def brain_on_gpu() -> Table:
    found = GPU["whole_brain"]
    shown = {
        "tensors, estimated at that time": WHOLE_BEFORE * 1e9,
        "tensors and workspaces of libraries, at their peak": found["allocated_bytes"],
        "held by the allocator": found["reserved_bytes"],
        "occupied on the card, with CUDA's context": found["card_bytes"],
    }
    return [["memory of a step on a whole brain", "GB"], *([what, f"{n / 1e9:.2f}"] for what, n in shown.items())]


def kernels_on_gpu() -> Table:
    before, after = GPU["kernels"]["before"], GPU["kernels"]["after"]
    return [
        ["step", "as it runs, ms: before", "after", "kernels alone, ms: before", "after"],
        *(
            [name, *(f"{found[name][ms]:.0f}" for ms in ("step_ms", "graph_ms") for found in (before, after))]
            for name in ("light", "base", "base, rebuilt")
        ),
    ]


def full_size_steps() -> Table:
    low, whole = COUNTED
    return [
        ["full-size step", "counted", "estimated"],
        [f"{low}, 64^3, batch 4", COUNTED[low], f"{gb('paper_estimate', low):.3f} GB"],
        ["paper, low memory, 256 x 256 x 192", COUNTED[whole], f"{gb('volume_estimate', whole):.3f} GB"],
        ["`native.yaml` on a real case, two steps of MONAI's trainer", COUNTED_BY_TRAINER, ""],
    ]


def volumes() -> Table:
    return [
        ["case", "parameters", "activations", *SIZE],
        *(step(r, r.case, million(r.parameters), r.activations) for r in rows("volume_estimate")),
    ]


def couplings(case: str) -> str:
    match = re.search(r"(\d+) couplings per level", case)
    assert match is not None
    return match[1]


def speed() -> Table:
    found: list[Any] = rows("speed_cpu")
    default = {row.volume[0]: row.step_s for row in found if row.case.endswith("default")}
    names = {"light": "`light`", "MONAI 3M": "MONAI's UNet"}
    return [
        [
            "volume",
            "network",
            "parameters",
            "precision",
            "activations",
            "peak, MB",
            "GFLOP",
            "time, relative to the default",
        ],
        *(
            [
                f"{row.volume[0]}^3",
                names[row.network] + (", default" if row.case.endswith("default") else ""),
                million(row.parameters),
                row.precision,
                row.activations,
                f"{row.peak_bytes / 1e6:.0f}",
                f"{row.flops / 1e9:.0f}",
                f"{row.step_s / default[row.volume[0]]:.2f}",
            ]
            for row in found
        ),
    ]


def depth() -> Table:
    return [
        ["couplings per level", "activations", "parameters", *SIZE],
        *(step(row, couplings(row.case), row.activations, million(row.parameters)) for row in rows("depth_estimate")),
    ]


def depth_measured() -> Table:
    found: list[Any] = rows("depth_cpu")
    stored = {couplings(row.case): row.step_s for row in found if row.activations == "stored"}
    return [
        ["couplings per level", "activations", "parameters", "peak, MB", "GFLOP", "time, relative to stored"],
        *(
            [
                couplings(row.case),
                row.activations,
                million(row.parameters),
                f"{row.peak_bytes / 1e6:.1f}",
                f"{row.flops / 1e9:.1f}",
                f"{row.step_s / stored[couplings(row.case)]:.2f}",
            ]
            for row in found
        ),
    ]


def laws() -> Table:
    on_gpu = {finding["law"]: finding["value"] for finding in GPU["laws"]["findings"]}
    return [
        ["law", "limit", "on a CPU", "on an H200"],
        *(
            [finding["law"], f"{finding['bar']:g}", f"{finding['value']:.3g}", f"{on_gpu[finding['law']]:.3g}"]
            for finding in content("verify_cpu.json")["findings"]
        ),
    ]


LAYERS = [
    "00 entry bookend",
    "01 AdditiveCoupling, level 0",
    "04 OrthogonalDownsample, level 0",
    "08 OrthogonalDownsample, level 1",
    "13 OrthogonalDownsample, level 2",
    "15 AdditiveCoupling, level 3",
    "16 OrthogonalUpsample, level 2",
    "22 OrthogonalUpsample, level 1",
    "26 OrthogonalUpsample, level 0",
    "29 AdditiveCoupling, level 0",
    "30 exit bookend",
]


def layers() -> Table:
    found: list[Any] = rows("layers_cpu")
    in_use = {(row.case, row.activations): f"{row.peak_bytes / 1e6:.1f}" for row in found}
    return [
        ["after layer", "rebuilt, MB", "stored, MB"],
        *([case, in_use[case, "rebuilt"], in_use[case, "stored"]] for case in LAYERS),
    ]


def attention() -> Table:
    found: list[Any] = rows("attention_cpu")
    return [
        ["case", "activations", "peak, MB", "GFLOP", "ms"],
        *(
            [
                row.case.removesuffix(f", {row.activations}"),
                row.activations,
                f"{row.peak_bytes / 1e6:.1f}",
                f"{row.flops / 1e9:.2f}",
                f"{row.step_s * 1e3:.0f}",
            ]
            for row in found
        ),
    ]


def sampling() -> Table:
    cases = {
        "`paper`, 64^3, estimated": ("sampling_estimate", "paper, 64 x 64 x 64"),
        "`paper`, 256 x 256 x 192, stride 2, estimated": ("sampling_estimate", "paper, 256 x 256 x 192"),
        "`light`, 32^3, counted on real tensors": ("sampling_cpu", "light, 32 x 32 x 32"),
        "`light`, 64^3, counted on real tensors": ("sampling_cpu", "light, 64 x 64 x 64"),
    }
    table = [["case", "weights, GB", "peak, GB", "above the weights", "level 0 alone, above its weights"]]
    for label, (name, case) in cases.items():
        found, alone = row(name, case), row(name, f"{case}, level 0 alone")
        above = [found.peak_bytes - found.resident_bytes, alone.peak_bytes - alone.resident_bytes]
        table.append([label, *(f"{b / 1e9:.3f}" for b in (found.resident_bytes, found.peak_bytes, *above))])
    return table


def segmentation_memory() -> Table:
    networks = [("PatchDDM", "stored"), ("PatchDDM", "checkpointed"), ("base", "rebuilt"), ("paper", "rebuilt")]
    sizes = ["patch 128^3: peak, GB", "TFLOP", "whole 256^3: peak, GB", "TFLOP"]
    table = [["network", "parameters", "activations", *sizes]]
    for network, policy in networks:
        patch, whole = (row("segmentation_estimate", f"{network}, {policy}, {side}^3") for side in (128, 256))
        label = network if network == "PatchDDM" else f"`{network}`"
        sizes = [f"{n:.2f}" for r in (patch, whole) for n in (r.peak_bytes / 1e9, r.flops / 1e12)]
        table.append([label, million(patch.parameters), policy, *sizes])
    return table


def segmentation_quality() -> Table:
    networks = {
        "patch": ("patches", "PatchDDM"),
        "whole": ("whole volumes", "PatchDDM"),
        "reversible": ("whole volumes", "`light`"),
        "both": ("patches", "`light`"),
    }
    dice = ["Dice, one draw", "Dice, mean of five", "HD95, mm", "Dice, mean of five, drawn in patches"]
    table = [["trained on", "network", "peak, MB", "GFLOP per step", *dice]]
    for name, labels in networks.items():
        found = study("segmentation")[name]
        scores = [f"{found['draw_dice']:.3f}", f"{found['dice']:.3f}", f"{found['hd95_mm']:.1f}"]
        in_patches = f"{found['dice_in_patches']:.3f}" if "dice_in_patches" in found else ""
        table.append([*labels, mb(found["peak_mib"]), f"{found['step_gflop']:.1f}", *scores, in_patches])
    thresholds = {"FLAIR above Otsu's threshold": "otsu_dice"}
    thresholds["FLAIR above the best threshold, chosen with the reference"] = "best_threshold_dice"
    for label, metric in thresholds.items():
        table.append(["no training", label, "", "", f"{study('segmentation')['whole'][metric]:.3f}", "", "", ""])
    return table


def segmentation_steps() -> Table:
    found = study("sampling")["reversible"]
    passes = {
        "DDIM": ["1", "2", "5", "10", "20", "50", "100", "1000"],
        "Heun": ["1", "3", "", "9", "19", "49", "", ""],
    }
    return [
        ["passes of the network (of Heun)", "1", "2 (3)", "5", "10 (9)", "20 (19)", "50 (49)", "100", "1000"],
        *(
            [name, *(f"{found[f'{name}, {n} passes']:.3f}" if n else "" for n in numbers)]
            for name, numbers in passes.items()
        ),
    ]


def segmentation_draws() -> Table:
    found = study("sampling")["reversible"]
    draws = ["1", "2", "3", "5", "10"]
    return [["draws", *draws], ["Dice", *(f"{found[f'{n} draws']:.3f}" for n in draws)]]


def segmentation_patches() -> Table:
    networks = [
        ("PatchDDM", "PatchDDM, 16^3"),
        ("PatchDDM", "PatchDDM, 24^3"),
        ("PatchDDM, skips concatenated", "PatchDDM, 16^3, concatenated skips"),
        ("PatchDDM, no coordinates", "PatchDDM, 16^3, no coordinates"),
        ("`light`", "reversible, 16^3"),
        ("`light`, no coordinates", "reversible, 16^3, no coordinates"),
    ]
    regions = {"core": "dice_core", "whole tumour": "dice_whole", "enhancing": "dice_enhancing"}

    def line(label: str, name: str, metric: str, one_draw: bool) -> list[str]:
        found = [study("patches")[f"{name}, seed {seed}"] for seed in (0, 1)]
        size = re.search(r"\d+\^3", name)
        assert size is not None
        cost = [million(found[0]["parameters"], 2), mb(found[0]["peak_mib"]), f"{found[0]['step_gflop']:.1f}"]
        draws = [f"{f['draw_dice']:.3f}" if one_draw else "" for f in found]
        return [label, size[0], *cost, *draws, *(f"{f[metric]:.3f}" for f in found)]

    dice = ["one draw: seed 0", "seed 1", "mean of five: seed 0", "seed 1"]
    return [
        ["network", "trained on", "parameters", "peak, MB", "GFLOP per step", *dice],
        *(line(label, name, "dice", True) for label, name in networks),
        *(
            line(f"`light`, three regions: {region}", "reversible, 16^3, three regions", metric, False)
            for region, metric in regions.items()
        ),
    ]


# The tables below a heading of a page, in order; None: a table without figures of result files.
TABLES: dict[tuple[str, str], list[Callable[[], Table] | None]] = {
    (QUALITY, "In short"): [blur_and_lookup, None],
    (QUALITY, "Real brains"): [brains_reconstructed, brains_sampled, brains_by_age, brains_regions, brains_course],
    (QUALITY, "What the network predicts, and how timesteps are weighted"): [
        predictions_reconstructed,
        predictions_sampled,
    ],
    (QUALITY, "How many sampling steps, and which sampler"): [samplers],
    (QUALITY, "Compared with MONAI's network"): [peers, peers_difference],
    (QUALITY, "Missing contrasts"): [contrasts],
    (QUALITY, "Do the memory-saving settings cost quality?"): [short_runs],
    (QUALITY, "Finer grids: bookends of stride 2"): [grid],
    (QUALITY, "Two real cases"): [real_cases],
    (QUALITY, "Do the warnings catch bad samples?"): [warnings],
    (BENCHMARKS, "In short"): [in_short, cost_in_short],
    (BENCHMARKS, "On a GPU"): [steps_on_gpu, brain_on_gpu, kernels_on_gpu],
    (BENCHMARKS, "Memory of the paper's setting"): [lambda: steps("paper_estimate"), limits, full_size_steps],
    (BENCHMARKS, "Larger volumes"): [volumes],
    (BENCHMARKS, "One switch after the other"): [lambda: steps("optimizer_estimate")],
    (BENCHMARKS, "Speed on a CPU"): [speed],
    (BENCHMARKS, "Depth"): [depth, depth_measured],
    (BENCHMARKS, "Do rebuilt activations give the same gradients?"): [laws],
    (BENCHMARKS, "Layer by layer"): [layers],
    (BENCHMARKS, "Attention"): [attention],
    (BENCHMARKS, "Sampling"): [sampling],
    (BENCHMARKS, "Memory"): [segmentation_memory],
    (BENCHMARKS, "Quality"): [segmentation_quality],
    (BENCHMARKS, "Steps, samplers, draws"): [segmentation_steps, segmentation_draws],
    (BENCHMARKS, "Patch size, skips, coordinates, regions"): [segmentation_patches],
}

# figures, as they are shown; where each comes from: a value, or the reason why no file has it
Evidence = tuple[str, float | str]

BRAINS, AGED = study("brains")["flow, shifted, Age, Sex"], study("anatomy")
BRAINS_AT = BRAINS["reconstruction"]
QUALITY_OF = study("quality")
CHAIN = study("chain")["reversible"]
DPM_20 = CHAIN["DPM-Solver++, 20 of 2000 steps"]
DPM_2000 = CHAIN["DPM-Solver++, 2000 of 2000 steps"]
DEFAULT = QUALITY_OF["v, little noise more often"]
SYNTHESIS = study("synthesis")
PAPER = "paper_estimate"
LOW = "paper, low memory"
WHOLE = "paper, 256 x 256 x 192, stride 2"
SEGMENTED = study("segmentation")
PATCHED = study("patches")
KILLS = study("kills")
SOAK = study("soak")["train.yaml"]
TWIN = study("twin")["rebuilt and stored"]
SCORES = [found["psnr_brain_db"] for found in study("optimizer").values()]
LOSSES = {name: found["loss"] for name, found in study("optimizer").items()}


def psnr(found: dict[str, float], method: str = "reconstruction") -> float:
    return found[f"{method}_psnr_brain"]


def ssim(found: dict[str, float], method: str = "reconstruction", region: str = "brain") -> float:
    return found[f"{method}_ssim_{region}"]


def gain(better: str, worse: str, t: str = "t250") -> float:
    return psnr(QUALITY_OF[better][t]) - psnr(QUALITY_OF[worse][t])


def gain_over_lookup() -> list[float]:
    """Of the network for any of four contrasts, in dB."""
    tasks = [found for found in SYNTHESIS["any to any"].values() if isinstance(found, dict)]
    return [found["psnr_brain_gain_over_lookup"] for found in tasks]


def changes(one: str, other: str) -> list[float]:
    """Dice of one variant of the patches' study less that of another, by seed, of one draw and of the mean of five."""
    return [
        PATCHED[f"{one}, seed {seed}"][metric] - PATCHED[f"{other}, seed {seed}"][metric]
        for seed in (0, 1)
        for metric in ("draw_dice", "dice")
    ]


def of_seeds() -> Iterable[float]:
    for name, found in PATCHED.items():
        if name.endswith("seed 0"):
            other = PATCHED[name.replace("seed 0", "seed 1")]
            yield from (abs(found[metric] - other[metric]) for metric in ("draw_dice", "dice"))


def cost_of_patches() -> list[float]:
    """Dice of whole volumes less that of patches."""
    return [
        SEGMENTED[whole][metric] - SEGMENTED[patch][metric]
        for whole, patch in (("whole", "patch"), ("reversible", "both"))
        for metric in ("draw_dice", "dice")
    ]


def error_bound(mae: float) -> float:
    """The highest PSNR, in dB, that images in [0, 1] with this mean absolute error can have."""
    return -20 * math.log10(mae)


BY_FORMAT = "by hand: the law of verify on a CPU, with other weights, formats and kernels (commit dd318af)"
BRAIN = GPU["whole_brain"]
TRAINED = GPU["training"]
GPU_LAWS = {finding["law"]: finding for finding in GPU["laws"]["findings"]}
SLOWER = GPU_LAWS["time of a step, rebuilt / stored"]
BEFORE = GPU["kernels"]["before"]
ON_BARS = {text: limit for text, limit, _ in BARS["all"]}
ON_GPU: list[Evidence] = [
    ("150.1 GB", GPU["card_bytes"] / 1e9),
    ("7.1", GPU["launch_us"]),
    ("0.06", min(ABOVE_ESTIMATE)),
    ("0.35 GB", max(ABOVE_ESTIMATE)),
    ("1.2 %", 100 - 100 * gpu_step(LOW)["flops"] / GPU["steps"]["estimated_flops"][LOW]),
    ("6.93 GB", "card_bytes of the row at 540d2d0, which was wrong"),
    ("6 GB", BRAIN["limit_gb"]),
    ("0.27", BRAIN["step_s"]),
    ("5.90 GB", BRAIN["card_bytes"] / 1e9),
    ("1.25", ON_BARS["card's memory / estimate, 256 x 256 x 192"]),
    ("1.40", BRAIN["card_bytes"] / 1e9 / WHOLE_BEFORE),
    ("5.41 GB", BRAIN["first_step_with_expandable_segments"]["card_bytes"] / 1e9),
    ("3159", BEFORE["light"]["kernels"]),
    ("106", BEFORE["light"]["step_ms"]),
    ("79", BEFORE["light"]["busy_ms"]),
    ("54", "by hand, from the profile (commit e615a5e)"),
    ("1.62", SLOWER["value"]),
    ("1.4", SLOWER["bar"]),
    ("1.29", REBUILT_TIME),
    ("1.35", ON_BARS["time of a step, rebuilt / stored, low memory"]),
    ("1.40", gpu_ratio("base, low memory", "PatchDDM, low memory, checkpointed")),
    ("0.7", ON_BARS["time of a step, base / PatchDDM checkpointed, low memory"]),
    ("296", BEFORE["base, rebuilt, AdamW in backward, 8-bit"]["step_ms"]),
    ("136", BEFORE["base, rebuilt, AdamW in backward, 8-bit"]["busy_ms"]),
    ("7605", BEFORE["base, rebuilt, AdamW in backward, 8-bit"]["kernels"]),
    ("0.76", gpu_ratio("base", "MONAI's UNet, 24M")),
    ("0.5", ON_BARS["time of a step, base / MONAI's UNet, both 24M, float32"]),
    ("118", "the number of training cases"),
    ("0.149", TRAINED["epoch_s"] / TRAINED["steps"]),
    ("25.6", TRAINED["energy_j_per_step"]),
    ("175", TRAINED["mean_power_w"]),
    ("1.43 GB", TRAINED["allocated_peak_gib"] * 2**30 / 1e9),
    ("1.35 GB", TRAINED["estimated_gib"] * 2**30 / 1e9),
    ("0.65", GPU_LAWS["exact: peak above weights, rebuilt / stored, 4 couplings per level"]["value"]),
    ("0.7", EXACT_ON_CUDA),
]

CARD = "a model of torch's allocator, which replayed the allocations of a step"
SETTING = "a setting"
# what the squared error of a draw of DDPM has above that of one pass: its own spread
SPREAD = squared_error(psnr(CHAIN["DDPM, 2000 of 2000 steps"])) - squared_error(psnr(DPM_20, "one_step"))
OURS_PAPER = row(PAPER, "paper").parameters / 1e6
OURS_BASE = row(PAPER, "base").parameters / 1e6
OURS_LIGHT = DEFAULT["parameters"] / 1e6
LARGER_PATCHES = changes("PatchDDM, 24^3", "PatchDDM, 16^3")
SKIPS = changes("PatchDDM, 16^3, concatenated skips", "PatchDDM, 16^3")
COORDINATES = changes("PatchDDM, 16^3", "PatchDDM, 16^3, no coordinates")

TEXT: dict[str, list[Evidence]] = {
    QUALITY: [
        ("3M", OURS_LIGHT),
        ("0.05 dB", AtMost(max(psnr(found["t250"]) for found in QUALITY_OF.values()) - psnr(DEFAULT["t250"]))),
        ("0.1 dB", "a rule of thumb"),
        ("0.2 dB", gain("v, little noise more often", "v, uniform")),
        ("0.25", gain("noise, uniform, min-SNR 5", "noise, uniform (the paper)", "t500")),
        ("0.4 dB", gain("v, uniform, min-SNR 5", "v, uniform", "t500")),
        ("0.4 dB", psnr(DPM_20) - psnr(DEFAULT["t500"])),
        ("2616", QUALITY_OF["noise, uniform (the paper)"]["generation"]["mmd_layout"]),
        ("5.7", DEFAULT["generation"]["mmd_layout"]),
        ("0.005", ssim(DPM_20) - ssim(DPM_2000)),
        ("0.014", ssim(DPM_2000, region="whole") - ssim(DPM_20, region="whole")),
        ("0.937", ssim(DPM_2000, region="whole")),
        ("1.95 dB", psnr(DPM_20) - psnr(DPM_20, "gaussian_blur")),
        ("0.044", ssim(DPM_20) - ssim(DPM_20, "gaussian_blur")),
        ("0.923", ssim(DPM_20, region="whole")),
        ("0.888", ssim(DPM_20, "gaussian_blur")),
        ("24.01 dB", "by hand: the same network on its training cases (commit 00a588c)"),
        ("0.0025", SPREAD),
        ("26 dB", -10 * math.log10(SPREAD)),
        ("3.9 dB", -10 * math.log10(SPREAD) - psnr(DPM_20, "gaussian_blur")),
        ("0.97 dB", BRAINS_AT["reconstruction_psnr_brain"] - BRAINS_AT["gaussian_blur_psnr_brain"]),
        ("1.5 dB", "a target"),
        ("45.9", BRAINS["DPM-Solver++, trailing, 10 steps"]["figures"]["mmd_texture"]),
        ("13.2", BRAINS["DPM-Solver++, trailing, 50 steps"]["figures"]["mmd_texture"]),
        ("8.2", BRAINS["DPM-Solver++, 10 steps"]["figures"]["mmd_texture"]),
        ("13.6", BRAINS["DPM-Solver++, 50 steps"]["figures"]["mmd_texture"]),
        ("19.5", BRAINS["Heun, 10 steps"]["figures"]["mmd_texture"]),
        ("0.087", BRAINS["DPM-Solver++, 10 steps"]["figures"]["nearest_rmse"]),
        ("0.075", BRAINS["DPM-Solver++, 10 steps"]["real"]["nearest_rmse"]),
        ("0.74", min(AGED["real"]["dice"].values())),
        ("0.38", AGED["guidance 0"]["age"]["correlation"]),
        ("0.07", AGED["guidance 0, other noise"]["age"]["correlation"]),
        ("0.25 %", AGED["guidance 1"]["age"]["slope"]),
        ("0.25", AGED["real"]["age"]["slope"]),
        ("0.21 %", AGED["guidance 1, other noise"]["age"]["slope"]),
        ("5 %", "a definition, see compare_region_shares"),
        ("26.79 dB", "by hand: the last validation.json of the training"),
        ("3.01M", study("peers")["reversible, seed 0"]["parameters"] / 1e6),
        ("2.99M", study("peers")["MONAI's DiffusionModelUNet, seed 0"]["parameters"] / 1e6),
        ("1.5e-3", SETTING),
        ("5e-4", SETTING),
        ("4.9", SYNTHESIS["T1 to T2"]["t1"]["psnr_brain_gain_over_lookup"]),
        ("1.7", SYNTHESIS["T2 to T1"]["t2"]["psnr_brain_gain_over_lookup"]),
        ("0.8 dB", SYNTHESIS["three to FLAIR"]["t1, t1ce, t2"]["psnr_brain_gain_over_lookup"]),
        ("0.2 dB", max(gain_over_lookup())),
        ("1.1 dB", -min(gain_over_lookup())),
        ("0.2 dB", max(SCORES) - min(SCORES)),
        ("1.007", LOSSES["8-bit states"] / LOSSES["AdamW"]),
        ("1.000", LOSSES["8-bit states, mixed"] / LOSSES["AdamW"]),
        ("0.997", LOSSES["8-bit states, mixed, bfloat16 weights"] / LOSSES["AdamW"]),
        ("0.853", TWIN["first_loss"]),
        ("0.322", TWIN["last_loss"]),
        ("0.32", roughness(1, "noisy: roughness")),
        ("0.27", roughness(2, "noisy: roughness")),
        ("0.13", roughness(1, "real volumes")),
        ("3 dB", "a target that was set beforehand"),
        ("0.15", "a target that was set beforehand"),
        ("26.7 dB", "by hand: runs that were not kept (commit 36c4cdb)"),
        ("24.3", "by hand: runs that were not kept (commit 36c4cdb)"),
        ("22.9", "by hand: runs that were not kept (commit 36c4cdb)"),
        ("21.6", "by hand: runs that were not kept (commit 36c4cdb)"),
        ("0.4 dB", "by hand: runs that were not kept (commit 36c4cdb)"),
    ],
    BENCHMARKS: [
        ("3.08 GB", gb(PAPER, LOW)),
        *((figure, CARD) for figure in ("4.2", "4.4 GB", "6.0", "6.5 GB")),
        *ON_GPU,
        ("6.3e-6", BY_FORMAT),
        ("7.8e-6", BY_FORMAT),
        ("1.0e-5", BY_FORMAT),
        ("1.3e-5", BY_FORMAT),
        ("3.7e-6", BY_FORMAT),
        ("4.5e-6", BY_FORMAT),
        ("2e-5", "the bound of verify"),
        ("1e9", "a unit"),
        ("1e6", "a unit"),
        ("344M", OURS_PAPER),
        ("3M", OURS_LIGHT),
        ("4.35 GB", gb("volume_estimate", WHOLE)),
        ("0.13 GB", gb("volume_estimate", WHOLE) - WHOLE_BEFORE),
        ("4.22 GB", WHOLE_BEFORE),
        ("2 %", "the bound of tests/meters/test_estimation.py"),
        ("6.71 GB", 6.708984),  # the paper, table 2
        ("7.90 GB", 7.899565),
        ("2.9", "a target that was set beforehand"),
        ("2.2 GB", "a target that was set beforehand"),
        ("0.8 GB", 3 * 4 * 64**3 * 64 * 4 / 1e9),  # three streams: batch 4, 64 channels of 64^3, float32
        ("0.101 GB", float(COUNTED_BY_TRAINER.split()[0]) - float(COUNTED[WHOLE].split()[0])),
        ("0.101 GB", 2 * 256 * 256 * 192 * 4 / 1e9),  # one volume of two channels, float32
        ("1e-9", "the bound of tests/distributed"),
        ("1e-5", "the bound of tests/distributed"),
        ("1.4 MB", "by hand, from the matrices of `light`"),
        ("0.069", row("segmentation_cpu", "PatchDDM light, stored, 16^3").step_s),
        ("0.337", row("segmentation_cpu", "PatchDDM light, stored, 32^3").step_s),
        ("0.087", row("segmentation_cpu", "light, rebuilt, 16^3").step_s),
        ("0.246", row("segmentation_cpu", "light, rebuilt, 32^3").step_s),
        ("3.8", SEGMENTED["whole"]["peak_mib"] / SEGMENTED["patch"]["peak_mib"]),
        ("1.8", SEGMENTED["reversible"]["peak_mib"] / SEGMENTED["both"]["peak_mib"]),
        # weights, gradients and two states, four bytes each
        ("7 MB", (SEGMENTED["both"]["peak_mib"] * 2**20 - 16 * SEGMENTED["both"]["parameters"]) / 1e6),
        ("0.015", min(cost_of_patches())),
        ("0.023", max(cost_of_patches())),
        ("0.863", "by hand: README's own command (commit 82a7347)"),
        ("0.871", "by hand: README's own command (commit 82a7347)"),
        ("0.02", "a rule of thumb"),
        ("0.04", max(of_seeds())),
        ("0.04", min(COORDINATES)),
        ("0.06", max(COORDINATES)),
        ("0.02", min(LARGER_PATCHES)),
        ("0.03", max(LARGER_PATCHES)),
        ("3.4", PATCHED["PatchDDM, 24^3, seed 0"]["step_gflop"] / PATCHED["PatchDDM, 16^3, seed 0"]["step_gflop"]),
        ("0.00", min(SKIPS)),
        ("0.02", max(SKIPS)),
        (
            "22 %",
            100
            * PATCHED["PatchDDM, 16^3, concatenated skips, seed 0"]["parameters"]
            / PATCHED["PatchDDM, 16^3, seed 0"]["parameters"]
            - 100,
        ),
        ("0.125", PATCHED["reversible, 16^3, three regions, seed 0"]["dice_enhancing"]),
        ("4.21 GB", gb(PAPER, "PatchDDM, low memory")),
        ("4.16", "what this was before commit 1a3d474"),
        ("3.29 GB", "what low memory, exact, was in version 0.4.0"),
        ("3.28", "what this was before version 0.4.0"),
        ("3.061 GB", "the estimate at bbc08fd"),
        ("0.1 GB", "largest difference between the rows at 62d9f89 and at 3d4efe0"),
    ],
    RELIABILITY: [
        ("30", KILLS["AdamW"]["kills"]),
        ("580", KILLS["AdamW"]["compared"]),
        ("590", KILLS["native.yaml: AdamW in backward, 8-bit states, bfloat16 weights"]["compared"]),
        ("555", SOAK["mb"][1]),
        ("554", SOAK["mb"][2]),
        ("542", SOAK["mb"][3]),
        ("547 MB", SOAK["mb"][4]),
        ("2.9e-6", SOAK["errors"][0]),
        ("8.1e-6", SOAK["errors"][2]),
        ("6.9e-6", SOAK["errors"][4]),
        ("2.5e-5", SOAK["largest_error"]),
        ("1e-2", "the bound of StepGuard"),
    ],
    EVALUATION: [  # 0.4090 and 0.3349: the paper, table 1
        ("0.5", SETTING),
        ("99.5", SETTING),
        ("95 %", "of an interval"),
        ("0.409", 0.4090),
        ("0.335", 0.3349),
        ("7.8", error_bound(0.4090)),
        ("9.5 dB", error_bound(0.3349)),
    ],
    "README.md": [
        ("5.90 GB", BRAIN["card_bytes"] / 1e9),
        ("6 GB", BRAIN["limit_gb"]),
        ("1 GB", "by hand: the demo's peak of resident memory, 0.97 GiB in memory.csv"),
        ("3M", OURS_LIGHT),
        ("24M", OURS_BASE),
        ("0.7 GB", gb("volume_estimate", WHOLE) - gb("volume_estimate", "paper, 256 x 256 x 192, bfloat16 weights")),
        ("0.7 GB", gb(PAPER, LOW) - gb(PAPER, f"{LOW}, bfloat16 weights")),
        ("7 GiB", "an example"),
    ],
    TASKS: [
        ("25 MB", "a limit of the Model Zoo"),
    ],
    BUNDLE: [
        ("2e-4", SETTING),
        ("1.5e-3", SETTING),
        ("3M", OURS_LIGHT),
        ("6.9 GB", gb(PAPER, "paper")),
        ("3.1 GB", gb(PAPER, LOW)),
        ("4.3 GB", gb("volume_estimate", WHOLE)),
    ],
    KNOBS: [
        ("3M", OURS_LIGHT),
        ("24M", OURS_BASE),
        ("344M", OURS_PAPER),
        ("8 GB", "cards that whole volumes are meant for"),
        ("70 %", 100 * SHARES["cuda"]),
        ("50 %", 100 * SHARES["cpu"]),
    ],
    NOTES: [
        ("1e-9", "the bound of tests/reversible"),
        ("1e-5", "the bound of tests/reversible"),
        ("4e-4", "by hand: the rounding of TF32"),
    ],
}

# Rows of tables that are not in TABLES, by a word in them: all their figures, in order.
ROWS: dict[str, dict[str, list[Evidence]]] = {
    "README.md": {
        "without the memory": [("344M", OURS_PAPER), ("3.1 GB", gb(PAPER, LOW)), ("6.9 GB", gb(PAPER, "paper"))],
        "256 × 256 × 192": [
            ("4.3 GB", gb("volume_estimate", WHOLE)),
            ("5.9 GB", BRAIN["card_bytes"] / 1e9),
            ("4.2 GB", WHOLE_BEFORE),
        ],
        "speed on a GPU": [("0.27", BRAIN["step_s"])],
        "`light`": [("3M", OURS_LIGHT)],
        "`base`": [
            ("24M", OURS_BASE),
            ("0.86 GB", gb(PAPER, "base")),
            ("0.63 GB", gb(PAPER, "base, low memory")),
            ("6.13 GB", gb(PAPER, "PatchDDM")),
        ],
        "`paper`": [
            ("344M", OURS_PAPER),
            ("6.88 GB", gb(PAPER, "paper")),
            ("3.08 GB", gb(PAPER, LOW)),
            ("6 GB", CARD),
            ("8 GB", CARD),
        ],
    },
    EVALUATION: {  # the paper's table 1
        "IDM": [("25.01", 25.01), ("0.485", 0.4852), ("25.54", 25.54), ("0.488", 0.4879)],
        "AGGrGAN": [("22.12", 22.12), ("0.77", 0.77), ("21.94", 21.94), ("0.80", 0.8)],
        "CycleGAN": [("34.24", 34.244), ("0.983", 0.983)],
        "MT-Net": [("22.19", 22.193), ("0.906", 0.906), ("22.03", 22.028), ("0.903", 0.903)],
    },
    BUNDLE: {
        "250": [
            ("26.8", psnr(DEFAULT["t250"])),
            ("0.96", ssim(DEFAULT["t250"])),
            ("24.9", psnr(DEFAULT["t250"], "gaussian_blur")),
            ("0.94", ssim(DEFAULT["t250"], "gaussian_blur")),
        ],
        "500": [
            ("24.1", psnr(DPM_20)),
            ("0.93", ssim(DPM_20)),
            ("22.1", psnr(DPM_20, "gaussian_blur")),
            ("0.89", ssim(DPM_20, "gaussian_blur")),
        ],
        "T2": [
            ("22.5", SYNTHESIS["T1 to T2"]["t1"]["psnr_brain"]),
            ("0.92", SYNTHESIS["T1 to T2"]["t1"]["ssim_brain"]),
            ("17.6", SYNTHESIS["T1 to T2"]["t1"]["lookup_psnr_brain"]),
            ("0.69", SYNTHESIS["T1 to T2"]["t1"]["lookup_ssim_brain"]),
        ],
    },
}
