"""A Secret that changes while a token for it is on its way, and what a new `refresh` value means (K1 to K9, F14)."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import pytest

from tests.unit.engine import NAME, PREFIX, Engine, identity
from tests.unit.fake_issuer import HOUR
from tests.unit.virtual_time import Clock

FOREIGN = {"auths": {"quay.io": {"auth": "YTpi", "email": "x@y"}}}


@pytest.fixture
def engine(clock: Clock, tmp_path: Path) -> Engine:
    return Engine(clock, tmp_path)


async def test_a_new_identity_gets_its_token_at_once(engine: Engine) -> None:
    engine.ask("team-a", 1)
    async with engine.running():
        engine.annotate("team-a", identity=identity(2))
        await engine.settle()
        assert engine.issuer.requests[-1].identity == identity(2)
        assert engine.password("team-a") == engine.issuer.minted[1]
    assert engine.mints == 2


async def test_wiped_data_is_due_now_even_if_annotations_look_fresh(engine: Engine) -> None:
    """Argo CD #2875 re-applies {}; the token is young enough to be used again."""
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(60)
        engine.set_config("team-a", {})
        await engine.settle()
        assert engine.password("team-a") == engine.issuer.minted[0]
    assert (engine.mints, engine.patches) == (1, 2)


async def test_reformatted_data_is_no_edit(engine: Engine) -> None:
    engine.ask("team-a")
    async with engine.running():
        engine.api.merge_patch(
            "team-a",
            NAME,
            {"data": {".dockerconfigjson": _pretty(engine.api.secret("team-a", NAME)["data"][".dockerconfigjson"])}},
        )
        await asyncio.sleep(60)
    assert (engine.mints, engine.patches) == (1, 1)


async def test_the_token_of_an_identity_that_changed_during_the_mint_is_never_written(engine: Engine) -> None:
    released = engine.issuer.hang(identity=identity(1))
    engine.ask("team-a", 1)
    async with engine.running():
        engine.annotate("team-a", identity=identity(2))
        await engine.settle()
        assert engine.password("team-a") == engine.issuer.minted[0], "the second doesn't wait for the first"
        released.set()
        await asyncio.sleep(1)
        assert engine.api.secret("team-a", NAME)["metadata"]["annotations"][PREFIX + "identity"] == identity(2)
        assert engine.password("team-a") == engine.issuer.minted[0]
    assert [exchange.identity for exchange in engine.issuer.requests] == [identity(1), identity(2)]
    assert engine.patches == 1


async def test_nothing_is_written_after_the_identity_was_removed_during_the_mint(engine: Engine) -> None:
    """K9."""
    released = engine.issuer.hang()
    engine.ask("team-a")
    async with engine.running():
        engine.annotate("team-a", identity=None)
        released.set()
        await asyncio.sleep(60)
    assert engine.patches == 0
    assert engine.api.config("team-a", NAME) == {}


async def test_nothing_is_written_after_the_identity_was_removed_unseen(engine: Engine) -> None:
    """Sieve's stale state: the watch is silent, so only the API server knows; the 409 tells."""
    released = engine.issuer.hang()
    engine.ask("team-a")
    async with engine.running():
        engine.api.mute_watches()
        engine.annotate("team-a", identity=None)
        released.set()
        await asyncio.sleep(5)
        assert engine.api.config("team-a", NAME) == {}
        assert engine.patches == 1
        assert len(engine.api.requests_of("get")) == 1


async def test_after_the_identity_is_removed_what_was_written_stays(engine: Engine) -> None:
    engine.ask("team-a")
    async with engine.running():
        engine.annotate("team-a", identity=None)
        await asyncio.sleep(2 * HOUR)
    assert engine.password("team-a") == engine.issuer.minted[0]
    assert (engine.mints, engine.patches) == (1, 1)


@pytest.mark.parametrize("seen", [True, False])
async def test_a_write_never_lands_on_a_secret_that_was_recreated_under_its_name(engine: Engine, seen: bool) -> None:
    """K8: the new one asks for nothing."""
    released = engine.issuer.hang()
    engine.ask("team-a")
    async with engine.running():
        if not seen:
            engine.api.mute_watches()
        engine.api.delete_secret("team-a", NAME)
        engine.api.put_secret("team-a", NAME, config=FOREIGN)
        released.set()
        await asyncio.sleep(5)
        assert engine.api.config("team-a", NAME) == FOREIGN
        assert engine.annotation("team-a", "issued-at") is None


async def test_a_recreated_secret_is_treated_as_new(engine: Engine) -> None:
    engine.ask("team-a")
    async with engine.running():
        engine.api.delete_secret("team-a", NAME)
        await engine.settle()
        engine.ask("team-a")
        await engine.settle()
        assert engine.password("team-a") == engine.issuer.minted[0]
    assert engine.mints == 1


async def test_a_secret_deleted_during_the_mint_is_let_go(engine: Engine) -> None:
    released = engine.issuer.hang()
    engine.ask("team-a")
    async with engine.running():
        engine.api.mute_watches()
        engine.api.delete_secret("team-a", NAME)
        released.set()
        await asyncio.sleep(60)
        assert engine.patches <= 8, "in growing steps, for as long as the watch is silent"


async def test_a_conflict_that_is_not_about_the_version_is_tried_again_in_growing_steps(engine: Engine) -> None:
    """Say a webhook's, which would be a hot loop for ever."""
    engine.api.fail("patch", 409, resource="secrets", times=1000)
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(600)
        assert engine.patches <= 20
        engine.api.heal()
        await asyncio.sleep(61)
        assert engine.password("team-a")


async def test_a_secret_that_changes_at_every_look_costs_five_writes_at_growing_distances_and_is_filled_in_the_end(
    engine: Engine,
) -> None:
    """K4: each change makes the claim due at once, and every write meets the next one."""
    engine.api.latency_seconds = 0.01
    engine.ask("team-a")
    async with engine.running():
        for number in range(1000):
            engine.api.merge_patch("team-a", NAME, {"metadata": {"labels": {"n": str(number)}}})
            await asyncio.sleep(0.005)
        assert 5 <= engine.patches <= 5 * 4
        await asyncio.sleep(8)
        assert engine.password("team-a") == engine.issuer.minted[0]


async def test_a_clock_that_is_set_back_holds_no_secret_that_changed_often(engine: Engine) -> None:
    engine.api.latency_seconds = 0.01
    engine.ask("team-a")
    async with engine.running():
        for number in range(100):
            engine.api.merge_patch("team-a", NAME, {"metadata": {"labels": {"n": str(number)}}})
            await asyncio.sleep(0.005)
        engine.clock.step(-HOUR)
        await asyncio.sleep(11)
        assert engine.password("team-a")


async def test_one_not_found_that_is_no_deletion_loses_no_deadline(engine: Engine) -> None:
    engine.ask("team-a")
    async with engine.running():
        engine.api.fail("patch", 404, resource="secrets", times=1)
        await asyncio.sleep(3 * HOUR)
        assert engine.expiry("team-a") > engine.clock()


async def test_concurrent_edits_of_others_survive_byte_for_byte(engine: Engine) -> None:
    """K2, K3: somebody writes between our decision and our patch, and the watch hasn't told of it."""
    engine.ask("team-a", config=FOREIGN)
    released = engine.issuer.hang()
    raw = b'{"auths":{"quay.io":{"auth":"YTpi","n":1.50}, "ghcr.io" : {"auth":"Yzpk"}},"x":{ }}'
    async with engine.running():
        engine.api.mute_watches()
        engine.set_config("team-a", raw)
        engine.api.merge_patch("team-a", NAME, {"data": {"other": "aGVsbG8="}, "metadata": {"labels": {"a": "b"}}})
        released.set()
        await engine.settle()
        secret = engine.api.secret("team-a", NAME)
    content = base64.b64decode(secret["data"][".dockerconfigjson"])
    assert engine.password("team-a") == engine.issuer.minted[0]
    for piece in (b'{"auth":"YTpi","n":1.50}', b'{"auth":"Yzpk"}', b'"x":{ }'):
        assert piece in content
    assert secret["data"]["other"] == "aGVsbG8="
    assert secret["metadata"]["labels"] == {"a": "b"}
    assert engine.mints == 1


async def test_a_new_refresh_value_is_asked_at_once_and_once(engine: Engine) -> None:
    """It is not satisfied by a token that was minted before it was asked."""
    engine.ask("team-a")
    async with engine.running():
        engine.annotate("team-a", refresh="1")
        await engine.settle()
        assert engine.password("team-a") == engine.issuer.minted[1]
        assert engine.annotation("team-a", "refreshed-for") == "1"
        await asyncio.sleep(600)
        assert engine.mints == 2


async def test_a_new_secret_with_a_refresh_value_shares_the_token_that_its_identity_has(engine: Engine) -> None:
    engine.ask("team-a")
    async with engine.running():
        engine.ask("team-b", refresh="1")
        await engine.settle()
        assert engine.password("team-b") == engine.password("team-a")
        assert engine.annotation("team-b", "refreshed-for") == "1"
    assert engine.mints == 1


async def test_a_new_refresh_value_is_not_satisfied_by_a_remembered_failure(engine: Engine) -> None:
    engine.ask("team-a")
    async with engine.running():
        engine.issuer.fail(403)
        engine.annotate("team-a", refresh="1")
        await engine.settle()
        assert engine.mints == 2
        engine.annotate("team-a", refresh="2")
        await engine.settle()
        assert engine.mints == 3
        engine.issuer.heal()
        engine.annotate("team-a", refresh="3")
        await engine.settle()
        assert engine.password("team-a") == engine.issuer.minted[1]


async def test_a_new_refresh_value_asks_at_once_for_a_secret_that_was_never_filled(engine: Engine) -> None:
    """Issue: recovery within 2 s of a new `refresh` value where the fault was the issuer's."""
    engine.issuer.fail(403)
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(1)
        engine.issuer.heal()
        engine.annotate("team-a", refresh="now")
        await asyncio.sleep(2)
        assert engine.password("team-a") == engine.issuer.minted[0]


async def test_a_new_refresh_value_with_wiped_data_is_not_satisfied_by_an_older_token(engine: Engine) -> None:
    """`kubectl apply` of a manifest with {} and another `refresh`: two reasons at once, and the request counts."""
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(60)
        secret = engine.api.secret("team-a", NAME)
        engine.api.put_secret(
            "team-a", NAME, annotations={**secret["metadata"]["annotations"], PREFIX + "refresh": "1"}, config={}
        )
        await engine.settle()
        assert engine.annotation("team-a", "refreshed-for") == "1"
        assert engine.password("team-a") == engine.issuer.minted[-1]
        assert engine.mints == 2


async def test_a_refresh_value_that_comes_during_a_mint_is_asked_after_it(engine: Engine) -> None:
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(0.1)
        released = engine.issuer.hang()
        engine.annotate("team-a", refresh="1")
        await asyncio.sleep(1)
        engine.annotate("team-a", refresh="2")
        await asyncio.sleep(1)
        engine.issuer.heal()
        released.set()
        await asyncio.sleep(1)
        assert engine.annotation("team-a", "refreshed-for") == "2"
        assert engine.password("team-a") == engine.issuer.minted[-1]
    assert engine.mints == 3


async def test_a_refresh_value_that_is_set_again_is_a_request_of_its_own(engine: Engine) -> None:
    """In between it was removed, and the clock asked for a token that doesn't count as an answer to the second."""
    engine.issuer.lifetime_seconds = 900
    engine.ask("team-a", refresh="1")
    async with engine.running():
        engine.annotate("team-a", refresh=None)
        await asyncio.sleep(0.65 * 900)
        assert engine.mints == 2
        engine.annotate("team-a", refresh="1")
        await engine.settle()
        assert engine.mints == 3
        assert engine.password("team-a") == engine.issuer.minted[2]


async def test_paused_is_left_alone_until_it_goes(engine: Engine) -> None:
    engine.ask("team-a", paused="true")
    async with engine.running():
        await asyncio.sleep(60)
        assert engine.mints == engine.patches == 0
        engine.annotate("team-a", paused="false")
        await engine.settle()
        assert engine.password("team-a")
        engine.annotate("team-a", paused="true")
        await asyncio.sleep(2 * HOUR)
        assert engine.mints == 1
        engine.annotate("team-a", paused=None)
        await engine.settle()
        assert engine.mints == 2


async def test_paused_during_the_mint_is_left_alone(engine: Engine) -> None:
    released = engine.issuer.hang()
    engine.ask("team-a")
    async with engine.running():
        engine.annotate("team-a", paused="true")
        released.set()
        await asyncio.sleep(60)
        assert engine.patches == 0


def _pretty(encoded: str) -> str:
    content = base64.b64decode(encoded).decode().replace(":{", ": {").replace(",", ",\n ")
    return base64.b64encode(content.encode()).decode()
