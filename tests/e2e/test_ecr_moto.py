"""Amazon ECR against moto, a server that we did not write: it recomputes signatures and enforces roles and policies.

Every ECR token of moto ends on 2015-01-01:
the clock of these tests says 2014-12-31T18:00:00Z, and the header Date of moto, which tells today, is dropped.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from multidict import CIMultiDict

from controller import config
from controller.core.errors import MintError, Problem
from controller.core.model import Token
from controller.net.transport import AiohttpTransport, Stream, Transport, Unreachable
from controller.providers import TYPES, aws
from controller.providers.contract import Tools
from controller.providers.settings import ProviderSettings
from testing.aws import AGENT_AUDIENCE, AGENT_PATH, Key
from testing.awsnode import Instance
from testing.wire import Answer, Asked, Servers, Wire, in_json
from tests.e2e.support.moto import ACCOUNT, IDENTITY, PULL, USER, Account, running

REGISTRY = f"{ACCOUNT}.dkr.ecr.eu-central-1.amazonaws.com"
NOW = 1420048800.0


@dataclass(frozen=True, slots=True)
class Undated:
    """A transport whose answers carry no Date."""

    transport: Transport

    @asynccontextmanager
    async def open(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None = None
    ) -> AsyncIterator[Stream]:
        """See Transport."""
        async with self.transport.open(method, url, headers=headers, body=body) as stream:
            undated = CIMultiDict(stream.headers)
            undated.popall("Date", None)
            yield _Undated(stream, undated)


@dataclass(frozen=True, slots=True)
class _Undated:
    stream: Stream
    headers: CIMultiDict[str]

    @property
    def status(self) -> int:
        return self.stream.status

    def chunks(self) -> AsyncGenerator[bytes, None]:
        return self.stream.chunks()


async def proof(audience: str) -> str:
    """Moto takes any token for a web identity."""
    return f"header.{audience}.signature"


@dataclass(frozen=True, slots=True)
class Moto(Account):
    """The account, and a provider whose identity is in it."""

    async def mint(self, identity: str = IDENTITY, **settings: Any) -> Token:
        """A token of the identity, by a provider of these settings."""
        content = {
            "type": "ecr",
            "registries": [REGISTRY],
            "region": "eu-central-1",
            "stsEndpoint": self.url,
            "ecrEndpoint": self.url,
            **settings,
        }
        checked = config.load(None, {"providers": {"ecr": content}}).providers["ecr"]
        token = await TYPES["ecr"](checked, self.tools).mint(identity, (REGISTRY,))
        assert (token.username, token.password) == ("AWS", f"{ACCOUNT}-auth-token")
        return token


async def session_of_the_role(moto: Moto, user: aws.Keys) -> aws.Keys:
    """A session of the identity's role, as somebody else got it."""
    sts = aws.Sts(aws.Service(moto.tools, "sts", "eu-central-1", moto.url, ProviderSettings(type="ecr")), "elsewhere")
    return await sts.assume(aws.principal(IDENTITY), user, external_id=None, seconds=3600)


@dataclass(frozen=True, slots=True)
class Agent:
    """A Pod Identity agent that has these keys for whoever shows a token."""

    keys: aws.Keys

    async def handle(self, asked: Asked) -> Answer:
        """See Vendor."""
        if (asked.path, asked.headers.get("Authorization")) != (AGENT_PATH, await proof(AGENT_AUDIENCE)):
            return Answer(403)
        keys = self.keys
        return in_json(200, {"AccessKeyId": keys.access_key, "SecretAccessKey": keys.secret_key, "Token": keys.token})


def tools_of(transport: Transport, now: Callable[[], float]) -> Tools:
    """What the controller would hand to a provider."""
    return Tools(
        name="ecr",
        timeout_seconds=10.0,
        default_lifetime_seconds=None,
        transport=transport,
        proof=proof,
        now=now,
        max_lifetime_seconds=43200.0,
        refreshed_by_share=0.65,
        cleaned=_nothing,
    )


@pytest.fixture(scope="module")
def moto_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(tmp_path_factory.mktemp("moto")) as url:
        yield url


@pytest.fixture
async def moto(moto_url: str) -> AsyncIterator[Moto]:
    """An empty account; actions are not checked yet."""
    transport = AiohttpTransport()
    moto = Moto(moto_url, tools_of(Undated(transport), lambda: NOW))
    await moto.reset()
    yield moto
    await transport.close()


def _nothing(_error: MintError | None) -> None:
    """There is no clean-up at ECR."""


@pytest.fixture
def hostile_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that would lead anyone who heeds them elsewhere, or to another identity."""
    nowhere = "http://127.0.0.1:1"
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, nowhere)
    for name in (
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_STS",
        "AWS_ENDPOINT_URL_ECR",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    ):
        monkeypatch.setenv(name, nowhere)
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION"):
        monkeypatch.setenv(name, "hostile")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null/config")
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::666666666666:role/hostile")


@pytest.mark.usefixtures("hostile_environment")
async def test_a_web_identity_mints(moto: Moto) -> None:
    await moto.role(trusts="*", may_pull=True)
    token = await moto.mint(tokenFile="/token", endsWithSession=False)
    assert (token.issued_at, token.lifetime_seconds) == (NOW, 6 * 3600)


@pytest.mark.usefixtures("hostile_environment")
async def test_keys_that_assume_the_role_mint_and_every_signature_is_right(
    moto: Moto, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key_id, secret = await moto.user()
    await moto.role(trusts=USER, may_pull=True)
    monkeypatch.setenv("TEAM_KEY_ID", key_id)
    (tmp_path / "secret").write_text(secret)
    keys: dict[str, Any] = {
        "accessKeyId": {"env": "TEAM_KEY_ID"},
        "secretAccessKey": {"file": str(tmp_path / "secret")},
    }
    await moto.check_every_action()
    await moto.mint(credentials="static", **keys)

    (tmp_path / "secret").write_text("not-the-secret")
    with pytest.raises(MintError) as caught:
        await moto.mint(credentials="static", **keys)
    assert (caught.value.problem, caught.value.detail) == (Problem.MINT_REFUSED, "HTTP 403, SignatureDoesNotMatch")


@pytest.mark.usefixtures("hostile_environment")
async def test_a_users_own_keys_mint_for_the_user_and_for_nobody_else(
    moto: Moto, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_id, secret = await moto.user(PULL)
    monkeypatch.setenv("TEAM_KEY_ID", key_id)
    monkeypatch.setenv("TEAM_KEY", secret)
    keys: dict[str, Any] = {"accessKeyId": {"env": "TEAM_KEY_ID"}, "secretAccessKey": {"env": "TEAM_KEY"}}
    await moto.check_every_action()
    token = await moto.mint(USER, credentials="static", **keys)
    assert (token.issued_at, token.lifetime_seconds) == (NOW, 6 * 3600)
    with pytest.raises(MintError) as caught:
        await moto.mint(f"{USER}-2", credentials="static", **keys)
    assert caught.value.problem is Problem.IDENTITY_UNKNOWN
    monkeypatch.setenv("TEAM_KEY", "not-the-secret")
    with pytest.raises(MintError) as caught:
        await moto.mint(USER, credentials="static", **keys)
    assert (caught.value.problem, caught.value.detail) == (Problem.MINT_REFUSED, "HTTP 403, SignatureDoesNotMatch")


async def test_a_session_of_the_role_itself_mints_without_a_second_one(
    moto: Moto, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_id, secret = await moto.user()
    await moto.role(trusts=USER, may_pull=True)
    session = await session_of_the_role(moto, aws.Keys(key_id, secret, None))
    for name, value in {"A": session.access_key, "B": session.secret_key, "C": session.token}.items():
        monkeypatch.setenv(name, str(value))
    await moto.check_every_action()
    keys: dict[str, Any] = {"accessKeyId": {"env": "A"}, "secretAccessKey": {"env": "B"}, "sessionToken": {"env": "C"}}
    token = await moto.mint(credentials="static", **keys)
    assert token.lifetime_seconds == 3600


async def test_the_role_of_an_instance_mints_with_the_keys_of_its_metadata_service(moto: Moto) -> None:
    key_id, secret = await moto.user()
    await moto.role(trusts=USER, may_pull=True)
    session = await session_of_the_role(moto, aws.Keys(key_id, secret, None))
    key = Key(session.access_key, session.secret_key, session.token, IDENTITY, session.expires_at)
    instance = Instance(lambda: NOW, "pull", lambda: key)
    await moto.check_every_action()
    with Servers() as servers:
        url = servers.serve(Wire(instance, clock=lambda: NOW))
        await moto.mint(credentials="instanceProfile", metadataEndpoint=url)


async def test_the_agents_keys_of_the_role_itself_mint_without_a_second_session(moto: Moto) -> None:
    key_id, secret = await moto.user()
    await moto.role(trusts=USER, may_pull=True)
    session = await session_of_the_role(moto, aws.Keys(key_id, secret, None))
    await moto.check_every_action()
    with Servers() as servers:
        url = servers.serve(Wire(Agent(session), clock=lambda: NOW))
        await moto.mint(credentials="podIdentity", tokenFile="/token", podIdentityEndpoint=f"{url}{AGENT_PATH}")


async def test_a_role_that_may_not_pull_is_refused(moto: Moto, monkeypatch: pytest.MonkeyPatch) -> None:
    key_id, secret = await moto.user()
    await moto.role(trusts=USER, may_pull=False)
    monkeypatch.setenv("TEAM_KEY_ID", key_id)
    monkeypatch.setenv("TEAM_KEY", secret)
    await moto.check_every_action()
    with pytest.raises(MintError) as caught:
        await moto.mint(credentials="static", accessKeyId={"env": "TEAM_KEY_ID"}, secretAccessKey={"env": "TEAM_KEY"})
    assert (caught.value.problem, caught.value.detail) == (Problem.MINT_REFUSED, "HTTP 403, AccessDenied")


async def test_a_token_that_ended_long_ago_is_refused(moto: Moto) -> None:
    await moto.role(trusts="*", may_pull=True)
    transport = AiohttpTransport()
    with pytest.raises(MintError, match="already expired"):
        await Moto(moto.url, tools_of(transport, time.time)).mint(tokenFile="/token")
    await transport.close()


async def test_a_server_that_is_gone_is_an_outage(moto: Moto, tmp_path: Path) -> None:
    with running(tmp_path) as url:
        pass
    with pytest.raises(MintError) as caught:
        await Moto(url, moto.tools).mint(tokenFile="/token")
    assert caught.value.problem is Problem.ISSUER_UNAVAILABLE
    with pytest.raises(Unreachable):
        await Moto(url, moto.tools).ask("/", b"")
