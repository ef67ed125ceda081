"""Proof by a tenant's ServiceAccount, with the component tenant-proof: what the issuer sees, what is refused.

Who may set the annotation is in test_manifests_policies.py.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from testing.api import Api, ApiError
from testing.exchange import AUDIENCE, CONTROLLER, Issuer
from tests.e2e.support import installed
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.tenant import FILL_SECONDS, Tenant, annotation, eventually, token

OBJECT = "pull-secret-updater-tenant-proof"
PROVEN = {"service-account": "pull-secret"}

pytestmark = pytest.mark.usefixtures("component")


@pytest.fixture(scope="module")
def as_controller(cluster: Cluster, manifests: str) -> Api:
    """Calls by the controller's ServiceAccount."""
    return Api(cluster.service_account_kubeconfig("pull-secret-updater", "controller"))


@pytest.fixture(scope="module")
def component(cluster: Cluster, as_controller: Api, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The component, enforced."""
    directory = installed.overlay(tmp_path_factory.mktemp("tenant-proof"), "tenant-proof")
    rendered = yaml.safe_load_all(installed.render(directory, cluster=cluster))
    objects = yaml.safe_dump_all(each for each in rendered if each["metadata"]["name"] == OBJECT)
    cluster.kubectl("apply", "-f", "-", input=objects)
    # A token of a ServiceAccount that isn't there is answered 404 before any policy is asked.
    cluster.kubectl("create", "serviceaccount", "pull-secret", f"--namespace={installed.POLICY_PROBE}")
    try:
        eventually(lambda: _is_enforced(as_controller), timeout=installed.POLICY_SECONDS, what="the policy is enforced")
        yield
    finally:
        cluster.kubectl("delete", "-f", "-", input=objects)
        cluster.kubectl("delete", "serviceaccount", "pull-secret", f"--namespace={installed.POLICY_PROBE}")


def _is_enforced(as_controller: Api) -> bool:
    """Whether RBAC knows the right, and the policy refuses to use it for anything."""
    try:
        as_controller.post(tokens(installed.POLICY_PROBE), request())
    except ApiError as error:
        return f"ValidatingAdmissionPolicy '{OBJECT}'" in str(error)
    return False


def tokens(namespace: str, name: str = "pull-secret") -> str:
    """Where tokens of a ServiceAccount are requested."""
    return f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"


def request(**spec: Any) -> dict[str, Any]:
    """A TokenRequest; by default for the API server and for an hour."""
    return {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}


def create_service_account(cluster: Cluster, namespace: str, name: str = "pull-secret") -> str:
    """Create it. Returns the subject of its tokens."""
    cluster.api.post(f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": name}})
    return f"system:serviceaccount:{namespace}:{name}"


def seen(issuer: Issuer, identity: str) -> set[str]:
    """The subjects that the issuer has minted a token of this identity for."""
    return {exchange.subject for exchange in issuer.exchanges(identity) if exchange.status == 200}


@pytest.mark.usefixtures("shared_controller")
def test_the_issuer_sees_the_tenants_subject_at_each_mint(cluster: Cluster, tenant: Tenant, issuer: Issuer) -> None:
    subject = create_service_account(cluster, tenant.namespace)
    issuer.trust(tenant.identity, subject=subject)
    tenant.create(annotations=PROVEN)
    tenant.filled()
    tenant.refresh()
    assert seen(issuer, tenant.identity) == {subject}
    assert issuer.minted(tenant.identity) == 2


@pytest.mark.usefixtures("shared_controller")
def test_a_namesake_in_another_namespace_is_another_subject_and_gets_nothing(
    cluster: Cluster, tenants: Callable[[], Tenant], issuer: Issuer
) -> None:
    ours, theirs = tenants(), tenants()
    subject, other = (create_service_account(cluster, each.namespace) for each in (ours, theirs))
    issuer.trust(ours.identity, subject=subject)
    ours.create(annotations=PROVEN)
    ours.filled()
    theirs.create(ours.identity, annotations=PROVEN)
    assert f"subject {other}, audience {AUDIENCE}" in theirs.warned("MintRefused")["message"]
    assert token(theirs.secret()) == ""
    assert seen(issuer, ours.identity) == {subject}


@pytest.mark.usefixtures("shared_controller")
def test_the_controllers_own_proof_is_not_used_in_its_place_even_if_the_issuer_would_take_it(
    tenant: Tenant, issuer: Issuer
) -> None:
    tenant.create(annotations={"service-account": "another-name"})
    assert "ServiceAccount " in tenant.warned("TokenRequestRefused")["message"]
    tenant.annotate(service_account="pull-secret")
    tenant.warned("ServiceAccountMissing")
    assert issuer.exchanges(tenant.identity) == []
    tenant.annotate(service_account=None)
    tenant.filled()
    assert seen(issuer, tenant.identity) == {CONTROLLER}


@pytest.mark.usefixtures("shared_controller")
def test_a_service_account_that_comes_later_is_seen_by_itself(cluster: Cluster, tenant: Tenant, issuer: Issuer) -> None:
    issuer.trust(tenant.identity, subject=f"system:serviceaccount:{tenant.namespace}:pull-secret")
    tenant.create(annotations=PROVEN)
    # Not the Event, which may come late: the controller's next look would be later by then.
    told = tenant.wait(lambda secret: bool(annotation(secret, "error")), timeout=FILL_SECONDS).secret
    assert (annotation(told, "error") or "").startswith("ServiceAccountMissing: ")
    create_service_account(cluster, tenant.namespace)
    assert annotation(tenant.filled().secret, "error") is None


def test_the_controller_may_request_a_token_for_the_issuer_for_ten_minutes_bound_to_a_secret_and_no_other(
    cluster: Cluster, tenant: Tenant, as_controller: Api
) -> None:
    for name in ("pull-secret", "another-name"):
        create_service_account(cluster, tenant.namespace, name)
    metadata = tenant.create()["metadata"]
    bound = {"apiVersion": "v1", "kind": "Secret", "name": metadata["name"], "uid": metadata["uid"]}
    good: dict[str, Any] = {"audiences": [AUDIENCE], "expirationSeconds": 600, "boundObjectRef": bound}
    issued = as_controller.post(tokens(tenant.namespace), request(**good))
    cluster.issued_tokens.append(issued["status"]["token"])
    refused: list[tuple[dict[str, Any], str]] = [
        ({"audiences": []}, "only for the audience of a provider"),
        ({"audiences": ["https://kubernetes.default.svc.cluster.local"]}, "only for the audience of a provider"),
        ({"audiences": [AUDIENCE, "another"]}, "only for the audience of a provider"),
        ({"expirationSeconds": 601}, "only for 600 seconds"),
        ({"expirationSeconds": None}, "only for 600 seconds"),
        ({"boundObjectRef": {**bound, "uid": ""}}, "bound to nothing but a Secret"),
        ({"boundObjectRef": {**bound, "kind": "Pod"}}, "bound to nothing but a Secret"),
    ]
    for change, sentence in refused:
        assert sentence in refusal(as_controller, tokens(tenant.namespace), {**good, **change})
    assert "cannot create resource" in refusal(as_controller, tokens(tenant.namespace, "another-name"), good)
    assert "cannot create resource" in refusal(as_controller, tokens("pull-secret-updater", "controller"), good)


def refusal(api: Api, path: str, spec: dict[str, Any]) -> str:
    """The API server's sentence, of a TokenRequest that it answers with 403."""
    with pytest.raises(ApiError) as refused:
        api.post(path, request(**spec))
    assert refused.value.status == 403, refused.value
    return str(refused.value)


def test_a_proof_ends_with_the_secret_that_it_is_bound_to(cluster: Cluster, tenant: Tenant, as_controller: Api) -> None:
    create_service_account(cluster, tenant.namespace)
    metadata = tenant.create()["metadata"]
    bound = {"apiVersion": "v1", "kind": "Secret", "name": metadata["name"], "uid": metadata["uid"]}
    spec = {"audiences": [AUDIENCE], "expirationSeconds": 600, "boundObjectRef": bound}
    proof = as_controller.post(tokens(tenant.namespace), request(**spec))["status"]["token"]
    cluster.issued_tokens.append(proof)

    def is_accepted() -> bool:
        review = {"spec": {"token": proof, "audiences": [AUDIENCE]}}
        answer = cluster.api.post("/apis/authentication.k8s.io/v1/tokenreviews", review)
        return bool(answer["status"].get("authenticated"))

    assert is_accepted()
    tenant.delete()
    eventually(lambda: not is_accepted(), timeout=60, what="the token ends")
