"""A control group for each node; the groups of its containers are below it. Versions 1 and 2.

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
"""The controllers of version 1; a mount's other options don't identify its hierarchy."""
CLONE_NEWCGROUP = 0x02000000  # linux/sched.h; os.unshare comes with Python 3.12
EMPTY_SECONDS = 20.0
"""How long to wait for a group to be empty: a killed process leaves its group a moment later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchy:
    """One mounted tree of control groups."""

    mount: Path
    kind: str
    """The file system's type: `cgroup2`, or `cgroup` for a tree of version 1."""
    options: str
    """The options that identify a tree of version 1, such as `cpu,cpuacct` or `none,name=systemd`."""


def hierarchies() -> list[Hierarchy]:
    """All trees of version 1 if memory is among them, else the tree of version 2."""
    found = {one.options: one for one in _mounted()}  # a tree that is mounted twice counts once
    first = [one for one in found.values() if one.kind == "cgroup"]
    counts = any("memory" in one.options.split(",") for one in first)
    return first if counts else [one for one in found.values() if one.kind == "cgroup2"]


def create(name: str) -> None:
    """Create a group of this name in every hierarchy, and remove what a killed node left of it. Raises OSError."""
    remove(name)
    for hierarchy in hierarchies():
        group = hierarchy.mount / name
        group.mkdir()
        for limit in ("cpuset.cpus", "cpuset.mems"):
            if hierarchy.kind == "cgroup" and (group / limit).exists():  # empty at first, and then no process can join
                (group / limit).write_text((hierarchy.mount / limit).read_text())


def enter(name: str) -> None:
    """In every hierarchy, make the group the root that this process and its children see. Raises OSError."""
    for hierarchy in hierarchies():
        _join(hierarchy.mount / name)
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWCGROUP) != 0:
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWCGROUP)")
    for hierarchy in hierarchies():
        if hierarchy.kind == "cgroup2":
            # In version 2, a group with processes can't have groups with limits below it, so the root must be empty.
            (hierarchy.mount / name / "init").mkdir(exist_ok=True)
            _join(hierarchy.mount / name / "init")


def mount_own(over: Path) -> None:
    """In the node, mount every hierarchy below `over`, so that the node's own group is the root of each."""
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
            # If two controllers share a hierarchy, programs look for each by its own name too.
            for alias in hierarchy.options.split(","):
                if alias in CONTROLLERS and alias != mount.name:
                    (over / alias).symlink_to(mount.name)


def remove(name: str) -> None:
    """Remove the group and all below it, once its processes are gone. Fine if there is none. Raises OSError."""
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
    """Parse mountinfo, see proc(5): `36 35 98:0 /root /mount/point rw - type source options`."""
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
