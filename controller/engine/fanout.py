"""Makes the Secrets of targets and takes them away; everything else about them is the path of any other Secret.

    namespaces, service accounts -> which targets select it -> queue by namespace
        -> mint -> create, or take over -> attach to ServiceAccounts
        -> once it isn't selected any more: detach -> delete, or let go

A namespace is looked at as a whole, and again whenever something in it may have changed. What is ours is known by the
marks on it, so a restart forgets nothing. Nothing of a stranger's is ever changed: a Secret is created only where none
is, taken over and deleted only in the very version that was looked at.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, MutableMapping
from enum import Enum

import cachetools
from structlog.typing import FilteringBoundLogger

from controller.core.errors import Pace, Problem, Rejection
from controller.core.fights import ContestedClaims
from controller.core.holdings import Holdings
from controller.core.model import Key, ManagedSecret, Ref, Resolved, Token, View
from controller.core.policy import Policy
from controller.core.queue import QueueClosed, RefreshQueue
from controller.core.schedule import Coverage, retry_at
from controller.core.store import Store
from controller.core.targets import ASKED, Account, Brake, Namespace, Stranger, Target, Targets
from controller.engine.accounts import CONTESTED_SECONDS, Accounts
from controller.engine.minter import Failed, InFlight, Minter
from controller.engine.namespaces import Namespaces
from controller.engine.targetwriter import TargetWriter
from controller.kube.client import KubeClient
from controller.kube.errors import ApiError, Conflict, Forbidden, Invalid, NotFound
from controller.kube.notices import Notices
from controller.observe.logs import where

WORKERS = 8
"""Namespaces that are worked on at once."""

MISSING_SECONDS = 30.0
"""A namespace that isn't there is asked for at this pace, where namespaces aren't watched."""

BRAKE_SECONDS = 60.0
"""What the brake holds is looked at again at this pace: the reason may have gone."""

REMOVED = "(removed)"
"""The name under which targets are counted that are no longer configured."""

BY_ACCOUNTS = "(serviceaccounts)"
"""The name under which everything is counted that ServiceAccounts ask for."""

_STRANGER_SECONDS = 300.0
"""A stranger is looked at again at this pace, in case the watch missed that it went."""
_CHANGED_SECONDS = 1.0
"""One that keeps changing is looked at again at most at this pace."""
_SEEN_SECONDS = 5.0
"""A Secret that we created is made again if the watch hasn't shown it by then."""
_PASSING_SECONDS = 60.0
"""A failure that passes by itself is reported if it hasn't after so long."""
_AGAIN_SECONDS = 1.0
_UNEXPECTED_SECONDS = 300.0
_REPORTED_SECONDS = 3600.0
_REMEMBERED = 10_000


class TargetState(Enum):
    """What a target has come to in one namespace."""

    READY = "ready"
    """Its Secret is there."""
    PENDING = "pending"
    """It is on its way, or the namespace isn't there."""
    CONFLICT = "conflict"
    """A stranger is in the way, or another target, or somebody keeps deleting it."""
    DENIED = "denied"
    """RBAC, an admission policy, or the operator's configuration doesn't allow it."""
    FAILED = "failed"
    """The token can't be had, or the API server fails."""
    LEAVING = "leaving"
    """It is to be removed after the grace time."""
    HELD = "held"
    """Its removal is one of too many at once, and waits for a confirmation."""


Step = tuple[TargetState, float | None]
"""What a target has come to, and when to look again; None: wait for a change."""


class FanOut:
    """See the module. ServiceAccounts called `asking` may ask for a Secret themselves, of a name that `is_watched`.

    `assign_again` is called for a Secret whose target may have changed.
    """

    def __init__(
        self,
        targets: Targets,
        *,
        asking: Collection[str],
        is_watched: Callable[[Ref], bool],
        installation: str,
        brake: Brake,
        grace_seconds: float,
        store: Store,
        policy: Policy,
        minters: Mapping[str, Minter],
        assign_again: Callable[[Ref], None],
        client: KubeClient,
        notices: Notices,
        now: Callable[[], float],
        log: FilteringBoundLogger,
    ) -> None:
        self._targets = targets
        self._asking = frozenset(asking)
        self._is_watched = is_watched
        self._grace_seconds = grace_seconds
        self._store = store
        self._policy = policy
        self._minters = minters
        self._assign_again = assign_again
        self._notices = notices
        self._now = now
        self._log = log
        self._writer = TargetWriter(client, installation=installation)
        self._queue = RefreshQueue[str](now, turn=lambda namespace: namespace)
        self.namespaces = Namespaces(self._look, exact=targets.exact_namespaces)
        names = sorted({*targets.service_account_names, *asking})
        self.accounts = Accounts(names, installation=installation, client=client, changed=self._look, now=now)
        self._ours = Holdings(brake)
        self._states: dict[str, dict[str, TargetState]] = {}
        """By namespace, what each target has come to."""
        self._blocked: dict[Ref, float] = {}
        """Where a stranger is in the way, and when we looked at it last."""
        self._created: dict[Ref, float] = {}
        """What we have created and the watch hasn't shown, and until when we wait for that."""
        self._missing_since: dict[Ref, float] = {}
        self._attempts: dict[Ref, int] = {}
        self._contested = ContestedClaims()
        self._reported: cachetools.TTLCache[Ref, str] = cachetools.TTLCache(_REMEMBERED, _REPORTED_SECONDS, timer=now)
        self._braked: set[str] = set()
        self._listed: asyncio.Future[object] | None = None

    # What others tell us.

    def assign(self, secret: ManagedSecret) -> ManagedSecret:
        """A Secret with its target's inputs; any other as it is.

        So is one where no target has one, whatever marks it carries: somebody may have put them on it.
        """
        if secret.target is None:
            return secret
        target = self._chosen(secret.ref.namespace).get(secret.ref.name)
        return target.assign(secret) if target is not None else secret

    def seen(self, ref: Ref) -> None:
        """Something has happened to a Secret."""
        secret = self._store.get(ref)
        before, target = self._ours.of(ref.namespace).get(ref), secret.target if secret is not None else None
        if target == before:
            if target is None and (ref in self._blocked or (secret and ref.name in self._wanted_names(ref.namespace))):
                last = self._blocked.pop(ref, -_CHANGED_SECONDS)
                self._queue.schedule(ref.namespace, max(self._now(), last + _CHANGED_SECONDS))
            return
        self._ours.put(ref, target)
        if target is not None:
            self._forget_place(ref)
        elif secret is None and (wanted := self._chosen(ref.namespace).get(ref.name)) is not None:
            self._contested.reverted(wanted.wanted(ref.namespace), self._now())
        self._look(ref.namespace)

    def wanted(self, key: Key) -> View | None:
        """The claim of a Secret that a target wants and that may not be there yet."""
        target = self._chosen(key.namespace).get(key.name)
        return target.wanted(key.namespace) if target is not None and not key.claim else None

    def gives(self, view: View) -> bool | None:
        """Whether a target of the configuration gives a claim what it asks for; None while the namespaces aren't known.

        Until a Secret is assigned its target's inputs, it may ask for something else, which is nobody's gift.
        """
        if not self.namespaces.is_complete:
            return None
        target = self._chosen(view.key.namespace).get(view.key.name)
        return target is not None and not target.name.startswith(ASKED) and target.gives(view.claim)

    def look_again(self, key: Key) -> None:
        """The flight that a Secret waited for has ended."""
        if key.name in self._wanted_names(key.namespace) and self._store.get(key.ref) is None:
            self._look(key.namespace)

    def count(self) -> Mapping[tuple[str, str], int]:
        """By target and state in how many namespaces.

        Targets that are no longer configured are one, and so is what ServiceAccounts ask for.
        """
        names = {target.name for target in self._targets}
        shown = (*sorted(names), *((BY_ACCOUNTS,) if self._asking else ()), REMOVED)
        found = Counter(
            (
                name if name in names else BY_ACCOUNTS if name.startswith(ASKED) and self._asking else REMOVED,
                state.value,
            )
            for states in self._states.values()
            for name, state in states.items()
        )
        return {(name, state.value): found[name, state.value] for name in shown for state in TargetState}

    async def run(self, *, listed: Awaitable[object]) -> None:
        """Work until closed; begins once `listed`, so that every Secret that is there is known."""
        self._listed = asyncio.ensure_future(listed)
        await asyncio.wait((self._listed,))
        for name in self.namespaces.names().union(self._ours.namespaces()):
            self._look(name)
        async with asyncio.TaskGroup() as group:
            for number in range(WORKERS):
                group.create_task(self._work(), name=f"targets {number}")

    def close(self) -> None:
        """Begin nothing more."""
        self._queue.close()
        if self._listed is not None:
            self._listed.cancel()

    def _look(self, namespace: str) -> None:
        self._queue.schedule(namespace, self._now())

    def _chosen(self, namespace: str) -> Mapping[str, Target]:
        """By the Secret's name, the targets that have one in a namespace."""
        known = self.namespaces.get(namespace)
        return self._choose(known)[0] if known is not None else {}

    def _choose(self, namespace: Namespace) -> tuple[dict[str, Target], list[Target]]:
        """By the Secret's name, the targets that have one in a namespace; and those whose Secret another has."""
        chosen, outdone = self._targets.chosen(namespace), self._targets.outdone(namespace)
        if namespace.opted_out or namespace.is_ending:
            return chosen, outdone
        for account in self._asking_accounts(namespace.name):
            if account.asks is not None and chosen.setdefault(account.asks.secret_name, account.asks) != account.asks:
                outdone.append(account.asks)
        return chosen, outdone

    def _asking_accounts(self, namespace: str) -> Iterator[Account]:
        """Those that ask for a Secret which we would see."""
        for account in self.accounts.of(namespace):
            if account.ref.name not in self._asking or account.asks is None:
                continue
            if self._is_watched(Ref(namespace, account.asks.secret_name)):
                yield account
            else:
                self._report(account, Rejection(Problem.SECRET_NOT_WATCHED))

    def _wanted_names(self, namespace: str) -> set[str]:
        """Of the Secrets that may be wanted in a namespace."""
        asked = {account.asks.secret_name for account in self.accounts.of(namespace) if account.asks is not None}
        return asked | self._targets.secret_names

    # A namespace.

    async def _work(self) -> None:
        while True:
            try:
                name = (await self._queue.get()).key
            except QueueClosed:
                return
            next_at: float | None = None
            try:
                next_at = await self._reconcile(name)
            except Exception as error:
                self._log.error(
                    "a defect stopped the work on a namespace; please report it", namespace=name, error=where(error)
                )
                next_at = self._now() + _UNEXPECTED_SECONDS
            finally:
                self._queue.done(name, next_at)

    async def _reconcile(self, name: str) -> float | None:
        """Do what a namespace needs. Returns when to look again; None: wait for a change."""
        if not self.namespaces.is_complete:
            return None
        namespace = self.namespaces.get(name)
        if namespace is None or namespace.is_ending:
            self._forget(name)
            return None
        chosen, outdone = self._choose(namespace)
        steps = [(target.name, *await self._provide(name, target)) for target in chosen.values()]
        steps += [(target.name, *self._give_way(name, target, chosen)) for target in outdone]
        for ref, target_name in list(self._ours.of(name).items()):
            if ref.name in chosen:
                self._ours.wanted(ref, target_name)
                self._assign_again(ref)
            else:
                steps.append((target_name, *await self._withdraw(ref, target_name, namespace)))
        attached = [await self._attach(account, self._wanted_by(account, chosen)) for account in self.accounts.of(name)]
        # Of a target with two Secrets here, the one that is wanted counts: it comes first.
        self._states[name] = {target: state for target, state, _ in reversed(steps)}
        if not steps:
            del self._states[name]
        return min((at for at in (*attached, *(at for _, _, at in steps)) if at is not None), default=None)

    def _forget(self, name: str) -> None:
        """The namespace is gone or ending, and takes everything along."""
        self._states.pop(name, None)
        for ref, target in self._ours.of(name).items():
            self._ours.wanted(ref, target)
        for secret_name in self._wanted_names(name):
            self._forget_place(Ref(name, secret_name))

    def _forget_place(self, ref: Ref) -> None:
        places: tuple[MutableMapping[Ref, object], ...] = (
            self._blocked,  # type: ignore[assignment]  # only keys are touched
            self._created,
            self._missing_since,
            self._attempts,
            self._reported,
        )
        for place in places:
            place.pop(ref, None)

    # Its Secret is there.

    async def _provide(self, namespace: str, target: Target) -> Step:
        """See that the target's Secret is there."""
        view = target.wanted(namespace)
        if (obstacle := self._obstacle(view, target)) is not None:
            return obstacle
        resolved = self._policy.resolve(view)
        if isinstance(resolved, Rejection):
            self._report(Stranger(view.secret.ref), resolved)
            return TargetState.DENIED, None
        now = self._now()
        since = self._missing_since.setdefault(view.secret.ref, now)
        minter = self._minters[resolved.provider]
        coverage = Coverage(None, missing_since=min(since, now))
        match minter.ask(minter.key(resolved, namespace), asker=view.key, coverage=coverage, due_at=since):
            case InFlight():
                return TargetState.PENDING, None
            case Failed(rejection, again_at):
                if rejection.problem.pace is not Pace.FAST or now - since >= _PASSING_SECONDS:
                    self._report(Stranger(view.secret.ref), rejection)
                return TargetState.FAILED, again_at
            case token:
                return await self._make(target, view.secret.ref, resolved, token)

    def _obstacle(self, view: View, target: Target) -> Step | None:
        """Why no token is needed, for now."""
        now, ref = self._now(), view.secret.ref
        held, created_until = self._store.get(ref), self._created.get(ref, 0.0)
        standing, held_until = self._contested.standing(view, now), self._contested.held_until(view, now)
        if held is not None and held.target is not None:
            return TargetState.READY, None
        if held is not None:
            return self._conflict(Stranger(ref, held.uid, held.resource_version), target)
        if created_until > now:
            return TargetState.READY, created_until
        if standing is not None:
            self._report(Stranger(ref), Rejection(Problem.TARGET_CONTESTED, (f"target {target.name}",)))
        if held_until is not None:
            return TargetState.CONFLICT, held_until
        if (looked_at := self._blocked.get(ref)) is not None and now < looked_at + _STRANGER_SECONDS:
            return TargetState.CONFLICT, looked_at + _STRANGER_SECONDS
        return None

    async def _make(self, target: Target, ref: Ref, resolved: Resolved, token: Token) -> Step:
        try:
            stranger = await self._writer.make(target, ref, resolved, token)
        except Conflict:
            return TargetState.PENDING, self._now() + _AGAIN_SECONDS
        except NotFound:
            return TargetState.PENDING, self._now() + MISSING_SECONDS
        except ApiError as error:
            return self._failed(Stranger(ref), error)
        if stranger is not None:
            return self._conflict(stranger, target)
        self._log.info("a target's Secret was made", namespace=ref.namespace, name=ref.name, target=target.name)
        if self._store.get(ref) is not None:  # the watch was faster than the answer
            return TargetState.READY, None
        self._created[ref] = until = self._now() + _SEEN_SECONDS
        return TargetState.READY, until

    def _give_way(self, namespace: str, target: Target, chosen: Mapping[str, Target]) -> Step:
        """Another target has the Secret."""
        other = chosen[target.secret_name]
        named = (f"target {target.name}", f"target {other.name} has it")
        self._report(Stranger(Ref(namespace, target.secret_name)), Rejection(Problem.TARGET_CONFLICT, named))
        return TargetState.CONFLICT, None

    def _conflict(self, stranger: Stranger, target: Target) -> Step:
        self._blocked[stranger.ref] = now = self._now()
        self._report(stranger, Rejection(Problem.TARGET_CONFLICT, (f"target {target.name}",)))
        return TargetState.CONFLICT, now + _STRANGER_SECONDS

    # Its Secret goes.

    async def _withdraw(self, ref: Ref, target_name: str, namespace: Namespace) -> Step:
        """The Secret isn't wanted any more: remove it, once that has been so for the grace time."""
        secret, now = self._store.get(ref), self._now()
        if secret is None:
            return TargetState.LEAVING, None
        if not namespace.opted_out:
            since = self._ours.unwanted_since(ref, target_name, now)
            if now < since + self._grace_seconds:
                return TargetState.LEAVING, since + self._grace_seconds
            if self._brakes(target_name):
                return TargetState.HELD, now + BRAKE_SECONDS
        (chosen, _), target = self._choose(namespace), self._targets.get(target_name)
        for account in self.accounts.of(namespace.name):
            again_at = await self._attach(account, self._wanted_by(account, chosen) - {ref.name})
            if again_at is not None:
                return TargetState.LEAVING, again_at
        try:
            await self._remove(secret, deletes=target is None or target.deletes)
        except (Conflict, NotFound):
            return TargetState.LEAVING, now + _AGAIN_SECONDS
        except ApiError as error:
            return self._failed(Stranger(ref, secret.uid, secret.resource_version), error)
        return TargetState.LEAVING, None

    async def _remove(self, secret: ManagedSecret, *, deletes: bool) -> None:
        what = {"namespace": secret.ref.namespace, "name": secret.ref.name, "target": secret.target}
        if not deletes:
            await self._writer.let_go(secret)
            self._log.info("a target's Secret was let go", **what)
        elif await self._writer.remove(secret):
            self._log.info("a target's Secret was deleted", **what)
        else:
            self._log.info("a target's Secret was let go: it holds something else too", **what)
            self._notices.rejected(secret, Rejection(Problem.TARGET_KEPT))

    def _brakes(self, target: str) -> bool:
        """Whether too many Secrets of a target would be removed at once."""
        if not self._ours.brakes(target):
            self._braked.discard(target)
            return False
        if target not in self._braked:
            self._braked.add(target)
            self._log.error(
                "too many Secrets of a target would be removed at once, so none is; correct the target or the labels, "
                "or confirm it with a higher limits.removal.most",
                target=target,
                leaving=self._ours.leaving(target),
                made=self._ours.made(target),
            )
        return True

    # ServiceAccounts.

    def _wanted_by(self, account: Account, chosen: Mapping[str, Target]) -> set[str]:
        """The Secrets that a ServiceAccount should name: those of its targets, and those that haven't left yet."""
        ours = {ref.name for ref in self._ours.of(account.ref.namespace)}
        wanted = {name for name, target in chosen.items() if account.ref.name in target.service_accounts}
        return ours & (wanted | {name for name in account.attached if name not in chosen})

    async def _attach(self, account: Account, wanted: set[str]) -> float | None:
        """See that a ServiceAccount names these Secrets, and no other of ours. Returns when to try again."""
        try:
            contested = await self.accounts.attach(account.ref, wanted)
        except Conflict:
            return self._now() + _AGAIN_SECONDS
        except ApiError as error:
            return self._failed(account, error)[1]
        if contested is None:
            return None
        self._report(account, Rejection(Problem.TARGET_CONTESTED, (contested.manager,) if contested.manager else ()))
        return self._now() + CONTESTED_SECONDS

    # What went wrong.

    def _failed(self, subject: Stranger | Account, error: ApiError) -> Step:
        """A refusal is reported, and tried again slowly; anything else should pass by itself."""
        ref, now = subject.ref, self._now()
        self._attempts[ref] = attempt = self._attempts.get(ref, 0) + 1
        is_refused = isinstance(error, Forbidden | Invalid)
        self._log.warning("a request for a target failed", namespace=ref.namespace, name=ref.name, detail=str(error))
        if is_refused:
            self._report(subject, Rejection(Problem.WRITE_REFUSED, (error.why,) if error.why else ()))
        again_at = retry_at(
            failed_at=now,
            attempt=attempt,
            pace=Pace.SLOW if is_refused else Pace.FAST,
            spread_by=str(ref),
            coverage=Coverage(None, missing_since=min(now, self._missing_since.setdefault(ref, now))),
            retry_after_seconds=error.retry_after_seconds,
        )
        return TargetState.DENIED if is_refused else TargetState.FAILED, again_at

    def _report(self, subject: Stranger | Account, rejection: Rejection) -> None:
        """Say once what is wrong, by an Event and the log."""
        if self._reported.get(subject.ref) == rejection.text:
            return
        self._reported[subject.ref] = rejection.text
        namespace, name = subject.ref
        self._log.warning("target not served", namespace=namespace, name=name, reason=rejection.problem.reason)
        self._notices.rejected(subject, rejection)
