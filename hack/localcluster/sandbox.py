"""A node's own world on this machine.

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
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hack.localcluster import cgroups
from hack.localcluster.wire import Wire

ROOT = Path(__file__).parents[2]
RUN = (sys.executable, "-c", "from hack.localcluster import sandbox; sandbox.main()")
OWN_DIRECTORIES = ("/var/lib", "/var/log")
"""Where kubelet and containerd keep things at fixed places; in the sandbox these are in the node's directory."""
SERVICES = "services.json"
"""In the node's directory: what to run, each a list of arguments by its name."""
TUNABLES = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/keys/root_maxbytes": 25_000_000,
}
"""What a kubelet sets for the whole machine, as no namespace has these (setupKernelTunables in pkg/kubelet/cm)."""
RESTART_SECONDS = 1.0
WIRE_SECONDS = 30.0


def command(wire: Wire, directory: Path) -> list[str]:
    """What to spawn, once the node's control group is there. Its only child is the sandbox's process 1."""
    which = (str(wire.number), wire.token, str(directory))
    return ["/usr/bin/env", f"PYTHONPATH={ROOT}", *RUN, *which]


def enter(wire: Wire, _directory: Path) -> None:
    """Become the parent of a first process that has namespaces of its own; it is killed with us."""
    cgroups.enter(wire.name)
    namespaces = ("--mount", "--net", "--uts", "--ipc", "--pid")
    unshare = ["unshare", *namespaces, "--fork", "--kill-child", "--mount-proc"]
    os.execvp("unshare", [*unshare, *RUN, "--inside", *sys.argv[1:]])  # noqa: S606 - no shell is the point


def live(wire: Wire, directory: Path) -> None:
    """In the sandbox, as process 1: set it up, then run the services until somebody kills us."""
    services = json.loads((directory / SERVICES).read_text())
    programs = {Path(command[0]).parent for command in services.values() if "/" in command[0]}
    _mount(directory, {ROOT, Path(sys.base_prefix), directory, *programs})
    socket.sethostname(wire.name)
    deadline = time.monotonic() + WIRE_SECONDS
    while wire.far_end not in (name for _, name in socket.if_nameindex()):
        if time.monotonic() > deadline:
            sys.exit(f"{wire.far_end} did not come within {WIRE_SECONDS:.0f} s")
        time.sleep(0.02)
    wire.plug_in()
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    _run(services, directory)


@contextmanager
def _kept(needed: Collection[Path]) -> Iterator[None]:
    """After what is mounted meanwhile, and may hide them, these directories are where they were."""
    held = {path: os.open(path, os.O_PATH) for path in needed}
    yield
    for path, descriptor in held.items():
        if not path.exists():
            path.mkdir(parents=True)
            # Not made canonical, or it would be the new directory of that name.
            mount("--no-canonicalize", "--bind", f"/proc/{os.getpid()}/fd/{descriptor}", str(path))
        os.close(descriptor)


def mount(*arguments: str) -> None:
    """As mount(8). Raises CalledProcessError."""
    subprocess.run(["mount", *arguments], check=True)


def _mount(directory: Path, needed: Collection[Path]) -> None:
    mount("--make-rshared", "/")  # kubelet expects what it mounts to be seen in containers; ours still end here
    cgroups.mount_own(Path("/sys/fs/cgroup"))
    for place in OWN_DIRECTORIES:
        own = directory / place.strip("/").replace("/", "-")
        own.mkdir()
        with _kept(needed):
            mount("--bind", str(own), place)
    with _kept(needed):
        mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    # A kubelet writes these only where they differ: it finds what it wants, and the machine keeps what it has.
    tunables = directory / "tunables"
    tunables.mkdir()
    for name, value in TUNABLES.items():
        wanted = tunables / name.replace("/", "-")
        wanted.write_text(f"{value}\n")
        mount("--bind", str(wanted), f"/proc/sys/{name}")


def _run(services: Mapping[str, Sequence[str]], directory: Path) -> None:
    # Each child is kept until it is reaped here: one that is dropped, Popen itself reaps in passing.
    started: dict[int, tuple[str, subprocess.Popen[bytes]]] = {}

    def start(name: str) -> None:
        with (directory / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(services[name], cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        started[child.pid] = name, child

    for name in services:
        start(name)
    while True:
        pid, status = os.wait()  # also for orphans, which process 1 gets
        if pid in started:
            name, child = started.pop(pid)
            child.returncode = os.waitstatus_to_exitcode(status)
            time.sleep(RESTART_SECONDS)
            start(name)


def main() -> None:
    """Of RUN, with [--inside] WIRE TOKEN DIRECTORY: first it enters, then it lives there."""
    *inside, number, token, directory = sys.argv[1:]
    (live if inside else enter)(Wire(int(number), token), Path(directory))
