"""A node's sandbox on this machine.

Its network, mounts, processes and control groups are in separate namespaces. So everything that containers, the kubelet
and kube-proxy do stays inside, and killing the first process ends all of it: the kernel removes every process, mount,
interface and rule. The first process keeps the node's services running, and adopts orphans, as an init system would.
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
"""Fixed paths of kubelet and containerd; in the sandbox, these directories are in the node's directory."""
SERVICES = "services.json"
"""The file, in the node's directory, with the services by name; each is a list of arguments."""
TUNABLES = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/keys/root_maxbytes": 25_000_000,
}
"""What a kubelet sets for the whole machine; there is no namespace for it (setupKernelTunables in pkg/kubelet/cm)."""
RESTART_SECONDS = 1.0
WIRE_SECONDS = 30.0


def command(wire: Wire, directory: Path) -> list[str]:
    """The command to spawn once the node's control group exists. Its only child is the sandbox's process 1."""
    which = (str(wire.number), wire.token, str(directory))
    return ["/usr/bin/env", f"PYTHONPATH={ROOT}", *RUN, *which]


def enter(wire: Wire, _directory: Path) -> None:
    """Become the parent of a first process in new namespaces; it is killed when we end."""
    cgroups.enter(wire.name)
    namespaces = ("--mount", "--net", "--uts", "--ipc", "--pid")
    unshare = ["unshare", *namespaces, "--fork", "--kill-child", "--mount-proc"]
    os.execvp("unshare", [*unshare, *RUN, "--inside", *sys.argv[1:]])  # noqa: S606 - no shell is the point


def live(wire: Wire, directory: Path) -> None:
    """In the sandbox, as process 1: set it up, then run the services until we are killed."""
    services = json.loads((directory / SERVICES).read_text())
    programs = {Path(command[0]).parent for command in services.values() if "/" in command[0]}
    _mount(directory, {ROOT, Path(sys.base_prefix), directory, *programs})
    socket.sethostname(wire.name)
    deadline = time.monotonic() + WIRE_SECONDS
    while wire.far_end not in (name for _, name in socket.if_nameindex()):
        if time.monotonic() > deadline:
            sys.exit(f"the interface {wire.far_end} did not appear within {WIRE_SECONDS:.0f} s")
        time.sleep(0.02)
    wire.plug_in()
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    _run(services, directory)


@contextmanager
def _kept(needed: Collection[Path]) -> Iterator[None]:
    """Keep these directories at their paths, even if something that is mounted meanwhile hides them."""
    held = {path: os.open(path, os.O_PATH) for path in needed}
    yield
    for path, descriptor in held.items():
        if not path.exists():
            path.mkdir(parents=True)
            # If mount made this canonical, it would be the new directory with the same name.
            mount("--no-canonicalize", "--bind", f"/proc/{os.getpid()}/fd/{descriptor}", str(path))
        os.close(descriptor)


def mount(*arguments: str) -> None:
    """As mount(8). Raises CalledProcessError."""
    subprocess.run(["mount", *arguments], check=True)


def _mount(directory: Path, needed: Collection[Path]) -> None:
    mount("--make-rshared", "/")  # containers must see what the kubelet mounts; our mounts still end in this namespace
    cgroups.mount_own(Path("/sys/fs/cgroup"))
    for place in OWN_DIRECTORIES:
        own = directory / place.strip("/").replace("/", "-")
        own.mkdir()
        with _kept(needed):
            mount("--bind", str(own), place)
    with _kept(needed):
        mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    # A kubelet writes these only if they differ. So it sees the values it wants, and the machine keeps its own.
    tunables = directory / "tunables"
    tunables.mkdir()
    for name, value in TUNABLES.items():
        wanted = tunables / name.replace("/", "-")
        wanted.write_text(f"{value}\n")
        mount("--bind", str(wanted), f"/proc/sys/{name}")


def _run(services: Mapping[str, Sequence[str]], directory: Path) -> None:
    # Keep each child until it is reaped here: if one is dropped, Popen reaps it at some point.
    started: dict[int, tuple[str, subprocess.Popen[bytes]]] = {}

    def start(name: str) -> None:
        with (directory / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(services[name], cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        started[child.pid] = name, child

    for name in services:
        start(name)
    while True:
        pid, status = os.wait()  # also reaps orphans, which process 1 adopts
        if pid in started:
            name, child = started.pop(pid)
            child.returncode = os.waitstatus_to_exitcode(status)
            time.sleep(RESTART_SECONDS)
            start(name)


def main() -> None:
    """The program RUN, with [--inside] WIRE TOKEN DIRECTORY: first enter the sandbox, then live in it."""
    *inside, number, token, directory = sys.argv[1:]
    (live if inside else enter)(Wire(int(number), token), Path(directory))
