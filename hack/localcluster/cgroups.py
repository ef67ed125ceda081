"""A control group of a node's own, below which everything is that its containers make. Versions 1 and 2.

https://docs.kernel.org/admin-guide/cgroup-v2.html, https://docs.kernel.org/admin-guide/cgroup-v1/cgroups.html
"""

import ctypes
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CONTROLLERS = (
    *("blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory", "misc"),
    *("net_cls", "net_prio", "perf_event", "pids", "rdma"),
)
"""Of version 1; a mount's other options say nothing of which hierarchy it is."""
CLONE_NEWCGROUP = 0x02000000  # linux/sched.h; os.unshare comes with Python 3.12
EMPTY_SECONDS = 20.0
"""The last process of a group is out of it a moment after it was killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchy:
    """One mounted tree of control groups."""

    mount: Path
    kind: str
    """The file system's type: `cgroup2`, or `cgroup` for one of the trees of version 1."""
    options: str
    """What tells this tree of version 1 from the others, such as `cpu,cpuacct` or `none,name=systemd`."""


def hierarchies() -> list[Hierarchy]:
    """All trees of version 1 where memory is one of them, else the one of version 2."""
    found = {one.options: one for one in _mounted()}  # what is mounted twice counts once
    first = [one for one in found.values() if one.kind == "cgroup"]
    counts = any("memory" in one.options.split(",") for one in first)
    return first if counts else [one for one in found.values() if one.kind == "cgroup2"]


def create(name: str) -> None:
    """Make a group of this name in every hierarchy. What a killed node left of one is removed. Raises OSError."""
    remove(name)
    for hierarchy in hierarchies():
        group = hierarchy.mount / name
        group.mkdir()
        for limit in ("cpuset.cpus", "cpuset.mems"):
            if hierarchy.kind == "cgroup" and (group / limit).exists():  # empty at first, and then nobody may join
                (group / limit).write_text((hierarchy.mount / limit).read_text())


def enter(name: str) -> None:
    """Make the group the root of what this process, and its children, will see, in every hierarchy. Raises OSError."""
    for hierarchy in hierarchies():
        _join(hierarchy.mount / name)
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWCGROUP) != 0:
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWCGROUP)")
    for hierarchy in hierarchies():
        if hierarchy.kind == "cgroup2":
            # There a group with processes in it can't have groups with limits below it, so the root must be empty.
            (hierarchy.mount / name / "init").mkdir(exist_ok=True)
            _join(hierarchy.mount / name / "init")


def mount_own(over: Path) -> None:
    """In the node: mount every hierarchy below `over`, so that the node's own group is the root of each."""
    wanted = hierarchies()
    subprocess.run(["umount", "--recursive", "--lazy", str(over)], check=True)
    for hierarchy in wanted:
        if hierarchy.kind == "cgroup2":
            _mount("cgroup2", over)
            shared = " ".join(f"+{one}" for one in (over / "cgroup.controllers").read_text().split())
            (over / "cgroup.subtree_control").write_text(shared)
        else:
            if not over.is_mount():
                _mount("tmpfs", over)
            mount = over / hierarchy.options.removeprefix("none,name=")
            mount.mkdir()
            _mount("cgroup", mount, options=hierarchy.options)
            # Where two share a hierarchy, each is looked for by its own name too.
            for alias in hierarchy.options.split(","):
                if alias in CONTROLLERS and alias != mount.name:
                    (over / alias).symlink_to(mount.name)


def remove(name: str) -> None:
    """The group and all below it, once the processes in it are gone. Fine if it is gone itself. Raises OSError."""
    deadline = time.monotonic() + EMPTY_SECONDS
    for hierarchy in hierarchies():
        while (hierarchy.mount / name).exists():
            try:
                for group in sorted((hierarchy.mount / name).glob("**/"), key=lambda path: -len(path.parts)):
                    group.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


def _mounted() -> Iterator[Hierarchy]:
    """Of proc(5), mountinfo: `36 35 98:0 /root /mount/point rw - type source options`."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _source, options = after.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            named = [option for option in options.split(",") if option.startswith("name=")]
            controllers = [option for option in options.split(",") if option in CONTROLLERS]
            text = ",".join(["none", *named] if named else controllers)
            yield Hierarchy(mount=Path(before.split()[4]), kind=kind, options="" if kind == "cgroup2" else text)


def _join(group: Path) -> None:
    (group / "cgroup.procs").write_text(str(os.getpid()))


def _mount(kind: str, target: Path, *, options: str = "rw") -> None:
    subprocess.run(["mount", "-t", kind, "-o", options, kind, str(target)], check=True)
