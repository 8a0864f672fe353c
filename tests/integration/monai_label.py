"""Run MONAI Label's server with a packaged bundle, and send it the requests of a radiologist's viewer.

    python -m idm_bundle package --weights bundle/models/segmentation/model.pt --output packaged
    python tests/integration/monai_label.py packaged/brats_mri_invertible_diffusion_segmentation --work label

Not part of the tests: it installs MONAI Label, which needs other versions of some packages, in a separate environment
without this project. Studies are phantoms; for segmentation also ``--studies FOLDER`` of 4D NIfTI files (T1, T1ce, T2,
FLAIR).
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
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

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
    parser.add_argument("bundle", type=Path, help="folder that package wrote")
    parser.add_argument("--work", type=Path, required=True, help="folder for the environment, the app and the studies")
    parser.add_argument("--studies", type=Path, help="folder of 4D NIfTI files; without it, phantoms are generated")
    parser.add_argument("--port", type=int, default=8123)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    label = install(options.work)
    name = options.bundle.name
    task = TASKS[name.removeprefix("brats_mri_invertible_diffusion_")]
    studies = options.work / "studies" / name
    shutil.rmtree(studies, ignore_errors=True)
    labels = studies / "labels" / "final"
    labels.mkdir(parents=True)
    if options.studies is None:
        phantoms(task, studies, labels)
    else:
        for file in options.studies.glob("*.nii.gz"):
            shutil.copy(file, studies)
    app = application(label, options.bundle, options.work, task)
    case = sorted(studies.glob("*.nii.gz"))[0]
    with server(label, app, studies, name, options.port, options.work / f"{name}.log") as url:
        infer(url, name, task, case, labels / case.name, options.work / f"{name}_inferred.nii.gz")
        if task is TASKS["segmentation"] and any(labels.iterdir()):
            train(url, name, app / "model" / name / "models")


class Task(NamedTuple):
    """What a viewer opens, and what it must get back."""

    volumes: tuple[str, ...]  # endings of the files of a phantom, which make up a study
    check: Callable[[Any, Any, Any], str]  # of the study, its label and the result; says what was found
    size: tuple[int, int, int] = (96, 96, 72)  # voxels of a phantom
    sends_label: bool = False  # with the request
    knobs: tuple[tuple[str, Any], ...] = ()  # of the bundle's configs


def segmented(study: Any, label: Any, found: Any) -> str:
    same_grid(study, found)
    numbers = np.unique(np.asarray(found.dataobj), return_counts=True)
    return f"voxels by label { {int(number): int(count) for number, count in zip(*numbers, strict=True)} }"


def drawn(study: Any, label: Any, found: Any) -> str:
    same_grid(study, found)
    return intensities(found.get_fdata())


def inpainted(study: Any, label: Any, found: Any) -> str:
    same_grid(study, found)
    before, after, hole = (image.get_fdata(dtype=np.float32) for image in (study, found, label))
    assert (before == after)[hole == 0].all(), "a voxel around the hole was changed"
    return f"{(before != after)[hole > 0].mean():.1%} of the voxels in the hole are new, and none around it"


def thinned(study: Any, label: Any, found: Any) -> str:
    assert found.shape[:2] == study.shape[:2], (found.shape, study.shape)
    assert found.shape[2] > study.shape[2], (found.shape, study.shape)
    np.testing.assert_allclose(found.affine[:3, :2], study.affine[:3, :2], atol=1e-3)
    thickness = [float(image.header.get_zooms()[2]) for image in (study, found)]
    return f"slices of {thickness[1]:.2f} mm from slices of {thickness[0]:.2f} mm; {intensities(found.get_fdata())}"


TASKS = {
    "segmentation": Task(CONTRASTS, segmented),
    "synthesis": Task(("t1",), drawn),
    "inpainting": Task(("t1",), inpainted, sends_label=True),
    "super_resolution": Task(("t1",), thinned, size=(96, 96, 18)),
    "semantic": Task(("seg",), drawn, knobs=(("brain", "labels"),)),
}


def same_grid(study: Any, found: Any) -> None:
    assert found.shape == study.shape[:3], (found.shape, study.shape)
    assert np.allclose(found.affine, study.affine, atol=1e-3), (found.affine, study.affine)


def intensities(values: np.ndarray) -> str:
    assert np.isfinite(values).all()
    assert values.min() < values.max()
    return f"intensities from {values.min():.2f} to {values.max():.2f}"


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


def phantoms(task: Task, studies: Path, labels: Path, number: int = 4) -> None:
    """Write phantoms as studies of a viewer: a file, 4D if it has several contrasts, and a label for each."""
    folder = studies.with_name(f"{studies.name}_phantoms")
    shutil.rmtree(folder, ignore_errors=True)
    write_phantoms(str(folder), number, task.size, 1000)
    for case in sorted(folder.glob("PHANTOM_*")):
        volumes = [nib.load(case / f"{case.name}_{volume}.nii.gz") for volume in task.volumes]
        voxels = np.stack([np.asarray(volume.dataobj) for volume in volumes], -1)
        nib.save(
            nib.Nifti1Image(voxels.squeeze(-1) if len(volumes) == 1 else voxels, volumes[0].affine),
            studies / f"{case.name}.nii.gz",
        )
        shutil.copy(case / f"{case.name}_seg.nii.gz", labels / f"{case.name}.nii.gz")
    say("studies", f"{number} phantoms, no patient's data")


def application(label: Path, bundle: Path, work: Path, task: Task) -> Path:
    """Download MONAI Label's app for bundles, and put ours into it."""
    app = work / "apps" / "monaibundle"
    if not app.exists():
        command = ["apps", "--download", "--name", "monaibundle", "--output", str(app.parent)]
        subprocess.run([str(label), *command], check=True, env=_environment(label))
    target = app / "model" / bundle.name
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(bundle, target)
    # a 4D file does not name its channels
    knobs = {**dict(task.knobs), **({"channel_order": list(task.volumes)} if len(task.volumes) > 1 else {})}
    for name in ("inference", "train"):
        file = target / "configs" / f"{name}.json"
        content = json.loads(file.read_text())
        file.write_text(json.dumps(content | {knob: value for knob, value in knobs.items() if knob in content}))
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


def infer(url: str, name: str, task: Task, case: Path, label: Path, result: Path) -> None:
    """Request the result for a study, and check it."""
    start = time.perf_counter()
    study = case.name.removesuffix(".nii.gz")
    body = form("label", label) if task.sends_label else None
    result.write_bytes(ask(f"{url}/infer/{name}?image={study}&output=image", body or (b"", "application/json")))
    given, found = nib.load(case), nib.load(result)
    what = task.check(given, nib.load(label) if label.is_file() else None, found)
    say("POST /infer", f"{case.name}: {found.shape}, {found.get_data_dtype()}; {what}", start)


def form(name: str, file: Path) -> tuple[bytes, str]:
    """A form that uploads a file, and its type."""
    boundary = uuid.uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{file.name}"\r\n\r\n'
    return (
        head.encode() + file.read_bytes() + f"\r\n--{boundary}--\r\n".encode(),
        f"multipart/form-data; boundary={boundary}",
    )


def train(url: str, name: str, models: Path) -> None:
    """Request an epoch of training on the studies' labels."""
    start = time.perf_counter()
    before = {file.name for file in models.iterdir()}
    body = json.dumps({"max_epochs": EPOCHS, "name": "trained", "multi_gpu": False}).encode()
    ask(f"{url}/train/{name}?run_sync=true", (body, "application/json"))
    written = sorted({file.name for file in models.iterdir()} - before)
    assert written, "no checkpoint"
    say("POST /train", f"{EPOCHS} epoch, from model.pt; wrote {', '.join(written)}", start)


def ask(url: str, body: tuple[bytes, str] | None = None) -> bytes:
    """The answer to a request, with a body and its type to a POST."""
    request = (
        urllib.request.Request(url)
        if body is None
        else urllib.request.Request(url, data=body[0], headers={"Content-Type": body[1]}, method="POST")
    )
    try:
        with urllib.request.urlopen(request, timeout=1200) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{url}: {error.code} {error.read().decode()[:2000]}") from error


def say(what: str, found: str, since: float | None = None) -> None:
    print(f"{what}: {found}" + ("" if since is None else f" ({time.perf_counter() - since:.0f} s)"), flush=True)


if __name__ == "__main__":
    main()
