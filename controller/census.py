"""How many claims there are, and for how long some of them had no valid token."""

from __future__ import annotations

from collections.abc import Callable

from controller.core.model import Key, ManagedSecret, Ref, View
from controller.core.policy import Policy
from controller.core.store import Store
from controller.telemetry import Census


class CensusTaker:
    """Counts at a scrape what is expired now; what was replaced is counted when it is replaced."""

    def __init__(self, *, store: Store, policy: Policy, now: Callable[[], float], per_secret: bool) -> None:
        self._store = store
        self._policy = policy
        self._now = now
        self._per_secret = per_secret
        self._started_at = now()
        self._closed_seconds = 0.0
        """Of tokens that expired and are replaced or gone. With the open ones it only ever grows."""
        self._resumed_at: dict[Key, float] = {}
        """When the pause of a claim ended whose token had expired by then: the time before isn't counted."""

    def replaced(self, before: ManagedSecret, after: ManagedSecret | None) -> None:
        """A version gave way to another one, or to none."""
        for view in before.views():
            expiry = self._expiry(view)
            new = after.view(view.claim.name) if after else None
            if expiry is not None and (new is None or self._expiry(new) != expiry):
                self._closed_seconds += self._expired_seconds(view, expiry)
            new_expiry = self._expiry(new) if new else None
            if new_expiry is None or new_expiry > self._now():
                self._resumed_at.pop(view.key, None)
            elif _is_paused(before):
                self._resumed_at[view.key] = self._now()

    def take(self) -> Census:
        """The figures of this instant."""
        managed = expired = 0
        expired_seconds, earliest = self._closed_seconds, None
        expiries: dict[Ref, float] = {}
        now = self._now()
        for secret in self._store:
            managed += len(secret.claims)
            for view in secret.views():
                expiry = self._expiry(view)
                if expiry is None:
                    continue
                earliest = expiry if earliest is None else min(earliest, expiry)
                if self._per_secret:
                    expiries[secret.ref] = min(expiry, expiries.get(secret.ref, expiry))
                if expiry <= now:
                    expired += 1
                    expired_seconds += self._expired_seconds(view, expiry)
        return Census(managed, expired, expired_seconds, earliest, expiries)

    def _expiry(self, view: View) -> float | None:
        return None if _is_paused(view.secret) else self._policy.expiry(view.claim)

    def _expired_seconds(self, view: View, expiry: float) -> float:
        since = max(expiry, self._started_at, self._resumed_at.get(view.key, expiry))
        return max(0.0, self._now() - since)


def _is_paused(secret: ManagedSecret) -> bool:
    return secret.paused not in (None, "false")
