"""What the metrics say of all claims: how many, how many expired, for how long, and that none of it ever goes back."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from controller.census import CensusTaker
from controller.core.model import ManagedSecret, Ref
from controller.core.policy import Policy
from controller.core.store import Store
from controller.telemetry import Census
from tests.unit.fakes import CHAINGUARD, HOUR, NOW, SHAPES, WINDOW, annotated, filled, managed
from tests.unit.virtual_time import Clock


class World:
    """A store and its census; `put` and `remove` do what the dispatcher does."""

    def __init__(self, clock: Clock, *, per_secret: bool = False) -> None:
        self.clock = clock
        self.store = Store()
        self.versions = 100
        policy = Policy([CHAINGUARD], shapes=SHAPES, window=WINDOW)
        self.census = CensusTaker(store=self.store, policy=policy, now=clock, per_secret=per_secret)

    def put(self, name: str = "a", **fields: Any) -> ManagedSecret:
        self.versions += 1
        secret = managed(**filled(name=name, resource_version=str(self.versions), **fields))
        self._replace(secret)
        return secret

    def put_new(self, name: str = "a") -> None:
        self.versions += 1
        self._replace(managed(annotated(identity="x"), name=name, resource_version=str(self.versions)))

    def remove(self, name: str = "a") -> None:
        gone = self.store.drop(Ref("team-a", name), None)
        assert gone is not None
        self.census.replaced(gone, None)

    def take(self) -> Census:
        return self.census.take()

    def _replace(self, secret: ManagedSecret) -> None:
        before = self.store.get(secret.ref)
        assert self.store.put(secret)
        if before is not None:
            self.census.replaced(before, secret)


@pytest.fixture
def world(clock: Clock) -> World:
    return World(clock)


def test_without_secrets_there_is_nothing_and_no_expiry(world: World) -> None:
    assert world.take() == Census(0, 0, 0.0, None, {})


def test_claims_are_counted_and_not_secrets(world: World) -> None:
    world.put()
    both = annotated(identity="a", identity_other="b")
    world.store.put(managed(both, name="two"))
    assert world.take().managed == 3


def test_a_claim_that_never_had_a_token_is_managed_and_not_expired(world: World, clock: Clock) -> None:
    world.put_new()
    clock.step(100 * HOUR)
    assert world.take() == Census(1, 0, 0.0, None, {})


def test_the_earliest_expiry_is_that_of_all(world: World) -> None:
    world.put("a", expires_at=NOW + 50)
    world.put("b", expires_at=NOW + 40)
    world.put("c", expires_at=NOW + 60)
    assert world.take().earliest_expiry == NOW + 40


@pytest.mark.parametrize(("after", "expired"), [(HOUR - 1, 0), (HOUR, 1), (HOUR + 1, 1)])
def test_a_token_has_expired_at_its_expiry(world: World, clock: Clock, after: int, expired: int) -> None:
    world.put()
    clock.step(after)
    assert world.take().expired == expired


def test_seconds_without_a_token_grow_while_it_lasts_and_stay_when_it_ends(world: World, clock: Clock) -> None:
    world.put(expires_at=NOW + 10)
    clock.step(15)
    assert world.take().expired_seconds == 5
    clock.step(5)
    assert world.take().expired_seconds == 10
    world.put(issued_at=NOW + 20, expires_at=NOW + HOUR)
    clock.step(100)
    assert world.take() == Census(1, 0, 10.0, NOW + HOUR, {})


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
    assert world.take().expired == 0


def test_what_expired_before_the_start_counts_from_the_start(clock: Clock) -> None:
    clock.step(HOUR)
    world = World(clock)
    world.put(expires_at=NOW + 10)
    clock.step(7)
    assert world.take().expired_seconds == 7


@pytest.mark.parametrize("paused", ["true", "True", "", "yes"])
def test_a_paused_secret_is_managed_and_in_none_of_the_expiry_figures(clock: Clock, paused: str) -> None:
    world = World(clock, per_secret=True)
    world.put(expires_at=NOW + 10, overrides={"paused": paused})
    clock.step(100)
    assert world.take() == Census(1, 0, 0.0, None, {})


def test_paused_false_is_not_paused(world: World, clock: Clock) -> None:
    world.put(expires_at=NOW + 10, overrides={"paused": "false"})
    clock.step(100)
    assert world.take().expired == 1


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
    world = World(clock, per_secret=True)
    world.put("a", expires_at=NOW + 50)
    world.put("b", expires_at=NOW + 40)
    world.put_new("c")
    assert world.take().expiries == {Ref("team-a", "a"): NOW + 50, Ref("team-a", "b"): NOW + 40}
    world.remove("a")
    assert world.take().expiries == {Ref("team-a", "b"): NOW + 40}


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
        world._replace(managed(paused, name=name, resource_version=str(world.versions)))
        world.put_new(name)
        world.remove(name)
    assert world.census._resumed_at == {}
