"""Run MONAI Label's server with a packaged bundle, and send it the requests of a radiologist's viewer.

    python -m idm_bundle package --weights bundle/models/segmentation/model.pt --output packaged
    python tests/integration/monai_label.py packaged/brats_mri_invertible_diffusion_segmentation --work label

Not part of the tests: it installs MONAI Label, which needs other versions of some packages, in a separate environment
without this project. Studies are phantoms, or ``--studies FOLDER`` of 4D NIfTI files (T1, T1ce, T2, FLAIR).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np

from monai_idm.data import write_phantoms

REQUIREMENTS = [
    "monailabel==0.8.5",
    "pydicom<3",
    "pynetdicom<3",
    "dicomweb-client[gcp]<0.60",
    "torch==2.13.0",
    "monai==1.6.1",
]
CONTRASTS = ("t1", "t1ce", "t2", "flair")
EPOCHS = 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="folder that package wrote, of a segmentation")
    parser.add_argument("--work", type=Path, required=True, help="folder for the environment, the app and the studies")
    parser.add_argument("--studies", type=Path, help="folder of 4D NIfTI files; without it, phantoms are generated")
    parser.add_argument("--port", type=int, default=8123)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    label = install(options.work)
    studies = phantoms(options.work / "studies") if options.studies is None else copied(options.studies, options.work)
    app = application(label, options.bundle, options.work)
    name, case = options.bundle.name, sorted(studies.glob("*.nii.gz"))[0]
    with server(label, app, studies, name, options.port, options.work / "server.log") as url:
        infer(url, name, case, options.work / "inferred.nii.gz")
        if (studies / "labels" / "final").is_dir():
            train(url, name, app / "model" / name / "models")


def install(work: Path) -> Path:
    """Install MONAI Label in a separate environment, and return its command."""
    label = work / "venv" / "bin" / "monailabel"
    if not label.exists():
        subprocess.run([sys.executable, "-m", "venv", str(work / "venv")], check=True)
        subprocess.run([str(label.with_name("pip")), "install", "-q", *REQUIREMENTS], check=True)
    python = label.with_name("python")
    found = subprocess.run([str(python), "-I", "-c", "import monai_idm"], capture_output=True, check=False)
    assert found.returncode, "this project must not be installed there"
    say("installed", ", ".join(REQUIREMENTS))
    return label


def phantoms(studies: Path, number: int = 4) -> Path:
    """Write phantoms as studies of a viewer: a 4D file and a label for each."""
    folder = studies.with_name("phantoms")
    write_phantoms(str(folder), number, (96, 96, 72), 1000)
    (studies / "labels" / "final").mkdir(parents=True, exist_ok=True)
    for case in sorted(folder.glob("PHANTOM_*")):
        volumes = [nib.load(case / f"{case.name}_{contrast}.nii.gz") for contrast in CONTRASTS]
        stacked = np.stack([np.asarray(volume.dataobj) for volume in volumes], -1)
        nib.save(nib.Nifti1Image(stacked, volumes[0].affine), studies / f"{case.name}.nii.gz")
        shutil.copy(case / f"{case.name}_seg.nii.gz", studies / "labels" / "final" / f"{case.name}.nii.gz")
    say("studies", f"{number} phantoms, no patient's data")
    return studies


def copied(given: Path, work: Path) -> Path:
    """A copy of the given studies, into whose folder the server may write."""
    studies = work / "studies"
    studies.mkdir(exist_ok=True)
    for file in given.glob("*.nii.gz"):
        shutil.copy(file, studies)
    return studies


def application(label: Path, bundle: Path, work: Path) -> Path:
    """Download MONAI Label's app for bundles, and put ours into it."""
    app = work / "apps" / "monaibundle"
    if not app.exists():
        command = ["apps", "--download", "--name", "monaibundle", "--output", str(app.parent)]
        subprocess.run([str(label), *command], check=True, env=_environment(label))
    target = app / "model" / bundle.name
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(bundle, target)
    for name in ("inference", "train"):  # the files are 4D, and do not name their channels
        file = target / "configs" / f"{name}.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"channel_order": list(CONTRASTS)}))
    return app


@contextmanager
def server(label: Path, app: Path, studies: Path, name: str, port: int, log: Path) -> Iterator[str]:
    """Start the server, and yield its address."""
    command = [str(label), "start_server", "--app", str(app), "--studies", str(studies), "--port", str(port)]
    command += [
        "--host",
        "127.0.0.1",
        "--conf",
        "models",
        name,
        "--conf",
        "zoo_source",
        "ngc",
        "--conf",
        "sam2",
        "false",
    ]
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, cwd=app.parent, env=_environment(label))
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(120):
                if process.poll() is not None:
                    raise SystemExit(f"the server ended; see {log}")
                try:
                    info = json.loads(ask(f"{url}/info/"))
                    break
                except OSError:
                    time.sleep(1)
            else:
                raise SystemExit(f"the server does not answer; see {log}")
            assert name in info["models"], info["models"].keys()
            say("GET /info", f"{name}: {info['models'][name]['description']}")
            yield url
        finally:
            process.terminate()
            process.wait(30)


def _environment(label: Path) -> dict[str, str]:
    """An environment in which MONAI Label's Python comes first, because its command starts ``python``."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**inherited, "PATH": f"{label.parent}{os.pathsep}{inherited['PATH']}"}


def infer(url: str, name: str, case: Path, result: Path) -> None:
    """Request the mask of a study, and check that it is on the study's grid."""
    start = time.perf_counter()
    result.write_bytes(ask(f"{url}/infer/{name}?image={case.name.removesuffix('.nii.gz')}&output=image", post=True))
    given, found = nib.load(case), nib.load(result)
    assert found.shape == given.shape[:3], (found.shape, given.shape)
    assert np.allclose(found.affine, given.affine, atol=1e-3), (found.affine, given.affine)
    numbers = np.unique(np.asarray(found.dataobj), return_counts=True)
    voxels = {int(number): int(count) for number, count in zip(*numbers, strict=True)}
    say("POST /infer", f"{case.name}: {found.shape}, the affine of the study, voxels by label {voxels}", start)


def train(url: str, name: str, models: Path) -> None:
    """Request an epoch of training on the studies' labels."""
    start = time.perf_counter()
    before = {file.name for file in models.iterdir()}
    body = json.dumps({"max_epochs": EPOCHS, "name": "trained", "multi_gpu": False}).encode()
    ask(f"{url}/train/{name}?run_sync=true", post=True, body=body)
    written = sorted({file.name for file in models.iterdir()} - before)
    assert written, "no checkpoint"
    say("POST /train", f"{EPOCHS} epoch, from model.pt; wrote {', '.join(written)}", start)


def ask(url: str, post: bool = False, body: bytes | None = None) -> bytes:
    headers = {"Content-Type": "application/json"} if body else {}
    request = urllib.request.Request(url, data=body, headers=headers, method="POST" if post else "GET")
    try:
        with urllib.request.urlopen(request, timeout=1200) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{url}: {error.code} {error.read().decode()[:2000]}") from error


def say(what: str, found: str, since: float | None = None) -> None:
    print(f"{what}: {found}" + ("" if since is None else f" ({time.perf_counter() - since:.0f} s)"), flush=True)


if __name__ == "__main__":
    main()
