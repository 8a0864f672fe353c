"""Memory of the host for tensors on a CPU."""

from __future__ import annotations

import ctypes
import platform

__all__ = ["keep_freed_memory"]

# of glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Let the process keep memory that tensors on the CPU free, up to 2 GiB, for the tensors that follow.

    glibc returns a large block to the system as soon as it is free, and the system has to clear each of its pages when
    the next tensor takes it: about a sixth of the time of a training step on a CPU. Does nothing where the C library is
    another one.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_ARENA_MAX, 1)  # or each thread would keep memory that the others cannot use
