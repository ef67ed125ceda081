"""Named clusters that run until they are taken down; each has a directory in the user's state directory."""

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
    """A cluster, as its directory describes it."""

    name: str
    directory: Path
    url: str
    wire: Wire | None
    """The wire to its node, if it has one."""
    processes: dict[str, ProcessId]

    @property
    def kubeconfig(self) -> Path:
        """`up` writes this last: if it is missing, `up` is still running or was killed."""
        return self.directory / "kubeconfig"

    def running(self) -> bool:
        """Whether it is complete, with all its processes alive."""
        return self.kubeconfig.exists() and all(known.alive() for known in self.processes.values())


def state_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """The directory of this user's clusters."""
    root = environment.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(root) / "pull-secret-updater"


def clusters() -> list[Cluster]:
    """All clusters, running or not, sorted by name."""
    return [_read(path.name) for path in sorted(state_directory().glob("*/"))]


def up(name: str, *, node: bool = False) -> Path:
    """Start a cluster of this name unless it is running, and return its kubeconfig. Removes what a dead one left.

    Raises:
        ControlPlaneError: a node is requested, but the cluster is running without one.
        Exception: as ControlPlane.start or NodeCluster.start, which then leave nothing.
    """
    with _exclusive(name):
        there = _read(name)
        if not there.running():
            _remove(there)
            kind = NodeCluster if node else ControlPlane
            kind(there.directory, tethered=False).start()
        elif node and there.wire is None:
            raise ControlPlaneError(f"{name} is running without a node; run hack/cluster down --name {name} first")
        return there.kubeconfig


def load_image(name: str, image: Path) -> None:
    """Load the images of an archive into this cluster's node. Raises ControlPlaneError, OSError."""
    there = _read(name)
    if there.wire is None or not there.running():
        raise ControlPlaneError(f"{name} has no running node; start one with hack/cluster up --node --name {name}")
    load(there.processes[NODE].pid, image)


def down(name: str) -> None:
    """Stop the cluster of this name and remove its directory. Fine if there is none."""
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
        process.end(known, kill=True)  # we keep nothing that it could still save
    if cluster.wire is not None:
        clear(cluster.wire)
    shutil.rmtree(cluster.directory, ignore_errors=True)


@contextlib.contextmanager
def _exclusive(name: str) -> Iterator[None]:
    """One `up` or `down` of a name at a time; a second waits, and then sees the result of the first."""
    root = state_directory()
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = root / f".{name}.lock"
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
