"""BENCHMARKS.md: on a GPU."""

from __future__ import annotations

from idm_bundle.benchmark.bars import BARS
from idm_bundle.verify import EXACT_ON_CUDA
from tests.docs.evidence.kinds import Evidence, Table
from tests.docs.evidence.repeated import BRAIN, LOW, REBUILT_TIME, WHOLE_BEFORE
from tests.docs.evidence.results import GPU, gpu_ratio, gpu_step


def steps_on_gpu() -> Table:
    return [
        ["case", "precision", "activations", "optimizer", "peak, GB", "estimated, GB", "TFLOP", "s"],
        *(
            [
                *(found[name] for name in ("case", "precision", "activations", "optimizer")),
                f"{found['peak_bytes'] / 1e9:.2f}",
                f"{found['estimated_bytes'] / 1e9:.2f}",  # at that time
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


ABOVE_ESTIMATE = [(found["peak_bytes"] - found["estimated_bytes"]) / 1e9 for found in GPU["steps"]["results"]]
TRAINED = GPU["training"]
GPU_LAWS = {finding["law"]: finding for finding in GPU["laws"]["findings"]}
SLOWER = GPU_LAWS["time of a step, rebuilt / stored"]
BEFORE = GPU["kernels"]["before"]
ON_BARS = {text: limit for text, limit, _ in BARS["all"]}

TEXT: list[Evidence] = [
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
