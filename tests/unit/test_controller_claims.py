"""Several identities in one Secret, each with its own provider, hosts, deadline, failure and patch."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path

import pytest

from tests.unit.engine import NAME, Engine, asking, identity
from tests.unit.fake_issuer import HOUR
from tests.unit.queues import processing, waiting
from tests.unit.virtual_time import Clock


@pytest.fixture
def engine(clock: Clock, tmp_path: Path) -> Engine:
    return Engine(clock, tmp_path, providers=("a", "b"))


def ask_both(engine: Engine, **ours: str) -> None:
    wanted = asking(identity__a=identity(1), identity__b=identity(2), **ours)
    engine.api.put_secret("team-a", NAME, annotations=wanted, config={})


async def test_each_claim_owns_exactly_its_hosts(engine: Engine) -> None:
    ask_both(engine)
    async with engine.running():
        await asyncio.sleep(2)
        config = engine.api.config("team-a", NAME)
        assert set(config["auths"]) == {"a.test", "b.test"}
        assert engine.password("team-a", "a.test") == engine.issuers["a"].minted[0]
        assert engine.password("team-a", "b.test") == engine.issuers["b"].minted[0]
        assert engine.annotation("team-a", "registries-managed.a") == "a.test"
        assert engine.annotation("team-a", "registries-managed.b") == "b.test"
        assert engine.mints == 2
        assert engine.patches <= 3, "one of the two may meet the other's write"
        await asyncio.sleep(3 * HOUR)
        for name in ("a", "b"):
            assert engine.expiry("team-a", f"{name}.test") > engine.clock()
    assert engine.mints <= 2 * 7


async def test_a_hanging_issuer_never_blocks_the_other_claim(engine: Engine) -> None:
    engine.issuers["a"].hang()
    ask_both(engine)
    for number in range(40):  # more than there are workers
        engine.api.put_secret(f"hung-{number}", NAME, annotations=asking(identity__a=identity(number)), config={})
    async with engine.running():
        assert engine.password("team-a", "b.test") == engine.issuers["b"].minted[0]
        assert engine.password("team-a", "a.test") is None
        await asyncio.sleep(20)
        assert engine.annotation("team-a", "error.a") is not None
        assert engine.annotation("team-a", "error.b") is None
        assert engine.password("team-a", "b.test") == engine.issuers["b"].minted[0]


async def test_a_refused_claim_never_holds_up_the_other(engine: Engine) -> None:
    engine.issuers["a"].fail(403)
    ask_both(engine)
    async with engine.running():
        await asyncio.sleep(2 * HOUR)
        assert engine.expiry("team-a", "b.test") > engine.clock()
        assert engine.told("team-a") == ["MintRefused"]
        engine.issuers["a"].heal()
        await asyncio.sleep(900)
        assert engine.password("team-a", "a.test")
        assert engine.annotation("team-a", "error.a") is None


async def test_a_wiped_secret_gets_both_back(engine: Engine) -> None:
    ask_both(engine)
    async with engine.running():
        await asyncio.sleep(60)
        engine.set_config("team-a", {})
        await asyncio.sleep(2)
        assert set(engine.api.config("team-a", NAME)["auths"]) == {"a.test", "b.test"}
        assert engine.told("team-a") == []
    assert engine.mints == 2


async def test_a_registry_that_is_no_longer_asked_for_is_removed_at_the_next_write(
    clock: Clock, tmp_path: Path
) -> None:
    engine = Engine(clock, tmp_path, more_registries=("mirror.test",))
    engine.ask("team-a", config={"auths": {"quay.io": {"auth": "YTpi"}}})
    async with engine.running():
        assert set(engine.api.config("team-a", NAME)["auths"]) == {"quay.io", "cgr.dev", "mirror.test"}
        engine.annotate("team-a", registries="cgr.dev")
        await engine.settle()
        assert set(engine.api.config("team-a", NAME)["auths"]) == {"quay.io", "cgr.dev"}
        assert engine.annotation("team-a", "registries-managed") == "cgr.dev"
    assert engine.mints == 1, "one token serves all hosts of this provider"


async def test_a_registry_that_moves_to_another_claim_is_not_taken_from_it(engine: Engine) -> None:
    """The unsuffixed claim gives a.test up when `identity.a` comes for it."""
    engine.api.put_secret("team-a", NAME, annotations=asking(identity=identity(1), provider="a"), config={})
    async with engine.running():
        engine.annotate("team-a", identity__a=identity(3), identity=identity(2), provider="b")
        await asyncio.sleep(2)
        assert engine.password("team-a", "a.test") == engine.issuers["a"].minted[-1]
        assert engine.password("team-a", "b.test") == engine.issuers["b"].minted[-1]
        await asyncio.sleep(HOUR)
        assert set(engine.api.config("team-a", NAME)["auths"]) == {"a.test", "b.test"}


@pytest.mark.parametrize(("mistake", "patches"), [({}, 3), ({"registries__a": "evil.test"}, 5)])
async def test_a_claim_that_gave_a_registry_up_leaves_it_to_the_claim_that_has_it_now(
    engine: Engine, mistake: dict[str, str], patches: int
) -> None:
    """`identity.a` writes its entry first; the unsuffixed claim, which had that registry before, writes after it.

    Also where `identity.a` is bad input by then: what it wrote stays. Its error and the token meet in one conflict.
    """
    engine.api.put_secret("team-a", NAME, annotations=asking(identity=identity(1), provider="a"), config={})
    async with engine.running():
        released = engine.issuers["b"].hang()
        engine.annotate("team-a", identity__a=identity(3), identity=identity(2), provider="b")
        await asyncio.sleep(1)
        token = engine.issuers["a"].minted[-1]
        assert engine.password("team-a", "a.test") == token
        engine.annotate("team-a", **mistake)
        released.set()
        await asyncio.sleep(60)
        assert engine.password("team-a", "b.test") == engine.issuers["b"].minted[-1]
        assert engine.password("team-a", "a.test") == token
        assert engine.patches == patches, "nobody had to mend what another took away"


async def test_a_claim_that_moves_between_providers_is_never_in_two_hands(engine: Engine) -> None:
    released = engine.issuers["a"].hang()
    engine.api.put_secret("team-a", NAME, annotations=asking(identity=identity(1), provider="a"), config={})
    async with engine.running() as controller:
        for provider in ("b", "a", "b"):
            engine.annotate("team-a", provider=provider)
            await engine.settle()
            engine.check_deadlines()
            assert sum(processing(queue) for queue in controller._queues.values()) <= 1
        assert set(engine.api.config("team-a", NAME)["auths"]) == {"b.test"}
        released.set()
        await asyncio.sleep(1)
        assert set(engine.api.config("team-a", NAME)["auths"]) == {"b.test"}
        assert [len(engine.issuers[name].requests) for name in ("a", "b")] == [1, 1]
        engine.annotate("team-a", provider="a")
        await asyncio.sleep(1)
        assert set(engine.api.config("team-a", NAME)["auths"]) == {"a.test"}
        assert waiting(controller._queues["b"]) == 0


async def test_a_claim_that_moves_while_its_old_issuer_fails_is_not_lost(engine: Engine) -> None:
    """Its token is young, so that nobody is told of the outage and nothing else wakes the claim."""
    engine.api.put_secret("team-a", NAME, annotations=asking(identity=identity(1), provider="a"), config={})
    async with engine.running():
        engine.issuers["a"].delay_seconds = 5
        engine.issuers["a"].fail(503)
        engine.annotate("team-a", refresh="1")
        await asyncio.sleep(1)
        engine.annotate("team-a", provider="b")
        await asyncio.sleep(5)
        assert set(engine.api.config("team-a", NAME)["auths"]) == {"b.test"}
        assert engine.annotation("team-a", "error") is None


async def test_two_claims_with_one_host_are_told_at_the_later_by_name(engine: Engine) -> None:
    wanted = asking(identity=identity(1), provider="a", identity__a=identity(2))
    engine.api.put_secret("team-a", NAME, annotations=wanted, config={})
    async with engine.running():
        await asyncio.sleep(60)
        assert engine.password("team-a", "a.test") == engine.issuers["a"].minted[0]
        assert engine.annotation("team-a", "error") is None
        assert (engine.annotation("team-a", "error.a") or "").startswith("RegistryClaimedTwice: ")
        assert engine.told("team-a") == ["RegistryClaimedTwice"]
        assert engine.mints == 1
        engine.annotate("team-a", provider="b")
        await asyncio.sleep(2)
        assert engine.password("team-a", "a.test") == engine.issuers["a"].minted[-1]
        assert engine.password("team-a", "b.test") == engine.issuers["b"].minted[-1]
        assert engine.annotation("team-a", "error.a") is None


async def test_an_identity_that_fits_two_providers_is_told_with_their_names(engine: Engine) -> None:
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(60)
        assert (engine.annotation("team-a", "error") or "").endswith(": a, b")
        assert engine.told("team-a") == ["ProviderAmbiguous"]
        engine.annotate("team-a", registries="b.test")
        await engine.settle()
        assert engine.password("team-a", "b.test")


async def test_a_new_refresh_value_renews_every_claim_once(engine: Engine) -> None:
    ask_both(engine)
    async with engine.running():
        await asyncio.sleep(2)
        engine.annotate("team-a", refresh="1")
        await asyncio.sleep(2)
        assert [len(issuer.requests) for issuer in engine.issuers.values()] == [2, 2]
        assert engine.annotation("team-a", "refreshed-for.a") == "1"
        assert engine.annotation("team-a", "refreshed-for.b") == "1"


async def test_an_error_of_one_claim_is_never_removed_by_the_other(engine: Engine) -> None:
    ask_both(engine, registries__b="evil.test")
    async with engine.running():
        await asyncio.sleep(2)
        assert engine.password("team-a", "a.test")
        assert engine.annotation("team-a", "error.b")
        await asyncio.sleep(2 * HOUR)
        assert engine.annotation("team-a", "error.b")
        assert engine.expiry("team-a", "a.test") > engine.clock()


@pytest.mark.parametrize("foreign", [{}, {"quay.io": {"auth": "YTpi"}}])
async def test_a_registry_that_its_user_takes_over_keeps_the_users_credential(
    clock: Clock, tmp_path: Path, foreign: dict[str, dict[str, str]]
) -> None:
    """One `kubectl apply` takes it off the list and brings the user's own entry, which our next write dropped."""
    engine = Engine(clock, tmp_path, more_registries=("mirror.test", "old.test"))
    engine.ask("team-a", config={"auths": foreign})
    async with engine.running():
        config = engine.api.config("team-a", NAME)
        config["auths"]["mirror.test"] = {"auth": "dTpw"}
        data = {".dockerconfigjson": base64.b64encode(json.dumps(config).encode()).decode()}
        annotations = asking(registries="cgr.dev")
        engine.api.merge_patch("team-a", NAME, {"metadata": {"annotations": annotations}, "data": data})
        await engine.settle()
        auths = engine.api.config("team-a", NAME)["auths"]
        assert set(auths) == {*foreign, "cgr.dev", "mirror.test"}
        assert auths["mirror.test"] == {"auth": "dTpw"}
        assert engine.annotation("team-a", "registries-managed") == "cgr.dev"
