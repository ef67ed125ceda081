"""What of a provider only the whole controller shows: its clean-up in metrics and log, and the probe before a write."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from controller import config
from controller.net.transport import Stream
from testing import crusoe
from testing.azure import CLIENT, REGISTRY
from testing.registry import Registry
from testing.tokens import KeyTrust
from testing.wire import Answer, Slow, Vendor, Wire
from tests.unit import contract_acr, contract_crusoe
from tests.unit.contract_crusoe import ACCESS_KEY, SECRET_KEY, USER
from tests.unit.engine import NAME, Engine
from tests.unit.fake_issuer import HOUR
from tests.unit.provider_world import WireTransport, service_accounts
from tests.unit.virtual_time import Clock

OTHERS = ("base.azurecr.io", "mirror.azurecr.io")
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
        self.transports = {"crusoe": self.hosts}


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


async def test_a_token_that_the_registry_could_not_judge_is_written_and_the_log_names_the_provider(
    engine: CrusoeEngine,
) -> None:
    engine.hosts.wires[HOST].script.append(Answer(503))
    async with engine.running():
        assert engine.password("team-a", HOST) == engine.vendor.minted[-1]
    [entry] = engine.logged("token handed on untried")
    assert (entry["provider"], entry["registry"]) == ("crusoe", HOST)


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


async def test_a_mint_of_many_slow_answers_is_given_up_after_three_timeouts(clock: Clock, tmp_path: Path) -> None:
    """Each answer comes within `timeoutSeconds`, which is 10, but there are four: the secret was replaced meanwhile."""
    azure = contract_acr.vendor(clock, lambda audience: KeyTrust(service_accounts(), audience=audience, clock=clock))
    hosts = Hosts(clock, {"login.microsoftonline.com": azure, REGISTRY: azure})
    for wire in hosts.wires.values():
        wire.script.extend([Slow(9)] * 2)
    engine = Engine(clock, tmp_path)
    content = {"type": "acr", "registries": [REGISTRY], "probe": True, **contract_acr.with_secret(tmp_path)}
    engine.config = config.load(None, {"providers": {"acr": content}})
    engine.providers, engine.transports = ("acr",), {"acr": hosts}
    engine.ask("team-a", identity=contract_acr.IDENTITY)
    async with engine.running():
        azure.secrets[CLIENT] = contract_acr.NEXT_SECRET
        (tmp_path / "secret").write_text(contract_acr.NEXT_SECRET)
        await engine.settle(29)
        assert len(azure.minted) == 2, "Entra's and the registry's, which has yet to be tried"
        assert engine.logged("token not minted") == []
        await engine.settle(1.1)
        [entry] = engine.logged("token not minted")
        assert entry["detail"] == "no token within 30 s"
        assert engine.metric("mints_total", provider="acr", result="IssuerUnavailable") == 1


class AcrEngine(Engine):
    """An engine whose one provider has three registries of Azure, each with a password of its own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.vendor = contract_acr.vendor(
            self.clock, lambda audience: KeyTrust(service_accounts(), audience=audience, clock=self.clock)
        )
        self.vendor.registries = {*OTHERS}
        self.hosts = Hosts(self.clock, dict.fromkeys(("login.microsoftonline.com", REGISTRY, *OTHERS), self.vendor))
        content = {"type": "acr", "registries": [REGISTRY, *OTHERS], **contract_acr.with_secret(self.directory)}
        self.config = config.load(None, {"providers": {"acr": content}})
        self.providers = ("acr",)
        self.transports = {"acr": self.hosts}

    def is_served(self, *registries: str) -> bool:
        """Whether the Secret has a valid password for each of these registries, and none for another."""
        present = set(self.api.config("team-a", NAME)["auths"])
        passwords = {host: self.password("team-a", host) or "" for host in registries}
        return present == set(registries) and all(
            self.vendor.whose(password, host) == CLIENT for host, password in passwords.items()
        )


@pytest.fixture
def azure(clock: Clock, tmp_path: Path) -> AcrEngine:
    engine = AcrEngine(clock, tmp_path)
    engine.ask("team-a", identity=contract_acr.IDENTITY)
    return engine


async def test_one_annotation_serves_several_registries_each_with_its_own_password(azure: AcrEngine) -> None:
    async with azure.running():
        assert azure.is_served(REGISTRY, *OTHERS)
        assert len(azure.vendor.minted) == 1 + 3, "one token of Entra, and one of each registry"
        assert azure.patches == 1
        await azure.settle(HOUR)
        assert azure.patches == 1, "our own write is nobody's edit"
        await azure.settle(5 * HOUR)
        assert azure.is_served(REGISTRY, *OTHERS)
        assert azure.patches > 1


async def test_a_registry_of_several_that_is_no_longer_asked_for_is_removed(azure: AcrEngine) -> None:
    async with azure.running():
        azure.annotate("team-a", registries=f"{REGISTRY},{OTHERS[0]}")
        await azure.settle()
        assert azure.is_served(REGISTRY, OTHERS[0])


async def test_an_edit_of_one_of_several_passwords_is_healed(azure: AcrEngine) -> None:
    async with azure.running():
        content = azure.api.config("team-a", NAME)
        content["auths"][OTHERS[1]] = {"auth": "dXNlcjpwYXNz"}
        azure.set_config("team-a", content)
        await azure.settle()
        assert azure.is_served(REGISTRY, *OTHERS)


async def test_one_of_several_registries_that_fails_takes_no_password_away(azure: AcrEngine) -> None:
    async with azure.running():
        before = azure.api.config("team-a", NAME)
        azure.hosts.wires[OTHERS[0]].script.append(Answer(403))
        azure.annotate("team-a", refresh="1")
        await azure.settle()
        error = azure.annotation("team-a", "error") or ""
        assert error.startswith("MintRefused: ")
        assert f"host {OTHERS[0]}" in error
        assert azure.api.config("team-a", NAME) == before


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
    [entry] = engine.logged("cleaning up old tokens at the issuer failed")
    assert entry["provider"] == "crusoe"
    assert entry["detail"] == "MintRefused (HTTP 403)"


async def test_no_token_that_a_secret_holds_is_deleted_in_two_days(engine: CrusoeEngine) -> None:
    """Secrets of one identity are filled at different times, so that they hold tokens of different ages.

    The window is wide: what one Secret replaced after a fifth of its life another may hold for four fifths.
    """
    engine.config = msgspec.structs.replace(engine.config, refresh=config.Refreshing(from_=0.2, to=0.8))
    teams = [f"team-{letter}" for letter in "abcdefgh"]
    async with engine.running():
        for quarter in range(2 * 24 * 4):
            filled = teams[: quarter // 4 + 1]  # one more each hour
            if quarter % 4 == 0 and 0 < quarter // 4 < len(teams):
                engine.ask(filled[-1], identity=USER)
            await engine.settle(HOUR / 4)
            for team in filled:
                assert engine.vendor.admits(engine.password(team, HOST) or "")
    assert len(engine.vendor.minted) >= 9
    assert len(engine.vendor.api_keys) < len(engine.vendor.minted) / 2, "and the old ones are gone"
