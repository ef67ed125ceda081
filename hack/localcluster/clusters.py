"""Named control planes that stay until they are taken down, one directory each in the user's state directory."""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hack.localcluster import process
from hack.localcluster.controlplane import ControlPlane
from hack.localcluster.process import ProcessId


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What a directory says about the control plane in it."""

    name: str
    directory: Path
    url: str
    processes: Mapping[str, ProcessId]

    @property
    def kubeconfig(self) -> Path:
        """Written last by `up`: where it is missing, `up` is still at work or was killed."""
        return self.directory / "kubeconfig"

    def running(self) -> bool:
        """Whether it is complete and both processes are alive."""
        alive = [known.alive() for known in self.processes.values()]
        return len(alive) == 2 and all(alive) and self.kubeconfig.exists()


def state_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Where the named control planes of this user are."""
    root = environment.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(root) / "pull-secret-updater"


def clusters() -> list[Cluster]:
    """All there are, running or not, by name."""
    return [_read(path.name) for path in sorted(state_directory().glob("*/"))]


def up(name: str) -> Path:
    """Have a running control plane of this name, and return its kubeconfig. What is left of a dead one is removed.

    Raises:
        BinariesError, ControlPlaneError: as ControlPlane.start; then nothing is left.
    """
    with _exclusive(name):
        there = _read(name)
        if not there.running():
            _remove(there)
            ControlPlane(there.directory, tethered=False).start()
        return there.kubeconfig


def down(name: str) -> None:
    """End the control plane of this name and remove its directory. Fine if there is none."""
    with _exclusive(name):
        _remove(_read(name))


def _read(name: str) -> Cluster:
    directory = state_directory() / name
    try:
        state = json.loads((directory / "state.json").read_text())
    except FileNotFoundError:
        state = {"url": "", "processes": {}}
    processes = {program: ProcessId(**known) for program, known in state["processes"].items()}
    return Cluster(name=name, directory=directory, url=state["url"], processes=processes)


def _remove(cluster: Cluster) -> None:
    for program in ("kube-apiserver", "etcd"):  # etcd last: the other complains for long when it is gone
        if known := cluster.processes.get(program):
            process.end(known)
    shutil.rmtree(cluster.directory, ignore_errors=True)


@contextlib.contextmanager
def _exclusive(name: str) -> Iterator[None]:
    """One `up` or `down` of a name at a time; a second waits, then finds what the first did."""
    root = state_directory()
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = root / f".{name}.lock"
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
