"""Verdicts by metadata alone: the same words as the controller's, from what it has written into the annotations."""

from __future__ import annotations

import json
from typing import Any

import pytest

from controller.core.annotated import judge_annotated
from controller.core.annotations import PREFIX, render_instant
from controller.core.errors import Problem, Rejection
from controller.core.projection import project_metadata
from controller.core.states import State, Verdict

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
