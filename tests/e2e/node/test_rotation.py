"""What a refresh in place is worth: KubeletEnsureSecretPulledImages (KEP-2535) remembers Secrets by their UID."""

from collections.abc import Callable

from tests.e2e.support.incluster import InCluster
from tests.e2e.support.pods import Pods
from tests.e2e.support.tenant import Tenant

IMAGE = "hello/seventh"


def test_after_a_refresh_in_place_an_image_on_the_node_starts_without_the_registry_being_asked(
    world: InCluster, tenant: Tenant, pods: Pods
) -> None:
    tenant.create()
    tenant.filled()
    pods.runs(pods.create(IMAGE, policy="IfNotPresent"))
    pulled = asked(world)
    assert pulled[0], "the first Pod's image came from the registry"
    tenant.refresh()
    pods.runs(pods.create(IMAGE, policy="IfNotPresent"))
    assert asked(world) == pulled


def test_after_delete_and_recreate_with_a_new_token_the_registry_is_asked_again(
    world: InCluster, tenant: Tenant, pods: Pods
) -> None:
    """What a CronJob that does so costs: every Pod needs the registry, though its image is on the node.

    With a new token, since the kubelet remembers credentials too, and the first one would do.
    """
    tenant.create()
    tenant.filled()
    pods.runs(pods.create(IMAGE, policy="IfNotPresent"))
    before = asked(world)
    tenant.recreate()
    tenant.refresh()
    pods.runs(pods.create(IMAGE, policy="IfNotPresent"))
    after = asked(world)
    assert after[0] > before[0]
    assert after[1] > before[1]


def test_an_image_that_another_namespace_pulled_is_not_given_to_who_has_no_credential(
    make_tenant: Callable[[], Tenant], tenant: Tenant, pods: Pods
) -> None:
    """The kubelet's check is at work on this node; without it the two tests above would pass for another reason."""
    owner = make_tenant()
    owner.create()
    owner.filled()
    owners = Pods(pods.cluster, owner.namespace)
    owners.runs(owners.create(IMAGE, policy="IfNotPresent"))
    del tenant
    name = pods.create(IMAGE, policy="IfNotPresent", secret=None)
    pods.fails_to_pull(name)
    assert pods.get(name)["status"]["phase"] == "Pending"


def asked(world: InCluster) -> tuple[int, int]:
    """How often the registry and its token server were asked for the image."""
    return len(world.requests(IMAGE)), len(world.decisions(IMAGE))
