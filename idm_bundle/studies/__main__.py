"""``python -m idm_bundle.studies NAME``: short training runs on phantoms that answer one question each.

Every run uses the bundle's configs with a few values changed, and one seed unless a study names more.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from idm_bundle.studies import (
    anatomy,
    brain_tasks,
    brains,
    course,
    kills,
    optimizers,
    quality,
    real,
    real_or_generated,
    reconstruction,
    segmentation,
    soak,
    switches,
    synthesis,
    warning,
)
from monai_idm.atomic_file import write_json
from monai_idm.machine import VERSIONS, device_name

STUDIES: dict[str, dict[str, Any]] = {}
for module in (reconstruction, segmentation, quality, optimizers, synthesis, warning, real, kills, soak):
    STUDIES |= module.STUDIES
KEPT: list[str] = []  # studies whose trainings are kept in a folder
for module in (brains, anatomy, course, brain_tasks, real_or_generated, switches):
    STUDIES |= module.STUDIES
    KEPT += module.STUDIES
KEPT_NAMES = ", ".join(KEPT)


def main() -> None:
    parser = argparse.ArgumentParser("python -m idm_bundle.studies", description=__doc__)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--side", type=int, default=16, help="voxels per axis (16)")
    parser.add_argument("--json", type=Path, help="file to write; an interrupted study is continued in it")
    parser.add_argument("--dataset_dir", help=f"folder of cases, for real and {KEPT_NAMES}")
    parser.add_argument("--work", help=f"folder that keeps the trainings of {KEPT_NAMES}")
    options = parser.parse_args()
    if (options.study in {*real.STUDIES, *KEPT}) != (options.dataset_dir is not None):
        parser.error(f"the studies real and {KEPT_NAMES} need --dataset_dir, their cases; the others use phantoms")
    if (options.study in KEPT) != (options.work is not None):
        parser.error(f"the studies {KEPT_NAMES} need --work, the folder of their trainings; the others keep none")
    data = {name: value for name in ("dataset_dir", "work") if (value := getattr(options, name)) is not None}
    settings = {
        "study": options.study,
        "steps": options.steps,
        "side": options.side,
        "device": device_name("cuda" if torch.cuda.is_available() else "cpu"),  # as train.yaml chooses
        "versions": VERSIONS,
    }
    results = _earlier(options.json, settings)
    for name, variant in STUDIES[options.study].items():
        if name not in results:
            results[name] = variant(steps=options.steps, side=options.side, **data)
        print(name, json.dumps(results[name]), flush=True)
        content = {**settings, "results": results}
        if options.study in quality.SUMMARIES:
            content["summary"] = quality.SUMMARIES[options.study](results)
        if options.json:
            write_json(options.json, content)


def _earlier(file: Path | None, settings: dict[str, Any]) -> dict[str, Any]:
    """Results of the same study in the file, from before an interruption."""
    written = json.loads(file.read_text()) if file is not None and file.is_file() else {}
    results = written.pop("results", {})
    written.pop("summary", None)
    return results if written == settings else {}


if __name__ == "__main__":
    main()
