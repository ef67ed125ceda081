"""Bad input is told once, costs no mint, destroys nothing, and is over the moment it is corrected (K7)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.unit.engine import NAME, Engine, asking, identity
from tests.unit.fake_issuer import HOUR
from tests.unit.virtual_time import Clock


@pytest.fixture
def engine(clock: Clock, tmp_path: Path) -> Engine:
    return Engine(clock, tmp_path)


BAD: list[tuple[str, dict[str, Any], Any]] = [
    ("ConfigUnreadable", {}, b"not json"),
    ("ConfigUnreadable", {}, b"[1]"),
    ("ConfigUnreadable", {}, {"auths": []}),
    ("ConfigUnreadable", {}, {"auths": "x"}),
    ("ConfigUnreadable", {}, {"auths": {"cgr.dev": "x"}}),
    ("ConfigUnreadable", {}, {"auths": {"HTTPS://CGR.dev/v1/": 1}}),
    ("ConfigUnreadable", {}, b"[" * 100_000),
    ("ServiceAccountInvalid", {"service_account": ""}, {}),
    ("ServiceAccountInvalid", {"service_account": ".."}, {}),
    ("ServiceAccountInvalid", {"service_account": "team-b/builder"}, {}),
    ("ServiceAccountInvalid", {"service_account": "builder\n"}, {}),
    ("ServiceAccountInvalid", {"service_account": "b" * 254}, {}),
    ("IdentityEmpty", {"identity": ""}, {}),
    ("IdentityUnrecognised", {"identity": "my-identity"}, {}),
    ("IdentityUnrecognised", {"identity": identity(1) + "\n"}, {}),
    ("IdentityUnrecognised", {"identity": f" {identity(1)}"}, {}),
    ("ProviderUnknown", {"provider": "elsewhere"}, {}),
    ("RegistryNotAllowed", {"registries": "docker.io"}, {}),
    ("RegistryNotAllowed", {"registries": "cgr.dev,evil.example"}, {}),
    ("PausedUnclear", {"paused": "yes"}, {}),
]


@pytest.mark.parametrize(("reason", "ours", "config"), BAD)
async def test_bad_input_is_told_once_and_over_when_corrected(
    engine: Engine, reason: str, ours: dict[str, Any], config: Any
) -> None:
    engine.ask("team-a", config=config, **ours)
    async with engine.running():
        before = engine.api.secret("team-a", NAME)["data"]
        await asyncio.sleep(HOUR)
        error = engine.annotation("team-a", "error")
        assert error is not None
        assert error.startswith(f"{reason}: ")
        assert engine.told("team-a") == [reason]
        assert [event["message"] for event in engine.api.events] == [error.removeprefix(f"{reason}: ")]
        assert (engine.mints, engine.patches) == (0, 1)
        assert engine.api.secret("team-a", NAME)["data"] == before
        engine.ask("team-a")
        await engine.settle()
        assert engine.password("team-a") == engine.issuer.minted[0]
        assert engine.annotation("team-a", "error") is None


async def test_an_immutable_secret_is_told_and_never_minted_for(engine: Engine) -> None:
    engine.api.put_secret("team-a", NAME, annotations=asking(identity=identity(1)), config={}, immutable=True)
    async with engine.running():
        await asyncio.sleep(HOUR)
        assert (engine.mints, engine.patches) == (0, 1)
        assert engine.told("team-a") == ["Immutable"]
        engine.api.delete_secret("team-a", NAME)
        engine.ask("team-a")
        await engine.settle()
        assert engine.password("team-a")


async def test_a_secret_of_the_wrong_type_is_told_by_an_event_alone(engine: Engine) -> None:
    engine.api.put_secret("team-a", NAME, annotations=asking(identity=identity(1)), config={}, type="Opaque")
    async with engine.running():
        await asyncio.sleep(HOUR)
        assert (engine.mints, engine.patches) == (0, 0)
        assert engine.told("team-a") == ["WrongType"]
        engine.api.delete_secret("team-a", NAME)
        engine.ask("team-a")
        await engine.settle()
        assert engine.password("team-a")


async def test_a_secret_that_would_be_too_large_is_told_and_recovers_on_any_change(engine: Engine) -> None:
    """K7: its size is known only with the token in hand, so one mint; after that none for its sake."""
    large = {"auths": {"quay.io": {"auth": "A" * (1024 * 1024 - 40)}}}
    engine.ask("team-a", config=large)
    async with engine.running():
        await asyncio.sleep(600)
        assert engine.told("team-a") == ["ConfigTooLarge"]
        assert engine.api.config("team-a", NAME) == large
        assert engine.mints == 1
        assert engine.annotation("team-a", "issued-at") is None
        engine.set_config("team-a", {"auths": {"quay.io": {"auth": "YTpi"}}})
        await engine.settle()
        assert engine.password("team-a") == engine.issuer.minted[0]
        assert engine.api.config("team-a", NAME)["auths"]["quay.io"] == {"auth": "YTpi"}


async def test_a_valid_credential_outlives_bad_input_and_the_error_goes_when_that_is_corrected(engine: Engine) -> None:
    engine.ask("team-a")
    async with engine.running():
        token = engine.password("team-a")
        engine.annotate("team-a", registries="evil.example")
        await engine.settle()
        assert engine.annotation("team-a", "error") is not None
        assert engine.password("team-a") == token
        engine.annotate("team-a", registries=None)
        await engine.settle()
        assert engine.annotation("team-a", "error") is None
        await asyncio.sleep(0.66 * HOUR)
        assert engine.expiry("team-a") > engine.clock() + HOUR / 3
    assert engine.mints == 2


async def test_the_same_mistake_made_again_is_told_again(engine: Engine) -> None:
    engine.ask("team-a")
    async with engine.running():
        for _ in range(2):
            engine.annotate("team-a", registries="evil.example")
            await engine.settle()
            assert engine.annotation("team-a", "error") is not None
            engine.annotate("team-a", registries=None)
            await engine.settle()
            assert engine.annotation("team-a", "error") is None


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, "MintRefused"),
        (403, "MintRefused"),
        (404, "IdentityUnknown"),
        (400, "RequestRefused"),
        (302, "RequestRefused"),
        (429, "IssuerThrottles"),
        (500, "IssuerUnavailable"),
        (None, "IssuerUnavailable"),
        (200, "IssuerMalformed"),
    ],
)
async def test_what_the_issuer_says_is_told_in_our_own_words(engine: Engine, status: int | None, reason: str) -> None:
    engine.issuer.fail(status)
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(120)
        assert engine.told("team-a") == [reason]
        assert (engine.annotation("team-a", "error") or "").startswith(f"{reason}: ")
        assert engine.patches == 1
        assert engine.mints <= 20, "at most every 5 to 10 s while nothing valid is in place"
        assert engine.api.config("team-a", NAME) == {}
        engine.issuer.heal()
        await asyncio.sleep(240)
        assert engine.password("team-a")
        assert engine.annotation("team-a", "error") is None


async def test_a_retry_after_of_the_issuer_is_obeyed(engine: Engine) -> None:
    engine.issuer.fail(429, retry_after=200, times=1)
    engine.ask("team-a", 1)
    engine.ask("team-b", 1)
    engine.ask("team-c", 2)
    async with engine.running():
        await asyncio.sleep(199)
        assert engine.mints == 2, "one for either identity"
        await asyncio.sleep(2)
        assert engine.password("team-a")
        assert engine.password("team-b")
    assert engine.mints == 3
