"""Mint once: one flight per mint key, and its token or failure is remembered under the same key.

However many Secrets ask for the same credential, one request is sent. `ask` never waits: it answers from memory, or
with `InFlight` once a flight is on its way, and the end of the flight wakes every claim that asked; each then gets its
result. So no issuer ever holds a worker. Flights start in the order of the claims' own queue: namespaces in turn, in
each claims without a valid token first. Each provider has a Minter of its own, so issuers share nothing here; nor do
two namespaces whose ServiceAccounts prove themselves, since each mints by its own proof.

Keys whose last request failed have half of the slots, so that they never hold up the others. When an issuer answers
again after failures of its own, every claim that waits because of them is woken at once.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import cachetools
from structlog.typing import FilteringBoundLogger

from controller.core.annotations import render_instant
from controller.core.errors import MintError, Problem, Rejection
from controller.core.model import Key, Ref, Resolved, Token
from controller.core.queue import RefreshQueue
from controller.core.schedule import URGENT_STEP_SECONDS, Coverage, retry_at
from controller.engine.circuit import Circuit
from controller.engine.rate import Rate
from controller.engine.slots import Slot, Slots
from controller.observe.logs import where
from controller.observe.metrics import Metrics
from controller.providers.contract import Provider

REUSE_SHARE = 1 / 5
"""A token younger than this share of its life is handed out again."""

HEAL_SHARE = 1 / 2
"""Up to this share of its life it is also written again where somebody removed it: healing costs no mint."""

REMEMBERED = 10_000
"""At most this many tokens, and as many failures, are remembered; beyond that the least recently used is forgotten."""

_STRANDED = 100_000
_FAILURE_KEPT_SECONDS = 1800.0
_COUNTED = 8
"""Failures in a row that make a difference: the longest step is reached by then."""

_PROVIDERS_FAULT_STEP_SECONDS = 10.0
"""The longest step of a claim without a valid token while the issuer itself fails, so that its return is noticed."""

_WOKEN_EVERY_SECONDS = 60.0
"""A key that fails while others succeed is tried early at most this often."""

_LOGGED_SECONDS = 60.0
_URGENT_LEAD_SECONDS = 10 * 366 * 86400.0
"""Claims without a valid token go before all others of their namespace."""


class MintKey(NamedTuple):
    """Two requests with the same key are the same request."""

    provider: str
    identity: str
    proven_by: Ref | None
    """A tenant's ServiceAccount; None for the controller's own proof. Never a token itself."""
    hosts: tuple[str, ...]
    """Empty if one credential of the provider serves all its hosts."""


@dataclass(frozen=True, slots=True)
class Failed:
    """No token before `retry_at`; None if only a change of the input helps."""

    rejection: Rejection
    retry_at: float | None


@dataclass(frozen=True, slots=True)
class InFlight:
    """A request for this token is on its way; its end wakes every claim that asked."""

    waits_seconds: float = 0.0
    """Until the namespace may have so many."""


@dataclass(slots=True)
class _Flight:
    namespace: str
    """Of the claim that asked first: its turn."""
    failing: bool
    """Its key's last request failed."""
    starts_anyway: bool
    """Even if the circuit opens while it waits."""
    waits: bool = True
    """It hasn't started."""
    held_back_until: float | None = None
    """In loop time, where every namespace that waits for it has had so many: when the first of them may have more."""
    counted_for: set[str] = field(default_factory=set)
    """The namespaces among whose mints it counts."""
    askers: dict[Key, Coverage] = field(default_factory=dict)

    @property
    def most_urgent(self) -> tuple[Key, Coverage]:
        """The asker whose failures count: one without a valid token, else the one whose token ends first."""
        return min(self.askers.items(), key=lambda each: each[1].valid_until or 0.0)


@dataclass(frozen=True, slots=True)
class _Minted:
    token: Token
    started_at: float
    owed: set[Key]
    """Claims that waited for this token; each gets it however old it is by then."""

    def age_share(self, now: float) -> float:
        return (now - self.started_at) / max(self.token.lifetime_seconds, 1)


@dataclass(frozen=True, slots=True)
class _Failure:
    error: MintError
    started_at: float
    failed_at: float
    counted: tuple[float, ...]
    """When the failures in a row happened, as far as they count; at most the last `_COUNTED`."""
    spread_by: str
    owed: set[Key]
    """Claims that waited for this answer; each gets it, even if it may be asked again by then."""
    woken_at: float = 0.0
    """When the issuer's return let this key be tried before its time."""

    def attempt(self, coverage: Coverage) -> int:
        """How many failures in a row count for a claim; one without a valid token starts over."""
        since = coverage.missing_since
        return max(1, len(self.counted) if since is None else sum(at >= since for at in self.counted))

    def retry_at(self, coverage: Coverage) -> float | None:
        problem = self.error.problem
        return retry_at(
            failed_at=self.failed_at,
            attempt=self.attempt(coverage),
            pace=problem.pace,
            spread_by=self.spread_by,
            coverage=coverage,
            urgent_step_seconds=_PROVIDERS_FAULT_STEP_SECONDS if problem.providers_fault else URGENT_STEP_SECONDS,
            retry_after_seconds=self.error.retry_after_seconds,
        )


class Minter:
    """Mints for one provider. When a flight ends, `wake` is called for each claim that got `InFlight`.

    `proven_by` gives the same provider for one mint, with the proof of a tenant's ServiceAccount for these claims.
    `allowed` gives what a claim asks for, if it may have that: asked again once a mint's turn has come. None: all may.
    With `shares_token`, one token serves all hosts of the provider.
    """

    def __init__(
        self,
        name: str,
        provider: Provider,
        *,
        proven_by: Callable[[Ref, Collection[Key]], Provider],
        allowed: Callable[[Key], Awaitable[Resolved | None]] | None = None,
        group: asyncio.TaskGroup,
        now: Callable[[], float],
        wake: Callable[[Key], None],
        mints_per_second: float,
        mint_seconds: float,
        concurrency: int,
        mints_per_minute: float | None,
        shares_token: bool,
        metrics: Metrics,
        log: FilteringBoundLogger,
    ) -> None:
        self._name = name
        self._provider = provider
        self._proven_by = proven_by
        self._allowed = allowed
        self._group = group
        self._now = now
        self._wake = wake
        self._rate = Rate(mints_per_second)
        self._mint_seconds = mint_seconds
        self._shares_token = shares_token
        self._mints_per_minute = mints_per_minute
        self._rates: cachetools.LRUCache[str, Rate] = cachetools.LRUCache(REMEMBERED)
        """By namespace, where its mints are limited."""
        self._held_back: cachetools.TTLCache[str, bool] = cachetools.TTLCache(REMEMBERED, _LOGGED_SECONDS, timer=now)
        """The namespaces of which the log says so already."""
        self._metrics = metrics
        self._log = log.bind(provider=name)
        self.circuit = Circuit(name)
        self._slots = Slots(concurrency)
        self._slots_for_failing = asyncio.Semaphore(max(1, concurrency // 2))
        self._flights: dict[MintKey, _Flight] = {}
        # By whether the key's last request failed. In loop time, which no step of the clock touches.
        self._waiting = {
            failing: RefreshQueue[MintKey](_loop_time, turn=lambda key: self._flights[key].namespace)
            for failing in (False, True)
        }
        self._in_the_air: set[asyncio.Task[None]] = set()
        self._tokens: cachetools.TLRUCache[MintKey, _Minted] = cachetools.TLRUCache(
            REMEMBERED,
            ttu=lambda _key, minted, _now: minted.started_at + minted.token.lifetime_seconds * HEAL_SHARE,
            timer=now,
        )
        # An entry outlives its retry_at, so that the next failure is counted as the next.
        self._failures: cachetools.TLRUCache[MintKey, _Failure] = cachetools.TLRUCache(
            REMEMBERED, ttu=lambda _key, failure, _now: failure.failed_at + _FAILURE_KEPT_SECONDS, timer=now
        )
        self._stranded: cachetools.LRUCache[Key, tuple[MintKey, Coverage]] = cachetools.LRUCache(_STRANDED)
        """Claims that wait because the issuer itself failed."""
        self._succeeded_at = -math.inf
        self._looked_at = -math.inf
        """In loop time: when `_stranded` was last looked through."""
        self._pumps = [group.create_task(self._pump(failing), name=f"minter {name}") for failing in (False, True)]

    def key(self, resolved: Resolved, namespace: str) -> MintKey:
        """Under which the token of a claim in that namespace is minted and remembered."""
        hosts, name = () if self._shares_token else resolved.hosts, resolved.service_account
        return MintKey(resolved.provider, resolved.identity, None if name is None else Ref(namespace, name), hosts)

    def ask(
        self,
        key: MintKey,
        *,
        asker: Key,
        coverage: Coverage,
        due_at: float,
        not_before: float = 0.0,
        asked_at: float = 0.0,
        heals: bool = False,
    ) -> Token | Failed | InFlight:
        """A token whose request began at `not_before` or later, the reason why there is none, or `InFlight`.

        A failure from before `asked_at` does not count: somebody asked to try again. `coverage` is what the asker has,
        and decides how soon a failure may be retried; `due_at` is since when it asks. A token that only `heals`, which
        somebody removed from its Secret, may be older than one for a refresh.
        """
        now = self._now()
        token = self._remembered_token(key, asker, not_before, HEAL_SHARE if heals else REUSE_SHARE)
        if token is not None:
            return token
        if (failed := self._remembered_failure(key, asker, max(not_before, asked_at), coverage)) is not None:
            return failed
        if (flight := self._flights.get(key)) is None:
            failing = key in self._failures
            if failing and not self.circuit.admits(now, urgent=coverage.is_missing):
                self._stranded[asker] = key, coverage
                last = self._failures[key].error.rejection(self._name)
                return Failed(last, self.circuit.probe_at(urgent=coverage.is_missing))
            flight = self._flights[key] = _Flight(
                asker.namespace, failing, starts_anyway=not failing or self.circuit.is_open
            )
            overdue = now - due_at + (_URGENT_LEAD_SECONDS if coverage.is_missing else 0.0)
            flight.held_back_until = self._held_back_until(flight, asker.namespace)
            self._waiting[failing].schedule(key, flight.held_back_until or _loop_time() - max(0.0, overdue))
        elif flight.held_back_until is not None and asker.namespace not in flight.counted_for:
            # The namespaces that asked before have had their share, and this one hasn't, or may mint again sooner.
            until = self._held_back_until(flight, asker.namespace)
            if until is None or until < flight.held_back_until:
                flight.held_back_until = until
                if self._may_be_moved(key, flight):
                    self._waiting[flight.failing].schedule(key, until or _loop_time())
        flight.askers[asker] = coverage
        self._hurry(key, flight, coverage)
        return InFlight(max(0.0, (flight.held_back_until or 0.0) - _loop_time()))

    def _hurry(self, key: MintKey, flight: _Flight, coverage: Coverage) -> None:
        """Where a valid token would end before a flight's turn, let one for claims without any take that turn instead.

        So a namespace that asks for much more than it may have keeps what it has.
        """
        if flight.held_back_until is None or coverage.valid_until is None:
            return
        by = _loop_time() + (coverage.valid_until - self._now()) / 2
        if flight.held_back_until <= by:
            return
        earlier = [
            (other.held_back_until, other_key)
            for other_key, other in self._flights.items()
            if other.counted_for == flight.counted_for
            and other.held_back_until is not None
            and other.held_back_until <= by
            and self._may_be_moved(other_key, other)
            and all(each.is_missing for each in other.askers.values())
        ]
        if not earlier or not self._may_be_moved(key, flight):
            return
        at, other_key = max(earlier, key=lambda each: each[0])
        for moved_key, moved_to in ((other_key, flight.held_back_until), (key, at)):
            moved = self._flights[moved_key]
            moved.held_back_until = moved_to
            self._waiting[moved.failing].schedule(moved_key, moved_to)

    def _may_be_moved(self, key: MintKey, flight: _Flight) -> bool:
        """Whether a flight hasn't been taken from the queue yet."""
        return flight.waits and not self._waiting[flight.failing].is_processing(key)

    def _held_back_until(self, flight: _Flight, namespace: str) -> float | None:
        """Count a flight among a namespace's mints; until when it has to wait because there were so many."""
        if self._mints_per_minute is None:
            return None
        flight.counted_for.add(namespace)
        rate = self._rates.get(namespace)
        if rate is None:
            rate = self._rates[namespace] = Rate(self._mints_per_minute / 60, burst_seconds=60.0)
        wait = rate.reserve(_loop_time())
        if wait > 0 and namespace not in self._held_back:
            self._held_back[namespace] = True
            self._log.warning(
                "a namespace asks for more tokens a minute than limits.perNamespace.mintsPerMinute allows",
                namespace=namespace,
            )
        return _loop_time() + wait if wait > 0 else None

    def owes(self, key: MintKey, asker: Key) -> bool:
        """Whether the asker's flight has ended and its result is here."""
        minted, failure = self._tokens.get(key), self._failures.get(key)
        return (minted is not None and asker in minted.owed) or (failure is not None and asker in failure.owed)

    def pending(self) -> int:
        """How many claims wait for a flight that hasn't started."""
        return sum(len(flight.askers) for flight in self._flights.values() if flight.waits)

    async def drain(self) -> None:
        """Start no more flights, and wait for those in the air."""
        for pump in self._pumps:
            pump.cancel()
        while self._in_the_air:
            await asyncio.wait(self._in_the_air)

    def close(self) -> None:
        """Cancel everything: nobody is left to use a token."""
        for task in (*self._pumps, *self._in_the_air):
            task.cancel()

    def _remembered_token(self, key: MintKey, asker: Key, not_before: float, share: float) -> Token | None:
        minted, now = self._tokens.get(key), self._now()
        # An entry from the future was made before the clock was set back: its age is unknown, so it isn't used.
        if minted is None or not not_before <= minted.started_at <= now:
            return None
        if asker not in minted.owed and minted.age_share(now) >= share:
            return None
        minted.owed.discard(asker)
        return minted.token

    def _remembered_failure(self, key: MintKey, asker: Key, not_before: float, coverage: Coverage) -> Failed | None:
        failure, now = self._failures.get(key), self._now()
        if failure is None or not not_before <= failure.started_at <= now:
            return None
        retry = failure.retry_at(coverage)
        was_owed = asker in failure.owed
        failure.owed.discard(asker)
        if not was_owed and (failure.woken_at > failure.failed_at or (retry is not None and now >= retry)):
            return None
        # A key that fails while others succeed is at fault itself, and comes at its own time.
        if failure.error.problem.providers_fault and not failure.started_at <= self._succeeded_at <= now:
            self._stranded[asker] = key, coverage
        return Failed(failure.error.rejection(self._name), retry)

    async def _pump(self, failing: bool) -> None:
        waiting = self._waiting[failing]
        while True:
            if failing:
                await self._slots_for_failing.acquire()
            key = (await waiting.get()).key
            slot = await self._slots.take(lends=not failing)
            task = self._group.create_task(self._fly(key), name=f"mint {self._name}")
            self._in_the_air.add(task)

            def landed(task: asyncio.Task[None], key: MintKey = key, slot: Slot = slot) -> None:
                self._in_the_air.discard(task)
                slot.release()
                waiting.done(key, None)
                if failing:
                    self._slots_for_failing.release()

            task.add_done_callback(landed)

    async def _fly(self, key: MintKey) -> None:
        flight = self._flights[key]
        try:
            await asyncio.sleep(self._rate.reserve(_loop_time()))
            flight.waits = False
            if flight.starts_anyway or not self.circuit.is_open:  # else its askers hear when to come again
                await self._request(key, flight)
        finally:
            del self._flights[key]
            for asker in flight.askers:
                self._wake(asker)

    async def _is_wanted(self, key: MintKey, flight: _Flight) -> bool:
        """Whether a claim that waits may still have the token: the wait may have been long."""
        if self._allowed is None:
            return True
        for asker in tuple(flight.askers):
            resolved = await self._allowed(asker)
            if resolved is not None and self.key(resolved, asker.namespace) == key:
                return True
        return False

    async def _request(self, key: MintKey, flight: _Flight) -> None:
        started_at = self._now()
        try:
            if not await self._is_wanted(key, flight):
                return
            async with asyncio.timeout(self._mint_seconds):
                tenant = key.proven_by
                provider = self._provider if tenant is None else self._proven_by(tenant, flight.askers)
                token = await provider.mint(key.identity, key.hosts)
        except MintError as error:
            self._failed(key, flight, error, started_at)
        except TimeoutError:
            late = MintError(Problem.ISSUER_UNAVAILABLE, f"no token within {self._mint_seconds:g} s")
            self._failed(key, flight, late, started_at)
        except Exception as error:
            self._log.error("a defect stopped a mint; please report it", error=where(error))
            self._failed(key, flight, MintError(Problem.UNEXPECTED, type(error).__name__), started_at)
        else:
            self._tokens[key] = _Minted(token, started_at, owed=set(flight.askers))
            self._failures.pop(key, None)
            self._succeeded_at = self._now()
            self._note(key, None, started_at)
            self._log.info("token minted", identity=key.identity, expires_at=render_instant(token.expires_at))

    def _failed(self, key: MintKey, flight: _Flight, error: MintError, started_at: float) -> None:
        before, now = self._failures.get(key), self._now()
        asker, coverage = flight.most_urgent
        earlier = before.counted if before else ()
        counts = before is None or _counts(before, started_at, coverage)
        failure = _Failure(
            error,
            started_at,
            failed_at=now,
            counted=(*earlier, now)[-_COUNTED:] if counts else earlier,
            spread_by=str(key),
            owed=set(flight.askers),
            woken_at=before.woken_at if before else 0.0,
        )
        self._failures[key] = failure
        self._note(key, error.problem, started_at)
        retry = failure.retry_at(coverage)
        self._log.warning(
            "token not minted",
            identity=key.identity,
            reason=error.problem.reason,
            detail=error.detail,
            namespace=asker.namespace,
            name=asker.name,
            attempt=failure.attempt(coverage),
            retry_in_seconds=None if retry is None else round(retry - now, 1),
        )

    def _note(self, key: MintKey, problem: Problem | None, started_at: float) -> None:
        now = self._now()
        self._metrics.minted(self._name, problem, now - started_at)
        if self.circuit.note(key, problem, now) or (problem is None and self._stranded):
            self._wake_the_stranded(now)

    def _wake_the_stranded(self, now: float) -> None:
        """The issuer answers again: try at once what waits because of it, those longest without a token first."""
        if _loop_time() < self._looked_at + 1.0:
            return
        self._looked_at = _loop_time()
        waiting = sorted(self._stranded.items(), key=lambda each: each[1][1].ends_at)
        for asker, (key, _) in waiting:
            failure = self._failures.get(key)
            if failure is not None and failure.woken_at <= failure.failed_at:
                if now - failure.woken_at < _WOKEN_EVERY_SECONDS:
                    continue  # it fails while others succeed, and comes at its own time
                self._failures[key] = replace(failure, woken_at=now)
            del self._stranded[asker]
            self._wake(asker)


def _counts(before: _Failure, started_at: float, coverage: Coverage) -> bool:
    """Whether a failure is the next in a row: one that was tried early, say as a token comes to its end, is not."""
    due_at = before.retry_at(replace(coverage, valid_until=None))
    return due_at is None or started_at >= due_at


def _loop_time() -> float:
    return asyncio.get_running_loop().time()
