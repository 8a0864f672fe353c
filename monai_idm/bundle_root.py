"""Where the bundle is, seen from wherever the user stands."""

from __future__ import annotations

from pathlib import Path

__all__ = ["find_bundle_root"]


def find_bundle_root() -> str:
    """The folder that holds ``configs/``: this one, or ``bundle`` in this one.

    Raises:
        FileNotFoundError: If it is neither.
    """
    for folder in (Path("."), Path("bundle")):
        if (folder / "configs").is_dir():
            return str(folder)
    raise FileNotFoundError(
        f"no bundle in {Path.cwd()}: neither ./configs nor ./bundle/configs is there; run from the bundle or from the "
        f"folder above it, or name it with --bundle_root"
    )
