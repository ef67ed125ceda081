"""How tests and story watch the API server, over TLS."""

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import urllib3

from hack.standin.api import Watch
from hack.standin.follower import Follower
from tests.e2e.support.cluster import Cluster

ROLES = "/apis/rbac.authorization.k8s.io/v1/clusterroles?labelSelector="


def test_a_watch_that_is_ended_while_it_is_read_gives_no_ciphertext(cluster: Cluster) -> None:
    def read(watch: Watch) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        with contextlib.suppress(urllib3.exceptions.HTTPError):
            events.extend(watch)
        return events

    with ThreadPoolExecutor(1) as pool:
        for tenths in range(30):
            watch = cluster.api.watch(f"{ROLES}&watch=true")  # begins with all that there is, a hundred kilobytes
            events = pool.submit(read, watch)
            time.sleep(tenths * 1e-4)
            watch.end()
            assert {event["type"] for event in events.result(10)} <= {"ADDED"}


def test_a_follower_tells_of_what_there_is_and_then_of_what_comes(cluster: Cluster) -> None:
    seen: list[tuple[str, bool]] = []
    came = threading.Condition()

    def sees(state: dict[str, Any], /, *, deleted: bool) -> None:
        with came:
            seen.append((state["metadata"]["name"], deleted))
            came.notify_all()

    def wait_for(what: tuple[str, bool]) -> None:
        with came:
            assert came.wait_for(lambda: what in seen, 5), seen

    path = ROLES.partition("?")[0]
    name = "e2e-follower"
    cluster.api.delete(f"{path}/{name}")
    with Follower(cluster.api, ROLES, sees):
        wait_for(("cluster-admin", False))
        cluster.api.post(path, {"metadata": {"name": name}, "rules": []})
        wait_for((name, False))
        cluster.api.delete(f"{path}/{name}")
        wait_for((name, True))
