"""What of a provider only the whole controller shows: its clean-up in metrics and log, and the probe before a write."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from controller import config
from controller.http import Stream
from hack.standin import crusoe
from hack.standin.registry import Registry
from hack.standin.wire import Answer, Vendor, Wire
from tests.unit import contract_crusoe
from tests.unit.contract_crusoe import ACCESS_KEY, SECRET_KEY, USER
from tests.unit.engine import Engine
from tests.unit.fake_issuer import HOUR
from tests.unit.provider_world import WireTransport
from tests.unit.virtual_time import Clock

HOST = "registry.us-east1-a.ccr.crusoecloudcompute.com"


class Hosts:
    """A Transport that reaches several vendors, each by its host."""

    def __init__(self, clock: Clock, vendors: Mapping[str, Vendor]) -> None:
        self.wires = {host: Wire(vendor, clock=clock) for host, vendor in vendors.items()}

    @asynccontextmanager
    async def open(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None = None
    ) -> AsyncIterator[Stream]:
        """See Transport."""
        transport = WireTransport(self.wires[url.split("/")[2]])
        async with transport.open(method, url, headers=headers, body=body) as stream:
            yield stream


class CrusoeEngine(Engine):
    """An engine whose one provider is Crusoe, with an alias and the probe."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.vendor = crusoe.Crusoe(self.clock, access_key=ACCESS_KEY, secret_key=SECRET_KEY)
        self.registry_admits = True
        self.door = Registry(
            self.clock,
            lambda user, password: self.registry_admits and user == USER and self.vendor.admits(password),
            flavour="bearer",
        )
        self.hosts = Hosts(self.clock, {"api.cloud.crusoe.ai": self.vendor, HOST: self.door})
        content: dict[str, Any] = {"type": "crusoe", "alias": "a", "probe": True}
        content |= contract_crusoe.settings(self.directory)
        self.config = config.load(None, {"providers": {"crusoe": content}})
        self.providers = ("crusoe",)
        self.issuers: Any = {"crusoe": self.hosts}


@pytest.fixture
def engine(clock: Clock, tmp_path: Path) -> CrusoeEngine:
    engine = CrusoeEngine(clock, tmp_path)
    engine.ask("team-a", identity=USER)
    return engine


async def test_an_email_becomes_a_login_that_the_registry_takes(engine: CrusoeEngine) -> None:
    async with engine.running():
        assert engine.password("team-a", HOST) == engine.vendor.minted[-1]
    assert engine.door.logins == [True]


async def test_a_token_that_the_registry_refuses_is_not_written(engine: CrusoeEngine) -> None:
    engine.registry_admits = False
    async with engine.running():
        assert engine.password("team-a", HOST) is None
        error = engine.annotation("team-a", "error")
    assert error is not None
    assert error.startswith("TokenUnfit")
    assert engine.vendor.minted[-1] not in engine.readable()


async def test_a_registry_that_refuses_stops_only_the_claims_that_are_for_it(engine: CrusoeEngine) -> None:
    other = HOST.replace("east1", "west1")
    settings = engine.config.providers["crusoe"]
    providers = {"crusoe": msgspec.structs.replace(settings, registries=(HOST, other))}
    engine.config = msgspec.structs.replace(engine.config, providers=providers)
    engine.hosts.wires[other] = Wire(
        Registry(engine.clock, lambda _user, _password: False, flavour="bearer"), clock=engine.clock
    )
    engine.annotate("team-a", registries=HOST)
    engine.ask("team-b", identity=USER, registries=other)
    async with engine.running():
        assert engine.password("team-a", HOST) is not None
        assert engine.annotation("team-a", "error") is None
        assert (engine.annotation("team-b", "error") or "").startswith("TokenUnfit")


async def test_a_clean_up_is_counted(engine: CrusoeEngine) -> None:
    async with engine.running():
        await engine.settle(8 * HOUR)
        assert engine.metric("cleanups_total", provider="crusoe", result="done") == 1
        assert engine.metric("cleanups_total", provider="crusoe", result="failed") == 0


async def test_a_clean_up_that_fails_is_counted_and_logged_and_the_token_is_written(engine: CrusoeEngine) -> None:
    engine.hosts.wires["api.cloud.crusoe.ai"].script.extend([None, None, Answer(403, b"no")])
    async with engine.running():
        await engine.settle(8 * HOUR)
        assert engine.password("team-a", HOST) == engine.vendor.minted[-1]
        assert engine.metric("cleanups_total", provider="crusoe", result="failed") == 1
    [entry] = engine.logged("clean-up at the issuer failed")
    assert entry["provider"] == "crusoe"
    assert entry["detail"] == "MintRefused (HTTP 403)"


async def test_no_token_that_a_secret_holds_is_deleted_in_three_days(engine: CrusoeEngine) -> None:
    """Secrets of one identity are filled at different times, so that they hold tokens of different ages."""
    teams = [f"team-{letter}" for letter in "abcdefgh"]
    async with engine.running():
        for quarter in range(3 * 24 * 4):
            filled = teams[: quarter // 4 + 1]  # one more each hour
            if quarter % 4 == 0 and 0 < quarter // 4 < len(teams):
                engine.ask(filled[-1], identity=USER)
            await engine.settle(HOUR / 4)
            for team in filled:
                assert engine.vendor.admits(engine.password(team, HOST) or "")
    assert len(engine.vendor.minted) >= 9
    assert len(engine.vendor.api_keys) < len(engine.vendor.minted) / 2, "and the old ones are gone"
