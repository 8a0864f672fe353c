"""The checks of a bundle, run in a separate process as on a machine without this project."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from idm_bundle.optional import require
from idm_bundle.packaging import zoo

__all__ = ["verify_bundle"]


def verify_bundle(folder: str | Path, mode: str = "full", schema: str | Path | None = None) -> None:
    """Run the checks of :mod:`idm_bundle.packaging.zoo`, which are those of the Model Zoo's CI, offline.

    Args:
        folder: Folder of the bundle.
        mode: ``"min"``: files and metadata; ``"full"``: also MONAI's properties, shapes and exports.
        schema: MONAI's own schema file; None: this project's copy of its rules.
    Raises:
        FileNotFoundError: If the folder is missing.
        ValueError: If a check fails, which is printed, or a package for the checks is missing.
    """
    if not Path(folder, "configs").is_dir():
        raise FileNotFoundError(f"no bundle at {folder}: it has no configs; give the folder that package wrote")
    require("jsonschema")
    arguments = [str(Path(folder).resolve()), mode, *([] if schema is None else [str(Path(schema).resolve())])]
    # isolated: neither the current folder nor PYTHONPATH must lend code to the bundle
    if subprocess.run([sys.executable, "-I", "-B", zoo.__file__, *arguments], check=False).returncode:
        raise ValueError(f"{folder} does not pass the checks")
