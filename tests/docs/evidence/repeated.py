"""Cases, results and reasons that more than one page or chapter names."""

from __future__ import annotations

import torch

from monai_idm.networks import InvertibleDiffusionUNet
from tests.docs.evidence.results import GPU, gpu_ratio, row, study


def _share_of_two_levels() -> float:
    """Share of the weights of `paper` that its two deepest levels hold in their couplings."""
    with torch.device("meta"):
        network = InvertibleDiffusionUNet.from_preset("paper")
    deep = sum(p.numel() for module in network.deep_couplings(2) for p in module.parameters())
    return deep / sum(p.numel() for p in network.parameters())


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
ANY_TO_ANY = {  # what is made from what, and the known contrasts
    "FLAIR from T1, T1ce, T2": "t1, t1ce, t2",
    "T1ce, T2 from T1, FLAIR": "t1, flair",
    "T1ce, T2, FLAIR from T1": "t1",
    "T1, T1ce, FLAIR from T2": "t2",
}

OURS_PAPER = row(PAPER, "paper").parameters / 1e6
OURS_BASE = row(PAPER, "base").parameters / 1e6
OURS_LIGHT = DEFAULT["parameters"] / 1e6

ON_HOST = _share_of_two_levels()
CARD = "a model of torch's allocator, which replayed the allocations of a step"
SETTING = "a setting"
