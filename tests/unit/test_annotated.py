"""Verdicts by metadata alone: the same words as the controller's, from what it has written into the annotations."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import pytest

from controller import config
from controller.app import policy_of
from controller.core import dockerconfig
from controller.core.annotated import judge_annotated
from controller.core.annotations import PREFIX, render_instant
from controller.core.errors import Problem, Rejection
from controller.core.model import Report, Resolved, Standing
from controller.core.policy import issued_for
from controller.core.projection import SECRET_TYPE, project, project_metadata
from controller.core.states import State, Verdict, judge

NOW = 1_800_000_000.0
HOUR = 3600


def raw(labels: dict[str, str] | None = None, /, **ours: str | None) -> bytes:
    """A PartialObjectMetadata with our annotations, by key without prefix and with `_` for `-`."""
    annotations = {PREFIX + key.replace("_", "-"): value for key, value in ours.items() if value is not None}
    metadata: dict[str, Any] = {"name": "pull-secret", "namespace": "team-a", "uid": "u", "resourceVersion": "1"}
    kind = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}
    return json.dumps({**kind, "metadata": {**metadata, "labels": labels or {}, "annotations": annotations}}).encode()


def filled(ends_in: float = HOUR, refresh_in: float = HOUR / 2, /, **ours: str | None) -> bytes:
    """One that the controller has filled half an hour ago."""
    written: dict[str, str | None] = {
        "identity": "an-identity",
        "issued_at": render_instant(NOW - HOUR / 2),
        "expires_at": render_instant(NOW + ends_in),
        "refresh_at": render_instant(NOW + refresh_in),
        "issued_for": "0123456789abcdef",
        "fingerprint": "fedcba9876543210",
        "registries_managed": "cgr.dev",
    }
    return raw(None, **{**written, **ours})


def verdict(body: bytes, reported: Problem | None = None) -> Verdict:
    described = project_metadata(body)
    assert described is not None
    (view,) = described.secret.views()
    return judge_annotated(view, refresh_at=described.refresh_at[""], reported=reported, now=NOW)


def error(problem: Problem) -> str:
    return Rejection(problem).text


@pytest.mark.parametrize(
    ("body", "state", "problem"),
    [
        (filled(), State.VALID, None),
        (filled(HOUR, -1), State.DUE, None),
        (filled(refresh="now"), State.DUE, None),
        (filled(refresh="now", refreshed_for="now"), State.VALID, None),
        (filled(-1, -HOUR / 4), State.EXPIRED, None),
        (filled(-1, -HOUR, error=error(Problem.ISSUER_UNAVAILABLE)), State.EXPIRED, Problem.ISSUER_UNAVAILABLE),
        (filled(HOUR, -1, error=error(Problem.MINT_REFUSED)), State.REFUSED, Problem.MINT_REFUSED),
        (filled(HOUR, -1, error=error(Problem.ISSUER_UNAVAILABLE)), State.DUE, Problem.ISSUER_UNAVAILABLE),
        (filled(error=error(Problem.FIGHT) + ": argocd-controller"), State.CONTESTED, Problem.FIGHT),
        (filled(error=error(Problem.FOREIGN_ENTRY_UNREADABLE)), State.REFUSED, Problem.FOREIGN_ENTRY_UNREADABLE),
        (filled(paused="true"), State.PAUSED, None),
        (filled(paused="perhaps"), State.PAUSED, Problem.PAUSED_UNCLEAR),
        (filled(-1, HOUR / 2, paused="true"), State.PAUSED, None),
        (raw(identity="an-identity"), State.UNFILLED, None),
        (raw(identity="an-identity", error=error(Problem.IDENTITY_UNKNOWN)), State.REFUSED, Problem.IDENTITY_UNKNOWN),
        (raw(identity="an-identity", error="words of somebody else"), State.UNFILLED, None),
    ],
)
def test_metadata_is_judged_as_the_controller_judges_the_secret(
    body: bytes, state: State, problem: Problem | None
) -> None:
    assert verdict(body)[:2] == (state, problem)


@pytest.mark.parametrize("problem", [Problem.OVER_LIMIT, Problem.WRITE_REFUSED])
def test_what_is_told_by_an_event_alone_explains_an_empty_secret(problem: Problem) -> None:
    assert verdict(raw(identity="an-identity"), problem)[:2] == (State.REFUSED, problem)


def test_an_old_event_says_nothing_of_a_valid_token() -> None:
    assert verdict(filled(), Problem.WRITE_REFUSED)[:2] == (State.VALID, None)


def test_a_token_of_two_days_is_valid_although_the_default_maximum_is_twelve_hours() -> None:
    assert verdict(filled(48 * HOUR, 24 * HOUR)).state is State.VALID


def test_each_claim_of_a_secret_has_its_own_verdict() -> None:
    described = project_metadata(filled(**{"identity.team-ecr": "arn:aws:iam::123456789012:role/pull"}))
    assert described is not None
    verdicts = [
        judge_annotated(view, refresh_at=described.refresh_at[view.claim.name], reported=None, now=NOW).state
        for view in described.secret.views()
    ]
    assert verdicts == [State.VALID, State.UNFILLED]


def test_a_secret_without_an_identity_is_none_of_ours() -> None:
    assert project_metadata(raw(paused="true")) is None


def test_a_secret_that_a_target_has_made_is_named_by_its_target() -> None:
    marked = raw({PREFIX + "created-by": "ns.controller"}, target="teams", identity="an-identity")
    described = project_metadata(marked)
    assert described is not None
    assert described.secret.target == "teams"


IDENTITY = "0123456789abcdef0123456789abcdef01234567/0123456789abcdef"
POLICY = policy_of(config.check({}, {}))


def written(**ours: str | None) -> dict[str, Any]:
    """A Secret as the controller has written it an hour before NOW, for an hour and a half."""
    issued_at, expires_at = int(NOW - HOUR), int(NOW + HOUR / 2)
    resolved = Resolved("chainguard", IDENTITY, ("cgr.dev",), None)
    refresh_at = POLICY.refresh_at(uid="u", issued_at=issued_at, expiry=expires_at)
    values = {
        "identity": IDENTITY,
        "issued-at": render_instant(issued_at),
        "expires-at": render_instant(expires_at),
        "refresh-at": render_instant(refresh_at),
        "issued-for": issued_for(resolved),
        "fingerprint": dockerconfig.fingerprint({"cgr.dev": ("_token", "password")}),
        "registries-managed": "cgr.dev",
        **ours,
    }
    content = dockerconfig.merge(dockerconfig.EMPTY, entries={"cgr.dev": ("_token", "password")})
    annotations = {PREFIX + key: value for key, value in values.items() if value is not None}
    metadata = {"name": "pull-secret", "namespace": "team-a", "uid": "u", "resourceVersion": "1"}
    data = {".dockerconfigjson": base64.b64encode(content).decode()}
    return {"metadata": {**metadata, "annotations": annotations}, "type": SECRET_TYPE, "data": data}


EMPTY = dict.fromkeys(
    ("issued-at", "expires-at", "refresh-at", "issued-for", "fingerprint", "registries-managed"), None
)


@pytest.mark.parametrize("paused", [None, "true", "false", "perhaps"])
@pytest.mark.parametrize("problem", [None, *Problem])
@pytest.mark.parametrize("refresh", [None, "again"])
@pytest.mark.parametrize("is_filled", [True, False])
def test_it_is_never_a_second_opinion(
    paused: str | None, problem: Problem | None, refresh: str | None, is_filled: bool
) -> None:
    """What the running controller concludes from the whole Secret and its configuration, at any time."""
    known = problem and Rejection(problem).text
    secret = written(paused=paused, error=known, refresh=refresh, **({} if is_filled else EMPTY))
    if not is_filled:
        secret["data"] = {}
    body = json.dumps(secret).encode()
    (whole,) = project(body).item.views()  # type: ignore[union-attr]
    described = project_metadata(body)
    assert described is not None
    (view,) = described.secret.views()
    for now in (NOW - HOUR + 1, NOW - HOUR / 2, NOW + HOUR / 2 - 1, NOW + HOUR / 2 + 1):
        is_fight = problem is Problem.FIGHT
        standing = Standing(Rejection(Problem.FIGHT), math.inf) if is_fight else None
        decision = POLICY.decide(whole, now, standing)
        if isinstance(decision, Report) and decision.rejection is None:
            continue  # an error that is over: the controller removes it at this very moment
        theirs = judge(whole, decision, standing=standing, expiry=POLICY.expiry(whole.claim), reported=None, now=now)
        ours = judge_annotated(view, refresh_at=described.refresh_at[""], reported=None, now=now)
        assert ours[:3] == theirs[:3], now
