"""How much memory is free on a device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

__all__ = ["free_memory_bytes"]

_ROOT = Path("/")


def free_memory_bytes(device: torch.device | str) -> int | None:
    """Bytes that this process can still allocate on a device, by the figures of this moment.

    On CUDA: what the driver has free, and what the allocator holds unused. On a CPU: what Linux calls available, which
    includes its cache of files; or what the limit of a cgroup leaves (a container, a batch job), if that is less.

    Args:
        device: The device.
    Returns:
        The bytes, or None where they are not known: on other devices and operating systems.
    """
    device = torch.device(device)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "cpu":
        available = [1024 * kib for kib in _figures(_ROOT / "proc/meminfo", "MemAvailable:")]
        return min([*available, *_left_in_cgroups()], default=None)
    return None


def _left_in_cgroups() -> Iterator[int]:
    """What the limits of this process's cgroup, and of those around it, leave."""
    for line in _text(_ROOT / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mount, limit, usage, cache = "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):  # version 1
            mount, limit, usage = "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file"
        else:
            continue
        top = _ROOT / mount
        own = top / path.lstrip("/")  # in a container it may exist only as the top
        for group in (own, *own.parents):
            if group.is_relative_to(top) and _text(group / limit).strip().isdigit():  # not "max"
                used = int(_text(group / usage)) - sum(_figures(group / "memory.stat", cache))
                yield max(0, int(_text(group / limit)) - used)


def _figures(file: Path, name: str) -> Iterator[int]:
    """The numbers behind a name in a file of lines such as ``MemAvailable: 8192 kB``."""
    for line in _text(file).splitlines():
        if line.split()[:1] == [name]:
            yield int(line.split()[1])


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
