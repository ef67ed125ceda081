"""Connects list+watch with the workers: each version of a Secret becomes one deadline per claim.

Level-triggered: only the newest version counts, so a duplicate, our own write, or a relist of known versions changes
no deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from controller.core.fights import ContestedClaims
from controller.core.model import Ignore, Keep, Key, ManagedSecret, Ref, Refresh, Report, Resolved, View, Wipe
from controller.core.policy import Policy
from controller.core.projection import ObservedSecret
from controller.core.queue import RefreshQueue
from controller.core.quota import Quota
from controller.core.store import Store
from controller.engine.confirmations import Confirmations
from controller.engine.grants import GrantChecker
from controller.observe.counts import StateCounter

NO_PROVIDER = ""
"""The queue of claims that no provider serves: their errors must not wait behind an issuer."""


class Dispatcher:
    """The sink of the reflectors. It also takes the versions that the writer reads or writes.

    `assign` gives a Secret that a target has made the target's inputs; `seen` is called when anything has happened to a
    Secret, also to one that asks for nothing.
    """

    def __init__(
        self,
        *,
        store: Store,
        policy: Policy,
        queues: Mapping[str, RefreshQueue[Key]],
        contested: ContestedClaims,
        states: StateCounter,
        now: Callable[[], float],
        confirmations: Confirmations,
        assign: Callable[[ManagedSecret], ManagedSecret] = lambda secret: secret,
        seen: Callable[[Ref], None] = lambda _: None,
        quota: Quota | None = None,
        grants: GrantChecker | None = None,
    ) -> None:
        self._store = store
        self._policy = policy
        self._queues = queues
        self._contested = contested
        self._states = states
        self._now = now
        self._confirmations = confirmations
        self._assign = assign
        self._seen = seen
        self._quota = quota
        self._grants = grants

    def replaced(
        self,
        items: Sequence[ManagedSecret],
        *,
        covers: Callable[[Ref], bool],
        resource_version: str,
        rolled_back: bool,
    ) -> None:
        """A list is the whole truth about what it covers."""
        before = {secret.ref: self._store.get(secret.ref) for secret in items}
        changed, removed = self._store.replace(
            map(self._assign, items), covers=covers, resource_version=resource_version, rolled_back=rolled_back
        )
        for secret in removed:
            self._gone(secret)
        for secret in changed:
            self._succeed(before[secret.ref], secret, restored=rolled_back)
            self._seen(secret.ref)

    def upserted(self, observed: ObservedSecret) -> None:
        """The watch reported a version."""
        self._observe(observed, self._store.put)
        if observed.item is not None:
            self._confirmations.seen(observed.item)

    def replied(self, observed: ObservedSecret) -> None:
        """The answer to a read or write of our own was a version."""
        self._observe(observed, partial(self._store.put_reply, assumed=observed.assumed))

    def rolled_back(self, observed: ObservedSecret) -> None:
        """A read of our own showed an older version than was known: the cluster was restored, and that is the truth."""
        before = self._store.get(observed.ref)
        if before is None:
            return
        if observed.item is None:
            self.deleted(observed.ref, before.resource_version)
        elif self._store.roll_back(secret := self._assign(observed.item)):
            self._succeed(before, secret, restored=True)
            self._seen(secret.ref)

    def deleted(self, ref: Ref, resource_version: str) -> None:
        """The Secret is gone, or no longer asks for an identity: nothing more is written, and nothing is removed."""
        secret = self._store.drop(ref, resource_version)
        if secret is not None:
            self._gone(secret)
        else:
            self._seen(ref)

    def look_again(self, key: Key) -> None:
        """Schedule a claim again by its newest version; called when the flight that it waited for has ended."""
        if (view := self.view(key)) is not None:
            self._place_claim(view, None)

    def look_at_all_again(self) -> None:
        """Schedule every claim again: the clock was set back, so earlier deadlines may be far ahead."""
        for secret in self._store:
            for view in secret.views():
                self._place_claim(view, None)

    def assign_again(self, ref: Ref) -> None:
        """What a Secret's target asks for may have changed."""
        before = self._store.get(ref)
        if before is not None and (secret := self._assign(before)) is not before:
            self._store.amend(secret)
            self._succeed(before, secret)

    def view(self, key: Key) -> View | None:
        """The claim in its newest version; None when it is gone."""
        secret = self._store.get(key.ref)
        return secret.view(key.claim) if secret else None

    def serves(self, provider: str, key: Key) -> bool:
        """Whether this provider serves the claim. True for a claim that is gone."""
        view = self.view(key)
        return view is None or self._provider_of(view) == provider

    def _observe(self, observed: ObservedSecret, put: Callable[[ManagedSecret], bool]) -> None:
        if observed.item is None:
            self.deleted(observed.ref, observed.resource_version)
            return
        before = self._store.get(observed.ref)
        if put(secret := self._assign(observed.item)):
            self._succeed(before, secret)
            self._seen(secret.ref)

    def _succeed(self, before: ManagedSecret | None, secret: ManagedSecret, *, restored: bool = False) -> None:
        """One version took the place of another, or of none. Where `restored`, nobody contests what was lost by it."""
        moved = self._quota.add(secret) if self._quota is not None else ()
        if self._grants is not None:
            self._grants.replaced(before.views() if before else (), secret.views())
        for view in secret.views():
            self._place_claim(view, before.view(view.claim.name) if before and not restored else None)
        for old in before.views() if before else ():
            if secret.view(old.claim.name) is None:
                self._remove(old.key)
        self._look_again_at(moved)

    def _look_again_at(self, refs: Iterable[Ref]) -> None:
        for secret in filter(None, map(self._store.get, refs)):
            for view in secret.views():
                self._place_claim(view, None)

    def _place_claim(self, view: View, before: View | None) -> None:
        now = self._now()
        decision = self._policy.decide(view, now, self._contested.standing(view, now))
        match decision:
            case Ignore():
                self._forget(view.key)
            case Keep(until):
                self._schedule(view, until)
            case Report() | Wipe():
                self._schedule(view, now)
            case Refresh(_, at):
                if self._was_settled(before, view, now):
                    self._contested.reverted(view, now)
                self._schedule(view, at)
        self._states.placed(view, decision)

    def _was_settled(self, before: View | None, view: View, now: float) -> bool:
        """The version before was valid and asked for the same, so it wasn't time but somebody who undid our write."""
        return before is not None and before.inputs == view.inputs and self._policy.is_settled(before, now)

    def _schedule(self, view: View, at: float) -> None:
        provider = self._provider_of(view)
        for name, queue in self._queues.items():
            if name == provider:
                continue
            if queue.is_processing(view.key):
                # One worker at a time: the run that is under way notices that the claim moved, and hands it over.
                queue.schedule(view.key, at)
                return
            queue.forget(view.key)
        self._queues[provider].schedule(view.key, at)

    def _gone(self, secret: ManagedSecret) -> None:
        for view in secret.views():
            self._remove(view.key)
        if self._grants is not None:
            self._grants.replaced(secret.views(), ())
        self._seen(secret.ref)
        self._look_again_at(self._quota.remove(secret.ref) if self._quota is not None else ())

    def _remove(self, key: Key) -> None:
        self._states.removed(key)
        self._forget(key)

    def _forget(self, key: Key) -> None:
        for queue in self._queues.values():
            queue.forget(key)

    def _provider_of(self, view: View) -> str:
        resolved = self._policy.resolve(view)
        return resolved.provider if isinstance(resolved, Resolved) else NO_PROVIDER
