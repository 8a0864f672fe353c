"""``python -m idm_bundle doctor``: what this machine can do, and the true reason of what it cannot.

``monai.bundle`` swallows the error of a package that does not import and later says "Cannot locate class".
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import torch
from monai.utils import version_leq

from idm_bundle.installed import installed_bundle
from idm_bundle.optional import OPTIONAL
from monai_idm.atomic_file import write_json
from monai_idm.bundle_root import find_bundle_root
from monai_idm.machine import VERSIONS, check_compiler, device_name, has_bfloat16
from monai_idm.meters import EnergyMeter

__all__ = ["doctor"]


def doctor(file: str | Path | None = None, bundle_root: str | Path | None = None) -> list[str]:
    """Look, and print what was found, a line each; ``!`` begins those that say what is missing and what to do.

    Args:
        file: JSON to write it to: the ``versions``, what was ``found``, and what is ``missing``.
        bundle_root: Folder of the bundle; None: the one here, or one below.
    """
    lines = [*_packages(), *_bundle(bundle_root), *_devices()]
    print("\n".join(lines))
    if file is not None:
        missing = [line.removeprefix("! ") for line in lines if line.startswith("!")]
        found = {
            "versions": VERSIONS,
            "found": [line for line in lines if not line.startswith("!")],
            "missing": missing,
        }
        write_json(Path(file), found)
    return lines


def _packages() -> Iterator[str]:
    yield ", ".join(f"{name} {version}" for name, version in VERSIONS.items())
    yield from _minima()
    for package, (purpose, install) in OPTIONAL.items():
        try:
            importlib.import_module(package)
            yield f"{package}: there"
        except Exception as error:  # a broken package may raise anything
            yield f"! {package}: {type(error).__name__}: {error}; needed for {purpose}: {install}"


def _minima() -> Iterator[str]:
    """What this project declares, and is not there or too old: of a folder on PYTHONPATH, nothing was checked."""
    try:
        declared = [r for r in metadata.requires("monai-idm") or () if "extra ==" not in r]
    except metadata.PackageNotFoundError:
        return
    for requirement in declared:
        name, minimum = re.findall(r"[\w.+-]+", f"{requirement} 0")[:2]  # "monai>=1.6", "monai (>=1.6)" or "monai"
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield f'! {name} is not installed: pip install "{name}>={minimum}"'
            continue
        if not version_leq(minimum, installed):
            yield f'! {name} {installed} is older than {minimum}, the oldest tried: pip install "{name}>={minimum}"'


def _bundle(bundle_root: str | Path | None) -> Iterator[str]:
    try:
        yield f"bundle: {find_bundle_root(bundle_root)}"
    except FileNotFoundError as error:
        yield f"! {error}"
    try:
        yield f"installed configs: {installed_bundle() / 'configs'}"
    except FileNotFoundError as error:
        yield f"! {error}"


def _devices() -> Iterator[str]:
    yield f"cpu: {device_name('cpu')}"
    if not torch.cuda.is_available():
        built = torch.version.cuda
        reason = (
            "this PyTorch is built without CUDA" if built is None else f"built for CUDA {built}, but no GPU is seen"
        )
        yield f"! no CUDA device: {reason}; trainings run on the CPU"
    for index in range(torch.cuda.device_count()):
        yield from _gpu(torch.device("cuda", index))
    try:
        check_compiler()
        yield "torch.compile: works"
    except ValueError as error:
        yield f"! {error}"


def _gpu(device: torch.device) -> Iterator[str]:
    free, total = torch.cuda.mem_get_info(device)
    yield f"{device}: {device_name(device)}, {total / 1e9:.1f} GB, {free / 1e9:.1f} GB free"
    if not has_bfloat16(device):
        yield (
            f"! {device} has no native bfloat16 (cards from Ampere on have): precision=mixed saves memory there, "
            f"but is emulated and slow; take precision=float32 where it fits"
        )
    meter = EnergyMeter(device)
    yield f"{device} energy: by {meter.source}" if meter.available else f"! {device} energy: {meter.reason}"
