"""BENCHMARKS.md: speed, gradients, layers and attention on a CPU."""

from __future__ import annotations

from typing import Any

from tests.docs.evidence.formats import million
from tests.docs.evidence.kinds import Evidence, Table
from tests.docs.evidence.results import GPU, content, rows


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


def laws() -> Table:
    on_gpu = {finding["law"]: finding["value"] for finding in GPU["laws"]["findings"]}
    return [
        ["law", "limit", "on a CPU", "on an H200"],
        *(
            [
                law := finding["law"],
                f"{finding['bar']:g}",
                f"{finding['value']:.3g}",
                f"{on_gpu[law]:.3g}" if law in on_gpu else "",
            ]
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


BY_FORMAT = "by hand: the law of verify on a CPU, with other weights, formats and kernels (commit dd318af)"

TEXT: list[Evidence] = [
    ("6.3e-6", BY_FORMAT),
    ("7.8e-6", BY_FORMAT),
    ("1.0e-5", BY_FORMAT),
    ("1.3e-5", BY_FORMAT),
    ("3.7e-6", BY_FORMAT),
    ("4.5e-6", BY_FORMAT),
    ("2e-5", "the bound of verify"),
    ("1e-9", "the bound of tests/distributed"),
    ("1e-5", "the bound of tests/distributed"),
    ("1.4 MB", "by hand, from the matrices of `light`"),
]
