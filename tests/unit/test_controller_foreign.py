"""What isn't ours in a Secret: no bytes whatever stop a fill in silence, and what no kubelet can read is reported."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from controller.core import dockerconfig
from testing.dockerconfigs import CASES, configs
from tests.unit.engine import NAME, Engine, asking, identity
from tests.unit.fake_issuer import HOUR
from tests.unit.virtual_time import Clock

REASON = "ForeignEntryUnreadable"


@pytest.fixture
def engine(clock: Clock, tmp_path: Path) -> Engine:
    return Engine(clock, tmp_path)


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "auth without a colon": ({"auths": {"quay.io": {"auth": "dG9rZW4="}}}, "quay.io"),
    "auth that is not base64": ({"auths": {"https://Quay.io/v1/": {"auth": "user:password"}}}, "quay.io"),
    "a number as user name": ({"auths": {"quay.io": {"username": 7, "password": "p"}}}, "quay.io"),
    "an entry that is a string": ({"auths": {"quay.io": "dTpw"}}, "quay.io"),
    "a header that is a number": ({"auths": {"quay.io": {}}, "HttpHeaders": {"X": 1}}, "HttpHeaders"),
    "several": ({"auths": dict.fromkeys("dcba", 1)}, "a, b, c, others"),
    "a key that holds a password": ({"auths": {"user:password@quay.io": 1}}, "a key that is not a registry"),
}


@pytest.mark.parametrize(("config", "named"), BROKEN.values(), ids=BROKEN.keys())
async def test_a_broken_foreign_entry_that_makes_every_kubelet_drop_the_secret_is_reported_beside_the_token(
    engine: Engine, config: dict[str, Any], named: str
) -> None:
    engine.ask("team-a", config=config)
    async with engine.running():
        assert engine.password("team-a") == engine.issuer.minted[0]
        error = engine.annotation("team-a", "error") or ""
        assert error.startswith(f"{REASON}: ")
        assert error.endswith(f": {named}")
        assert "no kubelet reads this Secret" in error
        assert engine.told("team-a") == [REASON]
        await asyncio.sleep(3 * HOUR)
        assert engine.expiry("team-a") > engine.clock()
        assert engine.annotation("team-a", "error") == error
        assert engine.told("team-a") == [REASON]
        assert engine.patches == engine.mints <= 7
        kept = engine.api.config("team-a", NAME)
        assert {**kept, "auths": {key: kept["auths"][key] for key in config["auths"]}} == config

        mints = engine.mints
        engine.set_config("team-a", {"auths": {"cgr.dev": kept["auths"]["cgr.dev"], "quay.io": {"auth": "dTpw"}}})
        await engine.settle()
        assert engine.annotation("team-a", "error") is None
        assert engine.api.events[-1]["reason"] == "Recovered"
        assert engine.mints == mints


async def test_an_entry_that_is_broken_later_is_reported_at_once_and_costs_no_mint(engine: Engine) -> None:
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(60)
        config = engine.api.config("team-a", NAME)
        config["auths"]["quay.io"] = {"auth": "?"}
        engine.set_config("team-a", config)
        await engine.settle()
        assert (engine.annotation("team-a", "error") or "").endswith(": quay.io")
        assert engine.told("team-a") == [REASON]
        assert (engine.mints, engine.patches) == (1, 2)
        config["auths"]["z.example"] = 1
        engine.set_config("team-a", config)
        await engine.settle()
        assert (engine.annotation("team-a", "error") or "").endswith(": quay.io, z.example")
        assert (engine.mints, engine.patches) == (1, 3)


@pytest.mark.parametrize("first", [True, False])
async def test_an_unreadable_entry_for_our_own_host_is_replaced(engine: Engine, first: bool) -> None:
    """Beside ours, in another spelling, it makes the kubelet drop the Secret as well."""
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(60)
        ours, broken = engine.api.config("team-a", NAME)["auths"], {"https://CGR.dev/": {"auth": "?"}}
        engine.set_config("team-a", {"auths": {**broken, **ours} if first else {**ours, **broken}})
        await engine.settle()
        assert list(engine.api.config("team-a", NAME)["auths"]) == ["cgr.dev"]
        assert engine.password("team-a") == engine.issuer.minted[0]
        assert engine.told("team-a") == []


async def test_a_fight_is_reported_before_a_broken_entry(engine: Engine) -> None:
    broken = {"auths": {"quay.io": 1}}
    engine.ask("team-a", config=broken)
    async with engine.running():
        for _ in range(3):
            engine.set_config("team-a", broken)
            await asyncio.sleep(1)
        assert (engine.annotation("team-a", "error") or "").startswith("Fight: ")
        await asyncio.sleep(610)
        assert (engine.annotation("team-a", "error") or "").startswith(f"{REASON}: ")
        assert engine.mints == 1


async def test_what_another_claim_is_about_to_write_is_not_foreign(clock: Clock, tmp_path: Path) -> None:
    engine = Engine(clock, tmp_path, providers=("a", "b"))
    wanted = asking(identity__a=identity(1), identity__b=identity(2))
    broken = {"auths": {"a.test": {"auth": "?"}, "b.test": {"auth": "?"}}}
    engine.api.put_secret("team-a", NAME, annotations=wanted, config=broken)
    async with engine.running():
        await asyncio.sleep(2)
        assert engine.password("team-a", "a.test")
        assert engine.password("team-a", "b.test")
        assert engine.told("team-a") == []


async def test_bytes_that_are_no_utf_8_are_kept_and_the_secret_is_filled(engine: Engine) -> None:
    contents = {
        "text": b'{"auths":{"a":{"x":"\xff"}}}',
        "key": b'{"auths":{"\xff":{}}}',
        "top": b'{"\xfe\xff":"\xff","auths":{}}',
        "half-a-pair": b'{"auths":{"\\ud800":{"x":"\\udfff"}}}',
    }
    for namespace, content in contents.items():
        engine.ask(namespace, config=content)
    async with engine.running():
        await asyncio.sleep(1)
        for namespace, content in contents.items():
            assert engine.password(namespace) == engine.issuer.minted[0]
            assert engine.told(namespace) == []
            assert content[:-2] in engine.api.content(namespace, NAME).replace(b'","auths":{"cgr', b'","auths":{')


def drawn(number: int, strategy: st.SearchStrategy[bytes]) -> list[bytes]:
    """So many values, the same in every run."""
    values: list[bytes] = []

    @settings(max_examples=number, phases=[Phase.generate])
    @given(strategy)
    def draw(value: bytes) -> None:
        values.append(value)

    draw()
    return values


async def test_whatever_the_bytes_are_there_is_a_token_that_kubelets_read_or_a_reason(engine: Engine) -> None:
    """And nothing of it repeats: a mint a life, at most a write a mint and one for the reason."""
    contents = [*(content for content, _ in CASES.values()), *drawn(200, configs), *drawn(100, st.binary())]
    for number, content in enumerate(contents):
        engine.ask(f"team-{number}", config=content)
    async with engine.running():
        await asyncio.sleep(HOUR)
        told = 0
        for number, content in enumerate(contents):
            namespace = f"team-{number}"
            error, reasons = engine.annotation(namespace, "error"), engine.told(namespace)
            assert len(reasons) <= 1, content
            assert reasons or not error, content
            told += len(reasons)
            try:
                config = dockerconfig.parse(engine.api.content(namespace, NAME))
            except dockerconfig.Unreadable:
                assert reasons == ["ConfigUnreadable"], content
                assert engine.api.content(namespace, NAME) == content
                continue
            if reasons == ["ConfigUnreadable"]:
                assert "cgr.dev" in dockerconfig.broken_hosts(config), content
                continue
            assert dockerconfig.credentials(config, ["cgr.dev"])["cgr.dev"][0] == "_token", content
            # What our write mends, such as an entry of an `auths` that a later `auths: null` drops, is reported once.
            assert bool(config.unreadable) is (error is not None), content
        assert 100 < told < len(contents) - 100
        assert engine.mints == 2
        assert engine.patches <= 2 * (len(contents) - told) + 2 * told
        assert [entry for entry in engine.log if entry["level"] in ("error", "critical")] == []
        assert {entry["event"] for entry in engine.log if entry["level"] == "warning"} == {"claim not served"}
