"""Mint once: flights, memory of tokens and failures, rate, circuit. In virtual time, with a provider in memory."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import LogCapture

from controller.core.errors import MintError, Problem
from controller.core.model import Key, Ref, Token
from controller.core.schedule import Coverage
from controller.engine.circuit import Circuit
from controller.engine.minter import Failed, InFlight, Minter, MintKey
from controller.observe.metrics import Metrics
from tests.unit import fakes
from tests.unit.fakes import HOUR, NOW
from tests.unit.virtual_time import Clock

Outcome = Token | Failed | InFlight
MINT_SECONDS = 3600.0
KEY = MintKey("chainguard", "an-identity", None, ())


def key(identity: object) -> MintKey:
    return MintKey("chainguard", str(identity), None, ())


class FakeProvider:
    """A token issuer. `answer` decides; every token says how many were minted before it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.takes_seconds = 0.1
        self.lifetime_seconds = HOUR
        self.error: BaseException | None = None
        self.requests: list[tuple[float, str, tuple[str, ...]]] = []
        self.at_once = 0
        self.most_at_once = 0

    async def check_proof(self) -> None:
        """As Provider."""

    async def mint(self, identity: str, hosts: tuple[str, ...]) -> Token:
        """As Provider."""
        asked_at = self.clock()
        self.requests.append((asked_at - NOW, identity, hosts))
        number = len(self.requests)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(self.takes_seconds)
        finally:
            self.at_once -= 1
        if self.error is not None:
            raise self.error
        issued_at = int(asked_at)
        return Token(
            provider="chainguard",
            username="_token",
            password=f"token-{number}",
            issued_at=issued_at,
            expires_at=issued_at + int(self.lifetime_seconds),
        )

    @property
    def starts(self) -> list[float]:
        return [at for at, _, _ in self.requests]


class World:
    """A minter, its provider and who was woken."""

    def __init__(self, clock: Clock, group: asyncio.TaskGroup, *, rate: float = 20.0, concurrency: int = 16) -> None:
        self.clock = clock
        self.provider = FakeProvider(clock)
        self.woken: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}
        self.metrics: Metrics = fakes.metrics("chainguard")
        log, self.log = fakes.capturing_log()
        self.minter = Minter(
            "chainguard",
            self.provider,
            proven_by=lambda _tenant, _askers: self.provider,
            group=group,
            now=clock,
            wake=self._wake,
            mints_per_second=rate,
            mint_seconds=MINT_SECONDS,
            concurrency=concurrency,
            mints_per_minute=None,
            shares_token=False,
            metrics=self.metrics,
            log=log,
        )

    def ask_now(
        self,
        mint_key: MintKey = KEY,
        *,
        asker: str = "a",
        not_before: float = 0.0,
        valid_until: float | None = None,
        missing_since: float | None = None,
        heals: bool = False,
    ) -> Outcome:
        return self.minter.ask(
            mint_key,
            asker=Key("team", asker, ""),
            coverage=Coverage(valid_until, missing_since),
            due_at=self.clock(),
            not_before=not_before,
            heals=heals,
        )

    async def ask(self, mint_key: MintKey = KEY, *, asker: str = "a", **more: Any) -> Outcome:
        """Ask, and again whenever the flight that was waited for has ended."""
        while (outcome := self.ask_now(mint_key, asker=asker, **more)) == InFlight():
            ended = self._ends.setdefault(asker, asyncio.Event())
            ended.clear()
            await ended.wait()
        return outcome

    def _wake(self, key: Key) -> None:
        self.woken.append(key.name)
        if key.name in self._ends:
            self._ends[key.name].set()

    def mints(self, result: str) -> float:
        value = self.metrics.registry.get_sample_value(
            "pull_secret_updater_mints_total", {"provider": "chainguard", "result": result}
        )
        assert value is not None
        return value


MakeWorld = Callable[..., Awaitable[World]]


@asynccontextmanager
async def a_world(clock: Clock, *, rate: float = 20.0, concurrency: int = 16) -> AsyncIterator[World]:
    async with asyncio.TaskGroup() as group:
        world = World(clock, group, rate=rate, concurrency=concurrency)
        yield world
        world.minter.close()


@pytest.fixture
async def world(clock: Clock) -> AsyncIterator[World]:
    """With the limits that are the default."""
    # Not an `async with` around the yield: a task group belongs to one task, and fixtures may be torn down in another.
    made: asyncio.Future[World] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def live() -> None:
        async with a_world(clock) as inner:
            made.set_result(inner)
            await over.wait()

    task = asyncio.create_task(live())
    yield await made
    over.set()
    await task


def fails(problem: Problem = Problem.MINT_REFUSED, *, retry_after: float | None = None) -> MintError:
    return MintError(problem, "HTTP 403", retry_after_seconds=retry_after)


def password(outcome: Outcome) -> str:
    assert isinstance(outcome, Token)
    return outcome.password


def retry_in(outcome: Outcome, clock: Clock) -> float:
    assert isinstance(outcome, Failed)
    assert outcome.retry_at is not None
    return outcome.retry_at - clock()


# One flight.


async def test_who_asks_is_woken_when_the_token_is_there(world: World) -> None:
    assert world.ask_now() == InFlight()
    await asyncio.sleep(0.2)
    assert world.woken == ["a"]
    assert password(world.ask_now()) == "token-1"
    assert world.mints("Minted") == 1


async def test_the_identity_and_the_hosts_are_handed_to_the_provider(world: World) -> None:
    await world.ask(MintKey("chainguard", "me", None, ("a.example", "b.example")))
    assert world.provider.requests == [(0.0, "me", ("a.example", "b.example"))]


@pytest.mark.parametrize("others", [0, 1, 2, 1000])
async def test_who_asks_meanwhile_is_told_so_at_once_and_woken_at_the_end(
    world: World, clock: Clock, others: int
) -> None:
    first = asyncio.create_task(world.ask(asker="first"))
    await asyncio.sleep(0.05)
    names = [f"other-{number}" for number in range(others)]
    assert [world.ask_now(asker=name) for name in names] == [InFlight()] * others
    assert clock() == NOW + 0.05
    assert world.woken == []
    await first
    assert sorted(world.woken) == sorted([*names, "first"])
    assert len(world.provider.requests) == 1
    assert [password(await world.ask(asker=name)) for name in names] == ["token-1"] * others


async def test_who_asks_twice_meanwhile_is_woken_once(world: World) -> None:
    first = asyncio.create_task(world.ask())
    await asyncio.sleep(0.05)
    world.ask_now(asker="b")
    world.ask_now(asker="b")
    await first
    assert sorted(world.woken) == ["a", "b"]


async def test_a_failure_wakes_who_waits_and_is_their_answer(world: World) -> None:
    world.provider.error = fails()
    first = asyncio.create_task(world.ask())
    await asyncio.sleep(0.05)
    assert world.ask_now(asker="b") == InFlight()
    failed = await first
    assert sorted(world.woken) == ["a", "b"]
    assert await world.ask(asker="b") == failed
    assert len(world.provider.requests) == 1


async def test_an_asker_that_is_cancelled_never_cancels_the_flight(world: World) -> None:
    first = asyncio.create_task(world.ask())
    await asyncio.sleep(0.05)
    assert world.ask_now(asker="b") == InFlight()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await asyncio.sleep(0.1)
    assert sorted(world.woken) == ["a", "b"]
    assert password(await world.ask(asker="b")) == "token-1"
    assert len(world.provider.requests) == 1


async def test_different_keys_fly_at_the_same_time(world: World, clock: Clock) -> None:
    outcomes = await asyncio.gather(
        *(
            world.ask(MintKey("chainguard", i, s, h), asker=f"{i}{s}{h}")
            for i in "ab"
            for s in (None, Ref("ns", "sa"))
            for h in ((), ("x",))
        )
    )
    assert len({password(outcome) for outcome in outcomes}) == 8
    assert clock() == NOW + 0.1


# Tokens are handed out again.


async def test_a_token_younger_than_a_fifth_of_its_life_is_handed_out_again(world: World) -> None:
    await world.ask()
    await asyncio.sleep(HOUR / 5 - 0.2)
    assert password(await world.ask(asker="b")) == "token-1"
    await asyncio.sleep(0.2)
    assert password(await world.ask(asker="b")) == "token-2"


async def test_the_fifth_counts_from_before_the_request(world: World) -> None:
    world.provider.takes_seconds = 9.0
    world.provider.lifetime_seconds = 50
    await world.ask()
    await asyncio.sleep(0.5)
    assert password(await world.ask()) == "token-1"
    await asyncio.sleep(0.6)
    assert password(await world.ask()) == "token-2"


async def test_a_request_for_a_new_token_accepts_none_from_before_it(world: World, clock: Clock) -> None:
    await world.ask()
    await asyncio.sleep(1)
    requested_at = clock()
    assert password(await world.ask(not_before=requested_at)) == "token-2"
    assert password(await world.ask(not_before=requested_at)) == "token-2"
    assert password(await world.ask()) == "token-2"


async def test_a_flight_that_began_before_the_request_is_waited_for_and_then_not_accepted(
    world: World, clock: Clock
) -> None:
    first = asyncio.create_task(world.ask())
    await asyncio.sleep(0.05)
    requested_at = clock()
    assert world.ask_now(asker="b", not_before=requested_at) == InFlight()
    await first
    assert sorted(world.woken) == ["a", "b"]
    assert password(await world.ask(asker="b", not_before=requested_at)) == "token-2"


async def test_after_the_clock_was_set_back_no_token_of_the_future_is_handed_out(world: World, clock: Clock) -> None:
    """Its issued-at would make it due at every look, and the same token would be written again and again."""
    await world.ask()
    clock.step(-HOUR)
    assert password(await world.ask()) == "token-2"


# Failures are remembered.


async def test_a_thousand_asks_of_a_bad_identity_cost_one_request_a_step(world: World, clock: Clock) -> None:
    world.provider.error = fails(Problem.IDENTITY_UNKNOWN)
    for number, longest in enumerate((30, 60, 120, 240, 480, 900, 900), start=1):
        outcomes = [await world.ask(asker=str(asker)) for asker in range(1000)]
        assert len(world.provider.requests) == number
        assert len(set(outcomes)) == 1
        step = retry_in(outcomes[0], clock)
        assert longest / 2 - 1 <= step <= longest
        await asyncio.sleep(step - 0.01)
        assert await world.ask() == outcomes[0]
        assert len(world.provider.requests) == number
        await asyncio.sleep(0.01)
    assert world.mints("IdentityUnknown") == 7


async def test_a_failure_that_passes_is_tried_again_within_a_second_and_at_most_a_minute_apart(
    world: World, clock: Clock
) -> None:
    world.provider.error = fails(Problem.ISSUER_THROTTLES)
    steps = []
    for _ in range(9):
        steps.append(retry_in(await world.ask(), clock))
        await asyncio.sleep(steps[-1])
    for step, longest in zip(steps, (1, 2, 4, 8, 16, 32, 60, 60, 60), strict=True):
        assert longest / 2 <= step <= longest


async def test_a_success_ends_the_row_of_failures(world: World, clock: Clock) -> None:
    world.provider.error = fails(Problem.ISSUER_THROTTLES)
    for _ in range(6):
        await asyncio.sleep(retry_in(await world.ask(), clock))
    world.provider.error = None
    assert password(await world.ask()) == "token-7"
    world.provider.error = fails(Problem.ISSUER_THROTTLES)
    assert retry_in(await world.ask(not_before=clock()), clock) <= 1


async def test_retry_after_wins_up_to_five_minutes(world: World, clock: Clock) -> None:
    world.provider.error = fails(Problem.ISSUER_THROTTLES, retry_after=7)
    assert retry_in(await world.ask(), clock) == pytest.approx(7)
    assert retry_in(await world.ask(valid_until=clock() + 8), clock) == pytest.approx(7)
    await asyncio.sleep(7)
    world.provider.error = fails(Problem.ISSUER_THROTTLES, retry_after=86400)
    assert retry_in(await world.ask(), clock) == pytest.approx(300)


async def test_who_has_little_of_a_token_left_is_told_to_come_back_sooner(world: World, clock: Clock) -> None:
    world.provider.error = fails()
    patient = retry_in(await world.ask(), clock)
    assert patient >= 15
    assert retry_in(await world.ask(valid_until=clock() + 80), clock) == pytest.approx(10, abs=0.1)
    assert retry_in(await world.ask(valid_until=clock() + 4), clock) == pytest.approx(1)
    assert retry_in(await world.ask(missing_since=clock() - 4), clock) == pytest.approx(patient)
    assert len(world.provider.requests) == 1


async def test_a_requested_refresh_asks_at_once_although_a_failure_is_remembered(world: World, clock: Clock) -> None:
    world.provider.error = fails()
    await world.ask()
    await asyncio.sleep(1)
    requested_at = clock()
    assert isinstance(await world.ask(not_before=requested_at), Failed)
    assert len(world.provider.requests) == 2
    assert isinstance(await world.ask(not_before=requested_at), Failed)
    assert len(world.provider.requests) == 2


async def test_a_failure_of_one_identity_is_not_another_ones(world: World) -> None:
    world.provider.error = fails()
    assert isinstance(await world.ask(key(1)), Failed)
    world.provider.error = None
    assert isinstance(await world.ask(key(2)), Token)


async def test_those_who_failed_at_the_same_moment_are_not_tried_again_at_the_same_moment(world: World) -> None:
    world.provider.error = MintError(Problem.MINT_REFUSED, "HTTP 403")
    outcomes = await asyncio.gather(*(world.ask(key(number), asker=str(number)) for number in range(10)))
    retries = {outcome.retry_at for outcome in outcomes if isinstance(outcome, Failed)}
    assert len(retries) == 10
    assert max(filter(None, retries)) - min(filter(None, retries)) > 5


async def test_one_failing_identity_never_delays_another(world: World, clock: Clock) -> None:
    world.provider.takes_seconds = 10.0
    hanging = asyncio.create_task(world.ask(key("hangs"), asker="b"))
    await asyncio.sleep(0.01)
    world.provider.takes_seconds = 0.1
    before = clock()
    assert isinstance(await world.ask(key("healthy")), Token)
    assert clock() == pytest.approx(before + 0.1)
    await hanging


async def test_after_the_clock_was_set_back_a_failure_holds_nobody_longer_than_its_step(
    world: World, clock: Clock
) -> None:
    world.provider.error = fails(Problem.ISSUER_THROTTLES)
    await world.ask()
    clock.step(-HOUR)
    assert retry_in(await world.ask(), clock) <= 60


# Unexpected errors.


async def test_an_unexpected_exception_is_logged_once_by_place_and_without_its_words(world: World) -> None:
    world.provider.error = RuntimeError("a-secret-canary")
    outcomes = [await world.ask() for _ in range(3)]
    assert all(isinstance(outcome, Failed) and outcome.rejection.problem is Problem.UNEXPECTED for outcome in outcomes)
    entries = errors(world.log)
    assert len(entries) == 1
    assert "canary" not in repr(world.log.entries)
    assert entries[0]["error"][0].startswith("RuntimeError at test_minter.py:")
    assert world.mints("Unexpected") == 1


async def test_after_an_unexpected_exception_the_next_attempt_is_free_to_succeed(world: World, clock: Clock) -> None:
    world.provider.error = ZeroDivisionError()
    step = retry_in(await world.ask(), clock)
    assert 15 <= step <= 300
    world.provider.error = None
    await asyncio.sleep(step)
    assert isinstance(await world.ask(), Token)


def errors(log: LogCapture) -> list[dict[str, Any]]:
    return [dict(entry) for entry in log.entries if entry["log_level"] == "error"]


async def test_no_token_and_no_answer_is_ever_in_the_log(world: World) -> None:
    await world.ask()
    world.provider.error = fails()
    await world.ask(key(2))
    assert "token-1" not in repr(world.log.entries)
    assert [entry["event"] for entry in world.log.entries] == ["token minted", "token not minted"]


# Limits.


@pytest.mark.parametrize("identities", [1, 2, 40])
async def test_a_burst_of_forty_starts_at_once(clock: Clock, identities: int) -> None:
    async with a_world(clock, concurrency=1000) as world:
        await asyncio.gather(*(world.ask(key(number), asker=str(number)) for number in range(identities)))
        assert world.provider.starts == [0.0] * identities


async def test_after_the_burst_twenty_a_second_start_and_never_more(clock: Clock) -> None:
    async with a_world(clock, concurrency=1000) as world:
        await asyncio.gather(*(world.ask(key(number), asker=str(number)) for number in range(140)))
        starts = world.provider.starts
        assert len(starts) == 140
        assert sum(1 for at in starts if at < 0.01) == 40
        assert starts[-1] == pytest.approx(5.0, abs=0.06)
        for at in starts:
            assert sum(1 for other in starts if at < other <= at + 1.0) <= 21


async def test_at_rest_the_burst_fills_up_again_and_not_beyond(clock: Clock) -> None:
    async with a_world(clock, concurrency=1000) as world:
        await asyncio.gather(*(world.ask(key(number), asker=str(number)) for number in range(40)))
        await asyncio.sleep(HOUR)
        began = clock() - NOW
        await asyncio.gather(*(world.ask(key(f"later-{number}"), asker=str(number)) for number in range(60)))
        assert sum(1 for at in world.provider.starts if began <= at < began + 0.01) == 40


async def test_a_clock_that_is_set_back_stops_no_mint(world: World, clock: Clock) -> None:
    await world.ask(key(1))
    clock.step(-HOUR)
    async with asyncio.timeout(5):
        assert isinstance(await world.ask(key(2)), Token)


@pytest.mark.parametrize("concurrency", [1, 2, 16])
async def test_no_more_than_the_configured_number_are_under_way_at_once(clock: Clock, concurrency: int) -> None:
    async with a_world(clock, rate=1000.0, concurrency=concurrency) as world:
        world.provider.takes_seconds = 1.0
        await asyncio.gather(*(world.ask(key(number), asker=str(number)) for number in range(2 * concurrency)))
        assert world.provider.most_at_once == concurrency
        assert clock() == pytest.approx(NOW + 2.0, abs=0.1)


async def test_a_mint_that_never_ends_is_given_up_and_is_the_issuers_fault(world: World, clock: Clock) -> None:
    world.provider.takes_seconds = 10 * MINT_SECONDS
    outcome = await world.ask()
    assert isinstance(outcome, Failed)
    assert outcome.rejection.problem is Problem.ISSUER_UNAVAILABLE
    assert clock() == NOW + MINT_SECONDS
    assert world.provider.at_once == 0


# The circuit.


async def fail_times(world: World, problem: Problem, times: int) -> None:
    world.provider.error = fails(problem)
    for number in range(times):
        await world.ask(key(f"{problem.reason}-{number}"))


@pytest.mark.parametrize("problem", [problem for problem in Problem if problem.providers_fault])
async def test_twenty_faults_of_the_provider_in_a_row_open_the_circuit(world: World, problem: Problem) -> None:
    await fail_times(world, problem, 19)
    assert not world.minter.circuit.is_open
    assert isinstance(await world.ask(key(f"{problem.reason}-18")), Failed)
    assert not world.minter.circuit.is_open, "a failure that is only remembered is no further one"
    await world.ask(key("the twentieth"))
    assert world.minter.circuit.is_open


async def test_the_providers_own_faults_are_those_of_the_design() -> None:
    assert {problem for problem in Problem if problem.providers_fault} == {
        Problem.ISSUER_UNAVAILABLE,
        Problem.ISSUER_MALFORMED,
    }


@pytest.mark.parametrize(
    "problem",
    [Problem.MINT_REFUSED, Problem.IDENTITY_UNKNOWN, Problem.REQUEST_REFUSED, Problem.ISSUER_THROTTLES],
)
async def test_a_thousand_refusals_never_open_the_circuit(world: World, problem: Problem) -> None:
    await fail_times(world, problem, 1000)
    assert len(world.provider.requests) == 1000
    assert not world.minter.circuit.is_open


async def test_one_identity_that_fails_for_hours_opens_no_circuit_for_the_others(world: World) -> None:
    world.provider.error = fails(Problem.ISSUER_UNAVAILABLE)
    for _ in range(120):
        await world.ask(key(1))
        await asyncio.sleep(60)
    assert not world.minter.circuit.is_open


async def test_one_success_or_refusal_between_them_keeps_the_circuit_closed(world: World) -> None:
    for number in range(5):
        for other in range(19):
            world.provider.error = fails(Problem.ISSUER_UNAVAILABLE)
            await world.ask(key(f"{number}-{other}"))
        world.provider.error = None if number % 2 else fails(Problem.MINT_REFUSED)
        await world.ask(key(f"answered-{number}"))
    assert not world.minter.circuit.is_open


def test_one_identity_that_goes_on_failing_opens_no_circuit_since_others_failed_long_ago() -> None:
    circuit = Circuit("chainguard")
    for name in "abc":
        circuit.note(name, Problem.ISSUER_UNAVAILABLE, NOW)
    circuit.note("a", None, NOW)
    for _ in range(100):
        circuit.note("b", Problem.ISSUER_UNAVAILABLE, NOW)
    assert not circuit.is_open


@pytest.mark.parametrize(("identities", "opens"), [(1, False), (2, False), (3, True), (20, True)])
def test_three_identities_have_to_fail_for_a_circuit_to_open(identities: int, opens: bool) -> None:
    circuit = Circuit("chainguard")
    for number in range(20):
        circuit.note(number % identities, Problem.ISSUER_UNAVAILABLE, NOW)
    assert circuit.is_open is opens


@pytest.mark.parametrize(
    "problem",
    [
        *(Problem.PROOF_MISSING, Problem.PROOF_UNFIT, Problem.CA_FILE_UNFIT, Problem.UNEXPECTED),
        *(Problem.SERVICE_ACCOUNT_MISSING, Problem.TOKEN_REQUEST_REFUSED, Problem.TOKEN_REQUEST_FAILS),
    ],
)
async def test_an_error_of_our_own_says_nothing_about_the_provider(world: World, problem: Problem) -> None:
    """No request was made or no answer came, so it must not end the row of the provider's faults."""
    await fail_times(world, Problem.ISSUER_UNAVAILABLE, 19)
    await fail_times(world, problem, 1)
    world.provider.error = fails(Problem.ISSUER_UNAVAILABLE)
    await world.ask(key("the twentieth"))
    assert world.minter.circuit.is_open


async def open_circuit(world: World) -> float:
    """Open it; the seconds until its first probe."""
    await fail_times(world, Problem.ISSUER_UNAVAILABLE, 20)
    assert world.minter.circuit.is_open
    return world.minter.circuit.probe_at(urgent=False) - world.clock()


async def test_an_open_circuit_asks_once_for_each_new_identity_and_for_failing_ones_not_at_all(world: World) -> None:
    await open_circuit(world)
    asked = len(world.provider.requests)
    for number in range(1000):
        assert isinstance(await world.ask(key(f"new-{number % 10}")), Failed)
        assert isinstance(await world.ask(key("IssuerUnavailable-7")), Failed)
    assert len(world.provider.requests) == asked + 10


async def test_an_open_circuit_still_hands_out_the_tokens_that_are_there(world: World) -> None:
    await world.ask(key("before"))
    await open_circuit(world)
    assert isinstance(await world.ask(key("before")), Token)


async def test_one_probe_goes_out_and_who_comes_next_waits_for_the_next(world: World) -> None:
    await asyncio.sleep(max(await open_circuit(world), 61))
    asked = len(world.provider.requests)
    failing = [key(f"IssuerUnavailable-{number}") for number in range(20)]
    outcomes = await asyncio.gather(*(world.ask(each, asker=each.identity) for each in failing))
    assert len(world.provider.requests) == asked + 1
    assert all(isinstance(outcome, Failed) for outcome in outcomes)
    assert world.minter.circuit.is_open


@pytest.mark.parametrize(("urgent", "least", "most"), [(False, 10, 30), (True, 5, 10)])
def test_a_probe_that_fails_waits_ten_to_thirty_seconds_again_or_five_to_ten_while_a_token_is_missing(
    urgent: bool, least: float, most: float
) -> None:
    circuit = Circuit("chainguard")
    for number in range(20):
        circuit.note(number, Problem.ISSUER_UNAVAILABLE, NOW)
    probes: list[float] = [NOW]
    for tenth in range(20_000):
        now = NOW + tenth / 10
        if circuit.admits(now, urgent=urgent):
            probes.append(now)
            circuit.note(0, Problem.ISSUER_UNAVAILABLE, now)
    gaps = [later - earlier for earlier, later in itertools.pairwise(probes)]
    assert all(least <= gap <= most + 0.2 for gap in gaps)
    assert len(gaps) >= 2000 / most - 1
    assert len({round(gap, 1) for gap in gaps}) > 10, "not spread"


async def test_a_probe_that_succeeds_closes_the_circuit(world: World) -> None:
    await asyncio.sleep(await open_circuit(world))
    world.provider.error = None
    assert isinstance(await world.ask(key("probe")), Token)
    assert not world.minter.circuit.is_open
    assert isinstance(await world.ask(key("another")), Token)


async def test_a_probe_that_is_refused_closes_the_circuit_since_the_provider_answers(world: World) -> None:
    await asyncio.sleep(await open_circuit(world))
    world.provider.error = fails(Problem.MINT_REFUSED)
    await world.ask(key("probe"))
    assert not world.minter.circuit.is_open


def test_a_clock_that_is_set_back_keeps_no_circuit_open() -> None:
    circuit = Circuit("chainguard")
    for number in range(20):
        circuit.note(number, Problem.ISSUER_UNAVAILABLE, NOW)
    assert not circuit.admits(NOW + 1, urgent=False)
    assert circuit.admits(NOW - HOUR, urgent=False)


# The end.


async def test_closing_gives_up_the_flights_in_the_air(clock: Clock) -> None:
    async with asyncio.TaskGroup() as group:
        world = World(clock, group)
        world.provider.takes_seconds = HOUR
        asker = asyncio.create_task(world.ask())
        await asyncio.sleep(1)
        world.minter.close()
        asker.cancel()
    assert clock() == NOW + 1
    assert world.provider.at_once == 0


async def test_an_hour_of_minting_leaves_no_flight_behind(world: World) -> None:
    for number in range(100):
        world.provider.error = fails() if number % 3 == 0 else None
        await world.ask(key(number))
        await asyncio.sleep(36)
    assert world.minter._flights == {}
