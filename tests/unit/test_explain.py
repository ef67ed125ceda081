"""What `explain` says of one Secret: where its token stops on its way, and what to do."""

from __future__ import annotations

from typing import Any

import pytest

from controller.cli.exits import Exit
from controller.cli.explanation import explain
from controller.cli.findings import Finding, print_findings
from controller.core.annotations import render_instant
from controller.core.errors import Problem, Rejection
from controller.kube.admission import USE_IDENTITY
from tests.unit.api_table import flags
from tests.unit.installed_world import CONFIGMAP, DEPLOYMENTS, NOW, World, pod, secret, table

IDENTITY = "0123456789abcdef0123456789abcdef01234567/0123456789abcdef"
SECRET = "GET /api/v1/namespaces/team-a/secrets/pull-secret"
POLICY = "GET /apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/pull-secret-updater-use-identity"
EVENTS = "GET /api/v1/namespaces/team-a/events"
SECRETS = "GET /api/v1/namespaces/team-a/secrets"
PODS = "GET /api/v1/namespaces/team-a/pods"
ACCOUNTS = "GET /api/v1/namespaces/team-a/serviceaccounts"
GOOD: World = {
    SECRET: secret(identity=IDENTITY),
    SECRETS: [secret(identity=IDENTITY)],
    EVENTS: [],
    PODS: [pod("pull-secret")],
    ACCOUNTS: [{"metadata": {"name": "default", "namespace": "team-a"}, "imagePullSecrets": [{"name": "pull-secret"}]}],
}
EMPTY = {
    "issued-at": "",
    "expires-at": "",
    "refresh-at": "",
    "issued-for": "",
    "fingerprint": "",
    "registries-managed": "",
}


def event(problem: Problem) -> World:
    return {
        "involvedObject": {"kind": "Secret", "namespace": "team-a", "name": "pull-secret"},
        "source": {"component": "pull-secret-updater"},
        "type": "Warning",
        "reason": problem.reason,
        "message": Rejection(problem).text,
        "count": 12,
        "firstTimestamp": render_instant(NOW - 600),
        "lastTimestamp": render_instant(NOW - 9),
    }


async def findings(changed: World) -> list[Finding]:
    api = table({**GOOD, **changed})
    return await explain(api.cluster(namespace="team-a"), name="pull-secret", install_namespace=None)


async def shown(changed: World, capsys: pytest.CaptureFixture[str]) -> tuple[Exit, list[str]]:
    code = print_findings(flags(), await findings(changed))
    return code, capsys.readouterr().out.splitlines()


async def test_a_valid_secret_is_good_all_the_way(capsys: pytest.CaptureFixture[str]) -> None:
    assert await shown({}, capsys) == (
        Exit.GOOD,
        [
            f"ok    asked     {IDENTITY} (provider chainguard, from its format) for cgr.dev, proven by the controller",
            "ok    type      kubernetes.io/dockerconfigjson",
            "ok    watched   Secrets called pull-secret in all namespaces",
            f"ok    guarded   the policy {USE_IDENTITY} is in force: it asks of whoever writes the Secret",
            "ok    exchange  the last token was issued 10m ago",
            "ok    written   token ends in 49m, next refresh in 19m",
            "ok    used by   1 Pod, ServiceAccount default",
        ],
    )


async def test_a_refused_identity_fails_at_the_exchange_and_the_event_says_how_often(
    capsys: pytest.CaptureFixture[str],
) -> None:
    refused = secret(
        identity=IDENTITY, error=Rejection(Problem.MINT_REFUSED).text, **{"expires-at": render_instant(NOW - 240)}
    )
    code, lines = await shown({SECRET: refused, EVENTS: [event(Problem.MINT_REFUSED)]}, capsys)
    assert code == Exit.WRONG
    assert lines[4:7] == [
        "FAIL  exchange  MintRefused: the issuer refused this identity (told 12 times, first 10m ago)",
        "                cure: check that it exists and trusts the ServiceAccount that proves it",
        "FAIL  written   the last good token expired 4m ago; it is kept, not wiped",
    ]


FAULTS: list[tuple[str, str, World]] = [
    ("asked", "ProviderUnknown", {SECRET: secret(identity=IDENTITY, provider="nobody")}),
    ("asked", "IdentityUnrecognised", {SECRET: secret(identity="x")}),
    ("asked", "RegistryNotAllowed", {SECRET: secret(identity=IDENTITY, registries="other.example")}),
    ("type", "a type can't be changed", {SECRETS: []}),
    ("watched", "only Secrets called other", {CONFIGMAP: {"data": {"config.yaml": "secretNames: [other]"}}}),
    ("guarded", "the policy is missing", {POLICY: 404}),
    ("exchange", "IssuerUnavailable", {SECRET: secret(**EMPTY, identity=IDENTITY, error="IssuerUnavailable: no")}),
    ("exchange", "the controller says nothing of it", {SECRET: secret(**EMPTY, identity=IDENTITY)}),
    ("exchange", "OverLimit", {SECRET: secret(**EMPTY, identity=IDENTITY), EVENTS: [event(Problem.OVER_LIMIT)]}),
    ("exchange", "Fight", {SECRET: secret(identity=IDENTITY, error="Fight: x; y: argocd")}),
    ("written", "no token is in place", {SECRET: secret(**EMPTY, identity=IDENTITY)}),
]


@pytest.mark.parametrize(("topic", "says", "changed"), FAULTS)
async def test_what_is_wrong_is_told_where_it_is_wrong(topic: str, says: str, changed: World) -> None:
    found = {finding.topic: finding for finding in await findings(changed)}
    assert (found[topic].level.value, says in found[topic].message) == ("error", True), found[topic]


async def test_a_pod_that_can_not_pull_is_wrong() -> None:
    waiting = {"containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff"}}}]}
    found = (await findings({PODS: [{**pod("pull-secret"), "status": waiting}]}))[-1]
    assert (found.level.value, found.message) == ("error", "1 Pod (1 can't pull), ServiceAccount default")
    assert found.cure == "kubectl describe pod -n team-a web"


async def test_a_secret_that_nobody_uses_is_a_warning() -> None:
    found = (await findings({PODS: [], ACCOUNTS: []}))[-1]
    assert (found.level.value, found.message) == ("warning", "nobody")


async def test_each_identity_of_a_secret_is_followed() -> None:
    two = secret(identity=IDENTITY, **{"identity.team-ecr": "arn:aws:iam::123456789012:role/pull"})
    topics = [finding.topic for finding in await findings({SECRET: two})]
    assert topics == [
        *("asked", "type", "watched", "guarded", "exchange", "written"),
        *("asked (team-ecr)", "exchange (team-ecr)", "written (team-ecr)"),
        "used by",
    ]


@pytest.mark.parametrize(
    "changed",
    [{DEPLOYMENTS: []}, {DEPLOYMENTS: 403, "GET /apis/apps/v1/namespaces/pull-secret-updater/deployments": 403}],
)
async def test_who_can_not_see_the_controller_still_sees_the_secret(
    changed: World, capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines = await shown(changed, capsys)
    assert code == Exit.UNKNOWN
    marks = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert marks == ["?", "ok", "?", "?", "ok", "ok", "ok"]


async def test_who_may_not_read_the_secret_sees_the_event() -> None:
    found = await findings({SECRET: 403, EVENTS: [event(Problem.MINT_REFUSED)]})
    assert [finding.level.value for finding in found] == ["unknown", "ok"]
    assert "the controller's latest Event: MintRefused: the issuer refused" in found[0].message


async def test_a_secret_that_is_not_there_is_wrong_and_says_how_to_ask() -> None:
    (found,) = await findings({SECRET: 404})
    assert found.level.value == "error"
    assert "kubectl annotate secret pull-secret -n team-a" in (found.cure or "")


@pytest.mark.parametrize(("allowed", "level"), [(True, "ok"), (False, "error")])
async def test_with_grants_the_namespace_is_asked_about(allowed: bool, level: str) -> None:
    asked: list[Any] = []

    def review(_: Any, body: Any) -> World:
        asked.append(body["spec"])
        return {"status": {"allowed": allowed}}

    config = {"data": {"config.yaml": "grants: {check: namespace}"}}
    path = "POST /apis/authorization.k8s.io/v1/subjectaccessreviews"
    found = {finding.topic: finding for finding in await findings({CONFIGMAP: config, path: review})}
    assert found["guarded"].level.value == level
    assert [each["resourceAttributes"]["name"] for each in asked] == [IDENTITY]
