"""Two writers that want different things never spin against each other (K4, K5, F31)."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import pytest

from tests.unit.engine import NAME, PREFIX, Engine, asking, identity
from tests.unit.fake_api import Object
from tests.unit.fake_issuer import HOUR
from tests.unit.virtual_time import Clock


@pytest.fixture
def engine(clock: Clock, tmp_path: Path) -> Engine:
    return Engine(clock, tmp_path)


async def test_server_side_apply_of_an_empty_config_every_5_s_never_leaves_the_secret_without_its_token_for_long(
    engine: Engine,
) -> None:
    """30 reverts in 150 s; the longest times without a token after each of the first three, and after the last."""
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(60)
        for revert in range(30):
            engine.set_config("team-a", {}, manager="argocd-controller")
            if revert < 3:
                await asyncio.sleep(1)
                assert engine.password("team-a")
                await asyncio.sleep(4)
            else:
                await asyncio.sleep(5)
        last = engine.clock() - 5
        await asyncio.sleep(last + 30.1 - engine.clock())
        assert engine.password("team-a")
        assert engine.mints == 1
        assert engine.told("team-a") == ["Fight"]
        assert (engine.annotation("team-a", "error") or "").endswith(": argocd-controller")
        assert len([event for event in engine.api.events if "argocd-controller" in event["message"]]) == 1
        assert len([r for r in engine.api.requests_of("get") if "as=PartialObjectMetadata" in r.headers["Accept"]]) == 1


async def test_when_the_fight_is_over_the_error_goes_and_that_is_said(engine: Engine) -> None:
    engine.ask("team-a")
    async with engine.running():
        for _ in range(3):
            engine.set_config("team-a", {})
            await asyncio.sleep(1)
        assert engine.annotation("team-a", "error")
        await asyncio.sleep(590)
        assert engine.annotation("team-a", "error")
        await asyncio.sleep(12)
        assert engine.annotation("team-a", "error") is None
        assert engine.api.events[-1]["reason"] == "Recovered"
        assert engine.mints == 1


async def test_who_wipes_our_data_every_second_costs_two_writes_a_minute(engine: Engine) -> None:
    engine.ask("team-a")
    async with engine.running():
        for _ in range(60):
            await asyncio.sleep(1)
            engine.set_config("team-a", {})
        assert engine.patches <= 1 + 3 + 3
        before = engine.patches
        for _ in range(1800):
            await asyncio.sleep(1)
            engine.set_config("team-a", {})
        assert engine.patches - before <= 2 * 30 + 1
        assert engine.mints <= 3
        assert engine.told("team-a") == ["Fight"]
        engine.annotate("team-a", identity=identity(2))
        await engine.settle()
        assert engine.password("team-a") == engine.issuer.minted[-1], "a change of the inputs ends the fight"


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
        assert engine.patches - before[0] <= 8
        assert engine.mints - before[1] <= 2


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
            assert engine.patches - before[0] <= 6, key
            assert engine.mints - before[1] == 0, key


async def test_who_removes_the_error_is_not_fought_for_ten_minutes(engine: Engine) -> None:
    engine.ask("team-a", service_account="")
    async with engine.running():
        assert engine.patches == 1
        for number in range(610):
            changes = {"annotations": {PREFIX + "error": None}, "labels": {"n": str(number)}}
            engine.api.merge_patch("team-a", NAME, {"metadata": changes})
            await asyncio.sleep(1)
            if number < 598:
                assert engine.patches == 1
        assert engine.patches == 2
        assert engine.told("team-a") == ["ServiceAccountInvalid"]


async def test_a_user_who_changes_the_identity_and_edits_twice_is_no_fight(engine: Engine) -> None:
    engine.ask("team-a")
    async with engine.running():
        engine.annotate("team-a", identity=identity(2))
        await engine.settle()
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
            assert engine.password("team-a") == engine.issuer.minted[-1]
        assert engine.told("team-a") == []
    assert engine.mints == 11


# Admission that changes what we write.


def _empties(secret: Object) -> None:
    secret["data"] = {".dockerconfigjson": base64.b64encode(b"{}").decode()}


async def test_admission_that_empties_what_we_write_is_a_fight_and_never_a_success(engine: Engine) -> None:
    engine.api.admission = _empties
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(60)
        assert engine.password("team-a") is None
        assert [event["reason"] for event in engine.api.events] == ["Fight"]
        assert (engine.annotation("team-a", "error") or "").startswith("Fight: ")
        await asyncio.sleep(540)
        assert engine.patches <= 3 + 3 + 2 * 10
        assert engine.mints == 1
        engine.api.admission = None
        await asyncio.sleep(30.1)
        assert engine.password("team-a") == engine.issuer.minted[0]


@pytest.mark.parametrize(
    "key", ["refreshed-for", "issued-at", "expires-at", "issued-for", "fingerprint", "registries-managed"]
)
async def test_admission_that_strips_an_annotation_of_ours_costs_no_mints_and_is_reported(
    engine: Engine, key: str
) -> None:
    def strips(secret: Object) -> None:
        secret["metadata"]["annotations"].pop(PREFIX + key, None)

    engine.api.admission = strips
    engine.ask("team-a", refresh="1")
    async with engine.running():
        await asyncio.sleep(600)
        assert engine.mints <= 2
        assert engine.patches <= 3 + 3 + 2 * 10
        assert engine.password("team-a")
        assert engine.told("team-a") == ["Fight"]


async def test_one_value_of_refresh_costs_one_mint_even_if_admission_strips_what_says_that_it_was_honoured(
    engine: Engine,
) -> None:
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(60)
        engine.api.admission = lambda secret: secret["metadata"]["annotations"].pop(PREFIX + "refreshed-for", None)
        engine.annotate("team-a", refresh="2026")
        await asyncio.sleep(600)
        assert engine.mints == 2


@pytest.mark.parametrize("latency_seconds", [0.0, 0.05])
async def test_admission_that_adds_a_label_an_annotation_and_a_data_key_is_none_of_our_business(
    engine: Engine, latency_seconds: float
) -> None:
    def adds(secret: Object) -> None:
        secret["metadata"]["labels"] = {"team": "a"}
        secret["metadata"]["annotations"]["example.com/seen"] = "true"
        secret["data"]["extra"] = ""

    engine.api.latency_seconds = latency_seconds
    engine.api.admission = adds
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(HOUR)
        assert engine.password("team-a") == engine.issuer.minted[-1]
        assert [event["reason"] for event in engine.api.events] == ["TokenWritten"]
        assert engine.patches == engine.mints == 2


# Faults that should pass and don't.


async def test_a_webhook_that_is_down_for_ever_is_reported_after_a_minute(engine: Engine) -> None:
    engine.api.fail("patch", 500, reason="InternalError", times=10_000)
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(55)
        assert engine.told("team-a") == []
        await asyncio.sleep(65)
        assert engine.told("team-a") == ["WriteFails"]
        engine.api.heal()
        await asyncio.sleep(61)
        assert engine.password("team-a")


async def test_a_webhook_that_is_down_is_reported_of_a_valid_token_when_four_fifths_of_its_life_are_gone(
    engine: Engine,
) -> None:
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(60)
        engine.api.fail("patch", 500, reason="InternalError", times=10_000)
        await asyncio.sleep(0.79 * HOUR - 60)
        assert engine.told("team-a") == []
        await asyncio.sleep(0.05 * HOUR)
        assert engine.told("team-a") == ["WriteFails"]


def _put_back(engine: Engine, old: dict[str, object]) -> None:
    metadata = old["metadata"]
    assert isinstance(metadata, dict)
    engine.api.put_secret(
        "team-a",
        NAME,
        annotations={**asking(identity=identity(1)), **metadata["annotations"]},
        config=base64.b64decode(old["data"][".dockerconfigjson"]),  # type: ignore[index]
    )
