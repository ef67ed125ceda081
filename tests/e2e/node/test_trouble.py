"""What breaks around it. No pull may fail that a valid token would have saved."""

import time
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.support import kubelet
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.incluster import REGISTRY, InCluster, restart_kubelet
from tests.e2e.support.pods import RUN_SECONDS, Outcome, Pods, Stream
from tests.e2e.support.tenant import Tenant, eventually, token

Tell = Callable[[str], None]
IMAGE = "hello/eighth"
EVERY_SECONDS = 2.0
NO_REGISTRY = ("connection refused", "connection reset", "EOF")
"""What a container runtime says of one that isn't there, or goes in the middle."""

pytestmark = pytest.mark.timeout(900)  # the first of these waits for the ten minutes of test_steady.py


@pytest.fixture
def stream(outcomes: list[Outcome], tenant: Tenant, pods: Pods) -> Iterator[Stream]:
    """A Pod every two seconds, once nothing else goes on."""
    del outcomes
    tenant.create()
    tenant.filled()
    with Stream(pods, IMAGE, every_seconds=EVERY_SECONDS) as running:
        running.wait_for(2)
        yield running


def refused(world: InCluster, since: float) -> list[str]:
    """Why the registry's token server let somebody not in, each time."""
    return [one["why"] for one in world.decisions(IMAGE) if one["at"] >= since and not one["admitted"]]


def judge(world: InCluster, stream: Stream, *, since: float, tell: Tell, what: str) -> list[str]:
    """Every Pod ran, and the registry saw valid tokens alone. Returns the pulls that failed for another reason."""
    stream.wait_for(5)
    ended = stream.outcomes(finish=False)
    failed = [message for one in ended for message in one.failed_pulls]
    slowest = max(one.seconds or float("inf") for one in ended)
    tell(f"{what}: {len(ended)} Pods, the slowest ran after {slowest:.1f} s; failed pulls: {len(failed)}")
    assert all(one.seconds is not None for one in ended), ended
    assert refused(world, since) == []
    return failed


def test_deleting_the_controller_pod_fails_no_pull(world: InCluster, stream: Stream, tell: Tell) -> None:
    since = time.time()
    for _ in range(3):
        world.replace_controller()
        stream.wait_for(5)
    assert judge(world, stream, since=since, tell=tell, what="controller Pod deleted three times") == []


def test_restarting_the_kubelet_fails_no_pull(cluster: Cluster, world: InCluster, stream: Stream, tell: Tell) -> None:
    since = time.time()
    restart_kubelet(cluster)
    assert judge(world, stream, since=since, tell=tell, what="kubelet killed") == []


def test_restarting_the_registry_fails_only_the_pulls_that_found_no_registry(
    world: InCluster, stream: Stream, tell: Tell
) -> None:
    since = time.time()
    world.replace_registry()
    failed = judge(world, stream, since=since, tell=tell, what="registry restarted")
    assert all(any(why in message for why in NO_REGISTRY) for message in failed), failed


def test_while_the_registry_is_away_a_pod_on_an_image_of_its_node_starts_for_who_refreshes_in_place(
    world: InCluster, outcomes: list[Outcome], tenant: Tenant, pods: Pods
) -> None:
    """And not for who recreates: what KubeletEnsureSecretPulledImages makes of the two, see test_rotation.py."""
    del outcomes
    tenant.create()
    tenant.filled()
    pods.runs(pods.create(IMAGE, policy="IfNotPresent"))
    with world.registry_away():
        tenant.refresh()
        pods.runs(pods.create(IMAGE, policy="IfNotPresent"))
        tenant.recreate()
        tenant.refresh()
        name = pods.create(IMAGE, policy="IfNotPresent")
        pods.fails_to_pull(name)
        told = eventually(lambda: pods.failed_pulls(name), timeout=RUN_SECONDS, what="the kubelet's Event")
        assert any(why in told[0] for why in NO_REGISTRY), told


def test_without_the_controller_pulls_fail_when_the_token_has_run_out_and_with_it_they_recover(
    world: InCluster, outcomes: list[Outcome], tenant: Tenant, pods: Pods, tell: Tell
) -> None:
    """The credential really expires."""
    del outcomes
    tenant.create()
    tenant.filled()
    with world.controller_away():
        ends = float(kubelet.claims(token(tenant.secret(), REGISTRY))["exp"])
        pods.runs(pods.create(IMAGE))  # it is still valid
        time.sleep(max(0.0, ends + 1 - time.time()))
        since = time.time()
        name = pods.create(IMAGE)
        pods.fails_to_pull(name)
        assert set(refused(world, since)) == {"ExpiredSignatureError"}
        began = time.monotonic()
    pods.runs(name, timeout=120)
    tell(f"controller back: the Pod that was refused ran {time.monotonic() - began:.1f} s later")
