"""etcd is restored from a snapshot: versions are lower, and what we wrote since is gone (F12)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.unit.engine import Engine, identity
from tests.unit.virtual_time import Clock

TEAMS = [f"team-{number}" for number in range(50)]


@pytest.fixture
def engine(clock: Clock, tmp_path: Path) -> Engine:
    engine = Engine(clock, tmp_path)
    engine.issuer.lifetime_seconds = 20
    for number, team in enumerate(TEAMS):
        engine.ask(team, number)
    return engine


def invalid(engine: Engine) -> list[str]:
    return [team for team in TEAMS if engine.expiry(team) <= engine.clock()]


@pytest.mark.parametrize("restart", [True, False])
async def test_after_a_restore_all_secrets_are_filled_within_seconds_and_almost_without_conflicts(
    engine: Engine, restart: bool
) -> None:
    """The snapshot is 40 s old. Whether the API server is restarted with etcd or keeps its stale watch cache."""
    async with engine.running():
        await asyncio.sleep(20.5)
        backup = engine.api.backup()
        await asyncio.sleep(40)
        conflicts = engine.conflicts
        engine.api.restore(backup, restart=restart)
        assert len(invalid(engine)) == 50
        await asyncio.sleep(13)  # 65 % of a life: by then each is due
        assert invalid(engine) == []
        assert engine.conflicts - conflicts <= 50
        await asyncio.sleep(120)
        assert invalid(engine) == []
        if restart:
            assert engine.conflicts - conflicts <= 50
            assert engine.metric("relists_total", reason="rolled_back") == 1


async def test_what_was_created_and_changed_since_the_snapshot_is_as_it_was_then(engine: Engine) -> None:
    async with engine.running():
        await asyncio.sleep(20.5)
        backup = engine.api.backup()
        engine.ask("later", 99)
        engine.annotate("team-0", identity=identity(98))
        await asyncio.sleep(5)
        engine.api.restore(backup)
        minted = len(engine.issuer.requests)
        await asyncio.sleep(13)
        assert engine.metric("managed_claims") == 50
        asked = {exchange.identity for exchange in engine.issuer.requests[minted:]}
        assert identity(98) not in asked
        assert identity(0) in asked
        assert invalid(engine) == []


async def test_nobody_is_blamed_for_what_three_restores_have_undone(engine: Engine) -> None:
    async with engine.running():
        await asyncio.sleep(5)
        backup = engine.api.backup()
        for number in range(4):
            await asyncio.sleep(20)
            for team in TEAMS[:3]:
                engine.annotate(team, refresh=str(number))
            await asyncio.sleep(3)
            engine.api.restore(backup)
            await asyncio.sleep(80)
        assert engine.metric("contested_claims") == 0
        assert not any(engine.told(team) for team in TEAMS)


async def test_conflicts_of_one_secret_are_spaced(engine: Engine) -> None:
    """Whatever the reason: five in a run, then after a second, doubling, but never past a token's end."""
    engine.issuer.lifetime_seconds = 3600
    async with engine.running():
        await asyncio.sleep(1)
        before = engine.patches
        engine.api.always_changing = "team-0"
        engine.annotate("team-0", refresh="now")
        await asyncio.sleep(0.5)
        assert engine.patches - before == 5
        await asyncio.sleep(60)
        assert 6 * 5 <= engine.patches - before <= 8 * 5
        await asyncio.sleep(600)
        assert 15 * 5 <= engine.patches - before <= 30 * 5
