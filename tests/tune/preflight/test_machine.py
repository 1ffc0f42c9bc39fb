"""The processors and the memory of a container: files as the kernel writes them, in a folder of their own."""

import os

import pytest

from tune.preflight.machine import memory_available, memory_total, processors

GIB = 1 << 30


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function that writes files below the root of a machine of eight processors and 16 GiB, and returns the root."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)

    def write(files):
        for name, text in {"proc/meminfo": f"MemTotal: 99 kB\nMemAvailable: {16 * GIB // 1024} kB\n", **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        ({"sys/fs/cgroup/cpu.max": "100000 100000\n"}, 1),
        ({"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),  # half a processor
        ({"sys/fs/cgroup/cpu.max": "350000 100000\n"}, 3),
        ({"sys/fs/cgroup/cpu.max": "6400000 100000\n"}, 8),  # the affinity is less
        ({"sys/fs/cgroup/cpu.max": "nonsense\n"}, 8),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "200000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "200000 100000\n"}, 2),  # of the group above
        ({"proc/self/cgroup": "0::/of/the/host\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/../../x\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 4),
        (
            {
                "proc/self/cgroup": "5:memory:/m\n3:cpu,cpuacct:/own\n0::/\n",
                "sys/fs/cgroup/cpu/own/cpu.cfs_quota_us": "100000\n",
                "sys/fs/cgroup/cpu/own/cpu.cfs_period_us": "50000\n",
            },
            2,
        ),
    ],
)
def test_processors_are_those_of_the_affinity_and_of_the_quota_of_both_versions_of_cgroups(machine, files, expected):
    assert processors(machine(files)) == expected


def test_this_machine_has_a_processor_and_memory():
    assert 1 <= processors() <= os.cpu_count()
    assert memory_available() > 1 << 20


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 16 * GIB),
        ({"sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/memory.current": f"{GIB}\n"}, 16 * GIB),
        ({"sys/fs/cgroup/memory.max": f"{4 * GIB}\n", "sys/fs/cgroup/memory.current": f"{GIB}\n"}, 3 * GIB),
        (
            # One of two GiB in use are files that the kernel can forget.
            {
                "sys/fs/cgroup/memory.max": f"{4 * GIB}\n",
                "sys/fs/cgroup/memory.current": f"{2 * GIB}\n",
                "sys/fs/cgroup/memory.stat": f"anon 5\ninactive_file {GIB}\n",
            },
            3 * GIB,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/own\n",
                "sys/fs/cgroup/memory/own/memory.limit_in_bytes": f"{2 * GIB}\n",
                "sys/fs/cgroup/memory/own/memory.usage_in_bytes": f"{GIB}\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{9 * GIB}\n",
            },
            GIB,
        ),
        ({"sys/fs/cgroup/memory.max": f"{GIB}\n", "sys/fs/cgroup/memory.current": f"{2 * GIB}\n"}, 0),
    ],
)
def test_memory_is_what_the_machine_and_the_cgroups_have_left(machine, files, expected):
    assert memory_available(machine(files)) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/meminfo": f"MemTotal: {16 * GIB // 1024} kB\n"}, 16 * GIB),
        ({"proc/meminfo": f"MemTotal: {16 * GIB // 1024} kB\n", "sys/fs/cgroup/memory.max": f"{4 * GIB}\n"}, 4 * GIB),
        (
            {
                "proc/meminfo": f"MemTotal: {16 * GIB // 1024} kB\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * GIB}\n",
            },
            2 * GIB,
        ),
    ],
)
def test_all_memory_is_that_of_the_machine_or_the_limit_of_the_cgroups(machine, files, expected):
    assert memory_total(machine(files)) == expected
