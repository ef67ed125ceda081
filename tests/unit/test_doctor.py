"""The checks of `doctor`: each can be good, wrong, and unknown; one that can't look never hides what another finds."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import yaml

from controller import __version__
from controller.cli.checks import CHECKS
from controller.cli.diagnosis import Diagnosis
from controller.cli.exits import Exit, Level
from controller.cli.findings import Finding, print_findings
from controller.core.annotations import render_instant
from tests.unit.api_table import ApiTable, flags
from tests.unit.installed_world import (
    ADMISSION,
    CONFIGMAP,
    DEPLOYMENTS,
    DRY_RUN,
    ISSUER,
    NOW,
    NS,
    REVIEWS,
    TOKEN,
    World,
    deployment,
    healthy,
    jwt,
    review,
    secret,
    table,
)


def policy_without(name: str) -> str:
    return f"GET {ADMISSION}/validatingadmissionpolicies/pull-secret-updater-{name}"


BROKEN: list[tuple[str, Level, World]] = [
    ("PSU-102", Level.ERROR, {"GET /version": {"gitVersion": "v1.29.9"}}),
    ("PSU-104", Level.ERROR, {f"GET {ADMISSION}": {"resources": []}}),
    ("PSU-201", Level.ERROR, {DEPLOYMENTS: []}),
    ("PSU-201", Level.ERROR, {DEPLOYMENTS: [deployment(), deployment()]}),
    ("PSU-201", Level.ERROR, {DEPLOYMENTS: [deployment(available=0)]}),
    ("PSU-202", Level.WARNING, {DEPLOYMENTS: [deployment(version="0.0.1")]}),
    ("PSU-202", Level.UNKNOWN, {DEPLOYMENTS: [deployment(version="test")]}),
    ("PSU-203", Level.ERROR, {CONFIGMAP: {"data": {"config.yaml": "typo: 1"}}}),
    ("PSU-203", Level.ERROR, {CONFIGMAP: {"data": {}}}),
    ("PSU-203", Level.ERROR, {CONFIGMAP: 404}),
    ("PSU-203", Level.WARNING, {CONFIGMAP: {"data": {"config.yaml": "providers: {a: {type: quay}, b: {type: quay}}"}}}),
    ("PSU-204", Level.WARNING, {f"GET /api/v1/namespaces/{NS}": {"metadata": {}}}),
    ("PSU-301", Level.ERROR, {REVIEWS: review("secrets")}),
    ("PSU-302", Level.ERROR, {REVIEWS: review("events")}),
    ("PSU-303", Level.ERROR, {REVIEWS: review("validatingadmissionpolicybindings")}),
    ("PSU-304", Level.WARNING, {REVIEWS: review(wide=True)}),
    ("PSU-401", Level.ERROR, {policy_without("use-identity"): 404}),
    ("PSU-402", Level.ERROR, {policy_without("own-writes"): {"kind": "Any", "spec": {}}}),
    ("PSU-403", Level.ERROR, {policy_without("other-name"): 404}),
    ("PSU-404", Level.ERROR, {DRY_RUN: {"metadata": {"name": "doctor-x"}}}),
    ("PSU-501", Level.WARNING, {DEPLOYMENTS: [deployment(audience="another")]}),
    ("PSU-502", Level.WARNING, {"GET /.well-known/openid-configuration": {"issuer": "https://kubernetes.default.svc"}}),
    ("PSU-502", Level.WARNING, {"GET /.well-known/openid-configuration": {"issuer": "http://issuer.example"}}),
    ("PSU-503", Level.ERROR, {TOKEN: {"status": {"token": jwt(issuer=f"{ISSUER}/")}}}),
    ("PSU-503", Level.ERROR, {TOKEN: {"status": {"token": jwt(kid="key-2")}}}),
    ("PSU-601", Level.ERROR, {"GET /api/v1/secrets": [secret(**{"expires-at": render_instant(NOW - 1)})]}),
    ("PSU-602", Level.ERROR, {"GET /api/v1/secrets": [secret(error="Fight: somebody")]}),
    ("PSU-603", Level.ERROR, {"GET /api/v1/secrets": [secret(error="ForeignEntryUnreadable: x")]}),
    ("PSU-604", Level.ERROR, {"GET /api/v1/secrets": []}),
    ("PSU-605", Level.WARNING, {"GET /api/v1/pods": []}),
]


async def diagnose(api: ApiTable, *, pre: bool = False, **options: Any) -> dict[str, Finding]:
    diagnosis = Diagnosis(api.cluster(), namespace=None, install_namespace=None, **options)
    return {finding.id or "": finding for finding in await diagnosis.run(pre=pre)}


async def test_all_is_good_where_all_is_good() -> None:
    found = await diagnose(table({}))
    assert {id_: finding.message for id_, finding in found.items() if finding.level is not Level.OK} == {}
    assert list(found) == [check.id for check in CHECKS]
    assert len(found) == 24


@pytest.mark.parametrize(("id_", "level", "changed"), BROKEN)
async def test_what_is_wrong_is_found_by_its_check_and_has_a_cure(id_: str, level: Level, changed: World) -> None:
    finding = (await diagnose(table(changed)))[id_]
    assert finding.level is level, finding.message
    assert finding.cure or level is Level.UNKNOWN


def test_every_check_but_those_of_the_connection_is_broken_above() -> None:
    assert {check.id for check in CHECKS} - {id_ for id_, _, _ in BROKEN} == {"PSU-101", "PSU-103"}


@pytest.mark.parametrize(("ahead", "level"), [(0, Level.OK), (-9, Level.OK), (11, Level.WARNING), (-121, Level.ERROR)])
async def test_a_clock_that_is_off_is_told(ahead: float, level: Level) -> None:
    api = table({})
    cluster = api.cluster()
    cluster._now = lambda: NOW + ahead
    finding = next(
        each
        for each in await Diagnosis(cluster, namespace=None, install_namespace=None).run(pre=True)
        if each.id == "PSU-103"
    )
    assert finding.level is level, finding.message


async def test_who_may_do_nothing_gets_no_ok_and_3() -> None:
    api = table({})
    api.refuses_all = True
    found = await diagnose(api)
    assert {finding.level for finding in found.values()} == {Level.UNKNOWN}
    assert print_findings(flags(), list(found.values())) == Exit.UNKNOWN


async def test_a_server_that_does_not_answer_gets_no_ok_and_3() -> None:
    api = table({})
    api.is_unreachable = True
    found = await diagnose(api)
    assert {finding.level for finding in found.values()} == {Level.UNKNOWN}


@pytest.mark.parametrize("path", sorted(healthy()))
@pytest.mark.parametrize("answer", [403, 500])
async def test_an_answer_that_is_refused_is_unknown_and_the_other_checks_go_on(path: str, answer: int) -> None:
    api = table({path: answer})
    found = await diagnose(api)
    assert len(found) == 24
    levels = {finding.level for finding in found.values()}
    assert Level.OK in levels
    assert Level.ERROR not in levels, [each.message for each in found.values() if each.level is Level.ERROR]
    explains_only = path == "GET /api/v1/events"
    assert (Level.UNKNOWN in levels) != explains_only


async def test_before_an_installation_only_what_needs_none_is_looked_at() -> None:
    api = table({DEPLOYMENTS: []})
    found = await diagnose(api, pre=True)
    assert list(found) == ["PSU-101", "PSU-102", "PSU-103", "PSU-104", "PSU-502"]
    assert {finding.level for finding in found.values()} == {Level.OK}
    assert not any("deployments" in each for each in api.asked)


async def test_of_some_groups_only_the_checks_are_made() -> None:
    found = await Diagnosis(table({}).cluster(), namespace=None, install_namespace=None).run(
        pre=False, groups=("cluster", "policies")
    )
    assert [finding.id for finding in found] == [
        *("PSU-101", "PSU-102", "PSU-103", "PSU-104"),
        *("PSU-401", "PSU-402", "PSU-403", "PSU-404"),
    ]


@pytest.mark.parametrize(("label", "level"), [(__version__, Level.OK), ("0.0.1", Level.WARNING), ("?", Level.UNKNOWN)])
async def test_an_image_by_digest_has_its_version_in_a_label(label: str, level: Level) -> None:
    installed = deployment(version="test")
    installed["metadata"]["labels"] = {"app.kubernetes.io/version": label}
    assert (await diagnose(table({DEPLOYMENTS: [installed]})))["PSU-202"].level is level


async def test_nothing_is_written_but_reviews_a_token_and_a_dry_run() -> None:
    api = table({})
    await diagnose(api)
    assert {each for each in api.asked if not each.startswith("GET ")} == {
        "POST /apis/authentication.k8s.io/v1/selfsubjectreviews",
        REVIEWS,
        TOKEN,
        DRY_RUN,
    }


async def test_the_token_that_is_looked_at_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    found = await diagnose(table({}))
    print_findings(flags(output="wide"), list(found.values()))
    assert jwt() not in capsys.readouterr().out


@pytest.mark.parametrize("output", ["table", "wide", "json", "yaml", "name"])
@pytest.mark.parametrize(("changed", "code"), [({}, 0), ({CONFIGMAP: 404}, 1), ({CONFIGMAP: 403}, 3)])
async def test_the_exit_code_is_the_same_in_every_output(
    output: str, changed: World, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    found = list((await diagnose(table(changed))).values())
    assert print_findings(flags(output=output), found) == code
    out = capsys.readouterr().out
    if output in ("json", "yaml"):
        assert msgspec.convert(yaml.safe_load(out)["items"], list[Finding]) == found  # JSON is YAML


async def test_a_finding_is_a_mark_a_topic_what_was_found_and_a_cure(capsys: pytest.CaptureFixture[str]) -> None:
    found = list((await diagnose(table({DEPLOYMENTS: [deployment(available=0)]}))).values())
    print_findings(flags(output="wide"), [found[0], found[4]])
    assert capsys.readouterr().out == (
        "ok    cluster  PSU-101 https://api-table.invalid knows us as admin\n"
        "FAIL  install  PSU-201 Deployment pull-secret-updater/controller: 0 of 1 available\n"
        "               cure: read kubectl logs and kubectl describe of the controller's Pod; to install it: "
        "kubectl apply -k manifests/\n"
        "               page: docs/checks.md#psu-201\n"
    )
