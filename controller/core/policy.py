"""What a claim needs now: a list of checks that can be read aloud, and one decision.

First come the checks of the input, then whether a token is due, and why. Pure, so that the decision after a restart
is the decision before it.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from controller.core import dockerconfig
from controller.core.annotations import MAX_HOSTS
from controller.core.errors import Problem, Rejection
from controller.core.grants import Grants
from controller.core.model import Claim, Decision, Ignore, Keep, Reason, Refresh, Report, Resolved, Standing, View, Wipe
from controller.core.quota import Quota
from controller.core.schedule import RefreshWindow, effective_expiry, refresh_at

MAX_IDENTITY_LENGTH = 2048
"""Characters; the longest identities of any issuer are AWS role ARNs, up to 2048."""

MAX_REFRESH_LENGTH = 256
"""Characters; we copy the value to `refreshed-for`, and all annotations together must not exceed 256 KiB."""

FUTURE_SHARE = 1 / 10
FUTURE_SECONDS = (2, 600)
"""An `issued-at` ahead of our clock by more than a tenth of the token's life, within these bounds, is due now.

Either somebody forged it or a clock was set back, and nobody knows how long the token really lives."""

OBJECT_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
"""A name in the Kubernetes API; never a path's `..`."""

_NAMED = 3
"""Foreign entries that a rejection names."""
_NAMEABLE = re.compile(r"[A-Za-z0-9*._\[\]:/-]{1,200}")
_UNNAMED = "a key that is not a registry"
"""An Event has more readers than a Secret, and a key may hold anything, such as a password before an `@`."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A configured provider, as the policy sees it."""

    name: str
    type: str
    registries: tuple[str, ...]
    """Normalised hosts that its tokens may be written for."""
    is_default: bool = False
    """Of several that can serve a claim, this one does."""
    namespaces: tuple[str, ...] = ("*",)
    identities: tuple[str, ...] = ("*",)
    """Globs: whom it serves. The operator's own lock, whatever RBAC allows."""
    takes_own_proof: bool = True
    """It serves claims that name no ServiceAccount: the controller proves them."""
    takes_tenants_proof: bool = False
    """It serves claims that name a ServiceAccount of their namespace, which proves them."""

    def serves(self, namespace: str, identity: str) -> bool:
        """Whether the operator lets this namespace use this identity with it."""
        return _matches(namespace, self.namespaces) and _matches(identity, self.identities)

    def takes_proof_of(self, service_account: str | None) -> bool:
        """Whether it takes the proof of this ServiceAccount of the Secret's namespace; None is the controller's."""
        return self.takes_own_proof if service_account is None else self.takes_tenants_proof


@dataclass(frozen=True, slots=True)
class Shape:
    """Identities of this format belong to these provider types. Shapes are tried in order."""

    pattern: re.Pattern[str]
    types: frozenset[str]


class Policy:
    """Decides by the operator's configuration: which providers there are, and when a life is used up.

    A Secret that is over its namespace's quota is not served, but for what a target gives (`is_gift`). That is never
    written into it, since there may be many.
    """

    def __init__(
        self,
        profiles: Collection[Profile],
        *,
        shapes: Sequence[Shape],
        window: RefreshWindow,
        quota: Quota | None = None,
        grants: Grants | None = None,
        is_gift: Callable[[View], bool] = lambda _: False,
    ) -> None:
        self._profiles = {profile.name: profile for profile in profiles}
        self._shapes = tuple(shapes)
        self._window = window
        self._quota = quota
        self._grants = grants
        self._is_gift = is_gift

    def decide(self, view: View, now: float, standing: Standing | None = None) -> Decision:
        """What to do about a claim at `now`; `standing` is what to report of it even if its token is valid."""
        if view.secret.paused == "true":
            return Ignore()
        resolved = self.resolve(view)
        if isinstance(resolved, Rejection):
            return Ignore() if view.claim.error == resolved.text else Report(resolved)
        denied = self._grants.rejection(view) if self._grants is not None else None
        if self._grants is not None and denied is not None and self._grants.wipes(view) and view.claim.is_filled:
            return Wipe(denied)
        if self._quota is not None and self._quota.is_over(view.secret.ref) and not self._is_gift(view):
            expiry = self.expiry(view.claim)  # a token in place stays until it ends
            return Report(Rejection(Problem.OVER_LIMIT), None if expiry is None or expiry <= now else expiry)
        if denied is not None:
            return Ignore() if view.claim.error == denied.text else Report(denied)
        if (reason := due_for(view, now, wanted=issued_for(resolved))) is not None:
            return Refresh(reason, now)
        return self._by_the_clock(view, now, standing)

    def is_settled(self, view: View, now: float) -> bool:
        """Whether a claim has the token that it should have, whatever is to be reported of it."""
        decision = self.decide(view, now)
        return isinstance(decision, Keep) or (isinstance(decision, Report) and decision.until is not None)

    def resolve(self, view: View) -> Resolved | Rejection:
        """Which provider serves the claim, and for which hosts; or the first problem of the input."""
        for input_check in _INPUT_CHECKS:
            if (problem := input_check(view)) is not None:
                return Rejection(problem)
        if view.claim.identity != view.claim.identity.strip():
            return Rejection(Problem.IDENTITY_UNRECOGNISED, ("it begins or ends with white space",))
        resolved = self._provider_and_hosts(view.secret.ref.namespace, view.claim)
        if isinstance(resolved, Rejection):
            return resolved
        if set(resolved.hosts) & set(view.secret.broken_hosts):
            return Rejection(Problem.CONFIG_UNREADABLE)
        if set(resolved.hosts) & self._hosts_of_earlier_claims(view):
            return Rejection(Problem.REGISTRY_CLAIMED_TWICE)
        return resolved

    def foreign_fault(self, view: View, unreadable: Sequence[str]) -> Rejection | None:
        """What keeps every kubelet from reading a Secret that holds this claim's token and has `unreadable` parts.

        What another claim is about to write is not foreign.
        """
        others = (self.resolve(other) for other in view.secret.views() if unreadable and other.key != view.key)
        theirs = {host for resolved in others if isinstance(resolved, Resolved) for host in resolved.hosts}
        shown = (name if _NAMEABLE.fullmatch(name) else _UNNAMED for name in unreadable if name not in theirs)
        foreign = list(dict.fromkeys(shown))
        named = (*foreign[:_NAMED], "others") if len(foreign) > _NAMED else tuple(foreign)
        return Rejection(Problem.FOREIGN_ENTRY_UNREADABLE, named) if named else None

    def expiry(self, claim: Claim) -> float | None:
        """When the credential in place expires; None if it isn't ours or its end is unknown."""
        if claim.issued_at is None or claim.expires_at is None or claim.present_fingerprint is None:
            return None
        return effective_expiry(
            self._window,
            issued_at=claim.issued_at,
            expires_at=claim.expires_at,
            credential_exp=claim.credential_exp,
        )

    def refresh_at(self, *, uid: str, issued_at: int, expiry: float) -> float:
        """When a new credential with that expiry will be due."""
        return refresh_at(self._window, uid=uid, issued_at=issued_at, expiry=expiry)

    def _by_the_clock(self, view: View, now: float, standing: Standing | None) -> Decision:
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
        rejection = standing.rejection if standing else self.foreign_fault(view, view.secret.unreadable)
        until = min(due_at, standing.until) if standing else due_at
        return Keep(until) if claim.error == (rejection and rejection.text) else Report(rejection, until)

    def _provider_and_hosts(self, namespace: str, claim: Claim) -> Resolved | Rejection:
        wanted = None if claim.registries is None else {dockerconfig.normalise(host) for host in claim.registries}
        candidates = self._candidates(claim)
        if isinstance(candidates, Rejection):
            return candidates
        open_to_it = [profile for profile in candidates if profile.serves(namespace, claim.identity)]
        if not open_to_it:
            return Rejection(Problem.IDENTITY_NOT_ALLOWED)
        able = [profile for profile in open_to_it if wanted is None or wanted <= set(profile.registries)]
        if not able:
            return Rejection(Problem.REGISTRY_NOT_ALLOWED)
        unproven, able = able, [profile for profile in able if profile.takes_proof_of(claim.service_account)]
        if not able:
            is_named = claim.service_account is not None
            problem = Problem.SERVICE_ACCOUNT_UNSUPPORTED if is_named else Problem.SERVICE_ACCOUNT_REQUIRED
            return Rejection(problem, tuple(sorted(f"provider {profile.name}" for profile in unproven)))
        if len(able) > 1:
            able = [profile for profile in able if profile.is_default] or able
        if len(able) > 1:
            return Rejection(Problem.PROVIDER_AMBIGUOUS, tuple(sorted(profile.name for profile in able)))
        hosts = able[0].registries if wanted is None else tuple(sorted(wanted))
        return Resolved(able[0].name, claim.identity, hosts, claim.service_account)

    def _candidates(self, claim: Claim) -> list[Profile] | Rejection:
        """The configured providers that may serve the identity: the named one, else those whose format it has."""
        types = next((shape.types for shape in self._shapes if shape.pattern.fullmatch(claim.identity)), frozenset())
        if claim.provider is not None:
            named = self._profiles.get(claim.provider)
            if named is None:
                return Rejection(Problem.PROVIDER_UNKNOWN)
            return [named] if self._takes(named, claim.identity) else Rejection(Problem.IDENTITY_UNRECOGNISED)
        fitting = [profile for profile in self._profiles.values() if profile.type in types]
        return fitting or Rejection(Problem.IDENTITY_UNRECOGNISED)

    def _takes(self, profile: Profile, identity: str) -> bool:
        """A type without a format of its own takes any identity."""
        patterns = [shape.pattern for shape in self._shapes if profile.type in shape.types]
        return not patterns or any(pattern.fullmatch(identity) for pattern in patterns)

    def _hosts_of_earlier_claims(self, view: View) -> set[str]:
        hosts: set[str] = set()
        for other in view.secret.claims:
            if other.name < view.claim.name:
                resolved = self._provider_and_hosts(view.secret.ref.namespace, other)
                hosts.update(resolved.hosts if isinstance(resolved, Resolved) else ())
        return hosts


def _matches(text: str, globs: Sequence[str]) -> bool:
    return any(glob in ("*", text) or fnmatch.fnmatchcase(text, glob) for glob in globs)


def issued_for(resolved: Resolved) -> str:
    """16 hex digits that identify what a token was minted for, after the configuration was applied."""
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


def _too_long(view: View) -> Problem | None:
    fits = (
        len(view.claim.identity) <= MAX_IDENTITY_LENGTH
        and len(view.secret.refresh or "") <= MAX_REFRESH_LENGTH
        and len(view.claim.registries or ()) <= MAX_HOSTS
    )
    return None if fits else Problem.ANNOTATION_TOO_LONG


def _service_account_invalid(view: View) -> Problem | None:
    name = view.claim.service_account
    return None if name is None or OBJECT_NAME.fullmatch(name) else Problem.SERVICE_ACCOUNT_INVALID


def _unreadable(view: View) -> Problem | None:
    return None if view.secret.readable else Problem.CONFIG_UNREADABLE


_INPUT_CHECKS: tuple[Callable[[View], Problem | None], ...] = (
    _wrong_type,
    _paused_unclear,
    _immutable,
    _identity_empty,
    _too_long,
    _service_account_invalid,
    _unreadable,
)


def due_for(view: View, now: float, *, wanted: str | None) -> Reason | None:
    """Why a token is due whatever the clock says; `wanted` is what it must have been issued for, see `issued_for`."""
    known = (view.claim.issued_at, view.claim.expires_at, view.claim.issued_for, view.claim.fingerprint)
    if None in known:
        return Reason.NEW
    if view.claim.issued_for != wanted:
        return Reason.IDENTITY
    return next((reason for check in _DUE_CHECKS if (reason := check(view, now)) is not None), None)


def _owed(view: View, now: float) -> Reason | None:
    """Its annotations don't say what its target asks for; the token in place may well be right."""
    return Reason.EDITED if view.secret.owed and not view.claim.name else None


def _edited(view: View, now: float) -> Reason | None:
    return None if view.claim.present_fingerprint == view.claim.fingerprint else Reason.EDITED


def _requested(view: View, now: float) -> Reason | None:
    return (
        Reason.REQUESTED
        if view.secret.refresh is not None and view.secret.refresh != view.claim.refreshed_for
        else None
    )


def _issued_in_the_future(view: View, now: float) -> Reason | None:
    issued_at, expires_at = view.claim.issued_at, view.claim.expires_at
    if issued_at is None or expires_at is None:
        return None
    ahead = min(max((expires_at - issued_at) * FUTURE_SHARE, FUTURE_SECONDS[0]), FUTURE_SECONDS[1])
    return Reason.EDITED if issued_at > now + ahead else None


_DUE_CHECKS: tuple[Callable[[View, float], Reason | None], ...] = (
    _owed,
    _edited,
    _requested,
    _issued_in_the_future,
)
