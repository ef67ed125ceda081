"""A write counts once it was seen: admission may have made something else of it on its way."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cachetools

from controller.core.model import Key, ManagedSecret, View
from controller.core.store import Store

_AWAITED = 10_000


class _Awaited(NamedTuple):
    fingerprint: str
    tell: Callable[[ManagedSecret], None]


class Confirmations:
    """Holds back the news of a write until the watch, or a read of ours, has shown that the token is in place."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._awaited: cachetools.LRUCache[Key, _Awaited] = cachetools.LRUCache(_AWAITED)

    def expect(self, view: View, fingerprint: str, tell: Callable[[ManagedSecret], None]) -> None:
        """A token with this fingerprint was written: call `tell` when it is seen, and never if something else is."""
        self._awaited[view.key] = _Awaited(fingerprint, tell)
        secret = self._store.get(view.secret.ref)
        if secret is not None and self._store.is_seen(secret.ref):  # the watch was quicker than the answer
            self.seen(secret)

    def seen(self, secret: ManagedSecret) -> None:
        """This version was seen as it is."""
        for view in secret.views() if self._awaited else ():
            awaited = self._awaited.pop(view.key, None)
            if awaited is not None and view.claim.present_fingerprint == awaited.fingerprint:
                awaited.tell(secret)
