"""The processors and the memory that this process may use, which may be less than the machine has."""

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
_NO_LIMIT = 1 << 60
"""Memory limits from here on mean that there is none: version 1 of cgroups writes a very large number then."""


def affine_processors() -> int:
    """Returns the number of processors on which the system may run this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processors(root: Path = ROOT) -> int:
    """Returns the number of processors that this process may use: those of its affinity, or its cgroups' quota if less.

    A container that has half a processor counts as one, and a fraction beyond a whole number is left out.

    Args:
        root: the folder that holds `proc` and `sys`.
    """
    quotas = [_quota_v2(group) for group in _groups(root, "")] + [_quota_v1(group) for group in _groups(root, "cpu")]
    return max(1, min([affine_processors(), *(int(quota) for quota in quotas if quota is not None)]))


def memory_available(root: Path = ROOT) -> int:
    """Returns the bytes of memory that this process can still take without swapping, within its cgroups' limits.

    Args:
        root: the folder that holds `proc` and `sys`.
    """
    left = [_left(group, "memory.max", "memory.current", "inactive_file") for group in _groups(root, "")]
    left += [
        _left(group, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        for group in _groups(root, "memory")
    ]
    return max(0, min([_machine_memory(root, "MemAvailable"), *(each for each in left if each is not None)]))


def memory_total(root: Path = ROOT) -> int:
    """Returns the bytes of memory of the machine, or its cgroups' limit if that is less.

    Args:
        root: the folder that holds `proc` and `sys`.
    """
    limits = [_read(group / "memory.max").strip() for group in _groups(root, "")]
    limits += [_read(group / "memory.limit_in_bytes").strip() for group in _groups(root, "memory")]
    return min([_machine_memory(root, "MemTotal"), *(int(each) for each in limits if each.isdigit())])


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Yields the folders of this process's cgroup and of those above it.

    In a container the path that `/proc/self/cgroup` names may be one of the host, which is missing here. The container
    sees its own limits in the topmost folder.

    Args:
        root: the folder that holds `proc` and `sys`.
        controller: the controller of version 1, such as "cpu"; "" for version 2.
    """
    top = root / "sys" / "fs" / "cgroup" / controller
    own = Path(".")
    for line in _read(root / "proc" / "self" / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if controller in names.split(","):
            own = Path(path.strip("/"))
    for group in (own, *own.parents):
        if ".." not in group.parts and (top / group).is_dir():
            yield top / group


def _quota_v2(group: Path) -> float | None:
    quota, _, period = _read(group / "cpu.max").strip().partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _quota_v1(group: Path) -> float | None:
    quota, period = (_read(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _left(group: Path, limit: str, usage: str, cache: str) -> int | None:
    """Returns the bytes that a cgroup has left; None without a limit.

    The usage contains files that the kernel has read and can forget. They do not count.
    """
    most, used = _read(group / limit).strip(), _read(group / usage).strip()
    if not most.isdigit() or not used.isdigit() or int(most) >= _NO_LIMIT:
        return None
    pairs = [line.split() for line in _read(group / "memory.stat").splitlines()]
    forgettable = sum(int(pair[1]) for pair in pairs if len(pair) == 2 and pair[0] == cache)
    return int(most) - max(0, int(used) - forgettable)


def _machine_memory(root: Path, wanted: str) -> int:
    for line in _read(root / "proc" / "meminfo").splitlines():
        name, _, amount = line.partition(":")
        if name == wanted:
            return int(amount.split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # a system without /proc: all of its memory


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
