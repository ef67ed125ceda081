"""The token server of the private registry of the node suite: what it lets in, and what not."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path

import jwt
import pytest
from aiohttp import encode_basic_auth
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.web import Application, Request
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hack import pki
from testing.registryauth import SERVICE, RegistryAuth
from testing.tokens import KeyTrust, SigningKey

NOW = 1_800_000_000.0
SCOPE = {"service": SERVICE, "scope": "repository:hello/first:pull"}


@pytest.fixture
def issuer() -> SigningKey:
    """Whose tokens let in."""
    return SigningKey()


@pytest.fixture
async def client(issuer: SigningKey, tmp_path: Path) -> AsyncIterator[TestClient[Request, Application]]:
    """Of a server with keys of its own, whose clock stands."""
    pair = pki.make_authority()
    (tmp_path / "key.pem").write_bytes(pair.key)
    (tmp_path / "ca.crt").write_bytes(pair.certificate)
    trust = KeyTrust(issuer, audience="registry", clock=lambda: NOW)
    async with TestClient(TestServer(RegistryAuth(trust, tmp_path).application())) as running:
        yield running


def minted(issuer: SigningKey, *, left: float = 60, audience: str = "registry") -> str:
    """A token with so many seconds left."""
    claims = {"iss": "issuer", "sub": "somebody", "aud": audience, "iat": NOW - 60, "exp": NOW + left}
    return issuer.sign(claims)


def as_(user: str, password: str) -> dict[str, str]:
    """The header by which a client logs in."""
    return {"Authorization": encode_basic_auth(user, password)}


async def test_a_valid_token_may_pull_what_it_asks_for_and_no_more(
    client: TestClient[Request, Application], issuer: SigningKey, tmp_path: Path
) -> None:
    answer = await client.get("/token", params=SCOPE, headers=as_("_token", minted(issuer)))
    assert answer.status == 200
    token = (await answer.json())["token"]
    authority = x509.load_pem_x509_certificate((tmp_path / "ca.crt").read_bytes())
    (certificate,) = jwt.get_unverified_header(token)["x5c"]
    assert base64.b64decode(certificate) == authority.public_bytes(Encoding.DER), "the one that the registry trusts"
    key = authority.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    claims = jwt.decode(token, key, algorithms=["ES256"], audience=SERVICE, issuer="registryauth")
    assert claims["access"] == [{"type": "repository", "name": "hello/first", "actions": ["pull"]}]


@pytest.mark.parametrize("left", [0, -1, -3600])
async def test_a_token_whose_time_is_over_is_refused(
    client: TestClient[Request, Application], issuer: SigningKey, left: float, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = await client.get("/token", params=SCOPE, headers=as_("_token", minted(issuer, left=left)))
    assert answer.status == 401
    decision = json.loads(capsys.readouterr().out)
    assert (decision["repository"], decision["admitted"], decision["why"]) == ("hello/first", False, "expired")


async def test_a_token_for_another_audience_or_of_another_issuer_is_refused(
    client: TestClient[Request, Application], issuer: SigningKey
) -> None:
    for token in (minted(issuer, audience="another"), minted(SigningKey()), "no token"):
        answer = await client.get("/token", params=SCOPE, headers=as_("_token", token))
        assert answer.status == 401


async def test_another_user_or_none_is_refused(client: TestClient[Request, Application], issuer: SigningKey) -> None:
    for headers in (as_("somebody", minted(issuer)), {}):
        assert (await client.get("/token", params=SCOPE, headers=headers)).status == 401


async def test_nobody_may_push(client: TestClient[Request, Application], issuer: SigningKey) -> None:
    scope = {**SCOPE, "scope": "repository:hello/first:pull,push"}
    answer = await client.get("/token", params=scope, headers=as_("_token", minted(issuer)))
    token = (await answer.json())["token"]
    assert jwt.decode(token, options={"verify_signature": False})["access"] == []


async def test_a_decision_never_tells_the_token(
    client: TestClient[Request, Application], issuer: SigningKey, capsys: pytest.CaptureFixture[str]
) -> None:
    token = minted(issuer)
    await client.get("/token", params=SCOPE, headers=as_("_token", token))
    told = capsys.readouterr().out
    assert json.loads(told)["subject"] == "somebody"
    assert token not in told
    assert issuer.canary not in told
