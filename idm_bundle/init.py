"""``idm init DIR``: a folder to work in, where the project was installed without a clone."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from idm_bundle.installed import installed_bundle

__all__ = ["init"]

_PARTS = ("LICENSE", "docs", "configs")  # configs last: they make the folder a bundle


def init(directory: str | Path) -> Path:
    """Copy the bundle's configs and docs into a folder, ready for ``python -m monai.bundle run``.

    Args:
        directory: Folder to write to; it is created, and files that it holds besides stay.
    Returns:
        The folder.
    Raises:
        FileExistsError: If it holds a bundle already, whose configs may have been edited.
        FileNotFoundError: If this installation has no configs.
    """
    source, folder = installed_bundle(), Path(directory)
    for part in _PARTS:
        if (folder / part).exists():
            raise FileExistsError(f"{folder / part} exists already; choose another folder, or move it away")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished.") as unfinished:
        for part in _PARTS:
            copy = shutil.copytree if (source / part).is_dir() else shutil.copy
            copy(source / part, Path(unfinished) / part)
        for part in _PARTS:
            (Path(unfinished) / part).rename(folder / part)
    print(f"{folder} holds the bundle. To train the demo:")
    print(f"  cd {folder} && python -m monai.bundle run training --config_file configs/train.yaml")
    return folder
