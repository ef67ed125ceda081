"""Where list+watch and the workers meet: each version of a Secret becomes one deadline per claim.

Level-triggered: what a version says now is all that counts, so a duplicate, our own write, or a relist of what is known
changes no deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from controller.census import CensusTaker
from controller.core.model import Ignore, Keep, Key, ManagedSecret, Ref, Refresh, Resolved, Tell, View
from controller.core.policy import Policy
from controller.core.projection import Observed
from controller.core.queue import RefreshQueue
from controller.core.store import Store
from controller.fights import Fights

NO_PROVIDER = ""
"""The queue of claims that no provider serves: somebody has to be told, and that must not wait for an issuer."""


class Dispatcher:
    """The sink of the reflectors. Also takes what the reconciler reads and writes, so that it never decides on less."""

    def __init__(
        self,
        *,
        store: Store,
        policy: Policy,
        queues: Mapping[str, RefreshQueue[Key]],
        fights: Fights,
        census: CensusTaker,
        now: Callable[[], float],
    ) -> None:
        self._store = store
        self._policy = policy
        self._queues = queues
        self._fights = fights
        self._census = census
        self._now = now

    def replaced(
        self,
        secrets: Sequence[ManagedSecret],
        *,
        covers: Callable[[Ref], bool],
        resource_version: str,
        rolled_back: bool,
    ) -> None:
        """A list is the whole truth about what it covers."""
        before = {secret.ref: self._store.get(secret.ref) for secret in secrets}
        changed, removed = self._store.replace(
            secrets, covers=covers, resource_version=resource_version, rolled_back=rolled_back
        )
        for secret in removed:
            self._gone(secret)
        for secret in changed:
            self._succeed(before[secret.ref], secret)

    def changed(self, observed: Observed) -> None:
        """The watch told of a version."""
        self._observe(observed, self._store.put)

    def replied(self, observed: Observed) -> None:
        """A read or write of our own was answered with a version."""
        self._observe(observed, self._store.put_reply)

    def deleted(self, ref: Ref, resource_version: str) -> None:
        """The Secret is gone, or asks for nothing any more: nothing is written, what was written stays."""
        secret = self._store.drop(ref, resource_version)
        if secret is not None:
            self._gone(secret)

    def look_again(self, key: Key) -> None:
        """Place a claim anew by what is known of it now; called at the end of the flight that it waited for."""
        if (view := self.view(key)) is not None:
            self._place_claim(view, None)

    def look_at_all_again(self) -> None:
        """Place every claim anew: the clock was set back, and deadlines of the old time may be far ahead."""
        for secret in self._store:
            for view in secret.views():
                self._place_claim(view, None)

    def view(self, key: Key) -> View | None:
        """The claim as it is known now; None when it is gone."""
        secret = self._store.get(key.ref)
        return secret.view(key.claim) if secret else None

    def serves(self, provider: str, key: Key) -> bool:
        """Whether the claim is this provider's to serve, or gone."""
        view = self.view(key)
        return view is None or self._provider_of(view) == provider

    def _observe(self, observed: Observed, put: Callable[[ManagedSecret], bool]) -> None:
        if observed.secret is None:
            self.deleted(observed.ref, observed.resource_version)
            return
        before = self._store.get(observed.ref)
        if put(observed.secret):
            self._succeed(before, observed.secret)

    def _succeed(self, before: ManagedSecret | None, secret: ManagedSecret) -> None:
        """One version took the place of another, or of none."""
        if before is not None:
            self._census.replaced(before, secret)
        for view in secret.views():
            self._place_claim(view, before.view(view.claim.name) if before else None)
        for old in before.views() if before else ():
            if secret.view(old.claim.name) is None:
                self._forget(old.key)

    def _place_claim(self, view: View, before: View | None) -> None:
        now = self._now()
        match self._policy.decide(view, now):
            case Ignore():
                self._forget(view.key)
            case Keep(until):
                self._schedule(view, until)
            case Tell():
                self._schedule(view, now)
            case Refresh(_, at):
                if self._was_settled(before, view, now):
                    self._fights.reverted(view, now)
                self._schedule(view, at)

    def _was_settled(self, before: View | None, view: View, now: float) -> bool:
        """The version before would still be right, and asked for the same: not time but somebody undid our write."""
        return (
            before is not None and before.inputs == view.inputs and isinstance(self._policy.decide(before, now), Keep)
        )

    def _schedule(self, view: View, at: float) -> None:
        provider = self._provider_of(view)
        for name, queue in self._queues.items():
            if name == provider:
                continue
            if queue.is_processing(view.key):
                # Never in two hands: the run that is under way finds out that the claim moved, and hands it over.
                queue.schedule(view.key, at)
                return
            queue.forget(view.key)
        self._queues[provider].schedule(view.key, at)

    def _gone(self, secret: ManagedSecret) -> None:
        self._census.replaced(secret, None)
        for view in secret.views():
            self._forget(view.key)

    def _forget(self, key: Key) -> None:
        for queue in self._queues.values():
            queue.forget(key)

    def _provider_of(self, view: View) -> str:
        resolved = self._policy.resolve(view)
        return resolved.provider if isinstance(resolved, Resolved) else NO_PROVIDER
