"""The configs and docs that came with this version: in a clone beside the packages, else where pip put them."""

from __future__ import annotations

import os
import site
import sysconfig
from pathlib import Path

from monai_idm import find_bundle_root

__all__ = ["bundle_here_or_installed", "installed_bundle"]

_SHARED = Path("share", "monai-idm", "bundle")  # as in setup.cfg


def installed_bundle() -> Path:
    """The folder that holds ``configs/`` and ``docs/`` of the installed version.

    Raises:
        FileNotFoundError: If the installation lacks it, as where only the two packages were copied.
    """
    packages = Path(__file__).parents[1]
    shared = [Path(base) / _SHARED for base in (sysconfig.get_path("data"), site.getuserbase(), packages)]
    for folder in (packages / "bundle", *shared):
        if (folder / "configs" / "train.yaml").is_file():
            return folder
    raise FileNotFoundError(
        f"the bundle's configs are missing from this installation, in {packages}; install the project's wheel or a "
        "clone of it with pip"
    )


def bundle_here_or_installed(bundle_root: str | os.PathLike[str] | None = None) -> Path:
    """A bundle to read configs from: the one given, the one in this folder, or the installed one.

    Args:
        bundle_root: Folder that holds ``configs/``; None: ``.``, else ``./bundle``, else the installed bundle.
    Raises:
        FileNotFoundError: If the folder given has no ``configs/``, or no bundle is installed.
    """
    try:
        return Path(find_bundle_root(bundle_root))
    except FileNotFoundError:
        if bundle_root is not None:
            raise
        return installed_bundle()
