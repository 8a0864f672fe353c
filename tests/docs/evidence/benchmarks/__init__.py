"""The figures of BENCHMARKS.md."""

from __future__ import annotations

from tests.docs.evidence.benchmarks import cpu, gpu, memory, segmentation
from tests.docs.evidence.kinds import Builders, Evidence
from tests.docs.evidence.repeated import PAPER
from tests.docs.evidence.results import gb

TABLES: dict[str, Builders] = {
    "In short": [memory.in_short, memory.cost_in_short],
    "On a GPU": [gpu.steps_on_gpu, gpu.brain_on_gpu, gpu.kernels_on_gpu],
    "Memory of the paper's setting": [lambda: memory.steps("paper_estimate"), memory.limits, memory.full_size_steps],
    "Larger volumes": [memory.volumes],
    "One switch after the other": [lambda: memory.steps("optimizer_estimate"), memory.one_after_the_other],
    "Speed on a CPU": [cpu.speed],
    "Depth": [memory.depth, memory.depth_measured],
    "Do rebuilt activations give the same gradients?": [cpu.laws],
    "Layer by layer": [cpu.layers],
    "Attention": [cpu.attention],
    "Sampling": [memory.sampling],
    "Memory": [segmentation.segmentation_memory],
    "Quality": [segmentation.segmentation_quality],
    "Steps, samplers, draws": [segmentation.segmentation_steps, segmentation.segmentation_draws],
    "Patch size, skips, coordinates, regions": [segmentation.segmentation_patches],
}

HISTORY: list[Evidence] = [
    ("4.21 GB", gb(PAPER, "PatchDDM, low memory")),
    ("4.16", "what this was before commit 1a3d474"),
    ("3.29 GB", "what low memory, exact, was in version 0.4.0"),
    ("3.28", "what this was before version 0.4.0"),
    ("0.1 GB", "largest difference between the rows at 62d9f89 and at 3d4efe0"),
]

TEXT = [*memory.TEXT, *gpu.TEXT, *cpu.TEXT, *segmentation.TEXT, *HISTORY]
