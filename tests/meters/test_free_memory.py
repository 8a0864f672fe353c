"""Free memory is what the host has available, within the limits of the process's cgroups."""

from __future__ import annotations

import pytest
import torch

from monai_idm.meters import free_memory, free_memory_bytes

MEMINFO = "MemTotal:       16000 kB\nMemFree:         1000 kB\nMemAvailable:    8000 kB\nHugePages_Total:       0\n"
V2 = "sys/fs/cgroup"
V1 = "sys/fs/cgroup/memory"


@pytest.fixture
def host(tmp_path, monkeypatch):
    """Writes files of a made-up system, by path."""
    monkeypatch.setattr(free_memory, "_ROOT", tmp_path)

    def write(**files):
        for path, content in {"proc/meminfo": MEMINFO, **files}.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(f"{content}\n")

    return write


def test_without_a_limit_it_is_what_the_host_has_available(host):
    host(**{"proc/self/cgroup": "0::/user", f"{V2}/user/memory.max": "max", f"{V2}/user/memory.current": "5"})
    assert free_memory_bytes("cpu") == 8000 * 1024


@pytest.mark.parametrize("path", ["", "/outer", "/outer/inner"], ids=["mount", "parent", "own"])
@pytest.mark.parametrize(
    ("line", "mount", "limit", "usage", "cache"),
    [
        ("0::", V2, "memory.max", "memory.current", "inactive_file"),
        ("4:cpu,memory:", V1, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ],
    ids=["version 2", "version 1"],
)
def test_the_limit_of_a_cgroup_or_of_one_around_it_counts_without_cached_files(
    path, line, mount, limit, usage, cache, host
):
    host(
        **{
            "proc/self/cgroup": f"9:pids:/elsewhere\n{line}/outer/inner",
            f"{mount}{path}/{limit}": "3000000",
            f"{mount}{path}/{usage}": "1000000",
            f"{mount}{path}/memory.stat": f"anon 700000\n{cache} 250000",
        }
    )
    assert free_memory_bytes("cpu") == 3000000 - 1000000 + 250000


def test_what_is_used_beyond_a_limit_leaves_nothing(host):
    host(**{"proc/self/cgroup": "0::/", f"{V2}/memory.max": "10", f"{V2}/memory.current": "20"})
    assert free_memory_bytes("cpu") == 0


def test_elsewhere_it_is_not_known(tmp_path, monkeypatch):
    monkeypatch.setattr(free_memory, "_ROOT", tmp_path)
    assert free_memory_bytes("cpu") is None
    assert free_memory_bytes("meta") is None


def test_on_cuda_the_unused_part_of_the_allocators_memory_is_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (700, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 200)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 150)
    assert free_memory_bytes("cuda:1") == 750
