"""The two commands of the README, and a Pod."""

import shlex
import subprocess
import time
from collections.abc import Callable

from tests.e2e.support.cluster import Cluster
from tests.e2e.support.incluster import REGISTRY, ROOT, InCluster
from tests.e2e.support.pods import RUN_SECONDS, Pods
from tests.e2e.support.tenant import PREFIX, Tenant, eventually

Tell = Callable[[str], None]
PAGE = (ROOT / "docs" / "pods.md").read_text()
CREATE = ("create", "secret", "generic", "pull-secret", "--type=kubernetes.io/dockerconfigjson")
CONTENT = "--from-literal=.dockerconfigjson={}"


def run(cluster: Cluster, tenant: Tenant, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """kubectl, in the tenant's namespace."""
    return cluster.kubectl("--namespace", tenant.namespace, *arguments)


def annotate(cluster: Cluster, tenant: Tenant) -> None:
    """As the README says it."""
    run(cluster, tenant, "annotate", "secret", "pull-secret", f"{PREFIX}identity={tenant.identity}")


def test_after_the_two_commands_a_pod_runs_an_image_of_the_private_registry(
    cluster: Cluster, world: InCluster, tenant: Tenant, pods: Pods, tell: Tell
) -> None:
    run(cluster, tenant, *CREATE, CONTENT)
    annotate(cluster, tenant)
    seconds = pods.runs(pods.create("hello/second"))
    tell(f"two commands and a Pod: it ran {seconds:.1f} s after it was created")
    asked = {one["subject"] for one in world.exchanges(tenant.identity)}
    assert asked == {"system:serviceaccount:pull-secret-updater:controller"}, "the issuer verified whose token it was"
    admitted = [one for one in world.decisions("hello/second") if one["admitted"]]
    assert tenant.identity in {one["subject"] for one in admitted}


def test_without_the_annotation_the_image_is_not_pulled_and_once_it_is_there_the_pod_recovers_by_itself(
    cluster: Cluster, world: InCluster, tenant: Tenant, pods: Pods, tell: Tell
) -> None:
    run(cluster, tenant, *CREATE, CONTENT)
    name = pods.create("hello/third")
    pods.fails_to_pull(name, reason=("ImagePullBackOff",))
    assert [one["why"] for one in world.decisions("hello/third") if not one["admitted"]], "the registry refused it"
    annotate(cluster, tenant)
    seconds = pods.runs(name)
    tell(f"annotated while in ImagePullBackOff: the Pod ran {seconds:.1f} s later, at the kubelet's next try")


def test_a_pod_created_within_a_second_of_the_annotation_runs(tenant: Tenant, pods: Pods, tell: Tell) -> None:
    tenant.create("")
    began = time.monotonic()
    tenant.annotate(identity=tenant.identity)
    name = pods.create("hello/fourth")
    between = time.monotonic() - began
    assert between < 1
    pods.runs(name)
    ran, failed = time.monotonic() - began, len(pods.failed_pulls(name))
    tell(f"a Pod created {between * 1000:.0f} ms after the annotation ran {ran:.1f} s after it; failed pulls: {failed}")


def test_a_pod_created_before_its_secret_runs_once_that_is_filled(tenant: Tenant, pods: Pods, tell: Tell) -> None:
    name = pods.create("hello/fourth")
    pods.fails_to_pull(name)
    began = time.monotonic()
    tenant.create()
    pods.runs(name)
    tell(f"a Pod created before its Secret ran {time.monotonic() - began:.1f} s after the Secret was")


def test_a_serviceaccount_can_name_the_secret_for_all_its_pods(cluster: Cluster, tenant: Tenant, pods: Pods) -> None:
    """As docs/pods.md says it; the admission of the API server copies it into each Pod."""
    tenant.create()
    tenant.filled()
    (command,) = [line for line in PAGE.splitlines() if line.startswith("kubectl patch serviceaccount")]
    run(cluster, tenant, *shlex.split(command.removeprefix("kubectl")))
    name = pods.create("hello/fifth", secret=None)
    assert pods.get(name)["spec"]["imagePullSecrets"] == [{"name": "pull-secret"}]
    pods.runs(name)


def test_without_any_credential_the_registry_refuses(world: InCluster, tenant: Tenant, pods: Pods) -> None:
    """Else the other tests would prove nothing."""
    del tenant
    name = pods.create("hello/sixth", secret=None)
    pods.fails_to_pull(name)
    assert world.decisions("hello/sixth"), "the registry was asked"
    assert not any(one["admitted"] for one in world.decisions("hello/sixth"))
    told = eventually(lambda: pods.failed_pulls(name), timeout=RUN_SECONDS, what="the kubelet's Event")
    assert f"{REGISTRY}/hello/sixth" in told[0]
