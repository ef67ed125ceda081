"""How tests and story watch the API server, over TLS."""

import contextlib
import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import urllib3

from testing.api import Watch
from testing.follower import Follower
from tests.e2e.support.cluster import Cluster

PATH = "/apis/rbac.authorization.k8s.io/v1/clusterroles"


def test_a_watch_that_is_ended_while_it_is_read_gives_no_ciphertext(cluster: Cluster) -> None:
    def read(watch: Watch) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        with contextlib.suppress(urllib3.exceptions.HTTPError):
            events.extend(watch)
        return events

    seen: list[dict[str, Any]] = []
    with ThreadPoolExecutor(1) as pool:
        for tenths_of_a_millisecond in range(30):
            watch = cluster.api.watch(f"{PATH}?watch=true")  # begins with all that there is, a hundred kilobytes
            events = pool.submit(read, watch)
            time.sleep(tenths_of_a_millisecond * 1e-4)
            watch.end()
            seen += events.result(10)
    assert {event["type"] for event in seen} == {"ADDED"}


def test_a_watch_may_be_ended_after_the_server_has(cluster: Cluster) -> None:
    watch = cluster.api.watch(f"{PATH}?watch=true&timeoutSeconds=1")
    assert list(watch)
    watch.end()


class Told:
    """What a follower told: names, and whether of a deletion."""

    def __init__(self) -> None:
        self._all: list[tuple[str, bool]] = []
        self._came = threading.Condition()

    def __call__(self, state: dict[str, Any], /, *, deleted: bool) -> None:
        with self._came:
            self._all.append((state["metadata"]["name"], deleted))
            self._came.notify_all()

    def wait_for(self, name: str, *, deleted: bool = False, times: int = 1) -> None:
        """Until it was told so often."""
        with self._came:
            came = self._came.wait_for(lambda: self._all.count((name, deleted)) >= times, 10)
            assert came, f"of {name}, {deleted=}, nothing was told; last came {self._all[-5:]}"


@pytest.fixture
def role(cluster: Cluster) -> Iterator[str]:
    """The name of a ClusterRole that isn't there, nor is at the end."""
    name = f"e2e-{secrets.token_hex(5)}"
    yield name
    cluster.api.delete(f"{PATH}/{name}")


def test_a_follower_tells_of_what_there_is_of_what_comes_and_of_what_goes(cluster: Cluster, role: str) -> None:
    told = Told()
    with Follower(cluster.api, f"{PATH}?labelSelector=", told):
        told.wait_for("cluster-admin")
        cluster.api.post(PATH, {"metadata": {"name": role}, "rules": []})
        told.wait_for(role)
        cluster.api.delete(f"{PATH}/{role}")
        told.wait_for(role, deleted=True)


def test_a_follower_misses_nothing_between_two_watches(cluster: Cluster) -> None:
    told, names = Told(), [f"e2e-{secrets.token_hex(5)}" for _ in range(30)]
    with Follower(cluster.api, f"{PATH}?timeoutSeconds=1", told):
        for name in names:  # for three seconds and more
            cluster.api.post(PATH, {"metadata": {"name": name}, "rules": []})
            cluster.api.delete(f"{PATH}/{name}")
            time.sleep(0.1)
        for name in names:
            told.wait_for(name)
            told.wait_for(name, deleted=True)
