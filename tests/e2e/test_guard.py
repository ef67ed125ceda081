"""Whether the policies guard the cluster, on a real API server: what counts as installed, what doesn't, what heals."""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.core.model import Ref
from controller.kube import auth
from controller.kube.admission import (
    ASK,
    OTHER_NAME,
    OWN_WRITES,
    POLICIES,
    SERVICE_ACCOUNTS,
    TARGETS,
    TENANT_PROOF,
    USE_IDENTITY,
    policy_problems,
)
from controller.kube.client import KubeClient, Selector
from controller.kube.errors import ApiError
from testing.controller import ControllerProcess
from testing.mounted import NAME, NAMESPACE, USER
from tests.e2e.support import installed
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.tenant import Tenant, eventually

Start = Callable[..., ControllerProcess]
Ask = Callable[[Callable[[KubeClient], Awaitable[Any]]], Any]
Look = Callable[[], dict[str, str]]
Heal = Callable[..., None]
Patch = list[dict[str, Any]]
POLICY, BINDING = "validatingadmissionpolicy", "validatingadmissionpolicybinding"
LOOK_SECONDS = 100


@pytest.fixture(scope="module")
def ask(cluster: Cluster, manifests: str) -> Ask:
    """Runs a call with the product's own client, as the controller's own ServiceAccount."""
    kubeconfig = cluster.service_account_kubeconfig(NAMESPACE, NAME)

    async def once(call: Callable[[KubeClient], Awaitable[Any]]) -> Any:
        access = await auth.from_kubeconfig(kubeconfig, now=time.time)
        transport = access.transport(connections=1)
        try:
            return await call(KubeClient(access=access, requests=transport, watches=transport, now=time.time))
        finally:
            await transport.close()

    return lambda call: asyncio.run(once(call))


@pytest.fixture(scope="module")
def look(ask: Ask) -> Look:
    """What is wrong with the policies, by policy."""
    return looking(ask, POLICIES)


def looking(ask: Ask, policies: tuple[str, ...]) -> Look:
    """The same of these policies."""

    async def problems(client: KubeClient) -> dict[str, str]:
        found = await policy_problems(client, user=await client.who_am_i(), policies=policies)
        return {policy: problem for policy, problem in found.items() if problem is not None}

    return lambda: dict(ask(problems))


@pytest.fixture(scope="module")
def heal(cluster: Cluster, manifests: str) -> Iterator[Heal]:
    """Does what the controller tells to do: heal("apply") or heal("replace", "--save-config")."""

    def do(*command: str) -> None:
        cluster.kubectl(*command, "--filename=-", input=manifests if command[0] == "apply" else policies_of(manifests))

    yield do
    do("apply")
    do("replace", "--save-config")
    installed.wait_for_policies(cluster)


def policies_of(rendered: str) -> str:
    """The policies and bindings alone."""
    return yaml.safe_dump_all(
        each for each in yaml.safe_load_all(rendered) if each["kind"].startswith("ValidatingAdmissionPolicy")
    )


@pytest.mark.usefixtures("heal")
@pytest.mark.parametrize("component", [None, "scope-cluster", "scope-namespaces"])
def test_what_manifests_installs_guards_the_cluster_in_each_scope(
    cluster: Cluster, look: Look, tmp_path: Path, component: str | None
) -> None:
    directory = installed.MANIFESTS if component is None else installed.overlay(tmp_path, component)
    rendered = installed.render(directory, cluster=cluster)
    cluster.kubectl("apply", "--filename=-", input=policies_of(rendered))
    assert look() == {}
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "--filename=-", input=policies_of(rendered))
    assert look() == {}


FURTHER = {
    "targets": [TARGETS],
    "targets-named": [TARGETS],
    "service-accounts": [
        TARGETS,
        SERVICE_ACCOUNTS,
        ASK,
    ],
    "tenant-proof": [TENANT_PROOF],
}


@pytest.mark.parametrize("component", FURTHER)
def test_with_a_component_its_policies_guard_the_cluster_too_and_without_them_it_is_told(
    cluster: Cluster, ask: Ask, heal: Heal, tmp_path: Path, component: str
) -> None:
    further = FURTHER[component]
    look = looking(ask, (*POLICIES, *further))
    heal("replace", "--save-config")
    missing = look()
    assert missing.keys() == {*further, *([OWN_WRITES] if TARGETS in further else [])}
    assert all("kubectl apply -k of an overlay with components/" in missing[policy] for policy in further)
    directory = installed.overlay(tmp_path, component)
    (directory / "config.yaml").write_text("{}")
    added = policies_of(installed.render(directory, cluster=cluster))
    rights = yaml.safe_load_all(installed.render(directory, cluster=cluster))
    role = [each for each in rights if each["metadata"]["name"] == "pull-secret-updater-policies"]
    cluster.kubectl("apply", "--filename=-", input=yaml.safe_dump_all(role) + "---\n" + added)
    try:
        assert look() == {}
    finally:
        for policy in further:
            cluster.kubectl("delete", f"{POLICY},{BINDING}", policy)
        heal("apply")
        heal("replace", "--save-config")


def add(path: str, value: object) -> Patch:
    """A JSON patch."""
    return [{"op": "add", "path": path, "value": value}]


RULE = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["secrets"]}
NOWHERE = {"matchLabels": {"no": "namespace"}}
CONSTRAINTS = "/spec/matchConstraints"
RULES = "matchConstraints.resourceRules"


@pytest.mark.parametrize(
    ("kind", "patch", "place"),
    [
        (POLICY, add("/spec/matchConditions/-", {"name": "never", "expression": "false"}), "matchConditions"),
        (POLICY, add("/spec/matchConditions/0/expression", "false"), "matchConditions[0].expression"),
        (POLICY, add("/spec/validations/0/expression", "true"), "validations[0].expression"),
        (POLICY, [{"op": "remove", "path": "/spec/validations/1"}], "validations"),
        (POLICY, add("/spec/failurePolicy", "Ignore"), "failurePolicy"),
        (POLICY, add(f"{CONSTRAINTS}/resourceRules/0", RULE), "matchConstraints.resourceRules"),
        (POLICY, add(f"{CONSTRAINTS}/resourceRules/0/operations/0", "UPDATE"), f"{RULES}[0].operations"),
        (POLICY, add(f"{CONSTRAINTS}/resourceRules/0/operations", ["CONNECT"]), f"{RULES}[0].operations"),
        (POLICY, add(f"{CONSTRAINTS}/excludeResourceRules", [RULE]), "matchConstraints.excludeResourceRules"),
        (POLICY, add(f"{CONSTRAINTS}/namespaceSelector", NOWHERE), "matchConstraints.namespaceSelector.matchLabels"),
        (POLICY, add(f"{CONSTRAINTS}/objectSelector", NOWHERE), "matchConstraints.objectSelector.matchLabels"),
        (POLICY, add("/spec/paramKind", {"apiVersion": "v1", "kind": "ConfigMap"}), "paramKind"),
        (BINDING, add("/spec/validationActions", ["Audit"]), "validationActions[0]"),
        (BINDING, add("/spec/matchResources", {"namespaceSelector": NOWHERE}), "matchResources"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_policy_that_somebody_changed_does_not_count_until_it_is_replaced_as_the_message_says(
    cluster: Cluster, look: Look, heal: Heal, *, kind: str, patch: Patch, place: str
) -> None:
    for policy in (USE_IDENTITY, OWN_WRITES):
        cluster.kubectl("patch", kind, policy, "--type=json", "--patch", json.dumps(patch))
    told = look()
    assert told.keys() == {USE_IDENTITY, OWN_WRITES}
    for problem in told.values():
        assert f"differs in spec.{place}" in problem
        assert f"for the user {USER};" in problem
        assert "kubectl replace --save-config -k manifests/" in problem
    heal("replace", "--save-config")
    assert look() == {}


def test_apply_leaves_what_others_added_which_is_why_the_message_does_not_say_apply(
    cluster: Cluster, look: Look, heal: Heal
) -> None:
    never = add("/spec/matchConditions/-", {"name": "never", "expression": "false"})
    nowhere = add("/spec/matchResources", {"namespaceSelector": NOWHERE})
    cluster.kubectl("patch", POLICY, USE_IDENTITY, "--type=json", "--patch", json.dumps(never))
    cluster.kubectl("patch", BINDING, OWN_WRITES, "--type=json", "--patch", json.dumps(nowhere))
    heal("apply")
    assert look().keys() == {USE_IDENTITY, OWN_WRITES}
    heal("replace", "--save-config")
    assert look() == {}
    heal("apply")
    assert look() == {}


@pytest.mark.parametrize(("kind", "what"), [(POLICY, "policy"), (BINDING, "binding")])
def test_what_was_deleted_is_missing_until_it_is_applied_as_the_message_says(
    cluster: Cluster, look: Look, heal: Heal, kind: str, what: str
) -> None:
    cluster.kubectl("delete", kind, *POLICIES)
    assert look() == dict.fromkeys(POLICIES, f"the {what} is missing; kubectl apply -k manifests/ creates it")
    heal("apply")
    assert look() == {}


def test_without_the_right_to_read_them_policies_are_not_called_missing(
    cluster: Cluster, look: Look, heal: Heal
) -> None:
    cluster.kubectl("delete", "clusterrolebinding", "pull-secret-updater-policies")
    try:
        eventually(lambda: bool(look()), timeout=10, what="RBAC forgets the binding")
        assert all("can't be read: get validatingadmissionpolicies: 403 Forbidden" in each for each in look().values())
    finally:
        heal("apply")
    eventually(lambda: look() == {}, timeout=10, what="RBAC knows the binding")


def test_a_binding_that_is_deleted_while_it_runs_is_told_within_a_minute_and_secrets_are_still_filled(
    controller: Start, cluster: Cluster, manifests: str, tenant: Tenant
) -> None:
    running = controller()
    assert running.metrics().value("policy_installed") == len(POLICIES)
    cluster.kubectl("delete", BINDING, OTHER_NAME)
    try:
        eventually(
            lambda: running.metrics().value("policy_installed", policy=OTHER_NAME) == 0,
            timeout=LOOK_SECONDS,
            what="the controller looks again",
        )
        (told,) = [json.loads(line) for line in running.log().splitlines() if "don't guard this cluster" in line]
        assert told["policies"] == [OTHER_NAME]
        assert re.match("the binding is missing", told["problem"])
        tenant.create()
        tenant.filled()
        assert running.status("/readyz") == 200
    finally:
        installed.install(cluster, manifests)


CLUSTER_SCOPE = "at the cluster scope"


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (
            lambda client, ref: client.patch_secret(ref, b'{"metadata":{"labels":{"a":"b"}}}'),
            f"patch secret: 403 Forbidden, denied by ValidatingAdmissionPolicy {OWN_WRITES}",
        ),
        (
            lambda client, ref: client.patch_secret(ref, b'{"type":"Opaque"}'),
            "patch secret: 422 Invalid, invalid: type",
        ),
        (
            lambda client, ref: client.get_secret(ref._replace(name="other")),
            "get secret: 403 Forbidden, cannot get secrets in the namespace {namespace}",
        ),
        (
            lambda client, _: client.list_page(Selector(namespace=None, name="other")),
            f"list secrets: 403 Forbidden, cannot list secrets {CLUSTER_SCOPE}",
        ),
        (
            lambda client, _: client.get_object(
                "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/other"
            ),
            f"get validatingadmissionpolicies: 403 Forbidden, cannot get validatingadmissionpolicies {CLUSTER_SCOPE}",
        ),
    ],
)
def test_a_request_that_is_refused_says_by_whom_or_what_is_not_allowed(
    ask: Ask, cluster: Cluster, tenant: Tenant, call: Callable[[KubeClient, Ref], Awaitable[Any]], told: str
) -> None:
    installed.wait_for_policies(cluster)  # the tests above have replaced them, and a new one takes a moment to compile
    tenant.create()
    with pytest.raises(ApiError) as refused:
        ask(lambda client: call(client, Ref(tenant.namespace, "pull-secret")))
    assert str(refused.value) == told.format(namespace=tenant.namespace)
