"""QUALITY.md: real brains."""

from __future__ import annotations

from typing import Any

from tests.docs.evidence.kinds import Evidence, Table
from tests.docs.evidence.repeated import ANY_TO_ANY
from tests.docs.evidence.results import row, study

# real brains: the figures of samples that are shown, and their digits
BRAIN_FIGURES = {
    "MMD intensity": ("mmd_intensity", 2),
    "MMD texture": ("mmd_texture", 1),
    "MMD layout": ("mmd_layout", 1),
    "diversity (MS-SSIM)": ("diversity_ms_ssim", 3),
    "nearest RMSE": ("nearest_rmse", 3),
}


FIRST = "flow, logit-normal, shifted, Age, Sex, AdamW"


def label(name: str) -> str:
    """A training's name without what all of them have."""
    return name.replace(", shifted", "").replace(", Age, Sex", "")


def brains_reconstructed() -> Table:
    def scores(of: dict[str, float], method: str) -> list[str]:
        psnr, *ssim = (of[f"{method}_{name}"] for name in ("psnr_brain", "ssim_brain", "ssim_whole"))
        return [f"{psnr:.2f}", *(f"{value:.3f}" for value in ssim)]

    found = {name: result["reconstruction"] for name, result in study("brains").items()}
    return [
        ["trained", "iterations", "hours", "PSNR, dB", "SSIM", "SSIM, whole volume"],
        *(
            [label(name), str(run["iterations"]), f"{run['hours']:.1f}", *scores(found[name], "reconstruction")]
            for name, run in study("course").items()
        ),
        ["best Gaussian blur", "", "", *scores(next(iter(found.values())), "gaussian_blur")],
    ]


def compared(found: dict[str, Any]) -> dict[str, list[str]]:
    """The figures of a training's samples, by sampler and number of steps."""
    return {
        way: [f"{of['figures'][key]:.{n}f} ± {of['sd_of_halves'][key]:.{n}f}" for key, n in BRAIN_FIGURES.values()]
        for way, of in found.items()
        if isinstance(of, dict) and "figures" in of
    }


def brains_sampled() -> Table:
    real = study("brains")[FIRST]["DPM-Solver++, 10 steps"]["real"]
    return [
        ["trained", "steps", *BRAIN_FIGURES],
        *(
            [label(name), way.removeprefix("DPM-Solver++, ").removesuffix(" steps"), *figures]
            for name, found in study("brains").items()
            if "AdamW" not in name
            for way, figures in compared(found).items()
        ),
        ["real cases", "", *(f"{real[key]:.{n}f}" for key, n in BRAIN_FIGURES.values())],
    ]


def brains_by_sampler() -> Table:
    return [
        ["sampler, steps", *BRAIN_FIGURES],
        *([way, *figures] for way, figures in compared(study("brains")[FIRST]).items()),
    ]


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


def brains_at_96() -> Table:
    (found,) = study("brains_96").values()
    real = found["DPM-Solver++, 10 steps"]["real"]
    return [
        ["steps", *BRAIN_FIGURES],
        *(
            [way.removeprefix("DPM-Solver++, ").removesuffix(" steps"), *figures]
            for way, figures in compared(found).items()
        ),
        ["real cases", *(f"{real[key]:.{n}f}" for key, n in BRAIN_FIGURES.values())],
    ]


def brains_course() -> Table:
    shares = (0.1, 0.25, 0.5, 0.75, 1.0)
    table = [["trained", *(f"{share:.0%}" for share in shares)]]
    for name, run in study("course").items():
        if "MONAI's network" in name:  # it was validated at the end only
            continue
        iterations = [(100 * epoch, psnr) for epoch, psnr in run["psnr_brain"]]
        at = [min(iterations, key=lambda i: abs(i[0] - share * run["iterations"])) for share in shares]
        table.append([label(name), *(f"{psnr:.2f} ({step})" for step, psnr in at)])
    return table


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
    one = {"T2 from T1": found["T1 to T2"]["t1"], "T1 from T2": found["T2 to T1"]["t2"]}
    every = {f"{title}, one network for any": found["any to any"][known] for title, known in ANY_TO_ANY.items()}
    for label, result in {**one, **every}.items():
        mean_of_five, draw, lookup = (
            [f"{result[f'{method}psnr_brain']:.2f}", f"{result[f'{method}ssim_brain']:.3f}"]
            for method in ("", "draw_", "lookup_")
        )
        baselines = f"one draw {', '.join(draw)}; lookup {', '.join(lookup)}"
        table.append([f"{label}, mean of five draws", *mean_of_five, baselines])
    return table


BRAINS, AGED = study("brains")[FIRST], study("anatomy")
THEIRS = study("brains")["velocity, shifted, MONAI's network"]
BEST, VELOCITY, FLOW_2, VELOCITY_2, NOISE_2, UNIFORM, LOGIT_NORMAL = (
    study("brains")[f"{kind}, shifted, Age, Sex{stride}"]
    for kind, stride in (
        ("flow", ""),
        ("velocity", ""),
        ("flow", ", stride 2"),
        ("velocity", ", stride 2"),
        ("noise", ", stride 2"),
        ("flow, uniform", ", stride 2"),
        ("flow, logit-normal", ", stride 2"),
    )
)
(AT_96,) = study("brains_96").values()
COURSE_2 = dict(study("course")["velocity, shifted, Age, Sex, stride 2, AdamW"]["psnr_brain"])
SLOPES = "by hand: with_guidance(1, seed 0) of the study anatomy for these trainings, at 218e7f3 and a6465bc"
FIRST_SLOPE = "by hand: study_anatomy.json at 8197165, of the first training"
OTHER_NOISE = "by hand: trainings of 3600 iterations with stride 2 at 8197165, the weighted loss by a prototype"
BY_HAND = "by hand: two trainings of 1200 iterations at 9f2fe24, even timesteps by a prototype"


def gain(of: dict[str, Any], method: str = "reconstruction") -> float:
    return of["reconstruction"][f"{method}_psnr_brain"] - of["reconstruction"]["gaussian_blur_psnr_brain"]


def whole(of: dict[str, Any]) -> float:
    return of["reconstruction"]["reconstruction_ssim_whole"]


def sampled(of: dict[str, Any], steps: int, figure: str) -> float:
    return of[f"DPM-Solver++, {steps} steps"]["figures"][figure]


def three(of: dict[str, Any], steps: int, *figures: str) -> list[Evidence]:
    """The MMDs of intensity, texture and layout."""
    kinds = ("intensity", "texture", "layout")
    return [(figure, sampled(of, steps, f"mmd_{kind}")) for kind, figure in zip(kinds, figures, strict=True)]


TEXT: list[Evidence] = [
    ("28.15 dB", AT_96["reconstruction"]["reconstruction_psnr_brain"]),
    ("0.942", AT_96["reconstruction"]["reconstruction_ssim_brain"]),
    ("1.05 dB", gain(AT_96)),
    ("0.955", whole(AT_96)),
    ("1.8", "by hand: the first and the last time in the log of the training at 1b04958"),
    ("1.8 mm", "by hand: spacing_mm in the record of the training"),
    ("0.06 dB", BY_HAND),
    ("0.003", BY_HAND),
    ("0.850", BY_HAND),
    ("0.904", BY_HAND),
    ("0.829", whole(LOGIT_NORMAL)),
    *((slope, SLOPES) for slope in ("0.06 %", "0.10", "0.14")),
    *((figure, OTHER_NOISE) for figure in ("0.08 %", "8.6", "0.11 %", "5.0")),
    ("2.5", sampled(FLOW_2, 10, "mmd_texture")),
    ("5.0", sampled(UNIFORM, 10, "mmd_texture")),
    ("11.5", sampled(LOGIT_NORMAL, 10, "mmd_texture")),
    ("0.955", whole(FLOW_2)),
    ("0.003", whole(BEST) - whole(FLOW_2)),
    ("22.48 dB", COURSE_2[36]),
    ("22.38 dB", "by hand: validation of both trainings of 600 iterations at 5ca5a0f, Muon by a prototype of 1754b4b"),
    ("20.82 dB", "by hand: validation of both trainings of 600 iterations at 5ca5a0f, Muon by a prototype of 1754b4b"),
    ("0.05 s", "by hand: median step of both trainings of 600 iterations, one thread each"),
    ("1.3", VELOCITY["step_s"]),
    ("0.19 s", "by hand: epochs of both trainings on one machine (commit 3462822)"),
    ("1.2 s", "by hand: epochs of both trainings on one machine (commit 3462822)"),
    ("1.10 dB", gain(BEST)),
    ("1.17 dB", gain(BEST, "one_step")),
    ("1.08 dB", gain(VELOCITY)),
    ("0.48 dB", gain(THEIRS)),
    ("3M", THEIRS["parameters"] / 1e6),
    ("8.7", row("speed_cpu", "MONAI's UNet, 3M, 64^3").step_s / row("speed_cpu", "light, 64^3, default").step_s),
    ("2.9 GB", THEIRS["peak_mib"] * 2**20 / 1e9),
    ("0.4 GB", VELOCITY["peak_mib"] * 2**20 / 1e9),
    ("0.61", min(gain(of) for of in (FLOW_2, VELOCITY_2, NOISE_2))),
    ("0.72 dB", max(gain(of) for of in (FLOW_2, VELOCITY_2, NOISE_2))),
    ("1.5 dB", "a target"),
    ("0.02", "a target"),
    *three(BEST, 10, "1.0", "1.7", "0.4"),
    *three(BEST, 50, "2.0", "1.7", "0.6"),
    *three(VELOCITY, 10, "2.3", "1.5", "1.4"),
    *three(FLOW_2, 10, "3.7", "2.5", "0.4"),
    *three(VELOCITY_2, 10, "5.0", "4.0", "0.9"),
    ("683", sampled(NOISE_2, 10, "mmd_layout")),
    ("456", sampled(NOISE_2, 50, "mmd_layout")),
    ("426", sampled(LOGIT_NORMAL, 20, "mmd_intensity")),
    ("5.1", sampled(FLOW_2, 20, "mmd_intensity")),
    ("45.9", BRAINS["DPM-Solver++, trailing, 10 steps"]["figures"]["mmd_texture"]),
    ("13.2", BRAINS["DPM-Solver++, trailing, 50 steps"]["figures"]["mmd_texture"]),
    ("8.2", sampled(BRAINS, 10, "mmd_texture")),
    ("13.6", sampled(BRAINS, 50, "mmd_texture")),
    ("19.5", BRAINS["Heun, 10 steps"]["figures"]["mmd_texture"]),
    ("0.080", sampled(BEST, 10, "nearest_rmse")),
    ("0.075", BEST["DPM-Solver++, 10 steps"]["real"]["nearest_rmse"]),
    ("0.74", min(AGED["real"]["dice"].values())),
    ("0.33", AGED["guidance 0"]["age"]["correlation"]),
    ("-0.08", AGED["guidance 0, other noise"]["age"]["correlation"]),
    ("0.25 %", AGED["guidance 2"]["age"]["slope"]),
    ("0.25", AGED["real"]["age"]["slope"]),
    ("0.14 %", AGED["guidance 1"]["age"]["slope"]),
    ("0.09 %", AGED["guidance 1, other noise"]["age"]["slope"]),
    ("0.25 %", FIRST_SLOPE),
    ("5 %", "a definition, see compare_region_shares"),
    ("26.79 dB", "by hand: the last validation.json of the training"),
]
