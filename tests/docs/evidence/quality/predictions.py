"""QUALITY.md: what the network predicts, sampling steps and samplers."""

from __future__ import annotations

import math

from tests.docs.evidence.formats import psnr, reconstructed, ssim
from tests.docs.evidence.kinds import AtMost, Evidence, Table
from tests.docs.evidence.repeated import CHAIN, DEFAULT, DPM_20, OURS_LIGHT, QUALITY_OF
from tests.docs.evidence.results import study

PREDICTIONS = {
    "velocity, low noise more often (default then)": "v, little noise more often",
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


def squared_error(psnr: float) -> float:
    return 10 ** (-psnr / 10)


def gain(better: str, worse: str, t: str = "t250") -> float:
    return psnr(QUALITY_OF[better][t]) - psnr(QUALITY_OF[worse][t])


DPM_2000 = CHAIN["DPM-Solver++, 2000 of 2000 steps"]
# what the squared error of a draw of DDPM has above that of one pass: its own spread
SPREAD = squared_error(psnr(CHAIN["DDPM, 2000 of 2000 steps"])) - squared_error(psnr(DPM_20, "one_step"))

TEXT: list[Evidence] = [
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
]
