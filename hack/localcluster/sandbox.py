"""A node's own world on this machine: `python -m hack.localcluster.sandbox WIRE DIRECTORY`, as root.

Network, mounts, processes and control groups are namespaces of their own. So whatever containers, kubelet and
kube-proxy do, they do it in there, and killing the first process ends all of it: the kernel takes every process, mount,
interface and rule along. It keeps the node's services running, as an init system would, and adopts what they orphan.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from hack.localcluster import cgroups
from hack.localcluster.wire import Wire

ROOT = Path(__file__).parents[2]
OWN_DIRECTORIES = ("/var/lib", "/var/log")
"""Where kubelet and containerd keep things at fixed places; in the sandbox these are in the node's directory."""
SERVICES = "services.json"
"""In the node's directory: what to run, each a list of arguments by its name."""
RESTART_SECONDS = 1.0
WIRE_SECONDS = 30.0


def command(wire: Wire, directory: Path) -> list[str]:
    """What to spawn, once the node's control group is there. Its only child is the sandbox's process 1."""
    return ["/usr/bin/env", f"PYTHONPATH={ROOT}", sys.executable, "-m", __name__, str(wire.number), str(directory)]


def enter(wire: Wire, directory: Path) -> None:
    """Become the parent of a first process that has namespaces of its own; it is killed with us."""
    cgroups.enter(wire.name)
    namespaces = ("--mount", "--net", "--uts", "--ipc", "--pid")
    unshare = ["unshare", *namespaces, "--fork", "--kill-child", "--mount-proc"]
    here = [sys.executable, "-m", "hack.localcluster.sandbox", "--inside", str(wire.number), str(directory)]
    os.execvp("unshare", [*unshare, *here])  # noqa: S606 - no shell is the point


def live(wire: Wire, directory: Path) -> None:
    """In the sandbox, as process 1: set it up, then run the services until somebody kills us."""
    _mount(directory)
    socket.sethostname(wire.name)
    deadline = time.monotonic() + WIRE_SECONDS
    while wire.far_end not in (name for _, name in socket.if_nameindex()):
        if time.monotonic() > deadline:
            sys.exit(f"{wire.far_end} did not come within {WIRE_SECONDS:.0f} s")
        time.sleep(0.02)
    wire.plug_in()
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    _run(json.loads((directory / SERVICES).read_text()), directory)


def _mount(directory: Path) -> None:
    def mount(*arguments: str) -> None:
        subprocess.run(["mount", *arguments], check=True)

    mount("--make-rshared", "/")  # kubelet expects what it mounts to be seen in containers; ours still end here
    cgroups.mount_own(Path("/sys/fs/cgroup"))
    for place in OWN_DIRECTORIES:
        own = directory / place.strip("/").replace("/", "-")
        own.mkdir()
        mount("--bind", str(own), place)
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")


def _run(services: Mapping[str, Sequence[str]], directory: Path) -> None:
    started: dict[int, str] = {}

    def start(name: str) -> None:
        with (directory / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(services[name], cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        started[child.pid] = name

    for name in services:
        start(name)
    while True:
        pid, _status = os.wait()  # also for orphans, which process 1 gets
        if name := started.pop(pid, ""):
            time.sleep(RESTART_SECONDS)
            start(name)


def main() -> None:
    """Outside first, then inside."""
    *inside, number, directory = sys.argv[1:]
    (live if inside else enter)(Wire(int(number)), Path(directory))


if __name__ == "__main__":
    main()
