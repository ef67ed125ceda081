"""Which namespaces may use which identities, by what the API server has said so far.

A yes is good for a while. A no counts once it was said twice with half a minute between, since RBAC is eventually
consistent. A failure to answer says nothing, so it changes nothing. `now` is a clock that never goes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from controller.core.errors import Problem, Rejection
from controller.core.model import Key, View

CONFIRM_SECONDS = 30.0
"""Between the two times that a no must be said."""


class Grant(NamedTuple):
    """That a namespace may use an identity."""

    namespace: str
    identity: str
    """Its name in RBAC: `<identity>`, or `<provider>:<identity>` where the Secret names the provider."""


@dataclass(slots=True)
class _Known:
    """What is known of one grant."""

    keys: set[Key] = field(default_factory=set)
    """The claims that need it."""
    allowed_at: float | None = None
    """When the last answer was given, if it was yes."""
    refused_since: float | None = None
    """Of the answers since then, all were no."""
    is_denied: bool = False
    is_confirmed: bool = False
    """It was said twice; else `is_denied` is what a Secret says of the time before our start."""


class Grants:
    """Every grant that a claim needs. A yes is good for `recheck_seconds`; a no removes the token if `wipes`.

    `needs` says of a claim whether it needs one; None while that can't be told.
    """

    def __init__(self, *, recheck_seconds: float, wipes: bool, needs: Callable[[View], bool | None]) -> None:
        self._recheck_seconds = recheck_seconds
        self._wipes = wipes
        self._needs = needs
        self._known: dict[Grant, _Known] = {}

    def replaced(self, before: Iterable[View], after: Iterable[View]) -> tuple[set[Grant], set[Grant]]:
        """These claims took the place of those. Returns the grants that are new, and those that nobody needs now.

        A claim whose `error` says that it was denied counts as denied until the API server has been asked.
        """
        new: set[Grant] = set()
        kept: set[tuple[Grant, Key]] = set()
        for view in after:
            if self._needs(view) is not False:
                grant = grant_of(view)
                kept.add((grant, view.key))
                if self.add(view):
                    new.add(grant)
        gone: set[Grant] = set()
        for view in before:
            grant = grant_of(view)
            if (grant, view.key) not in kept and (held := self._known.get(grant)) is not None:
                held.keys.discard(view.key)
                if not held.keys:
                    del self._known[grant]
                    gone.add(grant)
        return new, gone

    def add(self, view: View) -> bool:
        """A claim needs a grant. Returns whether anything is new about that."""
        grant = grant_of(view)
        is_new = grant not in self._known
        known = self._known.setdefault(grant, _Known())
        known.keys.add(view.key)
        is_unasked = known.allowed_at is None and known.refused_since is None
        if is_unasked and not known.is_denied and view.claim.error == _denied(grant).text:
            known.is_denied = is_new = True
        return is_new

    def rejection(self, view: View) -> Rejection | None:
        """Why a claim gets no token; None if nothing is known against it."""
        known = self._known.get(grant := grant_of(view))
        return _denied(grant) if known is not None and known.is_denied and self._needs(view) else None

    def wipes(self, view: View) -> bool:
        """Whether the token of a claim that has been denied is taken away. A target takes its own away itself."""
        known = self._known.get(grant_of(view))
        return self._wipes and known is not None and known.is_confirmed and view.secret.target is None

    def knows(self, grant: Grant) -> bool:
        """Whether any claim needs it."""
        return grant in self._known

    def asks_by_itself(self, grant: Grant) -> bool:
        """Whether it is looked at again although no claim needs a token now."""
        known = self._known.get(grant)
        return known is not None and (self._wipes or known.is_denied or known.refused_since is not None)

    def is_needed(self, grant: Grant, view: Callable[[Key], View | None]) -> bool | None:
        """Whether an answer would make a difference to one of its claims; None while that can't be told.

        A yes that isn't followed by a mint makes none to a claim that has no token to take away.
        """
        known = self._known.get(grant)
        if known is None:
            return False
        is_refused, is_known = known.is_denied or known.refused_since is not None, True
        for each in map(view, known.keys):
            if each is not None and (is_refused or each.claim.is_filled):
                if needs := self._needs(each):
                    return True
                is_known = is_known and needs is not None
        return False if is_known else None

    def allows(self, grant: Grant, now: float, *, however_old: bool = False) -> bool:
        """Whether the last answer was yes, and is still good or may be `however_old`."""
        known = self._known.get(grant)
        if known is None or known.allowed_at is None:
            return False
        return however_old or now < known.allowed_at + self._recheck_seconds

    def next_at(self, grant: Grant, now: float) -> float:
        """When to ask again."""
        known = self._known.get(grant)
        if known is None or known.refused_since is None or known.is_confirmed:
            return now + self._recheck_seconds
        return known.refused_since + CONFIRM_SECONDS

    def waits_until(self, grant: Grant, now: float) -> float | None:
        """Until when a first no is left as it is; None where there is none or it is time to ask again."""
        known = self._known.get(grant)
        if known is None or known.refused_since is None:
            return None
        at = known.refused_since + CONFIRM_SECONDS
        return at if now < at else None

    def answered(self, grant: Grant, *, allowed: bool, now: float) -> set[Key]:
        """The API server has said yes or no. Returns the claims that have to be looked at because of it."""
        known = self._known.get(grant)
        if known is None:
            return set()
        if allowed:
            differs = known.is_denied or known.refused_since is not None
            known.allowed_at, known.refused_since = now, None
            known.is_denied = known.is_confirmed = False
            return set(known.keys) if differs else set()
        known.allowed_at = None
        if known.refused_since is None:
            known.refused_since = now
        if known.is_confirmed or now < known.refused_since + CONFIRM_SECONDS:
            return set()
        known.is_denied = known.is_confirmed = True
        return set(known.keys)


def grant_of(view: View) -> Grant:
    """What a claim needs, by the name that the policy use-identity asks for."""
    claim = view.claim
    return Grant(view.key.namespace, f"{claim.provider}:{claim.identity}" if claim.provider else claim.identity)


def group_of(namespace: str) -> str:
    """The group that has the grant: every ServiceAccount of the namespace is in it."""
    return f"system:serviceaccounts:{namespace}"


def _denied(grant: Grant) -> Rejection:
    return Rejection(Problem.GRANT_REVOKED, (f"group {group_of(grant.namespace)}",))
