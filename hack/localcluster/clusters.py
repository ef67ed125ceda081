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
from hack.localcluster.controlplane import ControlPlane, ControlPlaneError
from hack.localcluster.node import NODE, NodeCluster, clear, load
from hack.localcluster.process import ProcessId
from hack.localcluster.wire import Wire


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What a directory says about the control plane in it."""

    name: str
    directory: Path
    url: str
    wire: Wire | None
    """To its node, if it has one."""
    processes: dict[str, ProcessId]

    @property
    def kubeconfig(self) -> Path:
        """Written last by `up`: where it is missing, `up` is still at work or was killed."""
        return self.directory / "kubeconfig"

    def running(self) -> bool:
        """Whether it is complete and all its processes are alive."""
        return self.kubeconfig.exists() and all(known.alive() for known in self.processes.values())


def state_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Where the named control planes of this user are."""
    root = environment.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(root) / "pull-secret-updater"


def clusters() -> list[Cluster]:
    """All there are, running or not, by name."""
    return [_read(path.name) for path in sorted(state_directory().glob("*/"))]


def up(name: str, *, node: bool = False) -> Path:
    """Have a running cluster of this name, and return its kubeconfig. What is left of a dead one is removed.

    Raises:
        ControlPlaneError: it runs without the node that is asked for.
        Exception: as ControlPlane.start, or NodeCluster.start; then nothing is left.
    """
    with _exclusive(name):
        there = _read(name)
        if not there.running():
            _remove(there)
            kind = NodeCluster if node else ControlPlane
            kind(there.directory, tethered=False).start()
        elif node and there.wire is None:
            raise ControlPlaneError(f"{name} runs without a node: hack/cluster down --name {name} first")
        return there.kubeconfig


def load_image(name: str, image: Path) -> None:
    """Give the node of this cluster the images of an archive. Raises ControlPlaneError, OSError."""
    there = _read(name)
    if there.wire is None or not there.running():
        raise ControlPlaneError(f"{name} has no running node: hack/cluster up --node --name {name}")
    load(there.processes[NODE].pid, image)


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
    wire = Wire(**known) if (known := state.get("wire")) else None
    return Cluster(name=name, directory=directory, url=state["url"], wire=wire, processes=processes)


def _remove(cluster: Cluster) -> None:
    for known in reversed(cluster.processes.values()):
        process.end(known, kill=True)  # nothing that it could still save is kept
    if cluster.wire is not None:
        clear(cluster.wire)
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
