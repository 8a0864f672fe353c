"""Where the bundle is, relative to the folder a command runs in."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["find_bundle_root"]


def find_bundle_root(given: str | os.PathLike[str] | None = None) -> str:
    """The folder that holds ``configs/``: the current folder, or ``bundle`` in it.

    Args:
        given: Folder to use instead; None: search.
    Raises:
        FileNotFoundError: If there is no such folder.
    """
    if given is not None:
        if (Path(given) / "configs").is_dir():
            return str(given)
        raise FileNotFoundError(
            f"no bundle in {given}: it has no folder configs; give the folder that holds it, bundle/ of the source"
        )
    for folder in (Path("."), Path("bundle")):
        if (folder / "configs").is_dir():
            return str(folder)
    raise FileNotFoundError(
        f"no bundle in {Path.cwd()}: neither ./configs nor ./bundle/configs exists; run from the bundle or from the "
        f"folder above it, name it with --bundle_root, or create one with: python -m idm_bundle init my_bundle"
    )
