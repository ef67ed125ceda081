"""The two commands of the README, and a Pod."""

import secrets
import shlex
import subprocess
import time
from collections.abc import Callable

from tests.e2e.support.cluster import Cluster
from tests.e2e.support.incluster import REGISTRY, ROOT, TARGET_IDENTITY, TARGET_LABEL, InCluster
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


def test_a_deployment_in_a_namespace_of_a_second_ago_runs_and_nobody_has_touched_a_secret(
    cluster: Cluster, world: InCluster, tell: Tell
) -> None:
    """A target makes the Secret, and its ServiceAccount names it."""
    namespace = f"e2e-{secrets.token_hex(5)}"
    began = time.monotonic()
    labels = {TARGET_LABEL: "yes"}
    cluster.api.post("/api/v1/namespaces", {"metadata": {"name": namespace, "labels": labels}})
    container = {"name": "main", "image": f"{REGISTRY}/hello/ninth:1", "command": ["/busybox", "sleep", "3600"]}
    app = {"matchLabels": {"app": "ninth"}}
    template = {
        "metadata": {"labels": app["matchLabels"]},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "containers": [{**container, "imagePullPolicy": "Always"}],
        },
    }

    def attached() -> bool:
        accounts = cluster.api.items(f"/api/v1/namespaces/{namespace}/serviceaccounts")
        return any({"name": "pull-secret"} in each.get("imagePullSecrets", []) for each in accounts)

    try:
        eventually(attached, timeout=RUN_SECONDS, what="the ServiceAccount names the Secret")
        after = time.monotonic() - began
        deployment = {"metadata": {"name": "ninth"}, "spec": {"selector": app, "template": template}}
        cluster.api.post(f"/apis/apps/v1/namespaces/{namespace}/deployments", deployment)
        rollout = ("rollout", "status", "--namespace", namespace, "deployment/ninth", "--timeout=60s")
        cluster.kubectl(*rollout)
        tell(
            f"a Deployment of {after:.2f} s after its namespace ran {time.monotonic() - began:.1f} s after that; "
            "its Secret, and the Secret's name in the ServiceAccount, are a target's"
        )
        admitted = [one for one in world.decisions("hello/ninth") if one["admitted"]]
        assert {one["subject"] for one in admitted} == {TARGET_IDENTITY}
    finally:
        cluster.kubectl("delete", "deployment", "--namespace", namespace, "--all", "--wait=false")
        cluster.api.delete(f"/api/v1/namespaces/{namespace}")


def test_without_any_credential_the_registry_refuses(world: InCluster, tenant: Tenant, pods: Pods) -> None:
    """Else the other tests would prove nothing."""
    del tenant
    name = pods.create("hello/sixth", secret=None)
    pods.fails_to_pull(name)
    assert world.decisions("hello/sixth"), "the registry was asked"
    assert not any(one["admitted"] for one in world.decisions("hello/sixth"))
    told = eventually(lambda: pods.failed_pulls(name), timeout=RUN_SECONDS, what="the kubelet's Event")
    assert f"{REGISTRY}/hello/sixth" in told[0]
