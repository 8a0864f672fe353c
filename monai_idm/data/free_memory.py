"""Finds how much memory of the host a process may still take, also in a container."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["free_host_bytes"]

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")


def free_host_bytes() -> int | None:
    """Bytes that the kernel calls available, or fewer where a control group, as of a container or a job, allows fewer.

    Files that the kernel keeps in memory do not count as taken, because it drops them where memory is needed.

    Returns:
        None where the system does not say, as on macOS and Windows, which have no ``/proc/meminfo``.
    """
    try:
        available = re.search(r"^MemAvailable:\s+(\d+) kB", (_PROC / "meminfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return min([1024 * int(available[1]), *_left_in_groups()]) if available else None


class _Names(NamedTuple):
    """Files of a control group, and the entry of the last one that counts the files kept in memory."""

    limit: str
    taken: str
    files: str


_VERSION_1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2 = _Names("memory.max", "memory.current", "inactive_file")


def _left_in_groups() -> Iterator[int]:
    """What each control group around this process leaves; the limits of the outer ones hold as well."""
    try:
        lines = (_PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top, names = (_CGROUPS / "memory", _VERSION_1) if controllers else (_CGROUPS, _VERSION_2)
        group = top / path.lstrip("/")
        # in a container only its own group may be visible, as the top one, whatever the path says
        for folder in {top, group, *group.parents}:
            if folder.is_relative_to(top) and (left := _left(folder, names)) is not None:
                yield left


def _left(group: Path, names: _Names) -> int | None:
    """None if the group does not exist or has no limit."""
    try:
        limit, taken = ((group / name).read_text().strip() for name in (names.limit, names.taken))
        files = re.search(rf"^{names.files} (\d+)", (group / "memory.stat").read_text(), re.MULTILINE)
    except OSError:
        return None
    return None if limit == "max" else max(0, int(limit) - int(taken) + (int(files[1]) if files else 0))
