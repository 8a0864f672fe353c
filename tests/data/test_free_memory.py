"""Free memory is what the kernel calls available, or what the tightest control group leaves."""

from __future__ import annotations

import os
import sys

import pytest

from monai_idm.data import free_memory

GIB = 2**30
VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
VERSION_2 = ("memory.max", "memory.current", "inactive_file")
NO_LIMIT_1 = 9223372036854771712


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Writes a machine with 20 GiB available and control groups: folder -> (limit, taken, of that files), in GiB."""
    monkeypatch.setattr(free_memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(free_memory, "_CGROUPS", tmp_path / "cgroup")

    def write(process: str, names=VERSION_2, **groups):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/meminfo").write_text(f"MemTotal:  99 kB\nMemFree: 1 kB\nMemAvailable:   {20 * 2**20} kB\n")
        (tmp_path / "proc/self/cgroup").write_text(process)
        for path, (limit, taken, files) in groups.items():
            folder = tmp_path / "cgroup" / path
            folder.mkdir(parents=True, exist_ok=True)
            (folder / names[0]).write_text(f"{limit if isinstance(limit, str) else limit * GIB}\n")
            (folder / names[1]).write_text(f"{taken * GIB}\n")
            (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {files * GIB}\n")
        return free_memory.free_host_bytes()

    return write


JOB = "0::/slurm/job/step\n"
DOCKER_1 = "9:name=systemd:/docker/ab\n4:cpu,memory:/docker/ab\n1:cpuset:/tight\n0::/\n"


@pytest.mark.parametrize(
    ("process", "names", "groups", "expected"),
    [
        ("0::/\n", VERSION_2, {}, 20),
        ("0::/\n", VERSION_2, {".": (8, 3, 1)}, 6),  # a container sees its own group as the top one
        ("0::/\n", VERSION_2, {".": ("max", 3, 1)}, 20),
        ("0::/\n", VERSION_2, {".": (64, 1, 0)}, 20),  # the machine has less
        (JOB, VERSION_2, {"slurm/job/step": ("max", 2, 0), "slurm/job": (10, 3, 0), "slurm": (12, 1, 0)}, 7),
        (JOB, VERSION_2, {"slurm/job/step": (4, 5, 0)}, 0),
        (JOB, VERSION_2, {"slurm/other": (1, 1, 0)}, 20),
        (DOCKER_1, VERSION_1, {"memory": (8, 3, 1)}, 6),  # the container does not see the path that it is told
        (DOCKER_1, VERSION_1, {"memory": (f"{NO_LIMIT_1}", 3, 1), "memory/docker/ab": (5, 3, 1)}, 3),
        (DOCKER_1, VERSION_1, {"memory/tight": (1, 1, 0), "cpuset/tight": (1, 1, 0)}, 20),
    ],
)
def test_the_tightest_limit_counts(process, names, groups, expected, machine):
    assert machine(process, names, **groups) == expected * GIB


def test_it_is_unknown_without_proc(tmp_path, monkeypatch):
    monkeypatch.setattr(free_memory, "_PROC", tmp_path)
    assert free_memory.free_host_bytes() is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says it in /proc")
def test_of_this_machine_it_is_a_part_of_all_memory():
    assert 0 < free_memory.free_host_bytes() < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
