"""A control plane with one real node: scheduler, controller manager, kubelet, containerd and kube-proxy.

    with NodeCluster() as cluster:
        cluster.load(Path("image.tar"))
        run("--kubeconfig", cluster.plane.kubeconfig)

Needs root and a few Debian packages (packages.py). The node runs in a sandbox (sandbox.py), so when it ends, it leaves
only one empty control group and one directory on this machine, and `stop` removes both.
"""

import http.client
import json
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from hack.imagebuild import archive
from hack.localcluster import cgroups, flags, nodefiles, packages, process, sandbox
from hack.localcluster.binaries import built, node_programs
from hack.localcluster.controlplane import ControlPlane, ControlPlaneError
from hack.localcluster.nodefiles import NODE_NAME, PAUSE_IMAGE
from hack.localcluster.wire import Wire

NODE = "node"
"""The name, among a cluster's processes, of the sandbox's first process; when it ends, all in the sandbox ends."""
READY_SECONDS = 60.0
"""It usually takes two or three."""
KUBELET, KUBE_PROXY = "kubelet.kubeconfig", "kube-proxy.kubeconfig"


class NodeCluster:
    """Use it as a context manager, or call `start` and `stop`. Tethered like a ControlPlane."""

    def __init__(self, directory: Path | None = None, *, tethered: bool = True) -> None:
        """Start nothing yet. Without a `directory`, `start` creates a temporary one; `stop` removes either."""
        self._directory = directory
        self._tethered = tethered
        self._wire: Wire | None = None
        self._plane: ControlPlane | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def plane(self) -> ControlPlane:
        """The control plane, which has the kubeconfig. Raises ControlPlaneError before the start."""
        if self._plane is None:
            raise ControlPlaneError("not started yet")
        return self._plane

    def start(self) -> None:
        """Start everything, and return when the node is ready for Pods; on any failure, leave nothing behind.

        Raises:
            PackagesError: this user is not root, or a package is missing.
            BinariesError: the programs can't be built.
            ControlPlaneError, WireError, OSError: something did not start.
        """
        packages.check()
        binaries, programs = built(), node_programs().find_or_build()
        try:
            self._wire = Wire.lay()
            self._plane = ControlPlane(self._directory, binaries=binaries, tethered=self._tethered, wire=self._wire)
            self._plane.start()
            for name, values in flags.MANAGERS.items():
                self._plane.write_kubeconfig(self._plane.directory / values["kubeconfig"], user=f"system:{name}")
                self._plane.spawn(name, [str(programs / name), *flags.render(values)])
            self._start_node(self._plane, self._wire, programs)
            self._plane.publish()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop everything and leave nothing. Fine if it never started."""
        if self._plane is not None:
            self._plane.stop()
        if self._wire is not None:
            clear(self._wire)
            self._wire = None

    def load(self, image: Path) -> None:
        """Load images from an archive, as `docker save` writes it. Raises ControlPlaneError, OSError."""
        load(self.plane.processes[NODE].pid, image)

    def _start_node(self, plane: ControlPlane, wire: Wire, programs: Path) -> None:
        directory = plane.directory / "node"
        directory.mkdir()
        (directory / "ca.crt").write_bytes(plane.ca.read_bytes())
        plane.write_kubeconfig(directory / KUBELET, user=f"system:node:{NODE_NAME}", groups=["system:nodes"])
        plane.write_kubeconfig(directory / KUBE_PROXY, user="system:kube-proxy")
        nodefiles.write(directory, wire, programs=programs)
        cgroups.create(wire.name)
        first = _only_child(plane, plane.spawn(NODE, sandbox.command(wire, directory)))
        plane.note(NODE, process.identify(first))
        wire.hand_over(first)
        self._wait_until_ready(plane, wire, directory)
        self._load_pause(plane.directory / "pause", programs)

    def _load_pause(self, scratch: Path, programs: Path) -> None:
        scratch.mkdir()
        shutil.copy(programs / "pause", scratch)
        image = scratch.with_suffix(".tar")
        archive.of_directory(scratch, image, name=PAUSE_IMAGE, config={"Entrypoint": ["/pause"]})
        self.load(image)

    def _wait_until_ready(self, plane: ControlPlane, wire: Wire, directory: Path) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not _is_ready(plane):
            plane.check_alive()
            if time.monotonic() > deadline:
                logs = [f"{log.name}:\n{log.read_text()[-2000:]}" for log in directory.glob("*.log")]
                hint = f"not ready after {READY_SECONDS:.0f} s; does a firewall block {wire.node} from {plane.url}?"
                raise ControlPlaneError("\n".join([f"the node was {hint}", *logs]))
            time.sleep(0.1)


def clear(wire: Wire) -> None:
    """Remove what a node leaves when it ends, unless another has its number by now. Raises OSError, WireError."""
    if not wire.is_anothers():
        wire.remove()
        cgroups.remove(wire.name)


def load(node: int, image: Path) -> None:
    """Load images from an archive into the node whose first process is `node`. Raises ControlPlaneError, OSError."""
    inside = ["nsenter", "--target", str(node), "--mount", "--pid"]
    ctr = ["ctr", "--namespace=k8s.io", "images", "import", "-"]
    with image.open("rb") as content:  # opened here: the node has other files at some of our paths
        done = subprocess.run([*inside, *ctr], stdin=content, capture_output=True, check=False)
    if done.returncode != 0:
        raise ControlPlaneError(f"the node could not load the image: {done.stderr.decode().strip()}")


def _only_child(plane: ControlPlane, pid: int) -> int:
    """The child of a process that is about to have one. Raises ControlPlaneError."""
    deadline = time.monotonic() + READY_SECONDS
    while not (children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        plane.check_alive()
        if time.monotonic() > deadline:
            raise ControlPlaneError(f"the sandbox did not start within {READY_SECONDS:.0f} s")
        time.sleep(0.02)
    return int(children[0])


def _is_ready(plane: ControlPlane) -> bool:
    try:
        reply = plane.admin.request("GET", f"/api/v1/nodes/{NODE_NAME}")
    except (OSError, http.client.HTTPException):
        return False
    if reply.status != http.client.OK:
        return False
    conditions = json.loads(reply.body)["status"].get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
