"""BENCHMARKS.md: in short, and memory, estimated or counted."""

from __future__ import annotations

import re
from typing import Any

from idm_bundle.benchmark import Row
from tests.docs.evidence.formats import million
from tests.docs.evidence.kinds import Evidence, Table
from tests.docs.evidence.repeated import (
    CARD,
    LOW,
    ON_HOST,
    OURS_LIGHT,
    OURS_PAPER,
    PAPER,
    REBUILT_TIME,
    WHOLE,
    WHOLE_BEFORE,
)
from tests.docs.evidence.results import bar, content, gb, row, rows


def counted(case: str) -> str:
    return f"{gb('optimizer_cpu', case):.3f} GB"


STRIDE_1 = "256 x 256 x 192, stride 1"

# No file has those with a figure: a training step on real tensors, counted by hand, at the commit that is named.
COUNTED = {
    "paper, low memory": counted("+ 8-bit states"),
    "paper, all switches": counted("+ two levels on the host"),
    "paper, all switches, exact": "1.146 GB",  # 9e26b50
}
COUNTED_BRAIN = {
    f"{WHOLE}, all switches": "1.830 GB",  # 9e26b50
    f"{WHOLE}, least memory": "2.792 GB",  # 0409ead, and the following
    f"{WHOLE}, all switches but Muon": "1.945 GB",
    f"paper, {STRIDE_1}, all switches": "7.788 GB",
    f"base, {STRIDE_1}, least memory": "4.107 GB",
}
COUNTED_BEFORE, COUNTED_BY_TRAINER = "4.219 GB", "4.320 GB"  # bbc08fd


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
    low = "paper, low memory"
    brains = {
        "one whole brain, 256 x 256 x 192, `native.yaml`": f"{WHOLE}, least memory",
        "the same with all switches": f"{WHOLE}, all switches",
        "the same at full resolution inside (`bookend_stride: 1`)": f"paper, {STRIDE_1}, all switches",
        "`base`, 24M parameters, the same, nothing on the host": f"base, {STRIDE_1}, least memory",
    }
    real = "estimated; counted in a real step on a CPU:"

    def peak(case: str, name: str = "paper_estimate") -> str:
        return f"{gb(name, case):.2f} GB"

    return [
        ["training step", "peak memory", "how it was obtained"],
        ["the paper's setting (64^3, batch 4), float32, AdamW", peak("paper"), "estimated"],
        ["the same with the low-memory settings", peak(low), f"{real} {COUNTED[low]}"],
        ["and with the two deepest levels on the host", peak(f"{low}, two levels on the host"), "estimated"],
        ["or with bfloat16 weights", peak(f"{low}, bfloat16 weights"), "estimated"],
        ["with bfloat16 gradients of streams and Muon, too", peak("paper, least memory"), "estimated"],
        [
            "with all switches: two levels on the host, too",
            peak("paper, all switches"),
            f"{real} {COUNTED['paper, all switches']}",
        ],
        *([label, peak(case, "volume_estimate"), f"{real} {COUNTED_BRAIN[case]}"] for label, case in brains.items()),
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


def full_size_steps() -> Table:
    return [
        ["full-size step", "counted", "estimated"],
        *([f"{case}, 64^3, batch 4", found, f"{gb('paper_estimate', case):.3f} GB"] for case, found in COUNTED.items()),
        *([case, found, f"{gb('volume_estimate', case):.3f} GB"] for case, found in COUNTED_BRAIN.items()),
        ["an earlier version, paper, low memory, 256 x 256 x 192, stride 2", COUNTED_BEFORE, ""],
        ["the same in two steps of MONAI's trainer, on a real case", COUNTED_BY_TRAINER, ""],
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


def tflop(name: str, case: str) -> float:
    return row(name, case).flops / 1e12


def one_after_the_other() -> Table:
    """Real steps on a CPU."""
    low = row("optimizer_cpu", "+ 8-bit states").step_s
    return [
        ["case", "counted, GB", "time, relative to `+ 8-bit states`"],
        *([r.case, f"{r.peak_bytes / 1e9:.2f}", f"{r.step_s / low:.2f}"] for r in rows("optimizer_cpu")),
    ]


MUON = tflop(PAPER, "paper, least memory") - tflop(PAPER, LOW)  # the other switches need no matrix products

TEXT: list[Evidence] = [
    ("1.09 GB", gb(PAPER, "paper, all switches")),
    ("1.14 GB", gb(PAPER, "paper, all switches, exact")),
    ("1.83 GB", gb("volume_estimate", f"{WHOLE}, all switches")),
    ("8.08 GB", gb("volume_estimate", f"paper, {STRIDE_1}, all switches")),
    ("0.03 GB", gb(PAPER, "paper, least memory") - 1.7),
    ("1.37 GB", gb(PAPER, "paper, all switches but Muon")),
    ("1.43 GB", gb(PAPER, "paper, all switches but Muon, exact")),
    ("1.94 GB", gb("volume_estimate", f"{WHOLE}, all switches but Muon")),
    ("8.10 GB", gb("volume_estimate", f"paper, {STRIDE_1}, all switches but Muon")),
    ("4.28 GB", gb("volume_estimate", f"base, {STRIDE_1}, least memory but Muon")),
    ("1.47 TFLOP", MUON),
    ("31 %", 100 * MUON / tflop(PAPER, LOW)),
    ("18 %", 100 * MUON / tflop("volume_estimate", WHOLE)),
    ("2.5 %", 100 * MUON / (tflop("volume_estimate", f"paper, {STRIDE_1}, all switches") - MUON)),
    ("5.69 TFLOP", "by formula: five times 4 m^2 n + 2 m^3 for each kernel of m x n, m <= n"),
    ("92 %", 100 * ON_HOST),
    ("2.5 GB", ON_HOST * OURS_PAPER * (3 * 2 + 2 * (1 + 4 / 256)) / 1e3),  # bytes of weights, and of 8-bit states
    ("0.13 s", ON_HOST * OURS_PAPER * (3 * 2 + 2 * (1 + 4 / 256)) / 1e3 / 20),
    ("20 GB/s", "two thirds of what PCIe 4.0 with 16 lanes carries by its specification, 31.5 GB/s"),
    ("4.0", "a version of PCIe"),
    ("4.26 GB", gb("volume_estimate", f"base, {STRIDE_1}, least memory")),
    ("3.08 GB", "benchmark_paper_estimate.jsonl of commit 87180d3, before gradients were overwritten in place"),
    *((figure, CARD) for figure in ("4.2", "4.4 GB", "6.0", "6.5 GB")),
    ("1e9", "a unit"),
    ("1e6", "a unit"),
    ("344M", OURS_PAPER),
    ("3M", OURS_LIGHT),
    ("2.79 GB", gb("volume_estimate", f"{WHOLE}, least memory")),
    ("4.22 GB", WHOLE_BEFORE),
    ("0.15", gb("volume_estimate", f"base, {STRIDE_1}, least memory") - 4.107),
    ("0.30 GB", gb("volume_estimate", f"paper, {STRIDE_1}, all switches") - 7.788),
    ("1 %", "a bound of the differences, by hand: 1.146 and 1.142 GB are 0.4 % apart"),
    ("2 %", "the bound of tests/meters/test_estimation.py"),
    ("6.71 GB", 6.708984),  # the paper, table 2
    ("7.90 GB", 7.899565),
    ("1.7 GB", "a target that was set beforehand"),
    ("2.0 GB", "a target that was set beforehand"),
    ("2.9 GB", "a target that was set beforehand"),
    ("9.5 GB", "a target that was set beforehand"),
    ("4.4 GB", "a target that was set beforehand"),
    ("0.101 GB", float(COUNTED_BY_TRAINER.split()[0]) - float(COUNTED_BEFORE.split()[0])),
    ("0.101 GB", 2 * 256 * 256 * 192 * 4 / 1e9),  # one volume of two channels, float32
]
