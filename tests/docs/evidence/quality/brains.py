"""QUALITY.md: real brains."""

from __future__ import annotations

from typing import Any

from tests.docs.evidence.kinds import Evidence, Table
from tests.docs.evidence.results import study

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
    shares = (0.1, 0.25, 0.5, 0.75, 1.0)
    table = [["trained", *(f"{share:.0%}" for share in shares)]]
    for name, run in study("course").items():
        iterations = [(100 * epoch, psnr) for epoch, psnr in run["psnr_brain"]]
        at = [min(iterations, key=lambda i: abs(i[0] - share * run["iterations"])) for share in shares]
        table.append([name, *(f"{psnr:.2f} ({step})" for step, psnr in at)])
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
    for label, result in {"T2 from T1": found["T1 to T2"]["t1"], "T1 from T2": found["T2 to T1"]["t2"]}.items():
        mean_of_five, draw, lookup = (
            [f"{result[f'{method}psnr_brain']:.2f}", f"{result[f'{method}ssim_brain']:.3f}"]
            for method in ("", "draw_", "lookup_")
        )
        baselines = f"one draw {', '.join(draw)}; lookup {', '.join(lookup)}"
        table.append([f"{label}, mean of five draws", *mean_of_five, baselines])
    return table


BRAINS, AGED = study("brains")["flow, logit-normal, shifted, Age, Sex, AdamW"], study("anatomy")
BRAINS_AT = BRAINS["reconstruction"]

FLOW_2, VELOCITY_2, LOGIT_NORMAL, FLOW = (
    study("brains")[f"{name[0]}, shifted, Age, Sex, stride 2{name[1]}"]
    for name in (("flow, logit-normal", ", AdamW"), ("velocity", ", AdamW"), ("flow, logit-normal", ""), ("flow", ""))
)
BY_HAND = "by hand: two trainings of 1200 iterations at 9f2fe24, even timesteps by a prototype"

MUON, BEST = (study("brains")[f"{name}, shifted, Age, Sex"] for name in ("velocity", "flow"))
COURSE_2 = dict(study("course")["velocity, shifted, Age, Sex, stride 2, AdamW"]["psnr_brain"])


def gain(of: dict[str, Any]) -> float:
    return of["reconstruction"]["reconstruction_psnr_brain"] - of["reconstruction"]["gaussian_blur_psnr_brain"]


def sampled(of: dict[str, Any], steps: int, figure: str) -> float:
    return of[f"DPM-Solver++, {steps} steps"]["figures"][figure]


TEXT: list[Evidence] = [
    ("0.06 dB", BY_HAND),
    ("0.003", BY_HAND),
    ("0.850", BY_HAND),
    ("0.904", BY_HAND),
    ("0.61 dB", gain(FLOW)),
    ("11.5", sampled(LOGIT_NORMAL, 10, "mmd_texture")),
    ("2.5", sampled(FLOW, 10, "mmd_texture")),
    ("426", sampled(LOGIT_NORMAL, 20, "mmd_intensity")),
    ("5.1", sampled(FLOW, 20, "mmd_intensity")),
    ("4.1", sampled(FLOW, 50, "mmd_texture")),
    ("0.829", LOGIT_NORMAL["reconstruction"]["reconstruction_ssim_whole"]),
    ("0.955", FLOW["reconstruction"]["reconstruction_ssim_whole"]),
    ("1.08 dB", gain(MUON)),
    ("22.48 dB", COURSE_2[36]),
    ("22.38 dB", "by hand: validation of both trainings of 600 iterations at 5ca5a0f, Muon by a prototype of 1754b4b"),
    ("20.82 dB", "by hand: validation of both trainings of 600 iterations at 5ca5a0f, Muon by a prototype of 1754b4b"),
    ("0.05 s", "by hand: median step of both trainings of 600 iterations, one thread each"),
    ("1.3", MUON["step_s"]),
    ("1.10 dB", gain(BEST)),
    ("1.0", sampled(BEST, 10, "mmd_intensity")),
    ("1.7", sampled(BEST, 10, "mmd_texture")),
    ("0.4", sampled(BEST, 10, "mmd_layout")),
    ("2.3", sampled(MUON, 10, "mmd_intensity")),
    ("1.5", sampled(MUON, 10, "mmd_texture")),
    ("1.4", sampled(MUON, 10, "mmd_layout")),
    *(
        (figure, sampled(BEST, 50, f"mmd_{name}"))
        for name, figure in {"intensity": "2.0", "texture": "1.7", "layout": "0.6"}.items()
    ),
    ("0.15 dB", gain(FLOW_2)),
    ("0.55 dB", gain(VELOCITY_2)),
    ("0.961", BRAINS_AT["reconstruction_ssim_whole"]),
    ("0.932", FLOW_2["reconstruction"]["reconstruction_ssim_whole"]),
    ("0.930", VELOCITY_2["reconstruction"]["reconstruction_ssim_whole"]),
    ("0.02", "a target"),
    ("0.19", "by hand: epochs of both trainings on one machine (commit 3462822)"),
    ("1.2", "by hand: epochs of both trainings on one machine (commit 3462822)"),
    ("1.8", sampled(VELOCITY_2, 10, "mmd_texture")),
    ("2.9", sampled(VELOCITY_2, 50, "mmd_texture")),
    ("9.9", sampled(FLOW_2, 10, "mmd_texture")),
    ("11.4", sampled(FLOW_2, 50, "mmd_texture")),
    ("0.4", sampled(VELOCITY_2, 10, "mmd_layout")),
    ("14.6", sampled(FLOW_2, 10, "mmd_layout")),
    ("98.8", sampled(FLOW_2, 20, "mmd_intensity")),
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
]
