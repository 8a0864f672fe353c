"""From a BraTS folder to a synthetic NIfTI file, in Python: the commands of the README, step by step.

    python bundle/docs/tutorial.py                                # phantoms: about ten minutes on two CPU cores
    python bundle/docs/tutorial.py --dataset_dir /data/BraTS2020  # your volumes: hours on a GPU

Add any knob of train.yaml, such as ``--preset base`` or ``--max_epochs 100``.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import fire
import nibabel as nib
from monai.bundle import create_workflow

from idm_bundle.prepare import prepare
from monai_idm import find_bundle_root
from monai_idm.checkpoints import read_record

CONFIGS = Path(find_bundle_root()) / "configs"


def tutorial(output: str = "tutorial", dataset_dir: str | None = None, **changes: Any) -> Path:
    """Check the data, train, read the memory and quality of the training, and sample a volume.

    Args:
        output: Folder for everything that is written.
        dataset_dir: Folder of cases in one of BraTS's layouts; None: phantoms are generated.
        changes: Values for knobs of train.yaml.
    Returns:
        File of the synthetic T1.
    """
    folder = Path(output).resolve()

    # 1. Read every case once. Those with problems are printed and left out of the split.
    if dataset_dir is not None:
        prepare(dataset_dir, folder / "datalist.json")
        changes |= {"dataset_dir": dataset_dir, "datalist_file": str(folder / "datalist.json")}

    # 2. Train. A config is a workflow: create_workflow builds it, with the values given here, and run trains.
    training = create_workflow(
        config_file=str(CONFIGS / "train.yaml"),
        workflow_type="train",
        output_dir=str(folder / "training"),
        ckpt_dir=str(folder / "models"),
        **changes,
    )
    training.run()
    training.finalize()

    # 3. The weights record what they were trained on, and with which settings.
    model = folder / "models" / "model.pt"
    record = read_record(model) or {}
    print(f"trained on {record['data']['num_cases']} case(s) of {record['data']['source']}")

    # 4. One table has the memory of every epoch, in GiB; another the quality of reconstructions of unseen cases.
    with (folder / "training" / "memory.csv").open() as table:
        print("memory of the last epoch:", list(csv.DictReader(table))[-1])
    summary = json.loads((folder / "training" / "validation.json").read_text())["summary"]
    for modality, regions in summary["image"].items():
        for method in ("reconstruction", "gaussian_blur"):
            print(f"{modality}, {method}: PSNR {regions['brain'][method]['psnr']['mean']:.2f} dB in the brain")

    # 5. Another workflow samples volumes from noise, here in 20 steps. It reads the training settings from the weights.
    sampling = create_workflow(
        config_file=str(CONFIGS / "inference.yaml"),
        workflow_type="infer",
        ckpt_file=str(model),
        output_dir=str(folder / "samples"),
        num_samples=1,
        num_inference_steps=20,
        **{name: changes[name] for name in ("device",) if name in changes},
    )
    sampling.run()
    sampling.finalize()

    # 6. Each contrast is an ordinary NIfTI file.
    (file,) = (folder / "samples").glob("*_t1.nii.gz")
    image = nib.load(file)
    print(f"{file}: {image.shape} voxels of {image.header.get_zooms()[0]:.2f} mm")
    return file


if __name__ == "__main__":
    fire.Fire(tutorial)
