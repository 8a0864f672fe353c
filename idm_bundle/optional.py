"""Packages that only some commands need: checked before work starts, with the command that installs them."""

from __future__ import annotations

import importlib
from typing import NamedTuple

__all__ = ["OPTIONAL", "require"]


class Optional(NamedTuple):
    """What a package is needed for, and the command that installs it."""

    purpose: str
    install: str


OPTIONAL = {
    "bitsandbytes": Optional("8-bit optimizer states", 'pip install "monai-idm[low-memory]"'),
    "einops": Optional("MONAI's DiffusionModelUNet", "pip install einops"),
    "jsonschema": Optional("the checks of a bundle's metadata", 'pip install "monai-idm[zoo]"'),
    "onnxscript": Optional("export to ONNX", 'pip install "monai-idm[zoo]"'),
    "onnxruntime": Optional("the check of an export to ONNX", 'pip install "monai-idm[zoo]"'),
}


def require(*packages: str) -> None:
    """Raise before work starts if packages that it will need are missing.

    Args:
        packages: Names in ``OPTIONAL``.
    Raises:
        ValueError: If one cannot be imported; names the reason and the command that installs it.
    """
    missing = []
    for package in packages:
        try:
            importlib.import_module(package)
        except Exception as error:  # a broken package may raise anything
            purpose, install = OPTIONAL[package]
            missing.append(f"{package} ({type(error).__name__}: {error}) is needed for {purpose}: {install}")
    if missing:
        raise ValueError("; ".join(missing))
