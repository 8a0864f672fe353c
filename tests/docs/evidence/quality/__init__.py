"""The figures of QUALITY.md."""

from __future__ import annotations

from tests.docs.evidence.kinds import Builders, Evidence
from tests.docs.evidence.quality import brain_tasks, brains, comparisons, predictions, real_or_generated

TABLES: dict[str, Builders] = {
    "In short": [predictions.blur_and_lookup, None],
    "Real brains": [
        brains.brains_reconstructed,
        brains.brains_sampled,
        brains.brains_by_sampler,
        brains.brains_by_age,
        brains.brains_regions,
        brains.brains_course,
        brains.brains_at_96,
    ],
    "Tasks on real brains": [brain_tasks.tasks_judged, brain_tasks.tasks_segmented_back],
    "Can real and generated brains be told apart?": [real_or_generated.told_apart],
    "What the network predicts, and how timesteps are weighted": [
        predictions.predictions_reconstructed,
        predictions.predictions_sampled,
    ],
    "How many sampling steps, and which sampler": [predictions.samplers],
    "Compared with MONAI's network": [comparisons.peers, comparisons.peers_difference],
    "Missing contrasts": [comparisons.contrasts],
    "Do the memory-saving settings cost quality?": [comparisons.switches, comparisons.short_runs],
    "Finer grids: bookends of stride 2": [comparisons.grid],
    "Five real cases": [brains.real_cases],
    "Do the warnings catch bad samples?": [comparisons.warnings],
}

HISTORY: list[Evidence] = [
    ("3 dB", "a target that was set beforehand"),
    ("0.15", "a target that was set beforehand"),
    ("26.7 dB", "by hand: runs that were not kept (commit 36c4cdb)"),
    ("24.3", "by hand: runs that were not kept (commit 36c4cdb)"),
    ("22.9", "by hand: runs that were not kept (commit 36c4cdb)"),
    ("21.6", "by hand: runs that were not kept (commit 36c4cdb)"),
    ("0.4 dB", "by hand: runs that were not kept (commit 36c4cdb)"),
]

TEXT = [*predictions.TEXT, *brains.TEXT, *brain_tasks.TEXT, *real_or_generated.TEXT, *comparisons.TEXT, *HISTORY]
