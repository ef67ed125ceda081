"""Two writers that want different things never spin against each other (K4, K5, F31)."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import pytest

from tests.unit.engine import NAME, PREFIX, Engine, asking, identity
from tests.unit.fake_issuer import HOUR
from tests.unit.virtual_time import Clock


@pytest.fixture
def engine(clock: Clock, tmp_path: Path) -> Engine:
    return Engine(clock, tmp_path)


async def test_who_wipes_our_data_every_second_costs_three_writes_and_then_four_an_hour(engine: Engine) -> None:
    engine.ask("team-a")
    async with engine.running():
        for _ in range(60):
            await asyncio.sleep(1)
            engine.set_config("team-a", {})
        await engine.settle()
        assert engine.patches == 3
        assert engine.told("team-a") == ["Fight"]
        for _ in range(3600):
            await asyncio.sleep(1)
            engine.set_config("team-a", {})
        assert engine.patches <= 3 + 4
        assert engine.mints <= 6
        assert engine.told("team-a") == ["Fight"]
        engine.annotate("team-a", identity=identity(2))
        await engine.settle()
        assert engine.password("team-a") == engine.issuer.tokens[-1], "a change of the inputs ends the fight"


async def test_a_fight_that_ends_is_forgotten(engine: Engine) -> None:
    engine.ask("team-a")
    async with engine.running():
        for _ in range(3):
            await asyncio.sleep(1)
            engine.set_config("team-a", {})
        await asyncio.sleep(901)
        assert engine.password("team-a")
        await asyncio.sleep(900)
        before = engine.patches
        engine.set_config("team-a", {})
        await engine.settle()
        assert engine.patches == before + 1


async def test_who_puts_an_older_version_back_every_second_is_backed_off_from(engine: Engine) -> None:
    """Data and annotations both, as a backup or Git would: what is there is due by the clock, not edited."""
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(60)
        old = engine.api.secret("team-a", NAME)
        await asyncio.sleep(HOUR)
        before = engine.patches, engine.mints
        for _ in range(120):
            _put_back(engine, old)
            await asyncio.sleep(1)
        assert engine.patches - before[0] <= 3
        assert engine.mints - before[1] <= 3


async def test_who_removes_one_annotation_of_ours_every_second_costs_few_writes_and_mints(engine: Engine) -> None:
    for number, key in enumerate(("issued-for", "fingerprint", "issued-at", "registries-managed", "refreshed-for")):
        team = f"team-{number}"
        engine.ask(team, refresh="1")
        async with engine.running():
            await engine.settle()
            before = engine.patches, engine.mints
            for _ in range(60):
                engine.api.annotate(team, NAME, {PREFIX + key: None})
                await asyncio.sleep(1)
            assert engine.patches - before[0] <= 3, key
            assert engine.mints - before[1] <= 3, key


async def test_who_removes_the_error_is_not_fought(engine: Engine) -> None:
    engine.ask("team-a", service_account="builder")
    async with engine.running():
        assert engine.patches == 1
        for _ in range(60):
            engine.annotate("team-a", error=None)
            await asyncio.sleep(1)
        assert engine.patches == 1
        assert engine.told("team-a") == ["ServiceAccountUnsupported"]


async def test_a_user_who_edits_twice_is_no_fight(engine: Engine) -> None:
    engine.ask("team-a")
    async with engine.running():
        for _ in range(2):
            await asyncio.sleep(1)
            engine.set_config("team-a", {})
            await engine.settle()
            assert engine.password("team-a")
        await asyncio.sleep(HOUR)
        assert engine.told("team-a") == []


async def test_a_new_identity_every_second_is_what_the_user_asks_for(engine: Engine) -> None:
    engine.ask("team-a")
    async with engine.running():
        for number in range(10):
            engine.annotate("team-a", identity=identity(number + 2))
            await asyncio.sleep(1)
            assert engine.password("team-a") == engine.issuer.tokens[-1]
        assert engine.told("team-a") == []
    assert engine.mints == 11


def _put_back(engine: Engine, old: dict[str, object]) -> None:
    metadata = old["metadata"]
    assert isinstance(metadata, dict)
    engine.api.put_secret(
        "team-a",
        NAME,
        annotations={**asking(identity=identity(1)), **metadata["annotations"]},
        config=base64.b64decode(old["data"][".dockerconfigjson"]),  # type: ignore[index]
    )
