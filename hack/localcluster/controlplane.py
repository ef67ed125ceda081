"""etcd and kube-apiserver as one unit that starts, stops and cleans up after itself.

    with ControlPlane() as cluster:
        run("--kubeconfig", cluster.kubeconfig)

It has TLS with its own CA, RBAC, a free port on loopback, and etcd on unix sockets that only the user can open. There
is no kube-controller-manager: you create ServiceAccounts yourself, namespaces never finish terminating, and the
aggregated ClusterRoles admin, edit and view have no rules. So the ServiceAccount admission plugin is off. node.py adds
what is missing.
"""

import http.client
import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from hack import pki
from hack.localcluster import flags, kubeconfig, process
from hack.localcluster.adminapi import AdminApi
from hack.localcluster.binaries import Binaries, find_or_build
from hack.localcluster.process import ProcessId
from hack.localcluster.wire import Wire

ADMIN, ADMIN_GROUPS = "local-admin", ("system:masters",)
READY_SECONDS = 90
"""It usually takes five to eight seconds on two cores; if it takes ten times that, something is wrong."""
PORT_ATTEMPTS = 5
READY_PATHS = (
    "/readyz",
    "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:service-account-issuer-discovery",
    "/api/v1/namespaces/default",
)
"""All of these return 200 once the server can be used; /readyz does so a little before the others."""


class ControlPlaneError(Exception):
    """The control plane failed; the message ends with the last lines of the log that shows why."""


class ControlPlane:
    """One control plane. Use it as a context manager, or call `start` and `stop`; never start it twice.

    If tethered (the default), its processes end when this one does, even by SIGKILL. Flags for kube-apiserver take
    precedence over ours, for example `ControlPlane(apiserver_flags={"audit-log-path": "audit.log"})`; relative paths
    are relative to the control plane's directory.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        binaries: Binaries | None = None,
        port: int | None = None,
        apiserver_flags: Mapping[str, str] | None = None,
        tethered: bool = True,
        wire: Wire | None = None,
    ) -> None:
        """Start nothing yet. Without a `directory`, `start` creates a temporary one; `stop` removes either.

        It tries `port` first, and another if that is taken. With a `wire`, it listens on that instead of loopback.
        """
        self._given_directory = directory
        self._binaries = binaries
        self._wire = wire
        self._flags = {**flags.APISERVER, **(flags.for_nodes(wire) if wire else {}), **(apiserver_flags or {})}
        self._tethered = tethered
        self._authority = pki.make_authority()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self.processes: dict[str, ProcessId] = {}
        """The running processes by program, in the order in which they started; also in the directory's state.json."""
        self.address = wire.host if wire else "127.0.0.1"
        self.port = port or _free_port(self.address)
        self.directory = Path()

    def __enter__(self) -> Self:
        """Start, and wait until it is ready."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, and leave nothing."""
        self.stop()

    @property
    def url(self) -> str:
        """The URL of the API server."""
        return f"https://{self.address}:{self.port}"

    @property
    def ca(self) -> Path:
        """The certificate, in PEM format, that clients verify the API server with."""
        return self.directory / "ca.crt"

    @property
    def kubeconfig(self) -> Path:
        """A self-contained kubeconfig of a cluster admin."""
        return self.directory / "kubeconfig"

    @property
    def admin(self) -> AdminApi:
        """A client for the few requests that are not worth a client library."""
        certificate, key = self.directory / "admin.crt", self.directory / "admin.key"
        return AdminApi(address=self.address, port=self.port, ca=self.ca, certificate=certificate, key=key)

    def start(self) -> None:
        """Start etcd and kube-apiserver, and return when the API server is ready; on any failure leave nothing behind.

        Raises:
            BinariesError: the programs are missing and can't be built.
            ControlPlaneError: a process exited or was not ready in time.
        """
        binaries = self._binaries or find_or_build()
        self._binaries = binaries
        self.directory = (self._given_directory or Path(tempfile.mkdtemp(prefix="control-plane-"))).resolve()
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._write_keys()
            self.spawn("etcd", [str(binaries.etcd), *flags.render(flags.ETCD)])
            self._start_on_a_free_port()
            if self._wire is None:
                self.publish()
        except BaseException:
            self.stop()
            raise

    def publish(self) -> None:
        """Write the admin's kubeconfig, the sign that the cluster is complete. Without a wire, `start` does this."""
        self.write_kubeconfig(self.kubeconfig, user=ADMIN, groups=ADMIN_GROUPS)

    def stop(self) -> None:
        """Stop all processes, the last started first; then remove the directory. Fine if it never started."""
        for name in reversed(list(self.processes)):
            self.end(name, kill=True)  # we keep nothing that it could still save
        if self.directory != Path():
            shutil.rmtree(self.directory, ignore_errors=True)

    def stop_apiserver(self, *, kill: bool = False) -> None:
        """Begin an outage: stop the API server (by SIGKILL if `kill`), return when its port is closed. Keeps data."""
        self.end("kube-apiserver", kill=kill)

    def start_apiserver(self) -> None:
        """End an outage: the API server is ready when this returns, on the same port with the same data.

        Raises:
            ControlPlaneError: it exited or was not ready in time; it can be started again.
        """
        binaries = self._binaries
        if binaries is None:
            raise ControlPlaneError("not started yet")
        arguments = flags.render({"secure-port": str(self.port), **self._flags})
        self.spawn("kube-apiserver", [str(binaries.apiserver), *arguments])
        try:
            self._wait_until_ready()
        except BaseException:
            self.end("kube-apiserver", kill=True)
            raise

    def spawn(self, name: str, command: Sequence[str]) -> int:
        """Start a program in the cluster's directory, with a log named after it; returns its pid."""
        child, known = process.spawn(
            command, directory=self.directory, log=self.directory / f"{name}.log", tethered=self._tethered
        )
        self._children[name] = child
        self.note(name, known)
        return child.pid

    def note(self, name: str, known: ProcessId) -> None:
        """Record the process to stop as `name`, if the spawned one only waits for it."""
        self.processes[name] = known
        self._record()

    def end(self, name: str, *, kill: bool = False) -> None:
        """Stop a program, and return when it is gone. Fine if it isn't running."""
        if running := self.processes.pop(name, None):
            process.end(running, kill=kill)
            self._children.pop(name).wait()
            self._record()

    def check_alive(self) -> None:
        """Raises ControlPlaneError, with the end of the log, if a program has exited that should be running."""
        for name, child in self._children.items():
            if child.poll() is not None:
                raise ControlPlaneError(f"{name} exited with {child.returncode}:\n{self._log_tail(name)}")

    def _log_tail(self, name: str) -> str:
        return "\n".join((self.directory / f"{name}.log").read_text(errors="replace").splitlines()[-20:])

    def kubeconfig_for(self, user: str, groups: Sequence[str] = ()) -> Path:
        """Write a kubeconfig for another user, with a client certificate; returns its path."""
        path = self.directory / f"kubeconfig-{user.replace('/', '_').replace(':', '_')}"
        self.write_kubeconfig(path, user=user, groups=groups)
        return path

    def write_kubeconfig(self, path: Path, *, user: str, groups: Sequence[str] = ()) -> None:
        """Write a kubeconfig for a user, with a client certificate, to `path`."""
        pair = pki.make_client(self._authority, user=user, groups=groups)
        pki.write_private(path, kubeconfig.render(self.url, ca=self._authority.certificate, user=user, pair=pair))

    def service_account_token(
        self, namespace: str, name: str, *, audiences: Sequence[str] = (), seconds: int = 3600
    ) -> str:
        """A token of an existing ServiceAccount, as the kubelet would project it. Default audience: the API server's.

        Raises:
            ControlPlaneError: the API server refused; it accepts no less than 600 `seconds`.
        """
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        spec = {"audiences": list(audiences), "expirationSeconds": seconds}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        reply = self.admin.request("POST", path, body=body)
        if reply.status != http.client.CREATED:
            raise ControlPlaneError(f"TokenRequest for {namespace}/{name}: {reply.status} {reply.body.decode()}")
        return str(json.loads(reply.body)["status"]["token"])

    def _write_keys(self) -> None:
        pairs = {
            "apiserver": pki.make_server(self._authority, addresses=[self.address, "10.0.0.1"]),
            "admin": pki.make_client(self._authority, user=ADMIN, groups=ADMIN_GROUPS),
        }
        for name, pair in pairs.items():
            (self.directory / f"{name}.crt").write_bytes(pair.certificate)
            pki.write_private(self.directory / f"{name}.key", pair.key)
        self.ca.write_bytes(self._authority.certificate)
        pki.write_token_keys(self.directory)

    def _start_on_a_free_port(self) -> None:
        """Another process may take the port between our check and the server's start; then try another port."""
        for _ in range(PORT_ATTEMPTS - 1):
            try:
                return self.start_apiserver()
            except ControlPlaneError as error:
                if "address already in use" not in str(error):
                    raise
                self.port = _free_port(self.address)
        return self.start_apiserver()

    def _record(self) -> None:
        """Record what is running in state.json, so that `hack/cluster down` can stop it even if we are gone."""
        running = {name: {"pid": known.pid, "started": known.started} for name, known in self.processes.items()}
        new = self.directory / "state.json.new"
        new.write_text(json.dumps({"url": self.url, "wire": self._wire and asdict(self._wire), "processes": running}))
        new.replace(self.directory / "state.json")

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not self._ready():
            self.check_alive()
            if time.monotonic() > deadline:
                tail = self._log_tail("kube-apiserver")
                raise ControlPlaneError(f"kube-apiserver was not ready after {READY_SECONDS} s:\n{tail}")
            time.sleep(0.1)

    def _ready(self) -> bool:
        with suppress(OSError, http.client.HTTPException):
            return all(self.admin.request("GET", path).status == http.client.OK for path in READY_PATHS)
        return False


def _free_port(address: str) -> int:
    with socket.socket() as listener:
        listener.bind((address, 0))
        return int(listener.getsockname()[1])
