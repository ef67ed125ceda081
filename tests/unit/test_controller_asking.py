"""A ServiceAccount asks for a Secret by its own annotations: it is made beside it, named in it, and proven by it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from controller.config import AskingAccounts
from controller.core.jwt import jwt_claim
from controller.core.targetconfig import NamespaceEntry, TargetSettings
from tests.unit.engine import NAME, PREFIX, Engine, identity
from tests.unit.virtual_time import Clock

ACCOUNT = "pull-secret"
STATE = "(serviceaccounts)"


@pytest.fixture
def engine(clock: Clock, tmp_path: Path) -> Engine:
    """With the namespace team-a; ServiceAccounts called pull-secret may ask."""
    engine = Engine(clock, tmp_path, asking=AskingAccounts(enabled=True))
    engine.api.put_namespace("team-a")
    return engine


def ready(engine: Engine) -> float:
    return engine.metric("target_namespaces", target=STATE, state="ready")


async def test_the_secret_is_made_named_and_proven_by_the_service_account_itself(engine: Engine) -> None:
    engine.api.put_account("team-a", ACCOUNT, secrets=("first",), identity=identity(1))
    async with engine.running():
        assert engine.password("team-a") == engine.issuer.minted[0]
        assert engine.api.pull_secrets("team-a", ACCOUNT) == ["first", NAME]
        assert ready(engine) == 1
        (request,) = engine.issuer.requests
        assert jwt_claim(request.proof, "sub") == "system:serviceaccount:team-a:pull-secret"
        assert engine.annotation("team-a", "service-account") == ACCOUNT
        assert engine.annotation("team-a", "target") == "serviceaccount/pull-secret"


async def test_it_needs_no_watch_on_namespaces(engine: Engine) -> None:
    engine.api.put_account("team-a", ACCOUNT, identity=identity(1))
    async with engine.running():
        assert ready(engine) == 1
        assert {one.resource for one in engine.api.requests if one.verb == "list"} == {"secrets", "serviceaccounts"}


async def test_one_of_another_name_may_not_ask(engine: Engine) -> None:
    engine.api.put_account("team-a", "default", identity=identity(1))
    async with engine.running():
        await asyncio.sleep(60)
        assert engine.api.secrets == []


@pytest.mark.parametrize("name", ["..", ".", "a/b", "Not a name", "x" * 254])
async def test_what_is_no_name_of_a_secret_is_told_and_never_sent_to_the_api_server(engine: Engine, name: str) -> None:
    engine.config = msgspec.structs.replace(engine.config, scope="cluster")
    engine.api.put_account("team-a", ACCOUNT, identity=identity(1), secret=name)
    async with engine.running():
        await asyncio.sleep(60)
        assert engine.api.requests_of("patch") == []
        assert engine.mints == 0
        assert engine.told("team-a") == ["SecretNotWatched"]


async def test_where_it_is_not_enabled_the_annotation_means_nothing(clock: Clock, tmp_path: Path) -> None:
    engine = Engine(clock, tmp_path)
    engine.api.put_account("team-a", ACCOUNT, identity=identity(1))
    async with engine.running():
        await asyncio.sleep(60)
        assert engine.api.secrets == []
        assert {one.resource for one in engine.api.requests} == {"secrets"}


async def test_an_annotation_that_comes_later_is_served_at_once_and_another_identity_in_one_write(
    engine: Engine,
) -> None:
    engine.api.put_account("team-a", ACCOUNT)
    async with engine.running():
        await asyncio.sleep(30)
        engine.api.put_account("team-a", ACCOUNT, identity=identity(1))
        await engine.settle()
        assert engine.annotation("team-a", "identity") == identity(1)
        before = len(engine.api.requests_of("patch"))
        engine.api.put_account("team-a", ACCOUNT, secrets=(NAME,), identity=identity(2))
        await engine.settle()
        assert engine.annotation("team-a", "identity") == identity(2)
        assert len(engine.api.requests_of("patch")) == before + 1


async def test_without_the_annotation_it_is_detached_and_the_secret_goes_after_ten_minutes(engine: Engine) -> None:
    engine.api.put_account("team-a", ACCOUNT, secrets=("first",), identity=identity(1))
    async with engine.running():
        await asyncio.sleep(1)
        engine.api.annotate_account("team-a", ACCOUNT, {PREFIX + "identity": None})
        await asyncio.sleep(590)
        assert engine.password("team-a")
        await asyncio.sleep(20)
        assert engine.api.secrets == []
        assert engine.api.pull_secrets("team-a", ACCOUNT) == ["first"]


async def test_a_secret_of_a_name_that_is_not_watched_is_told_at_the_service_account(engine: Engine) -> None:
    engine.api.put_account("team-a", ACCOUNT, identity=identity(1), secret="elsewhere")
    async with engine.running():
        await asyncio.sleep(60)
        assert engine.api.secrets == []
        (event,) = engine.api.events
        assert (event["reason"], event["involvedObject"]["kind"]) == ("SecretNotWatched", "ServiceAccount")


async def test_a_target_has_the_secret_before_a_service_account(clock: Clock, tmp_path: Path) -> None:
    target = TargetSettings(name="everyone", identity=identity(3), namespaces=(NamespaceEntry(names=("team-*",)),))
    engine = Engine(clock, tmp_path, targets=(target,), asking=AskingAccounts(enabled=True))
    engine.api.put_namespace("team-a")
    engine.api.put_account("team-a", ACCOUNT, identity=identity(1))
    async with engine.running():
        await asyncio.sleep(1)
        assert engine.annotation("team-a", "identity") == identity(3)
        assert engine.metric("target_namespaces", target=STATE, state="conflict") == 1
        assert engine.told("team-a") == ["TargetConflict"]


async def test_a_strangers_secret_stays_and_the_service_account_is_not_changed(engine: Engine) -> None:
    before = engine.api.put_secret("team-a", NAME, config={})
    engine.api.put_account("team-a", ACCOUNT, identity=identity(1))
    async with engine.running():
        await asyncio.sleep(60)
        assert engine.api.secret("team-a", NAME) == before
        assert engine.api.pull_secrets("team-a", ACCOUNT) == []
        assert engine.told("team-a") == ["TargetConflict"]


async def test_a_restart_writes_nothing(engine: Engine) -> None:
    engine.api.put_account("team-a", ACCOUNT, identity=identity(1))
    async with engine.running():
        pass
    patches = engine.patches
    async with engine.running():
        await asyncio.sleep(60)
    assert engine.patches == patches
    assert engine.mints == 1
