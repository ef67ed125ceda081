"""What a claim needs now: ordered checks that read aloud, and one decision.

First whether the input makes sense, then whether a token is due, and why. Pure, so that the decision after a restart
is the decision before it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from controller.core import dockerconfig
from controller.core.errors import Problem, Rejection
from controller.core.model import Claim, Decision, Ignore, Keep, Reason, Refresh, Resolved, Tell, View
from controller.core.schedule import RefreshWindow, effective_expiry, refresh_at

MAX_IDENTITY_LENGTH = 2048
"""Characters; the longest that any issuer knows are AWS role ARNs, of up to 2048."""

FUTURE_SECONDS = 600
"""An `issued-at` further ahead than this was not written by a controller whose clock is right."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What the policy knows of a configured provider."""

    name: str
    type: str
    registries: tuple[str, ...]
    """Normalised hosts that it may be used for."""


@dataclass(frozen=True, slots=True)
class Shape:
    """An identity of this shape belongs to one of these provider types. Shapes are tried in order."""

    pattern: re.Pattern[str]
    types: frozenset[str]


class Policy:
    """Decides by the operator's configuration: which providers there are, and when a life is used up."""

    def __init__(self, profiles: Collection[Profile], *, shapes: Sequence[Shape], window: RefreshWindow) -> None:
        self._profiles = {profile.name: profile for profile in profiles}
        self._shapes = tuple(shapes)
        self._window = window

    def decide(self, view: View, now: float) -> Decision:
        """What to do about a claim at `now`."""
        if view.secret.paused == "true":
            return Ignore()
        resolved = self.resolve(view)
        if isinstance(resolved, Rejection):
            return Ignore() if view.claim.error == resolved.text else Tell(resolved)
        for check in _DUE_CHECKS:
            if (reason := check(view, resolved, now)) is not None:
                return Refresh(reason, now)
        return self._by_the_clock(view, now)

    def resolve(self, view: View) -> Resolved | Rejection:
        """Which provider serves the claim for which hosts, or the first thing that is wrong with the input."""
        for input_check in _INPUT_CHECKS:
            if (problem := input_check(view)) is not None:
                return Rejection(problem)
        resolved = self._provider_and_hosts(view.claim)
        if isinstance(resolved, Rejection):
            return resolved
        if set(resolved.hosts) & set(view.secret.broken_hosts):
            return Rejection(Problem.CONFIG_UNREADABLE)
        if set(resolved.hosts) & self._hosts_of_earlier_claims(view):
            return Rejection(Problem.REGISTRY_CLAIMED_TWICE)
        return resolved

    def expiry(self, claim: Claim) -> float | None:
        """The end of the credential in place; None where there is none of ours, or it isn't known."""
        if claim.issued_at is None or claim.expires_at is None or claim.present_fingerprint is None:
            return None
        return effective_expiry(
            self._window,
            issued_at=claim.issued_at,
            expires_at=claim.expires_at,
            credential_exp=claim.credential_exp,
        )

    def refresh_at(self, *, uid: str, issued_at: int, expiry: float) -> float:
        """The instant at which a new credential of that life will be due."""
        return refresh_at(self._window, uid=uid, issued_at=issued_at, expiry=expiry)

    def _by_the_clock(self, view: View, now: float) -> Decision:
        claim = view.claim
        expiry = self.expiry(claim)
        if expiry is None or claim.issued_at is None or claim.expires_at is None:
            return Refresh(Reason.NEW, now)
        due_at = refresh_at(
            self._window,
            uid=view.secret.uid,
            issued_at=claim.issued_at,
            expiry=expiry,
            given_seconds=claim.expires_at - claim.issued_at,
        )
        if now >= due_at:
            return Refresh(Reason.EXPIRED if now >= expiry else Reason.SCHEDULED, due_at)
        return Keep(due_at) if claim.error is None else Tell(None, due_at)

    def _provider_and_hosts(self, claim: Claim) -> Resolved | Rejection:
        wanted = None if claim.registries is None else {dockerconfig.normalise(host) for host in claim.registries}
        candidates = self._candidates(claim)
        if isinstance(candidates, Rejection):
            return candidates
        able = [profile for profile in candidates if wanted is None or wanted <= set(profile.registries)]
        if not able:
            return Rejection(Problem.REGISTRY_NOT_ALLOWED)
        if len(able) > 1:
            return Rejection(Problem.PROVIDER_AMBIGUOUS, tuple(sorted(profile.name for profile in able)))
        hosts = able[0].registries if wanted is None else tuple(sorted(wanted))
        return Resolved(able[0].name, claim.identity, hosts, claim.service_account)

    def _candidates(self, claim: Claim) -> list[Profile] | Rejection:
        """The configured providers that the identity can mean: the one that is named, else those its shape fits."""
        types = next((shape.types for shape in self._shapes if shape.pattern.fullmatch(claim.identity)), frozenset())
        if claim.provider is not None:
            named = self._profiles.get(claim.provider)
            if named is None:
                return Rejection(Problem.PROVIDER_UNKNOWN)
            return [named] if self._takes(named, claim.identity) else Rejection(Problem.IDENTITY_UNRECOGNISED)
        fitting = [profile for profile in self._profiles.values() if profile.type in types]
        return fitting or Rejection(Problem.IDENTITY_UNRECOGNISED)

    def _takes(self, profile: Profile, identity: str) -> bool:
        """A type without a shape of its own takes any identity."""
        patterns = [shape.pattern for shape in self._shapes if profile.type in shape.types]
        return not patterns or any(pattern.fullmatch(identity) for pattern in patterns)

    def _hosts_of_earlier_claims(self, view: View) -> set[str]:
        hosts: set[str] = set()
        for other in view.secret.claims:
            if other.name < view.claim.name and isinstance(resolved := self._provider_and_hosts(other), Resolved):
                hosts.update(resolved.hosts)
        return hosts


def issued_for(resolved: Resolved) -> str:
    """16 hex that say what a token was minted for, after the configuration has had its say."""
    facts = [resolved.identity, resolved.provider, sorted(resolved.hosts), resolved.service_account]
    return hashlib.sha256(json.dumps(facts, separators=(",", ":")).encode()).hexdigest()[:16]


def _wrong_type(view: View) -> Problem | None:
    return None if view.secret.right_type else Problem.WRONG_TYPE


def _paused_unclear(view: View) -> Problem | None:
    return None if view.secret.paused in (None, "true", "false") else Problem.PAUSED_UNCLEAR


def _immutable(view: View) -> Problem | None:
    return Problem.IMMUTABLE if view.secret.immutable else None


def _identity_empty(view: View) -> Problem | None:
    return None if view.claim.identity else Problem.IDENTITY_EMPTY


def _identity_too_long(view: View) -> Problem | None:
    return None if len(view.claim.identity) <= MAX_IDENTITY_LENGTH else Problem.IDENTITY_UNRECOGNISED


def _service_account(view: View) -> Problem | None:
    return None if view.claim.service_account is None else Problem.SERVICE_ACCOUNT_UNSUPPORTED


def _unreadable(view: View) -> Problem | None:
    return None if view.secret.readable else Problem.CONFIG_UNREADABLE


_INPUT_CHECKS: tuple[Callable[[View], Problem | None], ...] = (
    _wrong_type,
    _paused_unclear,
    _immutable,
    _identity_empty,
    _identity_too_long,
    _service_account,
    _unreadable,
)


def _never_filled(view: View, resolved: Resolved, now: float) -> Reason | None:
    known = (view.claim.issued_at, view.claim.expires_at, view.claim.issued_for, view.claim.fingerprint)
    return Reason.NEW if None in known else None


def _for_another_identity(view: View, resolved: Resolved, now: float) -> Reason | None:
    return None if view.claim.issued_for == issued_for(resolved) else Reason.IDENTITY


def _edited(view: View, resolved: Resolved, now: float) -> Reason | None:
    return None if view.claim.present_fingerprint == view.claim.fingerprint else Reason.EDITED


def _requested(view: View, resolved: Resolved, now: float) -> Reason | None:
    return (
        Reason.REQUESTED
        if view.secret.refresh is not None and view.secret.refresh != view.claim.refreshed_for
        else None
    )


def _issued_in_the_future(view: View, resolved: Resolved, now: float) -> Reason | None:
    return Reason.EDITED if view.claim.issued_at is not None and view.claim.issued_at > now + FUTURE_SECONDS else None


_DUE_CHECKS: tuple[Callable[[View, Resolved, float], Reason | None], ...] = (
    _never_filled,
    _for_another_identity,
    _edited,
    _requested,
    _issued_in_the_future,
)
