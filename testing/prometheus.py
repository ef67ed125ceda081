"""A real Prometheus with our rules, which scrapes a controller and evaluates every second."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import urllib3
import yaml

from hack.localcluster import process
from hack.monitoring import PROMETHEUS, RULES
from testing.controller import free_port

JOB = "pull-secret-updater"
READY_SECONDS = 60.0
END_SECONDS = 30.0


class PrometheusError(Exception):
    """It doesn't start, or refuses a query; the message has what it said."""


class Prometheus:
    """One run, from its creation to the end of its `with`. Its data is in `directory`."""

    def __init__(self, *, directory: Path, target: str, rules: Path = RULES) -> None:
        """Start it. `target` is the host and port of the controller's metrics."""
        directory.mkdir(parents=True)
        self._rules = rules
        self._config = directory / "prometheus.yml"
        self._port = free_port()
        self._http = urllib3.PoolManager(retries=False)
        self._log = directory / "prometheus.log"
        self._configure(target)
        command = [
            str(PROMETHEUS.find_or_build() / "prometheus"),
            f"--config.file={self._config}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{self._port}",
        ]
        self._process, _ = process.spawn(command, directory=directory, log=self._log, tethered=True)

    def __enter__(self) -> Self:
        """Wait until it answers. Raises PrometheusError."""
        deadline = time.monotonic() + READY_SECONDS
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._end()
                raise PrometheusError(f"Prometheus doesn't start:\n{self._log.read_text()}")
            time.sleep(0.1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self._end()

    def scrape(self, target: str) -> None:
        """Scrape this host and port from now on, in place of the one before: a Pod of a newer process."""
        self._configure(target)
        self._process.send_signal(signal.SIGHUP)

    def query(self, expression: str) -> list[tuple[Mapping[str, str], float]]:
        """The samples of an instant query, with their labels. Raises PrometheusError."""
        found = self._get("/api/v1/query", {"query": expression})["result"]
        return [(sample["metric"], float(sample["value"][1])) for sample in found]

    def query_range(
        self, expression: str, *, begin: float, end: float, step: float
    ) -> list[tuple[Mapping[str, str], list[tuple[float, float]]]]:
        """The series of a query over time, with their labels and (instant, value) points. Raises PrometheusError."""
        fields = {"query": expression, "start": str(begin), "end": str(end), "step": str(step)}
        found = self._get("/api/v1/query_range", fields)["result"]
        return [(each["metric"], [(float(at), float(value)) for at, value in each["values"]]) for each in found]

    def firing(self) -> dict[str, Mapping[str, str]]:
        """The alerts that fire, by name, with their annotations."""
        alerts = self._get("/api/v1/alerts", {})["alerts"]
        return {each["labels"]["alertname"]: each["annotations"] for each in alerts if each["state"] == "firing"}

    def _configure(self, target: str) -> None:
        labels = {"pod": "controller-0", "container": "controller", "endpoint": "metrics"}
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(self._rules)],
            "scrape_configs": [{"job_name": JOB, "static_configs": [{"targets": [target], "labels": labels}]}],
        }
        self._config.write_text(yaml.safe_dump(config))

    def _get(self, path: str, fields: Mapping[str, str]) -> Any:
        answer = self._http.request("GET", f"http://127.0.0.1:{self._port}{path}", fields=fields, timeout=10)
        if answer.status != 200:
            raise PrometheusError(answer.data.decode())
        return answer.json()["data"]

    def _is_ready(self) -> bool:
        with contextlib.suppress(urllib3.exceptions.HTTPError):
            return self._http.request("GET", f"http://127.0.0.1:{self._port}/-/ready", timeout=5).status == 200
        return False

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
