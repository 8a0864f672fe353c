"""BENCHMARKS.md: segmentation with patches or whole volumes."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tests.docs.evidence.formats import mb, million
from tests.docs.evidence.kinds import Evidence, Table
from tests.docs.evidence.results import row, study


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


SEGMENTED = study("segmentation")
PATCHED = study("patches")


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


LARGER_PATCHES = changes("PatchDDM, 24^3", "PatchDDM, 16^3")
SKIPS = changes("PatchDDM, 16^3, concatenated skips", "PatchDDM, 16^3")
COORDINATES = changes("PatchDDM, 16^3", "PatchDDM, 16^3, no coordinates")

TEXT: list[Evidence] = [
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
]
