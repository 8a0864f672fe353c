"""Run MONAI Deploy's App SDK with a packaged bundle of a segmentation: an application of three operators.

    python -m idm_bundle package --weights bundle/models/segmentation/model.pt --output packaged
    python tests/integration/monai_deploy.py packaged/brats_mri_invertible_diffusion_segmentation --work deploy

Not part of the tests: it installs the SDK in a separate environment without this project. The case is a phantom, or
``--study FILE``, a 4D NIfTI file (T1, T1ce, T2, FLAIR). No GPU is needed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

REQUIREMENTS = [
    "monai-deploy-app-sdk==4.0.0",
    "pydicom",
    "highdicom",
    "SimpleITK",
    "torch==2.13.0",
    "monai==1.6.1",
    "nibabel",
    "pytorch-ignite",
    "matplotlib",
    "scipy",
    "tensorboard",
    "nvidia-ml-py",
    "tqdm",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="folder that package wrote, of a segmentation")
    parser.add_argument("--work", type=Path, required=True, help="folder for the environment, the study and the result")
    parser.add_argument("--study", type=Path, help="4D NIfTI file; without it, a phantom is generated")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)  # the environment of the SDK
    options = parser.parse_args()
    if options.inside:
        run(options.bundle, options.study, options.work / "segmentation.nii.gz")
        return
    options.work.mkdir(parents=True, exist_ok=True)
    python = install(options.work)
    study = phantom(options.work) if options.study is None else options.study
    model = export(options.bundle, options.work / "model.ts")
    command = [str(python), __file__, str(model), "--work", str(options.work), "--study", str(study), "--inside"]
    # the code that the configs name is taken from the bundle
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(options.bundle.resolve())})


def install(work: Path) -> Path:
    """Install the SDK in a separate environment, and return its Python."""
    python = work / "venv" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(work / "venv")], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *REQUIREMENTS], check=True)
    found = subprocess.run([str(python), "-I", "-c", "import monai_idm"], capture_output=True, check=False)
    assert found.returncode, "this project must not be installed there"
    print("installed:", ", ".join(REQUIREMENTS), flush=True)
    return python


def phantom(work: Path) -> Path:
    """A phantom's four contrasts in one file."""
    from monai_idm.data import generate_phantom

    head = generate_phantom(1000, (96, 96, 72))
    nib.save(nib.Nifti1Image(np.stack(list(head.images.values()), -1), head.affine), work / "study.nii.gz")
    print("study: a phantom, no patient's data", flush=True)
    return work / "study.nii.gz"


def export(bundle: Path, model: Path) -> Path:
    """Export the network as TorchScript, with metadata and configs inside, with MONAI's own command."""
    files = {"meta_file": "metadata.json", "config_file": "inference.json"}
    command = [sys.executable, "-m", "monai.bundle", "ckpt_export", "network_def", "--filepath", str(model)]
    command += ["--bundle_root", str(bundle), "--ckpt_file", str(bundle / "models" / "model.pt")]
    command += [text for name, file in files.items() for text in (f"--{name}", str(bundle / "configs" / file))]
    subprocess.run(command, check=True, capture_output=True)
    print(f"ckpt_export: {model.name}, {model.stat().st_size / 1e6:.0f} MB", flush=True)
    return model


def run(model: Path, study: Path, result: Path) -> None:
    """Load the study, segment it with MonaiBundleInferenceOperator, and write the result."""
    from holoscan.conditions import CountCondition
    from monai.deploy.core import AppContext, Application, Image, IOType, Operator, OperatorSpec
    from monai.deploy.operators import IOMapping, MonaiBundleInferenceOperator

    given = nib.load(study)

    class Load(Operator):
        def setup(self, spec: OperatorSpec) -> None:
            spec.output("image")

        def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
            volumes = np.moveaxis(np.asarray(given.dataobj, dtype=np.float32), -1, 0)
            place = {"affine": given.affine, "original_affine": given.affine, "spacing": given.header.get_zooms()[:3]}
            op_output.emit(Image(volumes, metadata={**place, "space": "RAS", "original_channel_dim": 0}), "image")

    class Write(Operator):
        def setup(self, spec: OperatorSpec) -> None:
            spec.input("pred")

        def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
            labels = np.swapaxes(op_input.receive("pred").asnumpy(), 0, 2)  # the SDK's images are (D, H, W)
            nib.save(nib.Nifti1Image(labels, given.affine), result)

    class Segmentation(Application):
        def compose(self) -> None:
            mapping = {"input_mapping": [IOMapping("image", Image, IOType.IN_MEMORY)]}
            mapping["output_mapping"] = [IOMapping("pred", Image, IOType.IN_MEMORY)]
            context = AppContext({"model": str(model)})
            segment = MonaiBundleInferenceOperator(
                self, app_context=context, bundle_path=model, name="segment", **mapping
            )
            self.add_flow(Load(self, CountCondition(self, 1), name="load"), segment, {("image", "image")})
            self.add_flow(segment, Write(self, name="write"), {("pred", "pred")})

    start = time.perf_counter()
    Segmentation([sys.argv[0]]).run()
    found = nib.load(result)
    assert found.shape == given.shape[:3], (found.shape, given.shape)
    numbers = np.unique(np.asarray(found.dataobj), return_counts=True)
    voxels = {int(number): int(count) for number, count in zip(*numbers, strict=True)}
    assert set(voxels) <= {0, 1, 2, 4}, voxels
    seconds = time.perf_counter() - start
    print(f"MonaiBundleInferenceOperator: {found.shape}, voxels by label {voxels} ({seconds:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
