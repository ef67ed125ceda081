"""Many Secrets: as few mints as identities, the longest overdue first, and nobody delays anybody."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from tests.unit.engine import NAME, PREFIX, Engine, identity
from tests.unit.fake_issuer import HOUR
from tests.unit.queues import deadline, waiting
from tests.unit.virtual_time import Clock


@pytest.fixture
def engine(clock: Clock, tmp_path: Path) -> Engine:
    return Engine(clock, tmp_path)


async def test_a_thousand_secrets_of_fifty_identities_cost_fifty_mints_a_cycle(engine: Engine) -> None:
    """A cycle is at least half of a life: the window of 15 % of it is shorter than the fifth that a token is reused.

    So the Secrets of an identity are renewed by one token, minted for the first that is due. Exactly fifty, then.
    """
    teams = [f"team-{number}" for number in range(1000)]
    for number, team in enumerate(teams):
        engine.ask(team, number % 50)
    async with engine.running():
        await asyncio.sleep(5)
        assert all(engine.password(team) for team in teams)
        assert engine.mints == 50
        assert engine.patches == 1000
        await asyncio.sleep(0.66 * HOUR)
        assert engine.mints == 100
        assert engine.patches == 2000
        assert min(engine.expiry(team) for team in teams) > engine.clock() + HOUR / 2
        assert engine.metric("managed_claims") == 1000
        assert engine.metric("queue_depth", provider="chainguard") == 0


async def test_a_restart_with_valid_tokens_mints_and_writes_nothing(engine: Engine) -> None:
    """S5."""
    for number in range(100):
        engine.ask(f"team-{number}", number % 7)
    async with engine.running():
        await asyncio.sleep(10)
    mints, patches = engine.mints, engine.patches
    for _ in range(3):
        await asyncio.sleep(60)
        async with engine.running():
            await asyncio.sleep(60)
    assert (engine.mints, engine.patches) == (mints, patches) == (7, 100)


async def test_a_restart_keeps_every_deadline(engine: Engine) -> None:
    """S3: cert-manager #4399, same_secret_same_refresh_at."""
    for number in range(20):
        engine.ask(f"team-{number}", number)
    deadlines: list[list[float | None]] = []
    for _ in range(2):
        async with engine.running() as controller:
            await asyncio.sleep(5)
            queue = controller._queues["chainguard"]
            deadlines.append([deadline(queue, view.key) for view in engine.views()])
    assert deadlines[0] == deadlines[1]
    assert None not in deadlines[0]


async def test_when_all_are_due_namespaces_take_turns_and_the_longest_overdue_comes_first(
    clock: Clock, tmp_path: Path
) -> None:
    """Q6: a namespace with forty Secrets does not delay the others."""
    engine = Engine(clock, tmp_path)
    engine.config = msgspec.structs.replace(engine.config, scope="cluster")
    async with engine.running():
        for number in range(40):
            engine.ask("big", number, name=f"secret-{number}")
            await asyncio.sleep(1)
        for number in range(5):
            engine.ask(f"small-{number}", 100 + number, name="secret-0")
        await asyncio.sleep(1)
    await asyncio.sleep(2 * HOUR)
    secrets = [engine.api.secret("big", f"secret-{number}") for number in range(40)]
    due = [str(secret["metadata"]["annotations"][f"{PREFIX}refresh-at"]) for secret in secrets]
    before = engine.mints
    async with engine.running():
        await asyncio.sleep(30)
        assert all(engine.expiry("big", name=f"secret-{number}") > clock() for number in range(40))
    order = [int(exchange.identity, 16) for exchange in engine.issuer.requests[before:]]
    assert len(order) == len(set(order)) == 45
    assert set(range(100, 105)) < set(order[:6]), "the first round has one of every namespace"
    assert [due[number] for number in order if number < 100] == sorted(due)


async def test_a_bad_identity_in_many_secrets_costs_one_request_a_step(engine: Engine) -> None:
    engine.issuer.fail(403)
    for number in range(100):
        engine.ask(f"team-{number}")
    async with engine.running():
        await asyncio.sleep(12)
        assert engine.mints == 1
        assert engine.patches == 100, "each is told once"
        await asyncio.sleep(HOUR - 12)
        # For half an hour every 30 to 60 s, since nothing valid is in place; then steps of up to 15 min.
        assert 30 <= engine.mints <= 66
        assert engine.patches == 100
        mints = engine.mints
        for number in range(100):
            engine.api.merge_patch("team-7", NAME, {"metadata": {"labels": {"n": str(number)}}})
            await asyncio.sleep(0.1)
        assert engine.mints <= mints + 1
    assert len(engine.told("team-7")) == 1


@pytest.mark.parametrize("status", [403, 503, None])
async def test_one_failing_identity_never_delays_another(engine: Engine, status: int | None) -> None:
    """pfnet: one principal blocks the rest."""
    engine.issuer.fail(status, identity=identity(0))
    for number in range(100):
        engine.ask(f"team-{number}", number % 2 * (number + 1))
    async with engine.running():
        await asyncio.sleep(2.5)  # 50 identities, 40 at once and 20 a second after that
        assert all(engine.password(f"team-{number}") for number in range(100) if number % 2)
        assert len(engine.issuer.asked(identity(0))) <= 3


async def test_a_hanging_identity_never_delays_another(engine: Engine) -> None:
    engine.issuer.hang(identity=identity(0))
    for number in range(50):
        engine.ask(f"hung-{number}", 0)
    async with engine.running():
        for number in range(50):
            engine.ask(f"team-{number}", 1)
        await engine.settle()
        assert all(engine.password(f"team-{number}") for number in range(50))
        assert len(engine.issuer.asked(identity(0))) == 1
        await asyncio.sleep(9)
        assert len(engine.issuer.asked(identity(0))) == 1
        engine.issuer.heal()
        await asyncio.sleep(5)
        assert all(engine.password(f"hung-{number}") for number in range(50))


async def test_the_rate_of_mints_is_bounded(engine: Engine) -> None:
    """S6: 20 a second, and 40 at once."""
    for number in range(100):
        engine.ask(f"team-{number}", number)
    async with engine.running():
        await asyncio.sleep(20)
    times = [exchange.at for exchange in engine.issuer.requests]
    assert len(times) == 100
    for start in times:
        assert sum(start <= at < start + 1 for at in times) <= 61
    assert times[-1] - times[0] < 4


async def test_a_secret_that_is_gone_leaves_nothing_behind(engine: Engine) -> None:
    """S9."""
    for number in range(100):
        engine.ask(f"team-{number}", number)
    async with engine.running() as controller:
        await asyncio.sleep(10)
        for number in range(100):
            engine.api.delete_secret(f"team-{number}", NAME)
        await engine.settle()
        assert all(waiting(queue) == 0 for queue in controller._queues.values())
        assert engine.metric("managed_claims") == 0
        before = engine.mints
        await asyncio.sleep(HOUR)
        assert engine.mints == before
