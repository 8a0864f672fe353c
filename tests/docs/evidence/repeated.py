"""Cases, results and reasons that more than one page or chapter names."""

from __future__ import annotations

from tests.docs.evidence.results import GPU, gpu_ratio, row, study

PAPER = "paper_estimate"
LOW = "paper, low memory"
WHOLE = "paper, 256 x 256 x 192, stride 2"
WHOLE_BEFORE = 4.219029804  # GB, benchmark_volume_estimate.jsonl of commit aa9bc42, before the shortcut had gates
BRAIN = GPU["whole_brain"]
REBUILT_TIME = gpu_ratio("paper, low memory", "paper, low memory, stored")

QUALITY_OF = study("quality")
CHAIN = study("chain")["reversible"]
DPM_20 = CHAIN["DPM-Solver++, 20 of 2000 steps"]
DEFAULT = QUALITY_OF["v, little noise more often"]
SYNTHESIS = study("synthesis")

OURS_PAPER = row(PAPER, "paper").parameters / 1e6
OURS_BASE = row(PAPER, "base").parameters / 1e6
OURS_LIGHT = DEFAULT["parameters"] / 1e6

CARD = "a model of torch's allocator, which replayed the allocations of a step"
SETTING = "a setting"
