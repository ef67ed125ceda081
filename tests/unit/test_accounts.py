"""ServiceAccounts while several write them at once."""

from __future__ import annotations

import asyncio
import json
import random
from functools import partial

import pytest

from controller.core.model import Ref
from controller.core.projection import project_account
from controller.engine.accounts import Accounts
from controller.kube.errors import Conflict
from tests.unit.fake_api import FakeApi
from tests.unit.virtual_time import Clock

REF = Ref("team-a", "default")
SEEDED = partial(random.Random, 1)


@pytest.fixture
def api(clock: Clock) -> FakeApi:
    api = FakeApi(clock)
    api.put_account("team-a", secrets=("first", "last"))
    return api


async def appended(api: FakeApi, clock: Clock, installation: str, names: list[str], draw: random.Random) -> None:
    """As a controller of that name attaches one Secret after the other, however often others are faster."""
    accounts = Accounts(["default"], installation=installation, client=api.client(), changed=lambda _: None, now=clock)
    raw = json.dumps(api.account("team-a", "default")).encode()
    accounts.upserted(project_account(raw, installation=installation))
    for index in range(len(names)):
        while True:
            await asyncio.sleep(draw.random())
            try:
                await accounts.attach(REF, names[: index + 1])
                break
            except Conflict:
                continue


async def test_three_controllers_append_names_at_the_same_time_and_none_is_lost_doubled_or_moved(
    api: FakeApi, clock: Clock
) -> None:
    """Of a real API server, and a thousand names: tests/e2e/test_accounts.py."""
    api.latency_seconds = 0.1
    names = {f"ns-{who}.controller": [f"s{who}-{number:03}" for number in range(40)] for who in range(3)}
    draw = SEEDED()
    async with asyncio.TaskGroup() as group:
        for installation, own in names.items():
            group.create_task(appended(api, clock, installation, own, draw))
    found = api.pull_secrets("team-a")
    assert found[:2] == ["first", "last"]
    assert len(found) == len(set(found)) == 2 + 120
    for own in names.values():
        assert [name for name in found if name in own] == own


async def test_what_another_installation_has_attached_is_not_taken_away(api: FakeApi, clock: Clock) -> None:
    await appended(api, clock, "a.controller", ["of-a"], SEEDED())
    await appended(api, clock, "b.controller", ["of-b"], SEEDED())
    accounts = Accounts(
        ["default"], installation="a.controller", client=api.client(), changed=lambda _: None, now=clock
    )
    raw = json.dumps(api.account("team-a", "default")).encode()
    accounts.upserted(project_account(raw, installation="a.controller"))
    await accounts.attach(REF, [])
    assert api.pull_secrets("team-a") == ["first", "last", "of-b"]
