"""A case as it lies on a disk: which files give which of its volumes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["NIFTI", "Case", "nifti_files", "visible_folders"]

NIFTI = re.compile(r"(?P<stem>[^.].*)\.nii(\.gz)?", re.IGNORECASE)
_NAMED = 3  # files: enough to see the pattern, few enough to read


@dataclass
class Case:
    """The files of one subject.

    Args:
        volumes: By the volume's name here, every file that gives it, and which channel of a 4D file.
        remarks: Hints at where a volume that is missing might be.
        faults: What contradicts itself, whatever volumes are asked for.
    """

    volumes: dict[str, list[tuple[Path, int | None]]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def add(self, name: str, path: Path, channel: int | None = None) -> None:
        """Note that a file gives a volume."""
        self.volumes.setdefault(name, []).append((path, channel))

    def contradictions(self, names: Sequence[str]) -> str:
        """What keeps these volumes from being one file each, or nothing."""
        sources: dict[tuple[Path, ...], list[str]] = {}
        for name in names:
            paths = tuple(path for path, _ in self.volumes.get(name, ()))
            if len(paths) > 1:
                sources.setdefault(paths, []).append(name)
        doubled = [
            f"has {', '.join(volumes)} {'twice' if len(paths) == 2 else f'{len(paths)} times'}, as "
            f"{' and '.join(f'{path.parent.name}/{path.name}' for path in paths)} (a case has one file of each volume: "
            "move the one that is not meant out of the folder)"
            for paths, volumes in sources.items()
        ]
        return "; ".join([*doubled, *self.faults])

    def missing(self, names: Sequence[str]) -> str:
        """Which of these volumes it lacks, or nothing."""
        missing = ", ".join(name for name in names if name not in self.volumes)
        if not missing:
            return ""
        more = [f"and {len(self.remarks) - _NAMED} more such files"] if len(self.remarks) > _NAMED else []
        said = "; ".join([*self.remarks[:_NAMED], *more])
        return f"lacks {missing} (has {', '.join(sorted(self.volumes)) or 'nothing'}{'; ' + said if said else ''})"


def nifti_files(folder: Path) -> list[tuple[str, Path]]:
    """Each visible NIfTI file, or folder that is named like one, with its name without ending, sorted."""
    if not folder.is_dir():
        return []
    matches = ((NIFTI.fullmatch(path.name), path) for path in sorted(folder.iterdir()))
    return [(match["stem"], path) for match, path in matches if match]


def visible_folders(parent: Path) -> list[Path]:
    """The folders in a folder whose names do not start with a dot, sorted."""
    return [path for path in sorted(parent.iterdir()) if path.is_dir() and not path.name.startswith(".")]
