"""The Deployment of manifests/ in its own namespace, which enforces pod security `restricted`."""

import secrets
import statistics
from collections.abc import Callable
from typing import Any

import pytest

from testing.api import ApiError
from tests.e2e.support.incluster import NAMESPACE, InCluster, is_ready
from tests.e2e.support.pods import RUN_SECONDS
from tests.e2e.support.tenant import eventually

Tell = Callable[[str], None]
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
READY_SECONDS = 3.0
STARTS = 3
MEMORY_REQUEST_MIB = 64
"""What manifests/deployment.yaml asks for; it may have four times as much."""


def like_the_controller(world: InCluster, name: str) -> dict[str, Any]:
    """A Pod as the Deployment makes them, but none of its own."""
    deployment = world.cluster.api.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/controller")
    return {"metadata": {"name": name}, "spec": deployment["spec"]["template"]["spec"]}


def test_it_runs_where_pod_security_enforces_restricted(world: InCluster) -> None:
    labels = world.cluster.api.get(f"/api/v1/namespaces/{NAMESPACE}")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    (pod,) = world.controllers()
    assert is_ready(pod)
    privileged = like_the_controller(world, "privileged")
    privileged["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    with pytest.raises(ApiError, match='violates PodSecurity "restricted'):
        world.cluster.api.post(PODS, privileged)


def test_any_high_user_runs_it_with_a_read_only_root(world: InCluster, tell: Tell) -> None:
    """As OpenShift does it; two controllers at once are safe."""
    user = 1_000_000_000 + secrets.randbelow(1_000_000_000)
    pod = like_the_controller(world, "any-user")
    pod["spec"]["securityContext"] |= {"runAsUser": user, "runAsGroup": user}
    assert pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"]
    world.cluster.api.post(PODS, pod)
    try:
        ready = lambda: is_ready(world.cluster.api.get(f"{PODS}/any-user"))  # noqa: E731
        eventually(ready, timeout=RUN_SECONDS, what=f"a controller as user {user}")
    finally:
        world.cluster.api.delete(f"{PODS}/any-user?gracePeriodSeconds=0")
    tell(f"ran as user {user}")


def test_it_is_ready_within_three_seconds_and_takes_only_the_memory_it_asks_for(world: InCluster, tell: Tell) -> None:
    took = [world.replace_controller() for _ in range(STARTS)]
    tell(f"controller Pod, from made to ready: {', '.join(f'{one:.2f}' for one in took)} s")
    assert statistics.median(took) < READY_SECONDS
    used = world.measure()
    tell(f"controller: {used['resident']:.1f} MiB resident, at most {used['most']:.1f}; {used['cpu']:.2f} s of CPU")
    assert used["most"] < MEMORY_REQUEST_MIB
