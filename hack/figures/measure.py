"""Measures from the start of a request until a watch shows its effect."""

import contextlib
import os
import queue
import secrets
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import urllib3

from testing.api import Watch
from testing.cluster import Cluster

PREFIX = "pull-secret-updater.chainguard.dev/"
WAIT_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Timing:
    """The time until one effect was seen."""

    seconds: float


class Measure:
    """Measures in namespaces that it creates; one watch shows when each effect is seen."""

    def __init__(self, cluster: Cluster) -> None:
        self._api = cluster.api
        self._namespace = f"bench-{secrets.token_hex(4)}"
        self._made = 0
        self._known: dict[tuple[str, str], float] = {}
        """When an annotation was first seen in a namespace."""
        self._seen: queue.Queue[tuple[str, dict[str, str], float]] = queue.Queue()
        self._api.post("/api/v1/namespaces", {"metadata": {"name": self._namespace}})
        watch = self._api.watch("/api/v1/secrets?watch=true&fieldSelector=metadata.name%3Dpull-secret")
        threading.Thread(target=self._watch, args=(watch,), daemon=True).start()

    def fill(self) -> Timing:
        """From the start of the request that annotates an empty Secret until the watch shows its token."""
        namespace = self._empty_secret()
        began = time.monotonic()
        self._annotate(namespace, "identity", f"{secrets.token_hex(20)}/{secrets.token_hex(8)}")
        return Timing(self.seen(namespace, "expires-at") - began)

    def bare(self) -> Timing:
        """The same without a controller: one patch, seen on the watch, then a second patch, seen again."""
        namespace = self._empty_secret()
        began = time.monotonic()
        self._annotate(namespace, "x", "1")
        self.seen(namespace, "x")
        self._annotate(namespace, "y", "1")
        return Timing(self.seen(namespace, "y") - began)

    def many(self, count: int) -> None:
        """Create `count` Secrets of 50 identities, and wait until all are filled."""
        identities = [f"{secrets.token_hex(20)}/{secrets.token_hex(8)}" for _ in range(50)]
        namespaces = [self._empty_secret(identities[number % 50]) for number in range(count)]
        for namespace in namespaces:
            self.seen(namespace, "expires-at")

    def seen(self, namespace: str, key: str, *, within: float = WAIT_SECONDS) -> float:
        """When the watch first showed an annotation in a namespace, by its key without prefix; waits for it."""
        if (at := self._known.get((namespace, key))) is not None:
            return at
        while True:
            seen, annotations, at = self._seen.get(timeout=within)
            for annotation in annotations:
                self._known.setdefault((seen, annotation.removeprefix(PREFIX)), at)
            if (namespace, key) in self._known:
                return self._known[namespace, key]

    def resident_mib(self, pid: int) -> float:
        """The resident memory of a process."""
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def cpu_share(self, pid: int, seconds: float) -> float:
        """The share of one core that a process uses, over the next `seconds`."""
        before = self._cpu_seconds(pid)
        time.sleep(seconds)
        return (self._cpu_seconds(pid) - before) / seconds

    def _cpu_seconds(self, pid: int) -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _empty_secret(self, identity: str | None = None) -> str:
        self._made += 1
        namespace = f"{self._namespace}-{self._made}"
        self._api.post("/api/v1/namespaces", {"metadata": {"name": namespace}})
        annotations = {PREFIX + "identity": identity} if identity else {}
        self._api.post(
            f"/api/v1/namespaces/{namespace}/secrets",
            {
                "metadata": {"name": "pull-secret", "annotations": annotations},
                "type": "kubernetes.io/dockerconfigjson",
                "stringData": {".dockerconfigjson": "{}"},
            },
        )
        return namespace

    def _annotate(self, namespace: str, key: str, value: str) -> None:
        patch = {"metadata": {"annotations": {PREFIX + key: value}}}
        self._api.patch(f"/api/v1/namespaces/{namespace}/secrets/pull-secret", patch)

    def _watch(self, watch: Watch) -> None:
        with contextlib.suppress(urllib3.exceptions.HTTPError):  # it ends with the cluster
            for event in watch:
                metadata = event["object"]["metadata"]
                self._seen.put((metadata["namespace"], metadata.get("annotations") or {}, time.monotonic()))
