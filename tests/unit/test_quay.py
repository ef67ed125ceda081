"""What only Quay's robot federation does."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest

from controller.core.errors import MintError, Problem
from controller.providers import quay
from testing.wire import in_json
from tests.unit.contract_quay import ROBOT, ROW
from tests.unit.provider_world import World, vendors_key
from tests.unit.virtual_time import Clock


@pytest.fixture
def world(clock: Clock, tmp_path: Path) -> World:
    return World(ROW, clock, tmp_path)


async def test_the_proof_goes_as_the_robots_password(world: World) -> None:
    await world.mint()
    [asked] = world.wire.asked
    assert (asked.method, asked.url) == ("GET", "https://quay.io/oauth2/federation/robot/token")
    scheme, _, credential = asked.headers["Authorization"].partition(" ")
    assert (scheme, base64.b64decode(credential).decode()) == ("Basic", f"{ROBOT}:{world.proofs_read[-1]}")


async def test_a_robot_that_trusts_somebody_else_is_a_refusal(world: World) -> None:
    with pytest.raises(MintError) as caught:
        await world.provider.mint("acme+another", world.hosts)
    assert caught.value.problem is Problem.MINT_REFUSED


async def test_a_life_in_the_answer_counts_where_it_is_less(world: World) -> None:
    await world.mint()
    world.wire.script.append(in_json(200, {"token": world.vendor.minted[-1], "expires_in": "600"}))
    assert (await world.mint()).lifetime_seconds == 600


@pytest.mark.parametrize(
    ("identity", "fits"),
    [
        (ROBOT, True),
        ("acme+ci.prod", True),
        ("acme+ci_prod-2.x", True),
        ("acme.eu+0", True),
        ("acme+ci..prod", False),
        ("acme+.ci", False),
        ("acme+ci-", False),
        ("acme+", False),
        ("acme", False),
    ],
)
def test_a_robot_with_a_dot_in_its_name_is_known_by_its_shape(identity: str, fits: bool) -> None:
    assert (re.fullmatch(quay.IDENTITY, identity) is not None) is fits


@pytest.mark.parametrize(
    ("claims", "fits"),
    [({"sub": ROBOT}, True), ({}, True), ({"sub": "a-uuid"}, True), ({"sub": 7}, True), ({"sub": "acme+other"}, False)],
)
async def test_a_token_of_another_robot_is_refused(world: World, claims: dict[str, object], fits: bool) -> None:
    token = vendors_key().sign({"exp": int(world.clock()) + 600, **claims})
    world.wire.script.append(in_json(200, {"token": token}))
    if fits:
        assert (await world.mint()).password == token
        return
    with pytest.raises(MintError) as caught:
        await world.mint()
    assert caught.value.problem is Problem.TOKEN_UNFIT
