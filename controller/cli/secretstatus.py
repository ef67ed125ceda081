"""What the command line says of a Secret: one item a claim, for people and for machines.

The schema of the items is status.schema.json beside this file. It only grows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from controller.cli.exits import Level
from controller.core.annotated import judge_annotated
from controller.core.annotations import render_instant
from controller.core.errors import Problem
from controller.core.model import View
from controller.core.projection import Described
from controller.core.states import State, Verdict, problem_of

API_VERSION = "cli.pull-secret-updater.chainguard.dev/v1"

STATES: Mapping[str, Level] = {
    "Expired": Level.ERROR,
    "Empty": Level.ERROR,
    "Denied": Level.ERROR,
    "Error": Level.ERROR,
    "OverLimit": Level.ERROR,
    "Contested": Level.ERROR,
    "Foreign": Level.ERROR,
    "Unknown": Level.UNKNOWN,
    "Due": Level.OK,
    "Paused": Level.WARNING,
    "Valid": Level.OK,
}
"""Every state, the worst first, and what it means without a problem."""

_WORSE = {Level.OK: Level.WARNING, Level.WARNING: Level.ERROR}
"""What it means with one: a token that is still valid is a warning, and a pause that nobody can be sure of is wrong."""

_RANK = {state: rank for rank, state in enumerate(STATES)}
_PLAIN = {
    State.PAUSED: "Paused",
    State.EXPIRED: "Expired",
    State.CONTESTED: "Contested",
    State.UNFILLED: "Empty",
    State.DUE: "Due",
    State.VALID: "Valid",
}
_REFUSED = {
    Problem.GRANT_REVOKED: "Denied",
    Problem.IDENTITY_NOT_ALLOWED: "Denied",
    Problem.OVER_LIMIT: "OverLimit",
    Problem.FOREIGN_ENTRY_UNREADABLE: "Foreign",
}
"""Of refused claims; all others are `Error`."""


class Item(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One claim of a Secret. Instants are RFC 3339, UTC."""

    namespace: str
    name: str
    claim: str
    """Empty for the annotation `identity`, else the suffix of `identity.<claim>`."""
    state: str
    level: str
    reason: str | None
    """One of our problems; docs of `error`."""
    message: str | None
    identity: str
    provider: str | None
    """Named by the Secret; null if the controller infers it."""
    registries: list[str]
    service_account: str | None
    """Whose token proves the identity; null for the controller's."""
    target: str | None
    """That has made the Secret."""
    paused: bool
    created_at: str | None
    issued_at: str | None
    expires_at: str | None
    refresh_at: str | None
    fingerprint: str | None


class ItemList(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What `status -o json` prints."""

    api_version: str = API_VERSION
    kind: str = "PullSecretStatusList"
    items: list[Item]


class Told(NamedTuple):
    """The latest Event of the controller about a Secret."""

    reason: str
    message: str
    is_warning: bool
    times: int
    first_at: str
    last_at: str


def items_of(described: Described, *, told: Told | None, now: float) -> Iterator[Item]:
    """The items of one Secret."""
    for view in described.secret.views():
        refresh_at = described.refresh_at[view.claim.name]
        reported = problem_of(told.reason) if told is not None and told.is_warning else None
        verdict = judge_annotated(view, refresh_at=refresh_at, reported=reported, now=now)
        yield _item(view, verdict, refresh_at=refresh_at, told=told)


def unknown(namespace: str, name: str, told: Told) -> Item:
    """The item of a Secret that may not be read, by its Event."""
    problem = problem_of(told.reason)
    return Item(
        namespace=namespace,
        name=name,
        claim="",
        state="Unknown",
        level=Level.UNKNOWN.value,
        reason=problem.reason if problem else None,
        message=told.message,
        identity="",
        provider=None,
        registries=[],
        service_account=None,
        target=None,
        paused=False,
        created_at=None,
        issued_at=None,
        expires_at=None,
        refresh_at=None,
        fingerprint=None,
    )


def worst_first(items: Iterable[Item]) -> list[Item]:
    """By state, then by the soonest end."""
    return sorted(items, key=lambda item: (_RANK[item.state], item.expires_at or "", item.namespace, item.name))


def _item(view: View, verdict: Verdict, *, refresh_at: int | None, told: Told | None) -> Item:
    claim, problem = view.claim, verdict.problem
    state = _REFUSED.get(problem, "Error") if verdict.state is State.REFUSED and problem else _PLAIN[verdict.state]
    level = STATES[state] if problem is None else _WORSE.get(STATES[state], STATES[state])
    return Item(
        namespace=view.secret.ref.namespace,
        name=view.secret.ref.name,
        claim=claim.name,
        state=state,
        level=level.value,
        reason=problem.reason if problem else None,
        message=None if problem is None else _message(view, problem, told),
        identity=claim.identity,
        provider=claim.provider,
        registries=list(claim.managed_hosts or claim.registries or ()),
        service_account=claim.service_account,
        target=view.secret.target or None,
        paused=verdict.state is State.PAUSED,
        created_at=view.secret.created_at or None,
        issued_at=_instant(claim.issued_at),
        expires_at=_instant(claim.expires_at),
        refresh_at=_instant(refresh_at),
        fingerprint=claim.fingerprint,
    )


def _message(view: View, problem: Problem, told: Told | None) -> str:
    """Of the problem: what the annotation says, else the Event, else its own sentence."""
    if problem_of(view.claim.error) is problem:
        return view.claim.error or ""
    if told is not None and problem_of(told.reason) is problem:
        return told.message
    return f"{problem.reason}: {problem.sentence}"


def _instant(seconds: int | None) -> str | None:
    return None if seconds is None else render_instant(seconds)
