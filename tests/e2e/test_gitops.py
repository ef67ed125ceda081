"""Each row of the table in docs/gitops.md: a manifest without data, applied by each tool, leaves the token as it is."""

import json
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from lupa import LuaRuntime  # type: ignore[import-untyped]

from hack.fluxhealth import FLUX_HEALTH
from testing.behaviour import Behaviour
from testing.exchange import Issuer
from tests.e2e.support import installed
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.tenant import FILL_SECONDS, PREFIX, Tenant, annotation, eventually, filled_for, token

PAGE = (Path(__file__).parents[2] / "docs" / "gitops.md").read_text()
Apply = Callable[[Cluster, dict[str, Any], dict[str, Any] | None], str]
"""apply(cluster, manifest, the one before): what kubectl says."""
pytestmark = pytest.mark.usefixtures("shared_controller", "component")


@pytest.fixture(scope="module")
def component(cluster: Cluster) -> Iterator[None]:
    """The component, enforced."""
    policy = installed.MANIFESTS / "components" / "gitops" / "keep-data.yaml"
    cluster.kubectl("apply", f"--filename={policy}")
    probe = {**manifest("default"), "metadata": {**manifest("default")["metadata"], "name": "probe"}}

    def enforced() -> bool:
        dry_run = ("create", "--dry-run=server", "--filename=-")
        return cluster.kubectl(*dry_run, input=json.dumps(probe), check=False).returncode == 0

    eventually(enforced, timeout=20, what="the mutating policy is in force")
    yield
    cluster.kubectl("delete", f"--filename={policy}")


def manifest(namespace: str, identity: str = "a/b", **labels: str) -> dict[str, Any]:
    """That of the page, for this namespace and identity."""
    (text,) = re.findall(r"^```yaml\n(apiVersion: v1\n.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    body: dict[str, Any] = yaml.safe_load(text)
    metadata = body["metadata"] | {"namespace": namespace} | ({"labels": labels} if labels else {})
    return {**body, "metadata": {**metadata, "annotations": {PREFIX + "identity": identity}}}


def by_kubectl(*flags: str) -> Apply:
    def apply(cluster: Cluster, new: dict[str, Any], _old: dict[str, Any] | None) -> str:
        return cluster.kubectl("apply", *flags, "--filename=-", input=json.dumps(new)).stdout

    return apply


def by_three_way_merge(cluster: Cluster, new: dict[str, Any], old: dict[str, Any] | None) -> str:
    """As Helm 3: create at first, then patch what the manifest says."""
    if old is None:
        return cluster.kubectl("create", "--filename=-", input=json.dumps(new)).stdout
    where = ("secret", new["metadata"]["name"], f"--namespace={new['metadata']['namespace']}")
    patch = {"metadata": {key: new["metadata"].get(key) for key in ("labels", "annotations")}}
    return cluster.kubectl("patch", *where, "--type=strategic", f"--patch={json.dumps(patch)}").stdout


TOOLS: dict[str, Apply] = {
    "kubectl apply": by_kubectl(),
    "kubectl apply --server-side": by_kubectl("--server-side"),
    "kubectl apply --server-side --force-conflicts": by_kubectl("--server-side", "--force-conflicts"),
    "Argo CD": by_kubectl("--field-manager=argocd-controller"),
    "Argo CD, ServerSideApply=true": by_kubectl(
        "--server-side", "--force-conflicts", "--field-manager=argocd-controller"
    ),
    "Flux": by_kubectl("--server-side", "--force-conflicts", "--field-manager=kustomize-controller"),
    "Helm 3": by_three_way_merge,
    "Helm 4": by_kubectl("--server-side", "--field-manager=helm"),
}


@pytest.mark.parametrize("apply", TOOLS.values(), ids=TOOLS.keys())
def test_a_manifest_without_data_that_is_applied_again_leaves_the_token_alone(
    cluster: Cluster, tenant: Tenant, issuer: Issuer, apply: Apply
) -> None:
    first = manifest(tenant.namespace, tenant.identity)
    apply(cluster, first, None)
    version = tenant.filled()
    filled = version.secret
    for _ in range(5):
        apply(cluster, first, first)
    apply(cluster, manifest(tenant.namespace, tenant.identity, changed="yes"), first)
    after = tenant.secret()
    assert after["metadata"]["labels"] == {"changed": "yes"}
    assert (after["data"], after["metadata"]["uid"]) == (filled["data"], filled["metadata"]["uid"])
    assert all(one.secret["data"] == filled["data"] for one in tenant.history() if one.number >= version.number)
    assert len(issuer.exchanges(tenant.identity)) == 1
    assert tenant.secret()["metadata"]["annotations"].get(PREFIX + "error") is None


@pytest.mark.parametrize("flags", [(), ("--server-side",)])
def test_kubectl_says_that_nothing_changes(cluster: Cluster, tenant: Tenant, flags: tuple[str, ...]) -> None:
    apply = by_kubectl(*flags)
    body = manifest(tenant.namespace, tenant.identity)
    apply(cluster, body, None)
    version = tenant.filled().secret["metadata"]["resourceVersion"]
    for _ in range(5):
        said = apply(cluster, body, body)
        assert "unchanged" in said or "serverside-applied" in said
    assert tenant.secret()["metadata"]["resourceVersion"] == version


def test_a_new_identity_in_git_is_applied(cluster: Cluster, tenant: Tenant, tenants: Callable[[], Tenant]) -> None:
    apply, other = by_kubectl(), tenants().identity
    apply(cluster, manifest(tenant.namespace, tenant.identity), None)
    tenant.filled()
    apply(cluster, manifest(tenant.namespace, other), None)
    tenant.filled(other)


def test_a_replace_without_data_is_refused_and_the_token_stays(cluster: Cluster, tenant: Tenant) -> None:
    body = manifest(tenant.namespace, tenant.identity)
    by_kubectl()(cluster, body, None)
    before = token(tenant.filled().secret)
    replaced = cluster.kubectl("replace", "--filename=-", input=json.dumps(body), check=False)
    assert "data[.dockerconfigjson]: Required value" in replaced.stderr
    assert token(tenant.secret()) == before


def restored(tenant: Tenant, since: int) -> None:
    """Wait until the Secret holds its token in this version or a later one."""
    filled = filled_for(tenant.identity)
    tenant.wait(lambda one: int(one["metadata"]["resourceVersion"]) >= since and filled(one), timeout=FILL_SECONDS)


def test_with_data_in_git_each_apply_is_a_fight_that_the_secret_survives(cluster: Cluster, tenant: Tenant) -> None:
    body = manifest(tenant.namespace, tenant.identity) | {"stringData": {".dockerconfigjson": "{}"}}
    apply = by_kubectl("--server-side", "--force-conflicts", "--field-manager=some-tool")
    apply(cluster, body, None)
    tenant.filled()
    for _ in range(3):
        apply(cluster, body, None)
        restored(tenant, int(tenant.secret()["metadata"]["resourceVersion"]))
    event = tenant.warned("Fight")
    assert event["message"].endswith(": some-tool")
    assert "docs/gitops.md" in event["message"]


def test_the_policy_touches_nothing_but_what_asks_and_has_no_content(cluster: Cluster, tenant: Tenant) -> None:
    plain = manifest(tenant.namespace)
    del plain["metadata"]["annotations"]
    refused = cluster.kubectl("create", "--filename=-", input=json.dumps(plain), check=False)
    assert "data[.dockerconfigjson]: Required value" in refused.stderr
    config = {"auths": {"quay.io": {"auth": "dTpw"}}}
    tenant.create(config=config, annotations={"paused": "true"})
    assert tenant.config() == config


def argo_cds_view(secret: dict[str, Any]) -> dict[str, Any]:
    """What the page's script makes of it, which Argo CD runs in a Lua with these libraries."""
    (script,) = re.findall(r"^```lua\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    lua = LuaRuntime(unpack_returned_tuples=True)
    lua.globals()["obj"] = lua.table_from(secret, recursive=True)
    return dict(lua.execute(script))


def fluxs_view(secret: dict[str, Any]) -> str:
    """What Flux's own code makes of it with the page's expressions: Current, InProgress or Failed."""
    (text,) = re.findall(r"^```yaml\n# in the spec of a Kustomization\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (check,) = yaml.safe_load(text)["healthCheckExprs"]
    told = subprocess.run(
        [FLUX_HEALTH.find_or_build() / "fluxhealth"],
        input=json.dumps({"check": check, "object": secret}),
        capture_output=True,
        text=True,
        check=True,
    )
    return told.stdout.strip()


FUTURE, PAST = "2999-01-01T00:00:00Z", "2026-01-01T00:00:00Z"
PROGRESSING = {"status": "Progressing", "message": "waiting for the first token"}
EXPIRED = {"status": "Degraded", "message": "the token has expired: does the controller run?"}


@pytest.mark.parametrize(
    ("annotations", "argo", "flux"),
    [
        ({}, {"status": "Healthy"}, "Current"),
        ({"identity": "x"}, PROGRESSING, "InProgress"),
        ({"identity": "x", "expires-at": FUTURE}, {"status": "Healthy"}, "Current"),
        ({"identity": "x", "expires-at": PAST}, EXPIRED, "Current"),
        ({"identity": "x", "expires-at": FUTURE, "identity.a": "y"}, PROGRESSING, "InProgress"),
        ({"identity": "x", "expires-at": FUTURE, "identity.a": "y", "expires-at.a": PAST}, EXPIRED, "Current"),
        ({"identity.a": "y", "expires-at.a": FUTURE}, {"status": "Healthy"}, "Current"),
        ({"identity": "x", "error": "MintRefused: no"}, {"status": "Degraded", "message": "MintRefused: no"}, "Failed"),
        ({"identity": "x", "expires-at": PAST, "error.a": "no"}, {"status": "Degraded", "message": "no"}, "Failed"),
        ({"identities": "x", "errors": "no"}, {"status": "Healthy"}, "Current"),
    ],
    ids=str,
)
def test_the_health_checks_for_argo_cd_and_flux_say_what_the_annotations_say(
    annotations: dict[str, str], argo: dict[str, str], flux: str
) -> None:
    secret = {"metadata": {"name": "s", "annotations": {PREFIX + key: value for key, value in annotations.items()}}}
    assert argo_cds_view(secret) == argo
    assert fluxs_view(secret) == flux


def test_a_secret_without_annotations_is_healthy() -> None:
    assert argo_cds_view({"metadata": {"name": "s"}}) == {"status": "Healthy"}
    assert fluxs_view({"metadata": {"name": "s"}}) == "Current"


def test_a_valid_a_refused_and_an_unfilled_secret_are_told_apart(
    cluster: Cluster, tenants: Callable[[], Tenant], issuer: Issuer
) -> None:
    valid, refused, unfilled = tenants(), tenants(), tenants()
    issuer.behave(refused.identity, Behaviour(status=403))
    for tenant in (valid, refused):
        tenant.create(tenant.identity)
    unfilled.create(unfilled.identity, annotations={"paused": "true"})
    valid.filled()
    refused.wait(lambda secret: annotation(secret, "error") is not None, timeout=FILL_SECONDS)
    seen = [tenant.secret() for tenant in (valid, refused, unfilled)]
    assert [argo_cds_view(secret)["status"] for secret in seen] == ["Healthy", "Degraded", "Progressing"]
    assert [fluxs_view(secret) for secret in seen] == ["Current", "Failed", "InProgress"]
    (wait,) = re.findall(r"`kubectl (wait [^`]*)`", PAGE)
    codes = [
        cluster.kubectl(*shlex.split(wait.replace("1m", "1s")), "-n", tenant.namespace, check=False).returncode
        for tenant in (valid, refused, unfilled)
    ]
    assert codes == [0, 1, 1]
