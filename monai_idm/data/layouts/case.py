"""A case on disk: which files hold which of its volumes."""

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
        volumes: Every file that holds a volume, by the volume's name here; of a 4D file, also the channel.
        remarks: Hints at where a missing volume might be.
        faults: Contradictions that are errors whichever volumes are requested.
    """

    volumes: dict[str, list[tuple[Path, int | None]]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def add(self, name: str, path: Path, channel: int | None = None) -> None:
        """Record that a file holds a volume."""
        self.volumes.setdefault(name, []).append((path, channel))

    def contradictions(self, names: Sequence[str]) -> str:
        """Why these volumes do not have one file each; empty if they do."""
        sources: dict[tuple[Path, ...], list[str]] = {}
        for name in names:
            paths = tuple(path for path, _ in self.volumes.get(name, ()))
            if len(paths) > 1:
                sources.setdefault(paths, []).append(name)
        doubled = [
            f"has {', '.join(volumes)} {'twice' if len(paths) == 2 else f'{len(paths)} times'}, as "
            f"{' and '.join(f'{path.parent.name}/{path.name}' for path in paths)} (a case has one file for each "
            "volume: move the one that does not belong out of the folder)"
            for paths, volumes in sources.items()
        ]
        return "; ".join([*doubled, *self.faults])

    def missing(self, names: Sequence[str]) -> str:
        """Which of these volumes the case lacks; empty if it has all."""
        missing = ", ".join(name for name in names if name not in self.volumes)
        if not missing:
            return ""
        more = [f"and {len(self.remarks) - _NAMED} more such files"] if len(self.remarks) > _NAMED else []
        hints = "; ".join([*self.remarks[:_NAMED], *more])
        return f"lacks {missing} (has {', '.join(sorted(self.volumes)) or 'nothing'}{'; ' + hints if hints else ''})"


def nifti_files(folder: Path) -> list[tuple[str, Path]]:
    """The visible NIfTI files, and folders named like them, sorted: name without ending, and path."""
    if not folder.is_dir():
        return []
    matches = ((NIFTI.fullmatch(path.name), path) for path in sorted(folder.iterdir()))
    return [(match["stem"], path) for match, path in matches if match]


def visible_folders(parent: Path) -> list[Path]:
    """The folders in a folder whose names do not start with a dot, sorted."""
    return [path for path in sorted(parent.iterdir()) if path.is_dir() and not path.name.startswith(".")]
