"""From any state to any other, the way Acto does it (SOSP'23; reliability.md 12.2).

Whatever a Secret was, what it is made now is made right within 5 s; foreign data is never destroyed; and every claim
that waits for a time has exactly one deadline.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.unit.engine import NAME, Engine, asking, identity
from tests.unit.fake_api import Object
from tests.unit.fake_issuer import HOUR
from tests.unit.virtual_time import Clock

FOREIGN = {"auth": "YTpi", "email": "someone@example"}
GOOD, UNKNOWN, DENIED = identity(1), identity(404), identity(403)
TEAM = "team-a"


@dataclass
class World:
    """One Secret that is pushed from state to state."""

    engine: Engine
    filled: Object = field(default_factory=dict)
    """A Secret with a token as a controller left it, hours ago."""

    async def enter(self, state: str) -> None:
        """Make the Secret what the state says, as a user would, and see that it is made right."""
        STATES[state](self)
        data = self.engine.api._secrets.get((TEAM, NAME), {}).get("data")
        await asyncio.sleep(5)
        WANTED[state](self.engine, data)
        self.engine.check_deadlines()

    def put(self, *, by: str | None = GOOD, config: Any = None, **fields: Any) -> None:
        """Replace the Secret in place; its type and `immutable` can't be changed, so then it is made anew."""
        api = self.engine.api
        present = api._secrets.get((TEAM, NAME))
        wanted = fields.get("type", "kubernetes.io/dockerconfigjson"), fields.get("immutable")
        if present is not None and (present["type"], present.get("immutable")) != wanted:
            api.delete_secret(TEAM, NAME)
        ours = fields.pop("annotations", None) or (asking(identity=by) if by else {})
        api.put_secret(TEAM, NAME, annotations=ours, config={} if config is None else config, **fields)

    def put_filled(self, *, age_seconds: float) -> None:
        """A Secret that we filled so long ago."""
        clock, engine = self.engine.clock, self.engine
        issued_at = int(clock() - age_seconds)
        written = engine.written(GOOD, issued_at=issued_at, expires_at=issued_at + int(HOUR))
        self.put(annotations=written.annotations, config=written.config)


def _absent(world: World) -> None:
    if (TEAM, NAME) in world.engine.api._secrets:
        world.engine.api.delete_secret(TEAM, NAME)


STATES: dict[str, Callable[[World], None]] = {
    "absent": _absent,
    "empty": lambda world: world.put(),
    "ours and fresh": lambda world: world.put_filled(age_seconds=60),
    "ours and due": lambda world: world.put_filled(age_seconds=0.7 * HOUR),
    "ours and expired": lambda world: world.put_filled(age_seconds=2 * HOUR),
    "ours and foreign": lambda world: world.put(
        config={"auths": {"quay.io": FOREIGN, "cgr.dev": {"auth": "eDp5"}}, "x": 1}
    ),
    "foreign only": lambda world: world.put(config={"auths": {"quay.io": FOREIGN}}),
    "malformed": lambda world: world.put(config=b'{"auths": {"quay.io": '),
    "wrong type": lambda world: world.put(config={"auths": {"quay.io": FOREIGN}}, type="Opaque"),
    "immutable": lambda world: world.put(config={"auths": {"quay.io": FOREIGN}}, immutable=True),
    "no annotation": lambda world: world.put(by=None, config={"auths": {"quay.io": FOREIGN}}),
    "unknown identity": lambda world: world.put(by=UNKNOWN, config={"auths": {"quay.io": FOREIGN}}),
    "denied identity": lambda world: world.put(by=DENIED, config={"auths": {"quay.io": FOREIGN}}),
    "oversize": lambda world: world.put(config={"auths": {"quay.io": {"auth": "A" * (1024 * 1024 - 40)}}}),
}


def _valid(engine: Engine, data: Any) -> None:
    assert engine.expiry(TEAM) > engine.clock() + 0.3 * HOUR
    assert engine.annotation(TEAM, "error") is None


def _valid_beside_foreign(engine: Engine, data: Any) -> None:
    _valid(engine, data)
    assert engine.api.config(TEAM, NAME)["auths"]["quay.io"] == FOREIGN


def _untouched(engine: Engine, data: Any) -> None:
    assert engine.api._secrets.get((TEAM, NAME), {}).get("data") == data


def _told(engine: Engine, data: Any) -> None:
    """By annotation; or by an Event alone where somebody removed the annotation a moment ago, who isn't fought."""
    _untouched(engine, data)
    assert engine.annotation(TEAM, "error") is not None or engine.told(TEAM)


WANTED: dict[str, Callable[[Engine, Any], None]] = {
    "absent": _untouched,
    "empty": _valid,
    "ours and fresh": _valid,
    "ours and due": _valid,
    "ours and expired": _valid,
    "ours and foreign": _valid_beside_foreign,
    "foreign only": _valid_beside_foreign,
    "malformed": _told,
    "wrong type": _untouched,
    "immutable": _told,
    "no annotation": _untouched,
    "unknown identity": _told,
    "denied identity": _told,
    "oversize": _untouched,
}


@pytest.fixture
def world(clock: Clock, tmp_path: Path) -> World:
    engine = Engine(clock, tmp_path)
    engine.issuer.fail(404, identity=UNKNOWN)
    engine.issuer.fail(403, identity=DENIED)
    return World(engine)


@pytest.mark.parametrize("start", STATES)
async def test_from_this_state_every_other_is_made_right_and_so_is_this_one_again(world: World, start: str) -> None:
    """All ordered pairs, with the way back."""
    async with world.engine.running():
        for other in STATES:
            if other != start:
                await world.enter(start)
                await asyncio.sleep(700)  # so that no fight is on: each pass through `start` may look like a revert
                await world.enter(other)
        await world.enter(start)


@pytest.mark.parametrize("seed", range(3))
async def test_a_walk_of_50_steps_ends_right_wherever_it_goes(world: World, seed: int) -> None:
    """Without the oversized Secret, whose MiB takes most of the time; the pairs have it."""
    draw = random.Random(seed)  # noqa: S311 -- a walk that can be taken again
    async with world.engine.running():
        for _ in range(50):
            await world.enter(draw.choice([state for state in STATES if state != "oversize"]))
            await asyncio.sleep(draw.choice([300, 700, HOUR]))  # fewer than three reverts in ten minutes: no fight
            if draw.random() < 0.1:
                world.engine.api.break_off_watches()
        await asyncio.sleep(2000)
        await world.enter("empty")
        assert world.engine.mints < 50 * 20


@pytest.mark.parametrize("start", STATES)
async def test_a_process_that_starts_makes_every_state_right(world: World, start: str) -> None:
    STATES[start](world)
    data = world.engine.api._secrets.get((TEAM, NAME), {}).get("data")
    async with world.engine.running():
        await asyncio.sleep(5)
        WANTED[start](world.engine, data)
