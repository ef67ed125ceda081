"""Whether the admission policies guard the cluster."""

from __future__ import annotations

import re
from importlib import resources
from typing import Any

import pytest

from controller.kube.admission import OTHER_NAME, OWN_WRITES, POLICIES, TENANT_PROOF, USE_IDENTITY, policy_problems
from controller.kube.errors import Unauthorized, Unavailable
from tests.unit.fake_api import FakeApi
from tests.unit.policies import DIRECTORY, SHIPPED_USER, binding_spec, install, path, policy_spec
from tests.unit.virtual_time import Clock

HEALS = "kubectl replace --save-config -k manifests/"


@pytest.fixture
def api(clock: Clock) -> FakeApi:
    """A server with everything installed."""
    api = FakeApi(clock)
    install(api, *POLICIES)
    return api


async def problems(api: FakeApi, user: str = SHIPPED_USER) -> dict[str, str]:
    """Of the policies that have one."""
    found = await policy_problems(api.client(), user=user)
    assert tuple(found) == POLICIES
    return {policy: problem for policy, problem in found.items() if problem is not None}


async def test_all_are_installed(api: FakeApi) -> None:
    assert await problems(api) == {}


def test_the_package_holds_the_policies_that_manifests_installs() -> None:
    packaged = resources.files("controller.kube") / "policies"
    for directory in (".", "targets", "service-accounts", "tenant-proof"):
        files = [each for each in (DIRECTORY / directory).iterdir() if each.is_file()]
        found = {each.name: each.read_text() for each in (packaged / directory).iterdir() if each.is_file()}
        assert found == {each.name: each.read_text() for each in files}
        assert files


def test_the_images_build_has_what_the_package_links_to() -> None:
    root = DIRECTORY.parents[1]
    links = [each for each in (root / "controller").rglob("*") if each.is_symlink()]
    assert [link.resolve() for link in links] == [DIRECTORY]
    assert "COPY manifests/policies manifests/policies\n" in (root / "Dockerfile").read_text()
    assert "!manifests/policies\n" in (root / ".dockerignore").read_text()


@pytest.mark.parametrize(
    ("kind", "what"), [("ValidatingAdmissionPolicy", "policy"), ("ValidatingAdmissionPolicyBinding", "binding")]
)
@pytest.mark.parametrize("name", POLICIES)
async def test_a_policy_without_its_binding_guards_nothing(api: FakeApi, kind: str, what: str, name: str) -> None:
    del api.objects[path(kind, name)]
    assert await problems(api) == {name: f"the {what} is missing; kubectl apply -k manifests/ creates it"}


@pytest.mark.parametrize("user", ["system:serviceaccount:elsewhere:controller", SHIPPED_USER[:-1], "admin"])
async def test_own_writes_must_be_about_us(api: FakeApi, user: str) -> None:
    """A policy about another user leaves us free to write anything."""
    found = await problems(api, user)
    assert found.keys() == {OWN_WRITES, OTHER_NAME}
    assert "spec.matchConditions[0].expression" in found[OWN_WRITES]
    assert f"the user {user};" in found[OWN_WRITES]
    for policy in (OWN_WRITES, OTHER_NAME):
        install(api, policy, user=user)
    assert await problems(api, user) == {}


def put(spec: Any, place: str, value: Any) -> None:
    """Set what is at a place such as `matchConditions[0].expression`."""
    *outer, last = [int(key) if key.isdigit() else key for key in re.findall(r"\w+", place)]
    for key in outer:
        spec = spec[key]
    spec[last] = value


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("matchConstraints.resourceRules[0].operations", ["CREATE", "UPDATE", "CONNECT"]),
        ("matchConstraints.resourceRules[0].operations[0]", "DELETE"),
        ("matchConstraints.resourceRules[0].resourceNames", ["a"]),
        ("matchConstraints.resourceRules[0].resources[0]", "configmaps"),
        ("matchConstraints.resourceRules[0].scope", "Cluster"),
        ("matchConstraints.resourceRules", []),
        ("matchConstraints.excludeResourceRules", [{"resources": ["secrets"]}]),
        ("matchConstraints.namespaceSelector.matchLabels", {"no": "namespace"}),
        ("matchConstraints.objectSelector.matchLabels", {"no": "namespace"}),
        ("matchConstraints.matchPolicy", "Exact"),
        ("matchConditions[0].expression", "false"),
        ("matchConditions", [{"name": "never", "expression": "false"}]),
        ("validations[0].expression", "true"),
        ("validations", []),
        ("failurePolicy", "Maybe"),
        ("paramKind", {"apiVersion": "v1", "kind": "ConfigMap"}),
        ("notYetInvented", True),
    ],
)
async def test_a_policy_that_differs_anywhere_guards_nothing(api: FakeApi, name: str, place: str, value: Any) -> None:
    if place == "matchConditions":
        value = policy_spec(api, name)["matchConditions"] + value
    put(policy_spec(api, name), place, value)
    found = await problems(api)
    assert found.keys() == {name}
    assert found[name].startswith(f"the policy differs in spec.{place} from the one that this version was built with")
    assert HEALS in found[name]


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("matchResources", {"namespaceSelector": {"matchLabels": {"no": "namespace"}}}),
        ("paramRef", {"name": "p"}),
        ("policyName", "another"),
        ("validationActions[0]", "Audit"),
        ("validationActions", ["Deny", "Warn"]),
    ],
)
async def test_a_binding_that_differs_anywhere_guards_nothing(
    api: FakeApi, name: str, place: str, value: object
) -> None:
    put(binding_spec(api, name), place, value)
    found = await problems(api)
    assert found.keys() == {name}
    assert found[name].startswith(f"the binding differs in spec.{place} from the one that this version was built with")


async def test_white_space_in_an_expression_makes_no_difference(api: FakeApi) -> None:
    """Kustomize adds an empty line where a folded line is indented further."""
    spec = policy_spec(api, USE_IDENTITY)
    expression = spec["matchConditions"][1]["expression"]
    assert "\n  k.matches" in expression
    spec["matchConditions"][1]["expression"] = expression.replace("\n  k.matches", "\n\n    k.matches") + "\n"
    assert await problems(api) == {}


@pytest.mark.parametrize("name", POLICIES)
async def test_variables_of_another_kind_are_a_difference(api: FakeApi, name: str) -> None:
    policy_spec(api, name)["variables"] = [{"name": "watched", "expression": "true"}]
    assert (await problems(api)).keys() == {name}


async def test_a_policy_that_may_not_be_read_is_not_called_missing(api: FakeApi) -> None:
    api.fail("get", 403)
    assert await problems(api) == {
        USE_IDENTITY: "the policy can't be read: get validatingadmissionpolicies: 403 Forbidden; "
        "kubectl apply -k manifests/ grants that"
    }


async def test_a_server_that_does_not_answer_is_an_error(api: FakeApi) -> None:
    """Not knowing is not the same as not installed."""
    api.fail("get", 503)
    with pytest.raises(Unavailable):
        await problems(api)


async def test_a_credential_that_is_not_accepted_says_nothing_of_policies(api: FakeApi) -> None:
    api.fail("get", 401, times=2)
    with pytest.raises(Unauthorized):
        await problems(api)


@pytest.mark.parametrize("answer", ["<html>", {}, {"kind": "x", "spec": []}], ids=str)
async def test_an_answer_that_is_no_policy_does_not_count(api: FakeApi, answer: Any) -> None:
    api.objects[path("ValidatingAdmissionPolicy", USE_IDENTITY)] = answer
    assert "can't be read" in (await problems(api))[USE_IDENTITY]


async def tenant_proof_with(api: FakeApi, audiences: str) -> str | None:
    """What is wrong with the policy tenant-proof, if its list of audiences is this expression."""
    install(api, TENANT_PROOF)
    policy_spec(api, TENANT_PROOF)["variables"][0]["expression"] = audiences
    return (await policy_problems(api.client(), user=api.user, policies=[TENANT_PROOF]))[TENANT_PROOF]


@pytest.mark.parametrize("audiences", ["['issuer.enforce.dev']", "['a', 'https://b/c']", "[ 'a' ,'b' ]", "[]"])
async def test_which_audiences_the_policy_of_tenants_proof_lists_is_the_operators_choice(
    api: FakeApi, audiences: str
) -> None:
    assert await tenant_proof_with(api, audiences) is None


@pytest.mark.parametrize(
    "audiences",
    [
        "object.spec.audiences",
        "['a'] + object.spec.audiences",
        "['a', object.spec.audiences[0]]",
        "['a'].map(a, object.spec.audiences[0])",
        r"['\'] + object.spec.audiences + [\'']",
        "'a'",
        "",
    ],
)
async def test_a_list_of_audiences_that_is_no_list_of_texts_may_mean_any(api: FakeApi, audiences: str) -> None:
    told = await tenant_proof_with(api, audiences)
    assert told is not None
    assert "spec.variables[0].expression" in told


@pytest.mark.parametrize("variables", [[], None, [{}], ["x"], "x"])
async def test_a_policy_of_tenants_proof_without_its_variables_guards_nothing(api: FakeApi, variables: object) -> None:
    install(api, TENANT_PROOF)
    policy_spec(api, TENANT_PROOF)["variables"] = variables
    found = await policy_problems(api.client(), user=api.user, policies=[TENANT_PROOF])
    assert "differs in spec.variables" in (found[TENANT_PROOF] or "")


async def test_another_installation_has_policies_of_its_own_under_other_names(api: FakeApi) -> None:
    found = await policy_problems(api.client(), user=api.user, prefix="platform-psu")
    assert all("is missing" in (problem or "") for problem in found.values())
    for policy in POLICIES:
        for kind in ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"):
            theirs = api.objects.pop(path(kind, policy))
            if kind.endswith("Binding"):
                theirs["spec"]["policyName"] = policy.replace("pull-secret-updater", "platform-psu")
            api.objects[path(kind, policy.replace("pull-secret-updater", "platform-psu"))] = theirs
    found = await policy_problems(api.client(), user=api.user, prefix="platform-psu")
    assert found == dict.fromkeys(POLICIES)
    binding_spec(api, "platform-psu-own-writes")["policyName"] = OWN_WRITES
    found = await policy_problems(api.client(), user=api.user, prefix="platform-psu")
    assert "differs in spec.policyName" in (found[OWN_WRITES] or "")
