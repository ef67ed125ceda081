"""Mint once: one flight per mint key, its token and its failure remembered under the same key.

However many Secrets ask for the same credential, one request is made; who asks while it is under way is told so and
gives its worker back, and the end of the flight wakes everyone who asked. Who asks before a failure may be tried again
gets that failure without a request. There is one Minter per provider, so that nothing here is shared between issuers.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Protocol, TypeVar

import cachetools
from structlog.typing import FilteringBoundLogger

from controller.core.annotations import render_instant
from controller.core.errors import MintError, Problem
from controller.core.model import Token
from controller.core.schedule import fraction, retry_at
from controller.telemetry import Telemetry, where

REUSE_SHARE = 1 / 5
"""A token younger than this share of its life is handed out again."""

REMEMBERED = 10_000
"""Tokens, and failures, that are remembered at most; past that the longest unused is forgotten and minted anew."""

_FAILURE_KEPT_SECONDS = 1800.0
_OUR_OWN = frozenset({Problem.PROOF_MISSING, Problem.PROOF_UNFIT, Problem.CA_FILE_UNFIT, Problem.UNEXPECTED})
_CIRCUIT_FAILURES = 20
_CIRCUIT_KEYS = 3
_CIRCUIT_PROBE_SECONDS = (10.0, 30.0)
_BURST_SECONDS = 2.0
"""The rate limit lets this many seconds' worth of mints through at once."""


class MintKey(NamedTuple):
    """What makes two requests for a token the same request."""

    provider: str
    identity: str
    proven_by: str | None
    """Namespace and name of a ServiceAccount; None for the provider's own proof. Never the bytes of a token."""
    hosts: tuple[str, ...]
    """Empty where one credential of the provider serves all its hosts."""


class MintsTokens(Protocol):
    """The part of a provider that the minter uses."""

    async def mint(self, identity: str, hosts: tuple[str, ...]) -> Token:
        """Get a new token. Raises MintError."""
        ...


@dataclass(frozen=True, slots=True)
class Failed:
    """No token before `retry_at`; None where only a change of the input helps."""

    problem: Problem
    retry_at: float | None


@dataclass(frozen=True, slots=True)
class InFlight:
    """Somebody else's request is under way; whoever asked is woken at its end."""


@dataclass(frozen=True, slots=True)
class _Failure:
    error: MintError
    started_at: float
    failed_at: float
    attempt: int
    spread_by: str

    @property
    def forgotten_at(self) -> float:
        return self.failed_at + _FAILURE_KEPT_SECONDS

    def retry_at(self, valid_until: float | None) -> float | None:
        return retry_at(
            failed_at=self.failed_at,
            attempt=self.attempt,
            pace=self.error.problem.pace,
            spread_by=self.spread_by,
            valid_until=valid_until,
            retry_after_seconds=self.error.retry_after_seconds,
        )


A = TypeVar("A", bound=Hashable)


@dataclass(slots=True)
class _Flight(Generic[A]):
    task: asyncio.Task[Token | Failed]
    waiting: set[A] = field(default_factory=set)


class Circuit:
    """Stops asking a provider that fails for everyone: opens after 20 failures in a row that are the provider's own.

    They have to be of three mint keys: one that fails alone is bounded by its own back-off, and holds up nobody else.

    While it is open one flight probes every 10 to 30 s; any answer of the provider closes it, a refusal too.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._failures = 0
        self._failing: set[Hashable] = set()
        """Of the keys that failed since the last success a few: one alone may be at fault itself."""
        self.probe_at: float | None = None

    @property
    def is_open(self) -> bool:
        """The provider is only probed."""
        return self.probe_at is not None

    def admits(self, now: float) -> bool:
        """Whether a request may start now. One that may, while open, is the probe: the next waits its turn."""
        if self.probe_at is None:
            return True
        if now < self.probe_at <= now + _CIRCUIT_PROBE_SECONDS[1]:  # further ahead: the clock was set back
            return False
        self.probe_at = self._next_probe(now)
        return True

    def note(self, key: Hashable, problem: Problem | None, now: float) -> None:
        """Count an outcome; None is a success. What went wrong on our side says nothing about the provider."""
        if problem in _OUR_OWN:
            return
        if problem is None or not problem.providers_fault:
            self._failures, self.probe_at = 0, None
            self._failing.clear()
            return
        self._failures += 1
        if len(self._failing) < _CIRCUIT_KEYS:
            self._failing.add(key)
        if self._failures >= _CIRCUIT_FAILURES and len(self._failing) >= _CIRCUIT_KEYS:
            self.probe_at = self._next_probe(now)

    def _next_probe(self, now: float) -> float:
        low, high = _CIRCUIT_PROBE_SECONDS
        return now + low + (high - low) * fraction(self._name, int(now))


class Minter(Generic[A]):
    """Mints for one provider. `wake` is called with everyone who was told `InFlight`, at that flight's end."""

    def __init__(
        self,
        name: str,
        provider: MintsTokens,
        *,
        group: asyncio.TaskGroup,
        now: Callable[[], float],
        wake: Callable[[A], None],
        mints_per_second: float,
        mint_seconds: float,
        concurrency: int,
        telemetry: Telemetry,
        log: FilteringBoundLogger,
    ) -> None:
        self._name = name
        self._provider = provider
        self._group = group
        self._now = now
        self._wake = wake
        self._slots = asyncio.Semaphore(concurrency)
        self._rate = _Rate(mints_per_second)
        self._mint_seconds = mint_seconds
        self._telemetry = telemetry
        self._log = log.bind(provider=name)
        self._flights: dict[MintKey, _Flight[A]] = {}
        # An entry leaves by itself when the token is too old to be handed out again.
        self._tokens: cachetools.TLRUCache[MintKey, _Minted] = cachetools.TLRUCache(
            REMEMBERED, ttu=lambda _key, minted, _now: minted.reusable_until, timer=now
        )
        # An entry outlives its retry_at, so that the next failure is known to be the next.
        self._failures: cachetools.TLRUCache[MintKey, _Failure] = cachetools.TLRUCache(
            REMEMBERED, ttu=lambda _key, failure, _now: failure.forgotten_at, timer=now
        )
        self.circuit = Circuit(name)

    async def mint(
        self,
        key: MintKey,
        *,
        asker: A,
        not_before: float = 0.0,
        asked_at: float = 0.0,
        valid_until: float | None = None,
    ) -> Token | Failed | InFlight:
        """A token whose request began at `not_before` or later, or why there is none.

        A failure of a request that began before `asked_at` does not count: somebody asks to try again. `valid_until` is
        the end of the token that the asker has; it shortens the back-off as that end comes near.
        """
        now = self._now()
        # What is remembered from later than now is from before the clock was set back, and its age isn't known.
        minted = self._tokens.get(key)
        if minted is not None and not_before <= minted.started_at <= now:
            return minted.token
        failure = self._failures.get(key)
        if failure is not None and max(not_before, asked_at) <= failure.started_at <= now:
            retry = failure.retry_at(valid_until)
            if retry is None or now < retry:
                return Failed(failure.error.problem, retry)
        flight = self._flights.get(key)
        if flight is not None:
            flight.waiting.add(asker)
            return InFlight()
        if not self.circuit.admits(now):
            return Failed(Problem.ISSUER_UNAVAILABLE, self.circuit.probe_at)
        flight = _Flight(self._group.create_task(self._fly(key, valid_until), name=f"mint {self._name}"))
        self._flights[key] = flight
        # The flight belongs to the minter: an asker that is cancelled leaves it in the air for the others.
        return await asyncio.shield(flight.task)

    def close(self) -> None:
        """Give up the flights that are in the air: their tokens have nowhere to go any more."""
        for flight in self._flights.values():
            flight.task.cancel()

    async def _fly(self, key: MintKey, valid_until: float | None) -> Token | Failed:
        try:
            async with self._slots:
                await asyncio.sleep(self._rate.reserve(asyncio.get_running_loop().time()))
                return await self._request(key, valid_until)
        finally:
            for asker in self._flights.pop(key).waiting:
                self._wake(asker)

    async def _request(self, key: MintKey, valid_until: float | None) -> Token | Failed:
        started_at = self._now()
        try:
            async with asyncio.timeout(self._mint_seconds):
                token = await self._provider.mint(key.identity, key.hosts)
        except MintError as error:
            return self._failed(key, error, started_at, valid_until)
        except TimeoutError:
            late = MintError(Problem.ISSUER_UNAVAILABLE, f"no token within {self._mint_seconds:g} s")
            return self._failed(key, late, started_at, valid_until)
        except Exception as error:
            self._log.error("minting failed in a way that the provider doesn't know", error=where(error))
            return self._failed(key, MintError(Problem.UNEXPECTED, type(error).__name__), started_at, valid_until)
        self.circuit.note(key, None, self._now())
        self._failures.pop(key, None)
        self._tokens[key] = _Minted(token, started_at)
        self._telemetry.minted(self._name, None, self._now() - started_at)
        self._log.info("token minted", identity=key.identity, expires_at=render_instant(token.expires_at))
        return token

    def _failed(self, key: MintKey, error: MintError, started_at: float, valid_until: float | None) -> Failed:
        now = self._now()
        before = self._failures.get(key)
        attempt = before.attempt + 1 if before else 1
        failure = _Failure(error, started_at, failed_at=now, attempt=attempt, spread_by=str(key))
        self._failures[key] = failure
        self.circuit.note(key, error.problem, now)
        self._telemetry.minted(self._name, error.problem, now - started_at)
        retry = failure.retry_at(valid_until)
        self._log.warning(
            "token not minted",
            identity=key.identity,
            reason=error.problem.reason,
            detail=error.detail,
            attempt=failure.attempt,
            retry_in_seconds=None if retry is None else round(retry - now, 1),
        )
        return Failed(error.problem, retry)


@dataclass(frozen=True, slots=True)
class _Minted:
    token: Token
    started_at: float

    @property
    def reusable_until(self) -> float:
        return self.started_at + self.token.lifetime_seconds * REUSE_SHARE


class _Rate:
    """A limit on starts per second: a virtual schedule (GCRA), so that waiting needs no task of its own."""

    def __init__(self, per_second: float) -> None:
        self._interval_seconds = 1 / per_second
        self._taken_until = -math.inf

    def reserve(self, now: float) -> float:
        """Take the next place; how many seconds to wait for it."""
        self._taken_until = max(self._taken_until, now - _BURST_SECONDS) + self._interval_seconds
        return max(0.0, self._taken_until - now)
