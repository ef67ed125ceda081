"""Limits per namespace: the oldest Secrets are served, mints wait for their turn, and no other namespace notices."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from controller.config import Limits, NamespaceLimits
from controller.core.model import Ref
from controller.core.quota import Quota
from controller.core.targetconfig import NamespaceEntry, TargetSettings
from tests.unit.engine import Engine, identity
from tests.unit.fakes import managed
from tests.unit.virtual_time import Clock


def limited(
    engine: Engine, *, secrets: int | None = None, mints_per_minute: float | None = None, per_second: float = 20
) -> Engine:
    """An engine with these limits, which watches Secrets of any name."""
    per_namespace = NamespaceLimits(secrets=secrets, mints_per_minute=mints_per_minute)
    limits = Limits(per_namespace=per_namespace, mints_per_second=per_second)
    engine.config = msgspec.structs.replace(engine.config, limits=limits, scope="cluster")
    return engine


@pytest.fixture
def engine(clock: Clock, tmp_path: Path) -> Engine:
    return Engine(clock, tmp_path)


def over_limit(engine: Engine) -> float:
    return engine.metric("refused_claims", reason="OverLimit")


async def test_of_ten_thousand_secrets_the_oldest_200_are_served_with_one_event_and_nobody_else_waits(
    engine: Engine,
) -> None:
    limited(engine, secrets=200)
    for number in range(10_000):
        engine.ask("team-a", name=f"secret-{number:05}")
    async with engine.running():
        await asyncio.sleep(2)
        filled = [name for _, name in engine.api.secrets if engine.password("team-a", name=name)]
        assert filled == [f"secret-{number:05}" for number in range(200)]
        assert over_limit(engine) == 9_800
        assert engine.told("team-a") == ["OverLimit"]
        assert engine.patches == 200
        engine.ask("team-b", 2, name="theirs")
        await asyncio.sleep(0.5)
        assert engine.password("team-b", name="theirs")


async def test_when_an_older_one_goes_the_next_is_served_at_once(engine: Engine) -> None:
    limited(engine, secrets=2)
    for number in range(4):
        engine.ask("team-a", name=f"secret-{number}")
        await asyncio.sleep(1)
    async with engine.running():
        assert over_limit(engine) == 2
        engine.api.delete_secret("team-a", "secret-0")
        await engine.settle()
        assert engine.password("team-a", name="secret-2")
        assert engine.password("team-a", name="secret-3") is None
        engine.api.annotate("team-a", "secret-1", {"pull-secret-updater.chainguard.dev/identity": None})
        await engine.settle()
        assert engine.password("team-a", name="secret-3")
        assert over_limit(engine) == 0


async def test_the_oldest_is_the_one_that_was_created_first_whatever_its_name(engine: Engine) -> None:
    limited(engine, secrets=1)
    engine.ask("team-a", name="zebra")
    await asyncio.sleep(2)
    engine.ask("team-a", name="ape")
    async with engine.running():
        assert engine.password("team-a", name="zebra")
        assert engine.password("team-a", name="ape") is None


async def test_a_valid_token_is_never_dropped_for_a_limit(engine: Engine, clock: Clock) -> None:
    for number in range(3):
        engine.ask("team-a", name=f"secret-{number}")
        await asyncio.sleep(1)
    limited(engine)
    async with engine.running():
        pass
    before = engine.password("team-a", name="secret-2")
    limited(engine, secrets=2)
    async with engine.running():
        await asyncio.sleep(3000)
        assert engine.password("team-a", name="secret-2") == before
        assert engine.expiry("team-a", name="secret-2") > clock()
        assert engine.metric("claims", state="refused") == 1
        await asyncio.sleep(700)
        assert engine.password("team-a", name="secret-2") == before, "and it is left to run out"
        assert engine.metric("claims", state="expired") == 1
        assert engine.expiry("team-a", name="secret-1") > clock()


async def test_without_a_limit_all_are_served(engine: Engine) -> None:
    limited(engine)
    for number in range(300):
        engine.ask("team-a", name=f"secret-{number}")
    async with engine.running():
        await asyncio.sleep(1)
        assert engine.metric("claims", state="valid") == 300


async def test_of_a_hundred_identities_of_one_namespace_thirty_are_minted_in_the_first_minute(engine: Engine) -> None:
    limited(engine, mints_per_minute=30, per_second=1000)
    for number in range(100):
        engine.ask("team-a", number, name=f"secret-{number}")
    async with engine.running():
        await asyncio.sleep(1)
        assert 30 <= engine.mints <= 31
        engine.ask("team-b", 200, name="theirs")
        await asyncio.sleep(0.5)
        assert engine.password("team-b", name="theirs")
        await asyncio.sleep(58)
        assert engine.mints <= 61
        await asyncio.sleep(90)
        assert engine.metric("claims", state="valid") == 101
        assert len(engine.logged_with("a namespace asks for more tokens a minute than it may")) <= 3


async def test_a_namespace_that_may_mint_once_in_ten_minutes_does_so_at_once_the_first_time(engine: Engine) -> None:
    limited(engine, mints_per_minute=0.1)
    engine.ask("team-a", 1, name="first")
    async with engine.running():
        assert engine.password("team-a", name="first")
        engine.ask("team-a", 2, name="second")
        await asyncio.sleep(599)
        assert engine.password("team-a", name="second") is None
        await asyncio.sleep(2)
        assert engine.password("team-a", name="second")


async def test_an_identity_that_another_namespace_may_mint_does_not_wait(engine: Engine) -> None:
    limited(engine, mints_per_minute=1)
    engine.ask("team-a", 1, name="first")
    async with engine.running():
        await engine.settle()
        engine.ask("team-a", 2, name="second")
        await asyncio.sleep(1)
        assert engine.password("team-a", name="second") is None
        engine.ask("team-b", 2, name="theirs")
        await asyncio.sleep(0.5)
        assert engine.password("team-b", name="theirs") == engine.password("team-a", name="second")
        assert engine.password("team-b", name="theirs")


async def test_a_namespace_that_has_had_its_share_waits_for_its_own_turn_and_not_for_that_of_another(
    engine: Engine,
) -> None:
    limited(engine, mints_per_minute=1, per_second=1000)
    for number in range(100, 200):
        engine.ask("team-a", number, name=f"secret-{number}")
    async with engine.running():
        engine.ask("team-a", 1, name="shared")  # in 100 minutes
        engine.ask("team-b", 2, name="first")
        await asyncio.sleep(1)
        engine.ask("team-b", 1, name="shared")
        await asyncio.sleep(61)
        assert engine.password("team-b", name="shared")
        assert engine.password("team-a", name="shared") == engine.password("team-b", name="shared")
        for number in range(100, 200):
            engine.api.delete_secret("team-a", f"secret-{number}")
        await engine.settle()


async def test_nothing_is_minted_for_secrets_that_went_while_they_waited(engine: Engine) -> None:
    limited(engine, mints_per_minute=1)
    for number in range(20):
        engine.ask("team-a", number, name=f"secret-{number}")
    async with engine.running():
        for number in range(20):
            engine.api.delete_secret("team-a", f"secret-{number}")
        await asyncio.sleep(1800)
        assert engine.mints == 1


async def test_a_valid_token_is_not_lost_to_newcomers_that_asked_for_theirs_before(
    engine: Engine, clock: Clock
) -> None:
    limited(engine, mints_per_minute=1, per_second=1000)
    for number in range(5):
        engine.ask("team-a", number, name=f"old-{number}")
    async with engine.running():
        await asyncio.sleep(300)
        for number in range(100, 200):
            engine.ask("team-a", number, name=f"new-{number}")
        for _ in range(150):
            await asyncio.sleep(60)
            assert all(engine.expiry("team-a", name=f"old-{number}") > clock() for number in range(5))
        assert engine.mints <= 157
        assert engine.metric("claims", state="valid") >= 30, "and as many of the new ones as the limit can keep alive"
        for number in range(100, 200):
            engine.api.delete_secret("team-a", f"new-{number}")
        await engine.settle()


async def test_a_mint_that_a_hundred_secrets_wait_for_counts_once(engine: Engine) -> None:
    limited(engine, mints_per_minute=2, per_second=1000)
    for number in range(100, 120):
        engine.ask("team-a", number, name=f"secret-{number}")
    async with engine.running():
        engine.ask("team-a", 1, name="shared")
        for number in (2, 3):
            engine.ask("team-b", number, name=f"theirs-{number}")
        await asyncio.sleep(1)
        for number in range(100):
            engine.ask("team-b", 1, name=f"shared-{number}")
        await asyncio.sleep(31)
        assert engine.password("team-b", name="shared-99")
        engine.ask("team-b", 4, name="theirs-4")
        await asyncio.sleep(61)
        assert engine.password("team-b", name="theirs-4")
        await asyncio.sleep(600)


async def test_a_namespace_whose_secrets_wait_for_more_than_a_minute_is_told_once(engine: Engine) -> None:
    limited(engine, mints_per_minute=1)
    for number in range(100):
        engine.ask("team-a", number, name=f"secret-{number}")
    engine.ask("team-b", 200, name="theirs")
    async with engine.running():
        await asyncio.sleep(300)
        assert engine.told("team-a") == ["MintsLimited"]
        assert engine.told("team-b") == []
        for number in range(100):
            engine.api.delete_secret("team-a", f"secret-{number}")
        await engine.settle()


async def test_a_wait_of_a_few_seconds_is_nothing_to_tell(engine: Engine) -> None:
    limited(engine, mints_per_minute=30)
    for number in range(40):
        engine.ask("team-a", number, name=f"secret-{number}")
    async with engine.running():
        await asyncio.sleep(60)
        assert engine.metric("claims", state="valid") == 40
        assert engine.told("team-a") == []


async def test_a_targets_secret_is_served_whatever_the_tenant_asks_for_himself(clock: Clock, tmp_path: Path) -> None:
    target = TargetSettings(name="everyone", identity=identity(1), namespaces=(NamespaceEntry(names=("team-*",)),))
    engine = limited(Engine(clock, tmp_path, targets=(target,)), secrets=2)
    for number in range(3):
        engine.ask("team-a", 5, name=f"secret-{number}")
    await asyncio.sleep(3)
    engine.api.put_namespace("team-a")
    async with engine.running():
        await asyncio.sleep(4000)
        assert engine.expiry("team-a") > clock()
        assert over_limit(engine) == 1


steps = st.lists(
    st.tuples(st.sampled_from(["add", "remove"]), st.sampled_from("abcdef"), st.integers(0, 3)), max_size=40
)


@given(steps, st.integers(1, 3))
def test_who_is_served_is_what_an_oracle_says_and_every_change_is_told(
    steps: list[tuple[str, str, int]], most: int
) -> None:
    quota, alive = Quota(most), dict[str, int]()
    served: set[str] = set()
    for step, name, created in steps:
        if step == "add":
            secret = managed({"pull-secret-updater.chainguard.dev/identity": "x"}, name=name)
            changed = quota.add(replace(secret, created_at=f"2026-01-01T00:00:0{created}Z"))
            alive[name] = created
        else:
            changed = quota.remove(Ref("team-a", name))
            alive.pop(name, None)
        oracle = {each for each, _ in sorted(alive.items(), key=lambda item: (item[1], item[0]))[:most]}
        assert {each for each in alive if not quota.is_over(Ref("team-a", each))} == oracle
        told = {ref.name for ref in changed}
        assert (oracle ^ served) - {name} <= told
        served = oracle
