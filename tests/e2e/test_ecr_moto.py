"""Amazon ECR against moto, a server that we did not write: it recomputes signatures and enforces roles and policies.

Moto is a process of its own; the provider speaks to it over real sockets. Every ECR token of moto ends on 2015-01-01:
the clock of these tests says 2014-12-31T18:00:00Z, and the header Date of moto, which tells today, is dropped.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from multidict import CIMultiDict

from controller import config
from controller.core.errors import MintError, Problem
from controller.core.model import Token
from controller.net.transport import AiohttpTransport, Stream, Transport, Unreachable, fetch
from controller.providers import TYPES, aws
from controller.providers.contract import Tools
from controller.providers.settings import ProviderSettings

ACCOUNT = "123456789012"
IDENTITY = f"arn:aws:iam::{ACCOUNT}:role/pull"
REGISTRY = f"{ACCOUNT}.dkr.ecr.eu-central-1.amazonaws.com"
NOW = 1420048800.0
START_SECONDS = 60.0
EVERY_ACTION_IS_CHECKED = b"0"
NO_ACTION_IS_CHECKED = b"1000000"


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
class Moto:
    """The running server."""

    url: str
    tools: Tools

    async def ask(self, path: str, body: bytes) -> None:
        """Order something of moto itself."""
        await fetch(
            self.tools.transport,
            "POST",
            f"{self.url}{path}",
            headers={},
            body=body,
            total_seconds=10,
            max_bytes=1 << 16,
        )

    async def iam(self, action: str, **parameters: str) -> bytes:
        """Change something in IAM, while no action is checked."""
        service = aws.Service(self.tools, "iam", "us-east-1", self.url, ProviderSettings(type="iam"))
        form = "&".join(f"{name}={value}" for name, value in {"Action": action, **parameters}.items())
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        reply = await service.ask(form.encode(), headers, keys=aws.Keys("root", "root", None))
        return reply.body

    async def role(self, *, trusts: str, may_pull: bool) -> None:
        """Let the identity's role trust a principal."""
        trust = {"Effect": "Allow", "Principal": {"AWS": trusts}, "Action": "sts:AssumeRole"}
        await self.iam("CreateRole", RoleName="pull", Path="/", AssumeRolePolicyDocument=_policy(trust))
        if may_pull:
            pull = {"Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*"}
            await self.iam("PutRolePolicy", RoleName="pull", PolicyName="pull", PolicyDocument=_policy(pull))

    async def user(self) -> tuple[str, str]:
        """Keys of a user who may assume roles."""
        await self.iam("CreateUser", UserName="ci")
        assume = {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*"}
        await self.iam("PutUserPolicy", UserName="ci", PolicyName="assume", PolicyDocument=_policy(assume))
        answer = (await self.iam("CreateAccessKey", UserName="ci")).decode()
        found = re.search(
            r"<AccessKeyId>(.+?)</AccessKeyId>.*<SecretAccessKey>(.+?)</SecretAccessKey>", answer, re.DOTALL
        )
        assert found is not None
        return found[1], found[2]

    async def mint(self, **settings: Any) -> Token:
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
        token = await TYPES["ecr"](checked, self.tools).mint(IDENTITY, (REGISTRY,))
        assert (token.username, token.password) == ("AWS", f"{ACCOUNT}-auth-token")
        return token


def _policy(statement: Mapping[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


@contextmanager
def running(directory: Path) -> Iterator[str]:
    """The URL of a moto server; it ends with the block."""
    log = directory / "moto.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
        process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            give_up_at = time.monotonic() + START_SECONDS
            while (listening := re.search(r"http://127\.0\.0\.1:[0-9]+", log.read_text())) is None:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < give_up_at, "moto does not listen"
                time.sleep(0.1)
            yield listening[0]
        finally:
            process.terminate()
            process.wait(10)


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
    await moto.ask("/moto-api/reset", b"")
    await moto.ask("/moto-api/reset-auth", NO_ACTION_IS_CHECKED)
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
    await moto.role(trusts=f"arn:aws:iam::{ACCOUNT}:user/ci", may_pull=True)
    monkeypatch.setenv("TEAM_KEY_ID", key_id)
    (tmp_path / "secret").write_text(secret)
    keys = {"accessKeyId": {"env": "TEAM_KEY_ID"}, "secretAccessKey": {"file": str(tmp_path / "secret")}}
    await moto.ask("/moto-api/reset-auth", EVERY_ACTION_IS_CHECKED)
    await moto.mint(credentials="static", **keys)

    (tmp_path / "secret").write_text("not-the-secret")
    with pytest.raises(MintError) as caught:
        await moto.mint(credentials="static", **keys)
    assert (caught.value.problem, caught.value.detail) == (Problem.MINT_REFUSED, "HTTP 403, SignatureDoesNotMatch")


async def test_a_role_that_may_not_pull_is_refused(moto: Moto, monkeypatch: pytest.MonkeyPatch) -> None:
    key_id, secret = await moto.user()
    await moto.role(trusts=f"arn:aws:iam::{ACCOUNT}:user/ci", may_pull=False)
    monkeypatch.setenv("TEAM_KEY_ID", key_id)
    monkeypatch.setenv("TEAM_KEY", secret)
    await moto.ask("/moto-api/reset-auth", EVERY_ACTION_IS_CHECKED)
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
