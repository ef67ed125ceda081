"""What the graph is built from, and when it counts as ready."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from controller.app import issuer_transport, policies_of
from controller.config import Config, Granting, load
from controller.core.projection import project
from controller.kube.admission import POLICIES, TENANT_PROOF, USE_IDENTITY
from tests.unit.engine import NAME, Engine, asking, identity
from tests.unit.fake_issuer import jwt
from tests.unit.virtual_time import Clock


@pytest.fixture
async def engine(clock: Clock, tmp_path: Path) -> Engine:
    engine = Engine(clock, tmp_path)
    engine.start()
    return engine


@pytest.mark.parametrize(
    ("settings", "watched"),
    [
        ({}, {("/api/v1/secrets", "metadata.name=pull-secret")}),
        (
            {"secret_names": ("one", "two")},
            {("/api/v1/secrets", "metadata.name=one"), ("/api/v1/secrets", "metadata.name=two")},
        ),
        (
            {"scope": "namespaces", "namespaces": ("x",)},
            {("/api/v1/namespaces/x/secrets", "type=kubernetes.io/dockerconfigjson")},
        ),
        ({"scope": "cluster"}, {("/api/v1/secrets", "type=kubernetes.io/dockerconfigjson")}),
    ],
)
async def test_only_what_the_scope_names_is_watched(
    engine: Engine, settings: dict[str, Any], watched: set[tuple[str, str]]
) -> None:
    """W10, TH4."""
    engine.config = Config(providers=engine.config.providers, **settings)
    async with engine.running() as controller:
        asked = {(request.path, request.query["fieldSelector"]) for request in engine.api.requests}
        assert asked == watched
        assert controller.health.ready() is None
        assert controller.health.live() is None


async def test_it_is_ready_once_every_list_is_read_to_its_end(engine: Engine) -> None:
    engine.config = Config(providers=engine.config.providers, secret_names=("one", "two"))
    engine.api.fail("list", 503, times=1)
    async with engine.running() as controller:
        assert controller.health.ready() == "the first list of Secrets is not done"
        assert controller.health.live() is None
        await asyncio.sleep(5)
        assert controller.health.ready() is None


async def test_without_rbac_it_is_not_ready_until_it_is_allowed(engine: Engine) -> None:
    """Ready, it would take the place of a Pod that can still fill Secrets."""
    engine.ask("team-a")
    engine.api.fail("list", 403, times=3)
    async with engine.running() as controller:
        assert controller.health.ready() == (
            "the API server refuses every watch: list secrets: 403 Forbidden; "
            "asked for Secrets named pull-secret in all namespaces"
        )
        assert controller.health.live() is None
        await asyncio.sleep(30)
        assert controller.health.ready() is None
        assert engine.password("team-a")


async def test_with_a_credential_that_the_api_server_refuses_it_is_not_ready(engine: Engine) -> None:
    engine.api.fail("list", 401, times=10_000)
    async with engine.running() as controller:
        for _ in range(100):
            await asyncio.sleep(10)
            assert "list secrets: 401 Unauthorized" in (controller.health.ready() or "")
        assert engine.metric("watch_refused") == 1


async def test_one_refused_watch_among_others_turns_nothing_unready_and_is_a_metric(engine: Engine) -> None:
    """F17."""
    engine.config = Config(providers=engine.config.providers, secret_names=("one", "two"))
    engine.ask("team-a", name="two")
    engine.api.fail("list", 403)
    async with engine.running() as controller:
        assert controller.health.ready() is None
        assert engine.metric("watch_refused") == 1
        assert engine.password("team-a", name="two")


NOT_PROVEN = "a provider can't prove who we are; not ready until it can"


async def test_with_a_wrong_token_file_it_is_not_ready_and_says_so_once(engine: Engine) -> None:
    """Ready, it would take the place of a Pod that can still mint."""
    engine.proof_file.unlink()
    async with engine.running() as controller:
        told = f"provider chainguard: ProofMissing: {engine.proof_file}: FileNotFoundError"
        assert controller.health.ready() == told
        await asyncio.sleep(600)
        assert controller.health.ready() == told
        assert controller.health.live() is None
        assert len(engine.logged(NOT_PROVEN)) == 1
        engine.proof_file.write_text(engine.proof)
        await asyncio.sleep(2)
        assert controller.health.ready() is None


@pytest.mark.parametrize(
    ("proof", "why"),
    [
        ("", "the file holds no JWT with an audience"),
        (jwt(aud=["elsewhere"]), "the token is for another audience"),
        (jwt(aud=["issuer.enforce.dev"], exp=1), "the token has expired"),
    ],
)
async def test_with_a_proof_that_no_issuer_would_take_it_is_not_ready(engine: Engine, proof: str, why: str) -> None:
    engine.proof_file.write_text(proof)
    async with engine.running() as controller:
        assert controller.health.ready() == f"provider chainguard: ProofUnfit: {why}"
    assert engine.mints == 0


async def test_one_provider_without_its_proof_keeps_it_unready_and_the_others_working(
    clock: Clock, tmp_path: Path
) -> None:
    engine = Engine(clock, tmp_path, providers=("chainguard", "other"))
    other = engine.config.providers["other"]
    missing = msgspec.structs.replace(other, token_file=str(tmp_path / "missing"))
    engine.config = Config(providers={**engine.config.providers, "other": missing}, secret_names=engine.names)
    engine.ask("team-a", provider="chainguard")
    async with engine.running() as controller:
        assert "provider other: ProofMissing" in (controller.health.ready() or "")
        assert engine.password("team-a")


async def test_a_proof_that_is_lost_later_turns_nothing_unready(engine: Engine) -> None:
    """It shows in mints that fail; without the Pod, nothing would be better."""
    async with engine.running() as controller:
        assert controller.health.ready() is None
        engine.proof_file.unlink()
        await asyncio.sleep(3600)
        assert controller.health.ready() is None


async def test_what_has_not_begun_to_watch_is_not_taken_for_dead(engine: Engine) -> None:
    """While it waits for an API server that is down at the start."""
    async with engine.running() as controller:
        reflector = controller._reflectors[0]
    waiting = type(reflector)(
        client=engine.api.client(),
        selector=reflector._selector,
        project=project,
        sink=reflector._sink,
        paging=asyncio.Lock(),
        now=engine.clock,
        random=lambda: 0.5,
        on_relist=lambda _: None,
        on_recovery=lambda: None,
        log=reflector._log,
    )
    await asyncio.sleep(1000)
    assert waiting.last_attempt == engine.clock()


async def test_nothing_is_minted_before_the_list_is_read_to_its_end(engine: Engine) -> None:
    """W3, over three pages of which the second fails once."""
    for number in range(1100):
        ours = asking(identity=identity(1)) if number in (0, 1099) else {}
        engine.api.put_secret(f"team-{number:04}", NAME, annotations=ours, config={})
    engine.api.latency_seconds = 1.0
    async with engine.running():
        await asyncio.sleep(2.5)
        assert len(engine.api.requests_of("list")) == 3
        assert engine.mints == 0
        await asyncio.sleep(3)
        assert engine.mints == 1
        assert engine.password("team-0000")
        assert engine.password("team-1099")


async def test_an_empty_configuration_serves_chainguard(engine: Engine, clock: Clock) -> None:
    """design.md 6: every field has a default."""
    config = load(None)
    assert set(config.providers) == {"chainguard"}
    assert (config.scope, config.secret_names) == ("name", (NAME,))


async def test_an_issuer_is_asked_through_its_proxy_but_for_the_exceptions(engine: Engine) -> None:
    (provider,) = engine.config.providers.values()
    proxy = "http://proxy.example:3128"
    settings = msgspec.structs.replace(provider, proxy=proxy, no_proxy=("registry.example",))
    transport = issuer_transport(settings)
    assert transport._proxy_for("https://issuer.example") == proxy
    assert transport._proxy_for("https://registry.example") is None


def test_the_policy_that_asks_the_writer_is_not_needed_where_only_the_namespace_is_asked() -> None:
    needed = {check: policies_of(Config(grants=Granting(check=check))) for check in ("admission", "both", "namespace")}
    assert needed["admission"] == needed["both"] == POLICIES
    assert set(POLICIES) - set(needed["namespace"]) == {USE_IDENTITY}


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ({}, False),
        ({"serviceAccounts": {"enabled": True}}, True),
        ({"providers": {"x": {"type": "chainguard", "proof": "serviceAccount"}}}, True),
        ({"targets": [{"name": "a", "identity": "b" * 40, "namespaces": [{"names": ["c"]}]}]}, False),
        (
            {"targets": [{"name": "a", "identity": "b" * 40, "namespaces": [{"names": ["c"]}], "serviceAccount": "d"}]},
            True,
        ),
    ],
)
def test_the_policy_about_tokens_of_service_accounts_is_needed_where_the_configuration_names_one(
    tmp_path: Path, settings: dict[str, Any], needed: bool
) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    assert (TENANT_PROOF in policies_of(load(tmp_path / "config.yaml"))) == needed
