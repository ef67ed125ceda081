"""What the operator configures is what happens: each setting by its effect, and with another value than its default."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import generate_latest

from controller.config import Limits, Refreshing
from tests.unit.engine import Engine, identity
from tests.unit.fake_issuer import HOUR
from tests.unit.virtual_time import Clock

Make = Callable[..., Engine]


@pytest.fixture
def make(clock: Clock, tmp_path: Path) -> Make:
    """An engine with settings."""

    def configured(**settings: Any) -> Engine:
        engine = Engine(clock, tmp_path)
        engine.config = msgspec.structs.replace(engine.config, **settings)
        return engine

    return configured


def ask_for(engine: Engine, identities: int) -> None:
    for number in range(identities):
        engine.ask(f"team-{number}", number)


@pytest.mark.parametrize(("concurrency", "at_once"), [(1, 1), (2, 2), (5, 4)])
async def test_so_many_mints_are_under_way_at_once(make: Make, concurrency: int, at_once: int) -> None:
    engine = make(limits=Limits(mint_concurrency=concurrency))
    engine.issuer.delay_seconds = 5
    ask_for(engine, 4)
    async with engine.running():
        assert engine.mints == at_once
        await asyncio.sleep(20)
        assert all(engine.password(f"team-{number}") for number in range(4))


@pytest.mark.parametrize(("concurrency", "at_once"), [(1, 4), (2, 8)])
async def test_an_issuer_that_hangs_has_four_times_as_many_requests_at_once_and_no_more(
    make: Make, concurrency: int, at_once: int
) -> None:
    engine = make(limits=Limits(mint_concurrency=concurrency))
    engine.issuer.hang()
    ask_for(engine, 20)
    async with engine.running():
        await asyncio.sleep(9.5)  # a request is given up after 10 s
        assert engine.mints == at_once
        engine.issuer.heal()
        await asyncio.sleep(120)


@pytest.mark.parametrize("rate", [1, 2, 5])
async def test_so_many_mints_start_a_second_after_a_burst_of_two_seconds_worth(make: Make, rate: int) -> None:
    engine = make(limits=Limits(mints_per_second=float(rate)))
    ask_for(engine, 30)
    async with engine.running():
        assert engine.mints == 2 * rate
        await asyncio.sleep(3)
        assert engine.mints == 5 * rate
        await asyncio.sleep(30)


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_so_many_writes_are_under_way_at_once(make: Make, concurrency: int) -> None:
    engine = make(limits=Limits(write_concurrency=concurrency))
    engine.api.fail("patch", 503, resource="secrets", after_seconds=5, times=10)
    ask_for(engine, 4)
    async with engine.running():
        assert engine.patches == concurrency
        await asyncio.sleep(120)


async def test_tokens_are_renewed_in_the_window_that_is_configured(make: Make) -> None:
    engine = make(refresh=Refreshing(from_=0.25, to=0.30))
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(0.25 * HOUR - 1)
        assert engine.mints == 1
        await asyncio.sleep(0.05 * HOUR + 2)
        assert engine.mints == 2


async def test_a_token_counts_as_living_no_longer_than_configured(make: Make) -> None:
    engine = make(refresh=Refreshing(max_lifetime=600))  # type: ignore[arg-type]
    engine.ask("team-a")
    async with engine.running():
        assert engine.metric("secret_expires_timestamp_seconds_min") == pytest.approx(engine.clock() + 600, abs=1)
        await asyncio.sleep(0.65 * 600 + 1)
        assert engine.mints == 2


@pytest.mark.parametrize("wanted", [False, True])
async def test_a_series_for_each_secret_is_there_if_it_is_wanted(make: Make, wanted: bool) -> None:
    engine = make(per_secret_metrics=wanted)
    engine.ask("team-a")
    async with engine.running():
        scrape = generate_latest(engine.metrics.registry).decode()
        series = 'pull_secret_updater_secret_expires_timestamp_seconds{name="pull-secret",namespace="team-a"}'
        assert (series in scrape) is wanted


def with_provider(engine: Engine, **settings: Any) -> None:
    """Configure the first provider with these settings."""
    provider = msgspec.structs.replace(engine.config.providers["chainguard"], **settings)
    providers = {**engine.config.providers, "chainguard": provider}
    engine.config = msgspec.structs.replace(engine.config, providers=providers)


@pytest.mark.parametrize(
    ("lock", "filled"),
    [
        ({"namespaces": ("team-a",)}, True),
        ({"namespaces": ("team-b",)}, False),
        ({"identities": (f"{identity(1)[:40]}*",)}, True),
        ({"identities": ("nobody",)}, False),
    ],
)
async def test_who_is_not_let_in_by_the_operator_gets_no_token_whatever_rbac_says(
    make: Make, lock: dict[str, Any], filled: bool
) -> None:
    engine = make()
    with_provider(engine, **lock)
    engine.ask("team-a")
    async with engine.running():
        assert (engine.password("team-a") is not None) is filled
        assert engine.mints == filled
        error = engine.annotation("team-a", "error") or ""
        assert error.startswith("IdentityNotAllowed: ") is not filled
        assert engine.metric("refused_claims", reason="IdentityNotAllowed") == (not filled)


async def test_who_is_no_longer_let_in_keeps_the_token_and_gets_no_other(make: Make) -> None:
    engine = make()
    engine.ask("team-a")
    async with engine.running():
        token = engine.password("team-a")
    with_provider(engine, namespaces=("team-b",))
    async with engine.running():
        await asyncio.sleep(2 * HOUR)
        assert engine.password("team-a") == token
        assert engine.mints == 1
        assert engine.metric("claims", state="expired") == 1


@pytest.mark.parametrize("default", [True, False])
async def test_a_second_provider_of_a_type_stops_nobody_if_the_first_is_the_default(
    clock: Clock, tmp_path: Path, default: bool
) -> None:
    engine = Engine(clock, tmp_path, providers=("chainguard", "other"))
    both = engine.config
    engine.config = msgspec.structs.replace(both, providers={"chainguard": both.providers["chainguard"]})
    engine.ask("team-a")
    async with engine.running():
        assert engine.mints == 1
    engine.config = both
    with_provider(engine, default=default)
    async with engine.running():
        await asyncio.sleep(HOUR)
        assert engine.mints == (2 if default else 1)
        assert (engine.annotation("team-a", "error") or "").startswith("ProviderAmbiguous") is not default


@pytest.mark.parametrize("written", ["cgr.dev", "cgr.dev/v1", "cgr.dev/v2"])
async def test_a_registry_is_the_same_however_it_is_written(make: Make, written: str) -> None:
    engine = make()
    settings = msgspec.structs.replace(engine.config.providers["chainguard"], registries=(written,))
    engine.config = msgspec.structs.replace(engine.config, providers={"chainguard": settings})
    engine.ask("team-a", registries="cgr.dev")
    async with engine.running():
        assert engine.password("team-a", "cgr.dev")
