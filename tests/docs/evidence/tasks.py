"""The figures of TASKS.md."""

from __future__ import annotations

from functools import partial

from tests.docs.evidence.kinds import Builders, Evidence
from tests.docs.evidence.quality.brain_tasks import one_task
from tests.docs.evidence.quality.comparisons import few_steps

TABLES: dict[str, Builders] = {
    "Synthesis of missing contrasts": [few_steps],
    "Inpainting: healthy tissue in the place of a lesion": [partial(one_task, "inpainting")],
    "Super-resolution: thin slices from thick ones": [partial(one_task, "super_resolution")],
    "Brains from label maps": [partial(one_task, "semantic")],
}

TEXT: list[Evidence] = [
    ("25 MB", "a limit of the Model Zoo"),
]
