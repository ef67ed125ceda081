"""The two commands, and what they get."""

import shlex
from collections.abc import Callable

import pytest

from testing.exchange import Issuer
from tests.e2e.support import kubelet
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.requests import AuditLog
from tests.e2e.support.tenant import Tenant, annotation, token

CREATE = (
    "kubectl create secret generic pull-secret --type=kubernetes.io/dockerconfigjson "
    "--from-literal=.dockerconfigjson='{}'"
)
ANNOTATE = "kubectl annotate secret pull-secret pull-secret-updater.chainguard.dev/identity="

pytestmark = pytest.mark.usefixtures("shared_controller")


def test_the_two_commands_of_the_readme_fill_a_secret_in_place(cluster: Cluster, tenant: Tenant) -> None:
    kubeconfig = cluster.kubeconfig_in(tenant.namespace)
    cluster.kubectl(*shlex.split(CREATE)[1:], kubeconfig=kubeconfig)
    before = tenant.secret()
    cluster.kubectl(*shlex.split(ANNOTATE + tenant.identity)[1:], kubeconfig=kubeconfig)
    after = tenant.filled().secret
    assert kubelet.credentials(after).keys() == {"cgr.dev"}
    unchanged = ("uid", "creationTimestamp", "name", "labels", "ownerReferences", "finalizers")
    assert {key: before["metadata"].get(key) for key in unchanged} == {
        key: after["metadata"].get(key) for key in unchanged
    }
    assert after["type"] == before["type"] == kubelet.SECRET_TYPE


def test_kubectl_shows_a_docker_config_that_the_kubelet_accepts(cluster: Cluster, tenant: Tenant) -> None:
    tenant.create()
    filled = tenant.filled().secret
    jsonpath = r"jsonpath={.data.\.dockerconfigjson}"
    shown = cluster.kubectl("get", "secret", "pull-secret", "-n", tenant.namespace, "-o", jsonpath).stdout
    user, password = kubelet.credentials({**filled, "data": {kubelet.KEY: shown}})["cgr.dev"]
    assert user == "_token"
    assert kubelet.claims(password)["aud"] == "cgr.dev"
    assert kubelet.claims(password)["sub"] == tenant.identity
    # The other fields say the same as `auth`, for readers that look at only one of them.
    entry = tenant.config()["auths"]["cgr.dev"]
    assert (entry["username"], entry["password"]) == (user, password)


def test_the_token_was_asked_for_as_the_controllers_own_service_account(tenant: Tenant, issuer: Issuer) -> None:
    tenant.create()
    tenant.filled()
    (exchange,) = issuer.exchanges(tenant.identity)
    assert exchange.subject == "system:serviceaccount:pull-secret-updater:controller"


def test_a_fill_is_one_mint_and_one_patch_and_its_own_echo_causes_neither(
    tenants: Callable[[], Tenant], issuer: Issuer, audit: AuditLog
) -> None:
    tenant, fence = tenants(), tenants()
    tenant.create()
    tenant.warned("TokenWritten")
    fence.create()
    fence.filled()  # events come in order: by now the controller has seen its own write
    assert issuer.minted(tenant.identity) == 1
    of_secrets = [one for one in audit.requests(namespace=tenant.namespace) if one.resource == "secrets"]
    assert [(request.verb, request.code) for request in of_secrets] == [("patch", 200)]
    assert len(tenant.history()) == 2


def test_the_annotations_say_for_how_long_the_token_is_good(tenant: Tenant) -> None:
    tenant.create()
    filled = tenant.filled().secret
    issued, refresh, expires = (annotation(filled, key) for key in ("issued-at", "refresh-at", "expires-at"))
    assert issued is not None
    assert refresh is not None
    assert expires is not None
    assert issued < refresh < expires
    assert annotation(filled, "registries-managed") == "cgr.dev"
    assert annotation(filled, "error") is None


def test_the_first_fill_is_told_by_one_event(cluster: Cluster, tenant: Tenant) -> None:
    tenant.create()
    tenant.warned("TokenWritten")
    assert [event["type"] for event in tenant.events()] == ["Normal"]
    shown = cluster.kubectl("events", "--for", "secret/pull-secret", "-n", tenant.namespace).stdout
    assert "TokenWritten" in shown


def test_other_registries_keys_and_labels_survive_a_fill(tenant: Tenant) -> None:
    others = {"quay.io": {"auth": "dXNlcjpwYXNz", "email": "a@b"}, "https://index.docker.io/v1/": {"username": "u"}}
    tenant.create(
        config={"credsStore": "keychain", "auths": others},
        labels={"team": "a"},
        data={"note": "keep me"},
        annotations={"registries": "cgr.dev"},
    )
    before = tenant.secret()
    after = tenant.filled().secret
    config = tenant.config()
    assert token(after) == config["auths"].pop("cgr.dev")["password"]
    assert config == {"credsStore": "keychain", "auths": others}
    assert after["metadata"]["labels"] == before["metadata"]["labels"]
    assert after["data"]["note"] == before["data"]["note"]
