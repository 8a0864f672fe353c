"""QUALITY.md: other networks, contrasts, memory-saving settings, finer grids, deliberate faults."""

from __future__ import annotations

import re
from collections.abc import Iterable
from statistics import mean

from tests.docs.evidence.formats import mb, reconstructed, ssim
from tests.docs.evidence.kinds import Evidence, Table
from tests.docs.evidence.repeated import ANY_TO_ANY, SETTING, SYNTHESIS
from tests.docs.evidence.results import content, study


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


ONE = {  # by what is made of what: training, and the known contrasts
    "T2 from T1": ("T1 to T2", "t1"),
    "T1 from T2": ("T2 to T1", "t2"),
    "FLAIR from T1, T1ce, T2": ("three to FLAIR", "t1, t1ce, t2"),
}
ANY = {title: ("any to any", known) for title, known in ANY_TO_ANY.items()}


def contrasts() -> Table:
    methods = ["mean of five draws, dB", "one draw, dB", "regression, dB", "lookup, dB"]
    table = [["contrasts", *(cell for method in methods for cell in (method, "SSIM")), "mean image, dB"]]
    for title, labels in {"*one network for each task*": ONE, "*one network for any of four contrasts*": ANY}.items():
        table.append([title, *[""] * 9])
        for label, (variant, known) in labels.items():
            drawn, predicted = (SYNTHESIS[f"{variant}{words}"][known] for words in ("", ", regression"))
            cells = [
                f"{found[f'{method}{metric}_brain']:.{digits}f}"
                for found, method in ((drawn, ""), (drawn, "draw_"), (predicted, ""), (drawn, "lookup_"))
                for metric, digits in (("psnr", 2), ("ssim", 3))
            ]
            table.append([label, *cells, f"{drawn['mean_image_psnr_brain']:.2f}"])
    return table


def few_steps() -> Table:
    by_steps, regression = study("few_steps")["diffusion"], study("few_steps")["regression"]["1 steps"]
    rows = [(f"one draw, {n} step{'s' * (n > 1)}", by_steps[f"{n} steps"], "draw_", n) for n in (1, 2, 4, 20)]
    rows += [("mean of five draws, 20 steps", by_steps["20 steps"], "", 100), ("regression", regression, "", 1)]
    rows += [("best lookup from intensities", by_steps["20 steps"], "lookup_", "none")]
    return [
        ["T2 from T1, 8 phantoms", "passes of the network", "PSNR, dB", "SSIM"],
        *(
            [title, str(cost), f"{found[f'{method}psnr_t2_brain']:.2f}", f"{found[f'{method}ssim_t2_brain']:.3f}"]
            for title, found, method, cost in rows
        ),
    ]


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


SWITCHES = dict.fromkeys(name.rpartition(", seed ")[0] for name in study("switches"))
PLAIN = "AdamW, float32"


def losses(switches: str, of: str = "validation_loss") -> list[float]:
    """Of the three seeds."""
    return [study("switches")[f"{switches}, seed {seed}"][of] for seed in (0, 1, 2)]


def relative(switches: str, of: str = "validation_loss", to: str = PLAIN) -> float:
    return mean(losses(switches, of)) / mean(losses(to, of))


def switches() -> Table:
    seeds = ["seed 0", "seed 1", "seed 2"]
    return [
        [
            "trained with",
            "loss in training, relative",
            *(f"loss of predictions, {s}" for s in seeds),
            "relative",
            "with little noise, relative",
        ],
        *(
            [
                name,
                f"{relative(name, 'loss'):.3f}",
                *(f"{loss:.4f}" for loss in losses(name)),
                f"{relative(name):.3f}",
                f"{relative(name, 'little_noise'):.3f}",
            ]
            for name in SWITCHES
        ),
    ]


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


def gain(rows: Iterable[tuple[str, str]], better: str, than: str) -> list[float]:
    """Differences of PSNR in some rows of the table of contrasts, in dB.

    Args:
        rows: The rows.
        better: One method, ``"draw"``, ``"mean"``, ``"regression"`` or ``"lookup"``.
        than: Another.
    """

    def psnr(row: tuple[str, str], method: str) -> float:
        training, known = row
        found = SYNTHESIS[f"{training}, regression" if method == "regression" else training][known]
        return found["psnr_brain" if method in ("mean", "regression") else f"{method}_psnr_brain"]

    return [psnr(row, better) - psnr(row, than) for row in rows]


REGRESSION = gain([*ONE.values(), *ANY.values()], "regression", "mean")
TWIN = study("twin")["rebuilt and stored"]
SCORES = [found["psnr_brain_db"] for found in study("optimizer").values()]
LOSSES = {name: found["loss"] for name, found in study("optimizer").items()}

TEXT: list[Evidence] = [
    ("3.01M", study("peers")["reversible, seed 0"]["parameters"] / 1e6),
    ("2.99M", study("peers")["MONAI's DiffusionModelUNet, seed 0"]["parameters"] / 1e6),
    ("1.5e-3", SETTING),
    ("5e-4", SETTING),
    *zip(("6.9", "2.6", "5.5 dB"), gain(ONE.values(), "mean", "lookup"), strict=True),
    ("1.4 dB", min(gain(ONE.values(), "draw", "lookup"))),
    ("0.5", min(gain(ANY.values(), "mean", "lookup"))),
    ("1.6 dB", max(gain(ANY.values(), "mean", "lookup"))),
    ("0.4", min(found for found in REGRESSION if found > 0)),
    ("1.3 dB", max(REGRESSION)),
    ("0.4", -max(found for found in REGRESSION if found < 0)),
    ("1.2 dB", -min(REGRESSION)),
    ("1 %", 100 * max(relative(name) for name in SWITCHES if "Muon" not in name) - 100),
    ("1 %", 100 * max(losses(PLAIN)) / min(losses(PLAIN)) - 100),
    ("2 %", 100 - 100 * relative("Muon, all of them", to="Muon, float32")),
    ("6 %", 100 * relative("mixed", "loss") - 100),
    ("10 %", 100 * relative("Muon, all of them", "loss", "Muon, float32") - 100),
    ("0.2 dB", max(SCORES) - min(SCORES)),
    ("1.007", LOSSES["8-bit states"] / LOSSES["AdamW"]),
    ("1.000", LOSSES["8-bit states, mixed"] / LOSSES["AdamW"]),
    ("0.997", LOSSES["8-bit states, mixed, bfloat16 weights"] / LOSSES["AdamW"]),
    ("0.853", TWIN["first_loss"]),
    ("0.322", TWIN["last_loss"]),
    ("0.32", roughness(1, "noisy: roughness")),
    ("0.27", roughness(2, "noisy: roughness")),
    ("0.13", roughness(1, "real volumes")),
]
