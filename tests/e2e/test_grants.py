"""Grants asked again, with the component grants, on a real API server: RBAC is the judge of each mint."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from testing.api import Api, ApiError
from testing.controller import ControllerProcess
from testing.exchange import Issuer
from tests.e2e.support import installed
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.tenant import FILL_SECONDS, PREFIX, Tenant, annotation, eventually, filled_for, token

OBJECT = "pull-secret-updater-grants"
CONTROLLER = ("pull-secret-updater", "controller")
RECHECK_SECONDS = 10
CONFIRMED_SECONDS = RECHECK_SECONDS + 30.0
"""After so long a no has been said twice."""

Start = Callable[..., ControllerProcess]
Object = dict[str, Any]

pytestmark = pytest.mark.usefixtures("component")


@pytest.fixture(scope="module")
def component(cluster: Cluster, manifests: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The component's objects."""
    del manifests
    directory = installed.overlay(tmp_path_factory.mktemp("grants"), "grants")
    (directory / "config.yaml").write_text("{}")
    rendered = yaml.safe_load_all(installed.render(directory, cluster=cluster))
    objects = yaml.safe_dump_all(each for each in rendered if each["metadata"]["name"] == OBJECT)
    cluster.kubectl("apply", "-f", "-", input=objects)
    api = Api(cluster.service_account_kubeconfig(*CONTROLLER))
    eventually(lambda: answers(api), timeout=FILL_SECONDS, what="RBAC knows the right")
    yield
    cluster.kubectl("delete", "-f", "-", input=objects)


def answers(api: Api) -> bool:
    """Whether the API server tells who may do what."""
    spec = {"groups": ["anybody"], "resourceAttributes": {"verb": "get", "resource": "pods"}}
    try:
        api.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", {"spec": spec})
    except ApiError:
        return False
    return True


def asking(check: str = "both", *, on_revoke: str = "keep") -> Object:
    """The configuration."""
    return {"grants": {"check": check, "recheck": f"{RECHECK_SECONDS}s", "onRevoke": on_revoke}}


def role_binding(tenant: Tenant, name: str | None = None) -> list[Object]:
    """What lets the ServiceAccounts of the tenant's namespace use its identity."""
    meta = {"name": "use-pull-identity", "namespace": tenant.namespace}
    rule = {
        "apiGroups": ["pull-secret-updater.chainguard.dev"],
        "resources": ["identities"],
        "resourceNames": [name or tenant.identity],
        "verbs": ["use"],
    }
    rbac = "rbac.authorization.k8s.io"
    group = {"kind": "Group", "name": f"system:serviceaccounts:{tenant.namespace}", "apiGroup": rbac}
    version = f"{rbac}/v1"
    return [
        {"apiVersion": version, "kind": "Role", "metadata": meta, "rules": [rule]},
        {
            "apiVersion": version,
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": meta["name"]},
            "subjects": [group],
        },
    ]


def grant(cluster: Cluster, tenant: Tenant, name: str | None = None) -> None:
    cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(role_binding(tenant, name)))


def revoke(cluster: Cluster, tenant: Tenant) -> None:
    cluster.kubectl("delete", "rolebinding", "use-pull-identity", "-n", tenant.namespace)


def test_a_namespace_gets_tokens_while_it_has_the_grant_and_loses_the_one_in_place_where_asked(
    cluster: Cluster, tenants: Callable[[], Tenant], controller: Start, issuer: Issuer
) -> None:
    """Three namespaces in one run, since a no must be said twice, half a minute apart."""
    ours, never, others = tenants(), tenants(), tenants()
    for each in (ours, others):
        grant(cluster, each)
    started = controller(config=asking(on_revoke="wipe"))
    foreign = {"auth": "dTpw"}
    ours.create(config={"auths": {"quay.io": foreign}})
    others.create()
    never.create(others.identity)
    for each in (ours, others):
        each.filled()
    revoke(cluster, ours)

    wiped = ours.wait(lambda secret: not annotation(secret, "expires-at"), timeout=2 * CONFIRMED_SECONDS).secret
    assert (annotation(wiped, "error") or "").startswith("GrantRevoked: ")
    assert annotation(wiped, "identity") == ours.identity
    assert ours.config() == {"auths": {"quay.io": foreign}}
    told = never.wait(lambda secret: bool(annotation(secret, "error")), timeout=2 * CONFIRMED_SECONDS).secret
    assert (annotation(told, "error") or "").startswith("GrantRevoked: ")
    assert token(told) == ""
    for each in (ours, never):
        group = f"group system:serviceaccounts:{each.namespace}"
        assert each.warned("GrantRevoked")["message"].endswith(f": {group}")
    assert started.metrics().value("refused_claims", reason="GrantRevoked") == 2

    minted = issuer.minted(ours.identity)
    ours.annotate(refresh="now")
    others.refresh()
    assert issuer.minted(ours.identity) == minted
    grant(cluster, ours)
    grant(cluster, never, name=others.identity)
    ours.filled(timeout=60)
    assert ours.config()["auths"]["quay.io"] == foreign
    assert annotation(never.filled(others.identity, timeout=60).secret, "error") is None


def test_without_the_component_nothing_is_minted_or_taken_away_and_it_is_told_what_is_missing(
    cluster: Cluster, tenant: Tenant, controller: Start, issuer: Issuer
) -> None:
    grant(cluster, tenant)
    cluster.kubectl("delete", "clusterrolebinding", OBJECT)
    api = Api(cluster.service_account_kubeconfig(*CONTROLLER))
    binding = role_binding_of_the_controller()
    try:
        eventually(lambda: not answers(api), timeout=FILL_SECONDS, what="RBAC has forgotten the right")
        controller(config=asking(on_revoke="wipe"))
        tenant.create()
        assert "cannot create subjectaccessreviews" in tenant.warned("GrantUnclear")["message"]
        assert issuer.exchanges(tenant.identity) == []
    finally:
        cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump(binding))
    assert annotation(tenant.filled(timeout=60).secret, "error") is None


def role_binding_of_the_controller() -> Object:
    """As the component has it."""
    text = (installed.MANIFESTS / "components" / "grants" / "rbac.yaml").read_text()
    (found,) = (each for each in yaml.safe_load_all(text) if each["kind"] == "ClusterRoleBinding")
    binding: Object = found
    return binding


def test_the_name_of_the_grant_is_the_one_that_admission_asks_for(
    cluster: Cluster, tenant: Tenant, controller: Start
) -> None:
    grant(cluster, tenant, name=f"chainguard:{tenant.identity}")
    controller(config=asking("namespace"))
    user = f"system:serviceaccount:{tenant.namespace}:default"
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": "pull-secret",
            "namespace": tenant.namespace,
            "annotations": {PREFIX + "identity": tenant.identity, PREFIX + "provider": "chainguard"},
        },
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": "{}"},
    }
    may_write = {"verb": "create,get,patch,update", "resource": "secrets"}
    cluster.kubectl("create", "role", "writer", "-n", tenant.namespace, *(f"--{k}={v}" for k, v in may_write.items()))
    cluster.kubectl(
        *("create", "rolebinding", "writer", "-n", tenant.namespace, "--role=writer"),
        f"--serviceaccount={tenant.namespace}:default",
    )

    def admitted() -> bool:
        created = cluster.kubectl("create", "-f", "-", f"--as={user}", input=yaml.safe_dump(body), check=False)
        return created.returncode == 0

    eventually(admitted, timeout=FILL_SECONDS, what="admission lets a ServiceAccount of the namespace ask")
    tenant.wait(filled_for(tenant.identity), timeout=FILL_SECONDS)


def test_the_controllers_token_can_ask_who_may_do_what_and_change_nothing_by_that(cluster: Cluster) -> None:
    api = Api(cluster.service_account_kubeconfig(*CONTROLLER))
    assert answers(api)
    for path in ("rolebindings", "roles"):
        with pytest.raises(ApiError, match="403"):
            api.get(f"/apis/rbac.authorization.k8s.io/v1/{path}")
    spec = {"resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "default"}, "user": "x"}
    with pytest.raises(ApiError, match="403"):
        api.post("/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews", {"spec": spec})
