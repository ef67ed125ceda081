"""Whether the admission policies guard the cluster."""

from __future__ import annotations

import pytest

from controller.core.errors import Unavailable
from controller.kube.admission import OTHER_NAME, OWN_WRITES, POLICIES, USE_IDENTITY, installed_policies
from tests.unit.fake_api import FakeApi, Object
from tests.unit.virtual_time import Clock

GROUP = "/apis/admissionregistration.k8s.io/v1"
USER = "system:serviceaccount:pull-secret-updater:controller"

SECRETS: Object = {"resources": ["secrets"], "operations": ["CREATE", "UPDATE"]}


@pytest.fixture
def api(clock: Clock) -> FakeApi:
    """A server with everything installed."""
    api = FakeApi(clock)
    for name in POLICIES:
        conditions = [{"name": "by-the-controller", "expression": f"request.userInfo.username == '{USER}'"}]
        spec = {
            "failurePolicy": "Ignore" if name == OTHER_NAME else "Fail",
            "matchConstraints": {
                "resourceRules": [SECRETS],
                # What the API server fills in.
                "matchPolicy": "Equivalent",
                "namespaceSelector": {},
                "objectSelector": {},
            },
            "matchConditions": conditions if name == OWN_WRITES else [],
            "validations": [{"expression": "object.type == 'a'"}, {"expression": "object.type == 'b'"}],
        }
        api.objects[f"{GROUP}/validatingadmissionpolicies/{name}"] = {"spec": spec}
        actions = ["Warn"] if name == OTHER_NAME else ["Deny", "Audit"]
        binding: Object = {"spec": {"policyName": name, "validationActions": actions}}
        api.objects[f"{GROUP}/validatingadmissionpolicybindings/{name}"] = binding
    return api


async def test_all_are_installed(api: FakeApi) -> None:
    assert await installed_policies(api.client(), user=USER) == dict.fromkeys(POLICIES, True)


@pytest.mark.parametrize("kind", ["validatingadmissionpolicies", "validatingadmissionpolicybindings"])
@pytest.mark.parametrize("name", POLICIES)
async def test_a_policy_without_its_binding_guards_nothing(api: FakeApi, kind: str, name: str) -> None:
    del api.objects[f"{GROUP}/{kind}/{name}"]
    assert await installed_policies(api.client(), user=USER) == {other: other != name for other in POLICIES}


async def test_a_binding_that_only_warns_does_not_deny(api: FakeApi) -> None:
    for name in (USE_IDENTITY, OWN_WRITES):
        api.objects[f"{GROUP}/validatingadmissionpolicybindings/{name}"]["spec"]["validationActions"] = ["Warn"]
    assert await installed_policies(api.client(), user=USER) == {
        USE_IDENTITY: False,
        OWN_WRITES: False,
        OTHER_NAME: True,
    }


async def test_a_binding_of_another_policy_does_not_count(api: FakeApi) -> None:
    api.objects[f"{GROUP}/validatingadmissionpolicybindings/{USE_IDENTITY}"]["spec"]["policyName"] = OTHER_NAME
    assert not (await installed_policies(api.client(), user=USER))[USE_IDENTITY]


@pytest.mark.parametrize("user", ["system:serviceaccount:elsewhere:controller", USER[:-1], "admin"])
async def test_own_writes_must_be_about_us(api: FakeApi, user: str) -> None:
    """A policy about another user leaves us free to write anything."""
    installed = await installed_policies(api.client(), user=user)
    assert installed == {USE_IDENTITY: True, OWN_WRITES: False, OTHER_NAME: True}


NOWHERE = {"namespaceSelector": {"matchLabels": {"no": "namespace"}}}


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("surprise", [{"matchResources": NOWHERE}, {"paramRef": {"name": "p"}}], ids=str)
async def test_a_binding_that_leaves_out_some_secrets_guards_nothing(api: FakeApi, name: str, surprise: Object) -> None:
    api.objects[f"{GROUP}/validatingadmissionpolicybindings/{name}"]["spec"] |= surprise
    assert await installed_policies(api.client(), user=USER) == {other: other != name for other in POLICIES}


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize(
    "change",
    [
        *({"validations": []}, {"validations": [{"expression": "object.type == 'a'"}, {"expression": " true\n"}]}),
        *({"matchConstraints": {}}, {"matchConstraints": {"resourceRules": [{"resources": ["configmaps"]}]}}),
        {"matchConstraints": {"resourceRules": [SECRETS | {"operations": ["CREATE"]}]}},
        {"matchConstraints": {"resourceRules": [SECRETS | {"resourceNames": ["a"]}]}},
        {"matchConstraints": {"resourceRules": [SECRETS], **NOWHERE}},
        {"matchConstraints": {"resourceRules": [SECRETS], "excludeResourceRules": [{}]}},
    ],
    ids=str,
)
async def test_a_policy_that_refuses_nothing_guards_nothing(api: FakeApi, name: str, change: Object) -> None:
    api.objects[f"{GROUP}/validatingadmissionpolicies/{name}"]["spec"] |= change
    assert await installed_policies(api.client(), user=USER) == {other: other != name for other in POLICIES}


async def test_a_policy_that_lets_pass_what_it_fails_to_judge_guards_nothing(api: FakeApi) -> None:
    """But one that only warns may."""
    for name in POLICIES:
        api.objects[f"{GROUP}/validatingadmissionpolicies/{name}"]["spec"]["failurePolicy"] = "Ignore"
    installed = await installed_policies(api.client(), user=USER)
    assert installed == {USE_IDENTITY: False, OWN_WRITES: False, OTHER_NAME: True}


async def test_what_may_not_be_read_does_not_count(api: FakeApi) -> None:
    api.fail("get", 403)
    assert not (await installed_policies(api.client(), user=USER))[USE_IDENTITY]


async def test_a_server_that_does_not_answer_is_an_error(api: FakeApi) -> None:
    """Not knowing is not the same as not installed."""
    api.fail("get", 503)
    with pytest.raises(Unavailable):
        await installed_policies(api.client(), user=USER)
