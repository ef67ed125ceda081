"""Pods of one namespace that pull from the private registry, and what became of each."""

import itertools
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from testing.api import ApiError
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.incluster import REGISTRY
from tests.e2e.support.tenant import eventually

RUN_SECONDS = 60.0
"""For a Pod to run that has all it needs, a few of the kubelet's retries included; two seconds are usual."""
PULL_FAILED = ("ErrImagePull", "ImagePullBackOff")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one Pod."""

    name: str
    seconds: float | None
    """From its making to its running, None if it did not run in time."""
    failed_pulls: list[str]
    """What the kubelet said of each pull that failed."""


class Pods:
    """Makes Pods in one namespace, and looks after them."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.namespace = namespace
        self.cluster = cluster
        self._api = cluster.api
        self._numbers = itertools.count()
        # Made by kube-controller-manager, a moment after the namespace; no Pod is admitted before.
        eventually(self._has_account, timeout=RUN_SECONDS, what=f"ServiceAccount default of {namespace}")

    def create(self, image: str, *, policy: str = "Always", secret: str | None = "pull-secret") -> str:
        """A Pod that runs `image`, of the registry's images, until it is deleted; returns its name."""
        name = f"{image.replace('/', '-')}-{next(self._numbers)}"
        spec: dict[str, Any] = {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "main",
                    "image": f"{REGISTRY}/{image}:1",
                    "imagePullPolicy": policy,
                    "command": ["/busybox", "sleep", "3600"],
                }
            ],
        }
        if secret:
            spec["imagePullSecrets"] = [{"name": secret}]
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        self._api.post(f"/api/v1/namespaces/{self.namespace}/pods", body)
        return name

    def get(self, name: str) -> dict[str, Any]:
        """As it is now."""
        return self._api.get(f"/api/v1/namespaces/{self.namespace}/pods/{name}")

    def delete(self, name: str) -> None:
        """At once."""
        self._api.delete(f"/api/v1/namespaces/{self.namespace}/pods/{name}?gracePeriodSeconds=0")

    def runs(self, name: str, *, timeout: float = RUN_SECONDS) -> float:
        """The seconds until it runs, from now. Raises AssertionError, with what the kubelet said."""
        began = time.monotonic()
        while self.get(name)["status"]["phase"] != "Running":
            waited = time.monotonic() - began
            assert waited < timeout, f"{name} does not run after {waited:.0f} s: {self.failed_pulls(name)}"
            time.sleep(0.05)
        return time.monotonic() - began

    def fails_to_pull(self, name: str, *, reason: tuple[str, ...] = PULL_FAILED) -> None:
        """Returns once the kubelet says so. Raises AssertionError."""
        eventually(lambda: self._waits_for(name) in reason, timeout=RUN_SECONDS, what=f"{name} in {reason}")

    def failed_pulls(self, name: str) -> list[str]:
        """What the kubelet said of each pull that failed."""
        selector = f"involvedObject.kind=Pod,involvedObject.name={name},reason=Failed"
        found = self._api.items(f"/api/v1/namespaces/{self.namespace}/events?fieldSelector={selector}")
        return [event["message"] for event in found if "pull" in event["message"]]

    def outcome(self, image: str) -> Outcome:
        """Make a Pod that always pulls, see it run, delete it."""
        name = self.create(image)
        try:
            seconds: float | None = self.runs(name)
        except AssertionError:
            seconds = None
        outcome = Outcome(name=name, seconds=seconds, failed_pulls=self.failed_pulls(name))
        self.delete(name)
        return outcome

    def _waits_for(self, name: str) -> str:
        statuses = self.get(name)["status"].get("containerStatuses", [])
        return str(statuses[0]["state"].get("waiting", {}).get("reason", "")) if statuses else ""

    def _has_account(self) -> bool:
        try:
            self._api.get(f"/api/v1/namespaces/{self.namespace}/serviceaccounts/default")
        except ApiError:
            return False
        return True


class Stream:
    """A Pod every so many seconds, each of which must pull anew, until it is told to stop or has made `count`."""

    def __init__(self, pods: Pods, image: str, *, every_seconds: float, count: int = 10_000) -> None:
        self._pods = pods
        self._image = image
        self._every_seconds = every_seconds
        self._count = count
        self._stop = threading.Event()
        self._running: list[Future[Outcome]] = []
        self._pool = ThreadPoolExecutor(max_workers=32, thread_name_prefix="pods")
        self._thread = threading.Thread(target=self._run, name="stream", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._pool.shutdown()

    def made(self) -> int:
        """How many so far."""
        return len(self._running)

    def wait_for(self, count: int) -> None:
        """Until there are so many more. Raises AssertionError."""
        target = self.made() + count
        timeout = (count + 2) * self._every_seconds + RUN_SECONDS
        eventually(lambda: self.made() >= target, timeout=timeout, what=f"{count} more Pods")

    def outcomes(self, *, finish: bool) -> list[Outcome]:
        """Of all: those that were made when it is told to stop here or, if it may `finish`, all that it was to make."""
        if finish:
            self._thread.join()
        self.__exit__(None, None, None)
        return [future.result() for future in self._running]

    def _run(self) -> None:
        next_at = time.monotonic()
        while self.made() < self._count and not self._stop.wait(max(0.0, next_at - time.monotonic())):
            self._running.append(self._pool.submit(self._pods.outcome, self._image))
            next_at += self._every_seconds
