"""Each row of the table in docs/gitops.md: a manifest without data, applied by each tool, leaves the token as it is."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from lupa import LuaRuntime  # type: ignore[import-untyped]

from testing.exchange import Issuer
from tests.e2e.support import installed
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.tenant import FILL_SECONDS, PREFIX, Tenant, eventually, filled_for, token

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


@pytest.mark.parametrize(
    ("annotations", "health"),
    [
        ({}, {"status": "Healthy"}),
        ({"identity": "x"}, {"status": "Progressing", "message": "waiting for the first token"}),
        ({"identity": "x", "expires-at": "2026"}, {"status": "Healthy"}),
        ({"identity": "x", "expires-at": "2026", "identity.a": "y"}, "Progressing"),
        ({"identity.a": "y", "expires-at.a": "2026"}, {"status": "Healthy"}),
        ({"identity": "x", "error": "MintRefused: no"}, {"status": "Degraded", "message": "MintRefused: no"}),
        ({"identity": "x", "expires-at": "2026", "error.a": "no"}, {"status": "Degraded", "message": "no"}),
        ({"identities": "x", "errors": "no"}, {"status": "Healthy"}),
    ],
    ids=str,
)
def test_the_health_check_for_argo_cd_says_what_the_annotations_say(annotations: dict[str, str], health: Any) -> None:
    (script,) = re.findall(r"^```lua\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    lua = LuaRuntime(unpack_returned_tuples=True)
    ours = {PREFIX + key: value for key, value in annotations.items()}
    lua.globals()["obj"] = lua.table_from({"metadata": lua.table_from({"annotations": lua.table_from(ours)})})
    found = dict(lua.execute(script))
    assert found == health if isinstance(health, dict) else found["status"] == health
