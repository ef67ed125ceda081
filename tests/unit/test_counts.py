"""What the metrics say of all claims: how many, how many expired, for how long, and that none of it ever goes back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from controller.core.errors import Problem
from controller.core.fights import ContestedClaims
from controller.core.model import Key, ManagedSecret, Ref
from controller.core.policy import Policy
from controller.core.states import State
from controller.core.store import Store
from controller.observe.counts import StateCounter, StateCounts
from tests.unit.fakes import CHAINGUARD, HOUR, IDENTITY, NOW, SHAPES, WINDOW, annotated, entry, filled, managed
from tests.unit.virtual_time import Clock


class World:
    """A store and its counter; `put` and `remove` do what the dispatcher does."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.store = Store()
        self.versions = 100
        self.policy = Policy([CHAINGUARD], shapes=SHAPES, window=WINDOW)
        self.contested = ContestedClaims()
        self.counter = StateCounter(store=self.store, policy=self.policy, contested=self.contested, now=clock)

    def put(self, name: str = "a", **fields: Any) -> ManagedSecret:
        self.versions += 1
        secret = managed(**filled(name=name, resource_version=str(self.versions), **fields))
        self.put_version(secret)
        return secret

    def put_new(self, name: str = "a") -> None:
        self.versions += 1
        self.put_version(managed(annotated(identity="x"), name=name, resource_version=str(self.versions)))

    def remove(self, name: str = "a") -> None:
        self.versions += 1
        gone = self.store.drop(Ref("team-a", name), str(self.versions))
        assert gone is not None
        for view in gone.views():
            self.counter.removed(view.key)

    def take(self) -> StateCounts:
        return self.counter.count()

    def secrets(self) -> dict[str, tuple[float | None, bool]]:
        return {each.ref.name: (each.earliest_expiry, each.is_ready) for each in self.counter.secrets()}

    def put_version(self, secret: ManagedSecret) -> None:
        before = self.store.get(secret.ref)
        assert self.store.put(secret)
        now = self.clock()
        for view in secret.views():
            self.counter.placed(view, self.policy.decide(view, now, self.contested.standing(view, now)))
        for view in before.views() if before else ():
            if secret.view(view.claim.name) is None:
                self.counter.removed(view.key)


def counted(counts: StateCounts) -> dict[str, int]:
    """The states that any claim is in."""
    return {state.value: number for state, number in counts.states.items() if number}


@pytest.fixture
def world(clock: Clock) -> World:
    return World(clock)


def test_without_secrets_there_is_nothing_and_no_expiry(world: World) -> None:
    counts = world.take()
    assert (counted(counts), counts.expired_seconds, counts.earliest_expiry) == ({}, 0.0, None)


def test_claims_are_counted_and_not_secrets(world: World) -> None:
    world.put()
    both = annotated(identity="a", identity_other="b")
    world.put_version(managed(both, name="two"))
    assert counted(world.take()) == {"valid": 1, "refused": 2}


def test_a_claim_that_never_had_a_token_is_managed_and_not_expired(world: World, clock: Clock) -> None:
    world.put_new()
    clock.step(100 * HOUR)
    counts = world.take()
    assert (counted(counts), counts.expired_seconds, counts.earliest_expiry) == ({"refused": 1}, 0.0, None)


def test_the_earliest_expiry_is_that_of_all(world: World) -> None:
    world.put("a", expires_at=NOW + 50)
    world.put("b", expires_at=NOW + 40)
    world.put("c", expires_at=NOW + 60)
    assert world.take().earliest_expiry == NOW + 40


@pytest.mark.parametrize(("after", "expired"), [(HOUR - 1, 0), (HOUR, 1), (HOUR + 1, 1)])
def test_a_token_has_expired_at_its_expiry(world: World, clock: Clock, after: int, expired: int) -> None:
    world.put()
    clock.step(after)
    assert world.take().states[State.EXPIRED] == expired


def test_seconds_without_a_token_grow_while_it_lasts_and_stay_when_it_ends(world: World, clock: Clock) -> None:
    world.put(expires_at=NOW + 10)
    clock.step(15)
    assert world.take().expired_seconds == 5
    clock.step(5)
    assert world.take().expired_seconds == 10
    world.put(issued_at=NOW + 20, expires_at=NOW + HOUR)
    clock.step(100)
    counts = world.take()
    assert (counted(counts), counts.expired_seconds, counts.earliest_expiry) == ({"valid": 1}, 10.0, NOW + HOUR)


def test_seconds_of_several_claims_add_up(world: World, clock: Clock) -> None:
    world.put("a", expires_at=NOW + 10)
    world.put("b", expires_at=NOW + 12)
    clock.step(20)
    assert world.take().expired_seconds == 10 + 8


def test_a_refresh_in_time_costs_no_second(world: World, clock: Clock) -> None:
    world.put()
    clock.step(1800)
    world.put(issued_at=NOW + 1800, expires_at=NOW + 1800 + HOUR)
    clock.step(HOUR - 1)
    assert world.take().expired_seconds == 0


def test_a_change_that_leaves_the_token_counts_no_second_twice(world: World, clock: Clock) -> None:
    world.put(expires_at=NOW + 10)
    clock.step(15)
    world.put(expires_at=NOW + 10, overrides={"error": "x"})
    clock.step(5)
    assert world.take().expired_seconds == 10


@pytest.mark.parametrize("end", [World.remove, World.put_new], ids=["deleted", "wiped"])
def test_what_was_counted_stays_when_the_secret_goes(world: World, clock: Clock, end: Callable[[World], None]) -> None:
    world.put(expires_at=NOW + 10)
    clock.step(15)
    end(world)
    clock.step(100)
    assert world.take().expired_seconds == 5
    assert world.take().states[State.EXPIRED] == 0


def test_what_expired_before_the_start_counts_from_the_start(clock: Clock) -> None:
    clock.step(HOUR)
    world = World(clock)
    world.put(expires_at=NOW + 10)
    clock.step(7)
    assert world.take().expired_seconds == 7


@pytest.mark.parametrize("paused", ["true", "True", "", "yes"])
def test_a_paused_secret_is_managed_and_in_none_of_the_expiry_figures(clock: Clock, paused: str) -> None:
    world = World(clock)
    world.put(expires_at=NOW + 10, overrides={"paused": paused})
    clock.step(100)
    counts = world.take()
    assert (counted(counts), counts.expired_seconds, counts.earliest_expiry) == ({"paused": 1}, 0.0, None)
    assert world.secrets() == {}


def test_paused_false_is_not_paused(world: World, clock: Clock) -> None:
    world.put(expires_at=NOW + 10, overrides={"paused": "false"})
    clock.step(100)
    assert world.take().states[State.EXPIRED] == 1


def test_a_pause_ends_the_count_and_keeps_what_was_counted(world: World, clock: Clock) -> None:
    world.put(expires_at=NOW + 10)
    clock.step(15)
    world.put(expires_at=NOW + 10, overrides={"paused": "true"})
    clock.step(100)
    assert world.take().expired_seconds == 5


def test_neither_the_pause_nor_what_was_before_it_is_counted_after_it(world: World, clock: Clock) -> None:
    world.put(expires_at=NOW + 10)
    clock.step(15)
    world.put(expires_at=NOW + 10, overrides={"paused": "true"})
    clock.step(100)
    world.put(expires_at=NOW + 10)
    clock.step(1)
    assert world.take().expired_seconds == 6


def test_series_per_secret_are_there_when_they_are_wanted_and_go_with_the_secret(clock: Clock) -> None:
    world = World(clock)
    world.put("a", expires_at=NOW + 50)
    world.put("b", expires_at=NOW + 40)
    world.put_new("c")
    assert world.secrets() == {"a": (NOW + 50, True), "b": (NOW + 40, True), "c": (None, False)}
    world.remove("a")
    clock.step(40)
    assert world.secrets() == {"b": (NOW + 40, False), "c": (None, False)}


def test_the_total_never_goes_back(world: World, clock: Clock) -> None:
    highest = 0.0
    for number in range(200):
        name = f"secret-{number % 7}"
        issued_at = int(clock()) - number % 13
        match number % 5:
            case 3 if world.store.get(Ref("team-a", name)):
                world.remove(name)
            case 4:
                world.put_new(name)
            case _:
                world.put(name, issued_at=issued_at, expires_at=issued_at + 5 + number % 11)
        clock.step(number % 4)
        total = world.take().expired_seconds
        assert not math.isnan(total)
        assert total >= highest
        highest = total
    assert highest > 0


def test_who_was_paused_resumed_and_deleted_leaves_nothing_behind(world: World) -> None:
    """S9."""
    for number in range(200):
        name = f"never-filled-{number}"
        world.put_new(name)
        world.versions += 1
        paused = annotated(identity="x", paused="true")
        world.put_version(managed(paused, name=name, resource_version=str(world.versions)))
        world.put_new(name)
        world.remove(name)
    assert not world.counter._verdicts
    assert not world.counter._expired_since
    assert len(world.counter._changes) <= 64


# What is left, what waits, what is to come.


def test_the_least_life_left_is_a_share_so_that_a_short_token_can_have_less_of_it_than_one_that_ends_sooner(
    world: World, clock: Clock
) -> None:
    world.put("a", expires_at=NOW + 12 * HOUR)
    world.put("b", expires_at=NOW + 900)
    clock.step(450)
    assert world.take().least_life_left == 0.5
    world.put("b", issued_at=NOW + 450, expires_at=NOW + 1350)
    clock.step(180)
    assert world.take().least_life_left == 0.8
    world.put("c", issued_at=NOW - 11 * HOUR, expires_at=NOW + HOUR)
    assert world.take().least_life_left == pytest.approx((HOUR - 630) / (12 * HOUR))


@pytest.mark.parametrize(
    ("after", "left"), [(0, 1.0), (-5, 1.0), (HOUR / 4, 0.75), (HOUR - 36, 0.01), (HOUR, 0.0), (2 * HOUR, 0.0)]
)
def test_a_share_is_from_0_to_1(world: World, clock: Clock, after: float, left: float) -> None:
    world.put()
    clock.step(after)
    assert world.take().least_life_left == left


@pytest.mark.parametrize("fields", [{"overrides": {"paused": "true"}}, None], ids=["paused", "removed"])
def test_what_is_paused_or_gone_has_no_life_left_and_waits_for_nothing(
    world: World, clock: Clock, fields: dict[str, Any] | None
) -> None:
    world.put("a")
    world.put_version(managed(annotated(identity=IDENTITY), name="b", resource_version="90"))
    clock.step(0.7 * HOUR)
    counts = world.take()
    assert min(counts.least_life_left or 0, counts.oldest_unfilled_seconds, counts.oldest_overdue_seconds) > 0
    for name in ("a", "b"):
        if fields:
            world.put(name, **fields)
        else:
            world.remove(name)
    counts = world.take()
    assert counts.least_life_left is None
    assert (counts.oldest_unfilled_seconds, counts.oldest_overdue_seconds) == (0, 0)
    assert set(counts.due_within.values()) == {0}
    assert not world.counter._lives
    assert not world.counter._due


def test_the_oldest_unfilled_is_the_one_that_has_been_known_longest_and_still_has_no_token(
    world: World, clock: Clock
) -> None:
    def unfilled(name: str) -> None:
        world.versions += 1
        version = str(world.versions)
        world.put_version(managed(annotated(identity=IDENTITY), name=name, resource_version=version))

    unfilled("a")
    clock.step(30)
    unfilled("b")
    unfilled("a")
    assert world.take().oldest_unfilled_seconds == 30
    clock.step(10)
    world.put("a", issued_at=NOW + 40)
    assert world.take().oldest_unfilled_seconds == 10
    world.put("b", issued_at=NOW + 40)
    assert world.take().oldest_unfilled_seconds == 0


def test_what_a_person_must_mend_is_refused_and_not_waiting(world: World, clock: Clock) -> None:
    world.put_version(managed(annotated(identity=IDENTITY, provider="unknown")))
    clock.step(100)
    assert (world.take().oldest_unfilled_seconds, world.take().due_within[300]) == (0, 0)


def test_a_refresh_is_overdue_from_its_deadline_on_whoever_looks_and_past_the_tokens_end(clock: Clock) -> None:
    world = World(clock)
    secret = world.put()
    due_at = world.policy.refresh_at(uid=secret.uid, issued_at=NOW, expiry=NOW + HOUR)
    clock.step(0.65 * HOUR)
    assert world.take().oldest_overdue_seconds == pytest.approx(clock() - due_at)
    after_restart = World(clock)
    after_restart.put()
    clock.step(HOUR)
    for each in (world, after_restart):
        assert each.take().oldest_overdue_seconds == pytest.approx(clock() - due_at)
    world.put(issued_at=int(clock()), expires_at=int(clock()) + HOUR)
    assert world.take().oldest_overdue_seconds == 0


def test_the_oldest_overdue_is_right_after_the_clock_was_set_back(world: World, clock: Clock) -> None:
    clock.step(HOUR)
    world.put(issued_at=NOW + HOUR, expires_at=NOW + 2 * HOUR, overrides={"refresh": "now"})
    world.take()
    clock.step(-HOUR / 2)
    world.take()
    clock.step(20)
    assert world.take().oldest_overdue_seconds == 20


def test_what_is_due_within_5_15_and_60_minutes_is_counted_to_the_minute(world: World, clock: Clock) -> None:
    for number in range(100):
        world.put(f"secret-{number}", uid=f"uid-{number}")
    due = [
        world.policy.refresh_at(uid=f"uid-{number}", issued_at=NOW, expiry=NOW + HOUR) - NOW for number in range(100)
    ]
    assert world.take().due_within == {300: 0, 900: 0, 3600: 100}
    clock.step(0.5 * HOUR)
    within = world.take().due_within
    for horizon in (300, 900):
        exactly = [sum(at <= 0.5 * HOUR + horizon + more for at in due) for more in (-60, 60)]
        assert exactly[0] <= within[horizon] <= exactly[1]
    clock.step(0.15 * HOUR)
    assert set(world.take().due_within.values()) == {100}, "those that are due already"


# By state and reason.

ERROR = "MintRefused: the issuer refused this identity"
OUTAGE = "IssuerUnavailable: no response from the issuer"
DUE = 0.7 * HOUR


@pytest.mark.parametrize(
    ("what", "after", "counted_as"),
    [
        (filled(), 0, ("valid", None)),
        (filled(), DUE, ("due", None)),
        (filled(), HOUR, ("expired", None)),
        ({"annotations": annotated(identity=IDENTITY)}, 0, ("unfilled", None)),
        ({**filled(), "config": {}}, 0, ("unfilled", None)),
        (filled(overrides={"error": ERROR}), DUE, ("refused", "MintRefused")),
        (filled(overrides={"error": ERROR}), HOUR, ("expired", "MintRefused")),
        ({"annotations": annotated(identity=IDENTITY, error=ERROR)}, 0, ("refused", "MintRefused")),
        (
            {"annotations": annotated(identity=IDENTITY, error="IssuerUnavailable: x")},
            0,
            ("unfilled", "IssuerUnavailable"),
        ),
        (filled(overrides={"error": OUTAGE}), DUE, ("due", "IssuerUnavailable")),
        ({"annotations": annotated(identity=IDENTITY, error="Nonsense: x")}, 0, ("unfilled", None)),
        # A stale or forged error on a valid token is about to be removed, and means nothing.
        (filled(overrides={"error": ERROR}), 0, ("valid", None)),
        # Nobody contests it any more, or ever did.
        (filled(overrides={"error": "Fight: x"}), DUE, ("due", None)),
        (filled(overrides={"paused": "true"}), HOUR, ("paused", None)),
        (filled(overrides={"paused": "perhaps"}), HOUR, ("paused", "PausedUnclear")),
        (filled(overrides={"paused": "true", "provider": "unknown"}), HOUR, ("paused", None)),
        (filled(overrides={"provider": "unknown"}), 0, ("refused", "ProviderUnknown")),
        ({**filled(), "immutable": True}, 0, ("refused", "Immutable")),
        ({"annotations": annotated(identity=IDENTITY), "type": "Opaque"}, 0, ("refused", "WrongType")),
        ({"annotations": annotated(identity=IDENTITY), "config": b"[]"}, 0, ("refused", "ConfigUnreadable")),
    ],
)
def test_a_claim_counts_in_one_state_and_under_the_reason_that_is_known(
    world: World, clock: Clock, what: dict[str, Any], after: float, counted_as: tuple[str, str | None]
) -> None:
    state, reason = counted_as
    world.put_version(managed(**what))
    clock.step(after)
    counts = world.take()
    assert counted(counts) == {state: 1}
    assert {problem.reason: n for problem, n in counts.problems.items() if n} == ({reason: 1} if reason else {})


def test_a_contested_claim_counts_as_that_until_ten_minutes_after_the_last_revert(world: World, clock: Clock) -> None:
    world.put()
    (view,) = next(iter(world.store)).views()
    for _ in range(3):
        world.contested.reverted(view, clock())
    world.put(overrides={"refresh-at": "x"})
    assert counted(world.take()) == {"contested": 1}
    assert world.take().problems[Problem.FIGHT] == 1
    clock.step(599)
    assert counted(world.take()) == {"contested": 1}
    clock.step(1)
    assert counted(world.take()) == {"valid": 1}
    assert world.take().problems[Problem.FIGHT] == 0


def test_a_problem_that_only_an_event_could_tell_counts_until_the_token_is_valid_or_something_else_is_asked(
    world: World,
) -> None:
    world.put_version(managed(annotated(identity=IDENTITY), resource_version="100"))
    (view,) = next(iter(world.store)).views()
    world.counter.reported(view, Problem.WRITE_REFUSED)
    assert counted(world.take()) == {"refused": 1}
    world.put_version(managed(annotated(identity=IDENTITY, refresh="now"), resource_version="200"))
    assert counted(world.take()) == {"unfilled": 1}
    (view,) = next(iter(world.store)).views()
    world.counter.reported(view, Problem.WRITE_REFUSED)
    world.put_version(managed(**filled(resource_version="300")))
    assert world.take().problems[Problem.WRITE_REFUSED] == 0


def test_an_entry_that_no_kubelet_reads_makes_the_secret_not_ready(world: World) -> None:
    content = {"auths": {"cgr.dev": entry("_token", "a-password"), "other": {"auth": "no colon"}}}
    world.put_version(managed(**{**filled(), "config": content}))
    assert counted(world.take()) == {"refused": 1}
    assert world.secrets() == {"pull-secret": (NOW + HOUR, False)}


def test_a_clock_that_was_set_back_is_believed_at_once(world: World, clock: Clock) -> None:
    world.put(expires_at=NOW + HOUR)
    clock.step(HOUR)
    assert counted(world.take()) == {"expired": 1}
    clock.step(-HOUR)
    assert counted(world.take()) == {"valid": 1}
    clock.step(HOUR)
    assert counted(world.take()) == {"expired": 1}


def step(world: World, random: Random) -> None:
    """Something happens to one of six Secrets, or time passes."""
    name, now = f"secret-{random.randrange(6)}", int(world.clock())
    match random.randrange(7):
        case 0:
            world.put_new(name)
        case 1 if world.store.get(Ref("team-a", name)):
            world.remove(name)
        case 2:
            world.put(name, overrides={"paused": random.choice(["true", "x", "false"])})
        case 3:
            issued_at = now - random.randrange(60)
            error = random.choice([None, ERROR, OUTAGE])
            world.put(name, issued_at=issued_at, expires_at=issued_at + 90, overrides={"error": error})
        case 4 if views := [view for secret in world.store for view in secret.views()]:
            reverted = random.choice(views)
            world.contested.reverted(reverted, now)
            world.counter.reported(reverted, random.choice([Problem.FIGHT, Problem.WRITE_FAILS]))
            world.counter._look(reverted.key)
        case _:
            world.clock.step(random.choice([0, 0.5, 7, 40, 700, -5, -400]))


def without_history(counts: StateCounts) -> StateCounts:
    """What doesn't depend on when a claim was first seen."""
    return dataclasses.replace(counts, expired_seconds=0, oldest_unfilled_seconds=0, oldest_overdue_seconds=0)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_kept_equals_what_a_look_at_every_secret_finds(clock: Clock, seed: int) -> None:
    world, random = World(clock), Random(seed)  # noqa: S311 -- no secret
    for _ in range(150):
        step(world, random)
        kept = world.take()
        if any((claim.issued_at or 0) > clock() for secret in world.store for claim in secret.claims):
            continue  # the clock was set back: until that instant it may be seen late that they are valid again
        fresh = World(clock)
        fresh.counter._contested, fresh.counter._reported = world.contested, world.counter._reported
        for secret in world.store:
            for view in secret.views():
                fresh.counter.placed(view, world.policy.decide(view, clock(), world.contested.standing(view, clock())))
        assert without_history(kept) == without_history(fresh.take())


def test_the_total_does_not_go_back_with_the_clock(world: World, clock: Clock) -> None:
    world.put(expires_at=NOW + 10)
    clock.step(40)
    assert world.take().expired_seconds == 30
    clock.step(-20)
    assert world.take().expired_seconds == 30
    clock.step(25)
    assert world.take().expired_seconds == 35


def test_a_secret_of_the_wrong_type_is_not_ready_whatever_it_holds(world: World) -> None:
    world.put_version(managed(**{**filled(), "type": "Opaque"}))
    assert world.secrets()["pull-secret"][1] is False


def test_a_scrape_looks_at_no_claim_that_has_not_changed(world: World, clock: Clock) -> None:
    for number in range(300):
        world.put(f"secret-{number}", expires_at=NOW + HOUR + number)
    world.take()
    looked: list[Key] = []
    look = world.counter._look

    def watched(key: Key) -> None:
        looked.append(key)
        look(key)

    world.counter._look = watched  # type: ignore[method-assign]
    clock.step(60)
    world.take()
    assert looked == []
    clock.step(2 * HOUR)
    assert counted(world.take()) == {"expired": 300}
    assert len(looked) == 300
    world.take()
    assert len(looked) == 300
