"""The real command as a separate process: in in-cluster mode, as its own ServiceAccount, with only its RBAC.

    with MountedTokens(cluster, directory / "mounted") as mounted, ControllerProcess(
        cluster, mounted, directory=directory / "controller", config={...}
    ) as controller:
        controller.wait_until_ready()

It replaces the Pod that a node would run. It is killed when our process ends, however that ends.
"""

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import urllib3
import yaml
from prometheus_client.parser import text_string_to_metric_families

from hack.localcluster import process
from testing.cluster import Cluster
from testing.mounted import NAME, NAMESPACE, MountedTokens

COMMAND = Path(sys.executable).with_name("pull-secret-updater")
CONFIG = "/etc/pull-secret-updater/config.yaml"
"""The configuration file's path in the Deployment of manifests/."""
READY_SECONDS = 20.0
DRAIN_SECONDS = 15.0


class ControllerError(Exception):
    """The controller failed; the message ends with its log."""


class Metrics:
    """One scrape, parsed by prometheus-client, which refuses what Prometheus would refuse."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self._samples = [sample for family in self.families.values() for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name (without `pull_secret_updater_`) that have these labels.

        Raises:
            LookupError: there is none.
        """
        full = f"pull_secret_updater_{name}"
        found = [s.value for s in self._samples if s.name == full and labels.items() <= s.labels.items()]
        if not found:
            raise LookupError(f"no sample {full} {labels}")
        return sum(found)

    def by(self, name: str, label: str) -> dict[str, float]:
        """The values of this metric above 0, by one label."""
        family = self.families[f"pull_secret_updater_{name}"]
        return {sample.labels[label]: sample.value for sample in family.samples if sample.value > 0}


class ControllerProcess:
    """One run of the controller, from its creation to `stop`, `kill` or the end of its `with`."""

    def __init__(
        self,
        cluster: Cluster,
        mounted: MountedTokens,
        *,
        directory: Path,
        config: Mapping[str, Any],
        args: tuple[str, ...] = ("run", "--config", CONFIG),
        env: Mapping[str, str] | None = None,
        in_cluster: bool = True,
        program: Sequence[str] = (str(COMMAND),),
    ) -> None:
        """Start it, in a new `directory`, with `config` as its configuration file. Raises ClusterError.

        `args` and `env` are as a Pod has them; an address in them to serve at gives way to one of our own. `program` is
        the command before `args`, for another version of ours.
        """
        directory.mkdir(parents=True)
        self.log_file = directory / "controller.log"
        self.scrapes: list[str] = []
        """Every text of /metrics that was read here, for tests that look for leaks."""
        self._port = free_port()
        self._http = urllib3.PoolManager(retries=False)
        config_file = directory / "config.yaml"
        config_file.write_text(yaml.safe_dump(dict(config)))
        here = {CONFIG: str(config_file)}
        environment = {"PATH": "/usr/bin:/bin"}
        serve = ("--metrics-address", f"127.0.0.1:{self._port}")
        command = [*program, *(here.get(arg, arg) for arg in args), *serve]
        if in_cluster:
            host, port = cluster.address()
            environment["KUBERNETES_SERVICE_HOST"] = host
            environment["KUBERNETES_SERVICE_PORT"] = str(port)
            environment["PULL_SECRET_UPDATER_SERVICEACCOUNT_DIR"] = str(mounted.service_account)
        else:
            command += ["--kubeconfig", str(cluster.service_account_kubeconfig(NAMESPACE, NAME))]
        environment |= {key: here.get(value, value) for key, value in (env or {}).items()}
        # Pass nothing from our environment, since a Pod gets nothing from it either.
        clean = [shutil.which("env") or "/usr/bin/env", "-i", *(f"{key}={value}" for key, value in environment.items())]
        self._process, _ = process.spawn([*clean, *command], directory=directory, log=self.log_file, tethered=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop in order after success, at once after a failure."""
        if kind is None:
            self.stop()
        else:
            self.kill()

    @property
    def url(self) -> str:
        """The base URL of /metrics, /healthz and /readyz."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """The pid of the running process."""
        return self._process.pid

    def wait_until_ready(self) -> None:
        """Wait until /readyz returns 200. Raises ControllerError if the process exits or takes too long."""
        deadline = time.monotonic() + READY_SECONDS
        while self.status("/readyz") != 200:
            if not self.running():
                raise ControllerError(f"exited with {self._process.returncode}:\n{self.log()}")
            if time.monotonic() > deadline:
                raise ControllerError(f"not ready after {READY_SECONDS} s:\n{self.log()}")
            time.sleep(0.02)

    def status(self, path: str) -> int:
        """The status of one of its endpoints; 0 while it isn't listening."""
        return self.answer(path)[0]

    def answer(self, path: str) -> tuple[int, str]:
        """Status and text of one of its endpoints; (0, "") while it isn't listening."""
        with contextlib.suppress(urllib3.exceptions.HTTPError):
            response = self._http.request("GET", self.url + path, timeout=5)
            return response.status, response.data.decode()
        return 0, ""

    def metrics(self) -> Metrics:
        """Scrape /metrics. Raises ControllerError, or urllib3's HTTPError if it isn't listening."""
        response = self._http.request("GET", f"{self.url}/metrics", timeout=5)
        if response.status != 200:
            raise ControllerError(f"/metrics returned {response.status}:\n{self.log()}")
        self.scrapes.append(response.data.decode())
        return Metrics(self.scrapes[-1])

    def log(self) -> str:
        """Everything that it has written to stdout and stderr."""
        return self.log_file.read_text(errors="replace")

    def running(self) -> bool:
        """Whether the process is still running."""
        return self._process.poll() is None

    def wait(self, *, timeout: float) -> int:
        """Wait for a run that should exit by itself; returns the exit status. Raises subprocess.TimeoutExpired."""
        return self._process.wait(timeout)

    def stop(self) -> None:
        """Send SIGTERM, as a rollout does; raises ControllerError unless it exits with 0. Fine if it has exited."""
        if not self.running():
            return
        with contextlib.suppress(ControllerError, urllib3.exceptions.HTTPError):
            self.metrics()  # tests search the last scrape of every run for leaks
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self.wait(timeout=DRAIN_SECONDS)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise ControllerError(f"still running {DRAIN_SECONDS} s after SIGTERM:\n{self.log()}") from error
        if code != 0:
            raise ControllerError(f"exited with {code} on SIGTERM:\n{self.log()}")

    def kill(self) -> None:
        """Send SIGKILL, as if the node had gone. Fine if it has exited."""
        self._process.kill()
        self._process.wait()


def free_port() -> int:
    """One that nobody listens at now, on loopback."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
