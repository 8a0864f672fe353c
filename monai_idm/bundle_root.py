"""Find the folder of the bundle."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["find_bundle_root"]


def find_bundle_root(given: str | os.PathLike[str] | None = None, option: str | None = "--bundle_root") -> str:
    """The folder that contains ``configs/``: the current folder, or ``bundle`` in it.

    Args:
        given: Folder to use instead; None: search.
        option: Command-line option that names the folder, for the error message; None: there is no such option.
    Raises:
        FileNotFoundError: If there is no such folder.
    """
    if given is not None:
        if (Path(given) / "configs").is_dir():
            return str(given)
        raise FileNotFoundError(
            f"no bundle in {given}: it has no folder configs; give the folder that contains it, which is bundle/ in "
            f"the source"
        )
    for folder in (Path("."), Path("bundle")):
        if (folder / "configs").is_dir():
            return str(folder)
    raise FileNotFoundError(
        f"no bundle in {Path.cwd()}: neither ./configs nor ./bundle/configs exists; run from the bundle or from the "
        f"folder above it" + ("" if option is None else f", or name it with {option}")
    )
