"""``python -m idm_bundle.studies NAME``: short trainings on phantoms that answer one question each.

Every training is the bundle's own, with a few values changed; the same seed, hence the same batches.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from idm_bundle.studies import reconstruction, segmentation
from monai_idm.atomic_file import atomic_file
from monai_idm.machine import VERSIONS, device_name

STUDIES = {**reconstruction.STUDIES, **segmentation.STUDIES}


def main() -> None:
    parser = argparse.ArgumentParser("python -m idm_bundle.studies", description=__doc__)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--side", type=int, default=16, help="voxels per axis (16)")
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args()
    results = {}
    for name, variant in STUDIES[options.study].items():
        results[name] = variant(steps=options.steps, side=options.side)
        print(name, json.dumps(results[name]), flush=True)
        if options.json:
            record = {
                "study": options.study,
                "steps": options.steps,
                "side": options.side,
                "results": results,
                "device": device_name("cuda" if torch.cuda.is_available() else "cpu"),  # as train.yaml chooses
                "versions": VERSIONS,
            }
            with atomic_file(options.json) as unfinished:
                unfinished.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
