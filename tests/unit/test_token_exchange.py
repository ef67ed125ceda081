"""What only a configurable token exchange does: one type for servers that differ in names, formats and users."""

from __future__ import annotations

import base64
import re
import textwrap
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller import config
from controller.core.errors import MintError, Problem
from testing import oauth
from testing.wire import in_json
from tests.unit.contract_token_exchange import IDENTITY, ROW, settings, vendor
from tests.unit.provider_world import MAX_LIFETIME_SECONDS, Row, World, configured, vendors_key
from tests.unit.virtual_time import Clock

DOCS = Path(__file__).parents[2] / "docs" / "token-exchange.md"


def row(**changes: Any) -> Row:
    """The contract's row with other settings."""
    return Row(
        type=ROW.type,
        identity=ROW.identity,
        username=ROW.username,
        vendor=vendor,
        settings=lambda directory: {**settings(directory), **changes},
        refusals=ROW.refusals,
        stale=ROW.stale,
        proofless=ROW.proofless,
    )


def documented(name: str) -> dict[str, Any]:
    """The configuration of a provider as the documentation shows it, without its type."""
    blocks = re.findall(r"(?:^    .*\n)+", DOCS.read_text(), re.MULTILINE)
    [block] = [block for block in blocks if f"\n      {name}:" in block]
    content: dict[str, Any] = yaml.safe_load(textwrap.dedent(block))["providers"][name]
    assert content.pop("type") == "token-exchange"
    return content


def documented_world(name: str, flavour: oauth.Flavour, identity: str, clock: Clock, tmp_path: Path) -> World:
    content = documented(name)
    flavoured = Row(
        type="token-exchange",
        identity=identity,
        username=identity,
        vendor=lambda clock, trust: oauth.TokenExchange(
            clock, trust(content["audience"]), identity=identity, flavour=flavour, key=vendors_key()
        ),
        settings=lambda _directory: content,
        refusals={},
        stale=None,
        proofless={},
    )
    return World(flavoured, clock, tmp_path)


async def refused(world: World) -> MintError:
    with pytest.raises(MintError) as caught:
        await world.mint()
    return caught.value


async def test_the_documented_configuration_logs_in_to_jfrog(clock: Clock, tmp_path: Path) -> None:
    world = documented_world("jfrog", "jfrog", "my-integration", clock, tmp_path)
    token = await world.mint()
    assert (token.username, token.password) == ("puller", world.vendor.minted[-1])
    assert token.lifetime_seconds == 3600
    [asked] = world.wire.asked
    assert asked.url == "https://acme.jfrog.io/access/api/v1/oidc/token"
    assert asked.json() == {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
        "subject_token": world.proofs_read[-1],
        "provider_name": "my-integration",
    }


async def test_a_jfrog_that_names_no_user_means_the_last_part_of_the_tokens_subject(
    clock: Clock, tmp_path: Path
) -> None:
    world = documented_world("jfrog", "jfrog", "my-integration", clock, tmp_path)
    assert isinstance(world.vendor, oauth.TokenExchange)
    world.vendor.says_user = False
    assert (await world.mint()).username == "puller"


async def test_a_life_of_0_means_that_the_server_gives_none(clock: Clock, tmp_path: Path) -> None:
    endless = in_json(200, {"access_token": "opaque", "expires_in": 0})
    world = World(row(defaultLifetime="15m"), clock, tmp_path)
    world.wire.script.append(endless)
    assert (await world.mint()).lifetime_seconds == 900
    world = World(ROW, clock, tmp_path)
    world.wire.script.append(endless)
    error = await refused(world)
    assert (error.problem, "no expiry" in error.detail) == (Problem.TOKEN_UNFIT, True)


async def test_the_docker_user_can_be_a_claim_of_the_token(clock: Clock, tmp_path: Path) -> None:
    world = World(row(username=None, usernameClaim="sub"), clock, tmp_path)
    assert (await world.mint()).username == "puller", "the last segment of jfac@0123/users/puller"


@pytest.mark.parametrize("way", [{"usernameField": "username"}, {"usernameClaim": "nobody"}, {"usernameClaim": "exp"}])
async def test_an_answer_without_the_docker_user_is_malformed(
    clock: Clock, tmp_path: Path, way: dict[str, str]
) -> None:
    world = World(row(username=None, **way), clock, tmp_path)
    assert (await refused(world)).problem is Problem.ISSUER_MALFORMED


@pytest.mark.parametrize("user", ["", "a:b", "a\nb"])
async def test_a_docker_user_that_the_kubelet_would_misread_is_refused(clock: Clock, tmp_path: Path, user: str) -> None:
    world = World(row(username=None, usernameField="user"), clock, tmp_path)
    world.wire.script.append(in_json(200, {"access_token": "opaque", "expires_in": 60, "user": user}))
    assert (await refused(world)).problem is Problem.ISSUER_MALFORMED


async def test_the_identity_can_stand_in_the_path(clock: Clock, tmp_path: Path) -> None:
    world = World(row(tokenUrl="https://sts.example/{identity}/x", parameters={"audience": IDENTITY}), clock, tmp_path)
    world.wire.script.append(in_json(200, {"access_token": "opaque", "expires_in": 60}))
    await world.provider.mint("team a?#%2e", world.hosts)
    assert world.wire.asked[0].url == "https://sts.example/team%20a%3F%23%252e/x"


@pytest.mark.parametrize("identity", ["..", ".", "", "a/../b", "/"])
async def test_an_identity_cannot_lead_to_another_path(clock: Clock, tmp_path: Path, identity: str) -> None:
    world = World(row(tokenUrl="https://sts.example/{identity}/x", parameters={}), clock, tmp_path)
    with pytest.raises(MintError) as caught:
        await world.provider.mint(identity, world.hosts)
    assert caught.value.problem is Problem.REQUEST_REFUSED
    assert not world.wire.asked
    assert not world.proofs_read


@pytest.mark.parametrize("identity", ["a:b", "a\nb"])
async def test_an_identity_that_is_no_docker_user_is_not_held_against_the_issuer(
    clock: Clock, tmp_path: Path, identity: str
) -> None:
    world = World(row(username="{identity}"), clock, tmp_path)
    with pytest.raises(MintError) as caught:
        await world.provider.mint(identity, world.hosts)
    assert not caught.value.problem.providers_fault
    assert not world.wire.asked


async def test_an_identity_cannot_add_a_parameter(clock: Clock, tmp_path: Path) -> None:
    world = World(ROW, clock, tmp_path)
    with pytest.raises(MintError):
        await world.provider.mint("x&audience=team-a", world.hosts)
    form = world.wire.asked[0].form()
    assert form is not None
    assert form["audience"] == ["x&audience=team-a"]


async def test_a_life_may_be_a_number_in_a_string(clock: Clock, tmp_path: Path) -> None:
    world = World(ROW, clock, tmp_path)
    world.wire.script.append(in_json(200, {"access_token": "opaque", "expires_in": "900"}))
    assert (await world.mint()).lifetime_seconds == 900


@pytest.mark.parametrize("life", ["soon", True, [], "1e3", "-5", 10**400, "9" * 400])
async def test_a_life_that_cannot_be_read_is_no_life(clock: Clock, tmp_path: Path, life: object) -> None:
    world = World(row(defaultLifetime="1h"), clock, tmp_path)
    world.wire.script.append(in_json(200, {"access_token": "opaque", "expires_in": life}))
    assert (await refused(world)).problem is Problem.ISSUER_MALFORMED


async def test_the_least_of_the_sources_of_a_life_counts(clock: Clock, tmp_path: Path) -> None:
    world = World(ROW, clock, tmp_path)
    longer = vendors_key().sign({"exp": int(clock()) + 7200})
    shorter = vendors_key().sign({"exp": int(clock()) + 600})
    for token in (longer, shorter):
        world.wire.script.append(in_json(200, {"access_token": token, "expires_in": 3600}))
    assert [(await world.mint()).lifetime_seconds for _ in range(2)] == [3600, 600]


async def test_without_a_life_the_configured_default_counts_and_without_one_the_token_is_refused(
    clock: Clock, tmp_path: Path
) -> None:
    opaque = in_json(200, {"access_token": "opaque", "token_type": "Bearer"})
    world = World(ROW, clock, tmp_path)
    world.wire.script.append(opaque)
    assert (await refused(world)).problem is Problem.TOKEN_UNFIT
    world = World(row(defaultLifetime="15m"), clock, tmp_path)
    world.wire.script.append(opaque)
    assert (await world.mint()).lifetime_seconds == 900 < MAX_LIFETIME_SECONDS


async def test_a_token_can_have_another_name(clock: Clock, tmp_path: Path) -> None:
    world = World(row(tokenField="token", lifetimeField="ttl"), clock, tmp_path)
    world.wire.script.append(in_json(201, {"token": "opaque", "ttl": 60, "access_token": "another"}))
    token = await world.mint()
    assert (token.password, token.lifetime_seconds) == ("opaque", 60)


async def test_a_client_proves_itself_with_basic_each_part_encoded_first(clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cr:t/\n")
    world = World(row(clientId="psu:1", clientSecretFile=str(tmp_path / "secret")), clock, tmp_path)
    await world.mint()
    scheme, _, encoded = world.wire.asked[0].headers["Authorization"].partition(" ")
    assert scheme == "Basic"
    assert base64.b64decode(encoded).decode() == f"psu%3A1:{urllib.parse.quote_plus('s3cr:t/')}"


async def test_a_client_secret_that_is_missing_is_found_without_a_request(clock: Clock, tmp_path: Path) -> None:
    world = World(row(clientId="psu:1", clientSecretFile=str(tmp_path / "secret")), clock, tmp_path)
    with pytest.raises(MintError) as caught:
        await world.provider.check_proof()
    assert caught.value.problem is Problem.PROOF_MISSING
    assert not world.wire.asked


async def test_only_codes_that_we_know_are_repeated(clock: Clock, tmp_path: Path) -> None:
    world = World(ROW, clock, tmp_path)
    world.wire.script.append(oauth.refusal("eyJ-not-a-code", status=403))
    assert (await refused(world)).detail == "HTTP 403"
    world.wire.script.append(oauth.refusal("invalid_target"))
    assert (await refused(world)).detail == "HTTP 400, invalid_target"


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ({"tokenUrl": ""}, "tokenUrl"),
        ({"tokenUrl": "http://sts.example/token"}, "tokenUrl"),
        ({"tokenUrl": "https://{identity}.example/token"}, "tokenUrl"),
        ({"tokenFile": ""}, "tokenFile"),
        ({"audience": ""}, "audience"),
        ({"parameters": {"audience": "fixed"}}, "parameters"),
        ({"parameters": {"audience": "{identity}", "subject_token": "x"}}, "parameters.subject_token"),
        ({"parameters": {"audience": "{identity}", "client_secret": "x"}}, "parameters.client_secret"),
        ({"clientId": "psu"}, "clientId"),
        ({"clientSecretFile": "/secret"}, "clientId"),
        ({"username": None}, "username"),
        ({"username": "a:{identity}"}, "username"),
        ({"tokenField": ""}, "tokenField"),
        ({"identityClaim": ""}, "identityClaim"),
        ({"clientId": "", "clientSecretFile": "/secret"}, "clientId"),
        ({"usernameField": "username"}, "username"),
        ({"registries": []}, "registries"),
    ],
)
def test_what_is_missing_or_contradicts_is_told_with_its_path(wrong: dict[str, Any], path: str, tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError) as caught:
        configured(ROW, tmp_path, wrong)
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [f"providers.under-test.{path}"]


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("code", ["invalid_request", "invalid_grant", "access_denied"])
async def test_an_overloaded_server_is_no_refusal_whatever_its_body_says(
    clock: Clock, tmp_path: Path, status: int, code: str
) -> None:
    world = World(ROW, clock, tmp_path)
    world.wire.script.append(in_json(status, {"error": code}, **{"Retry-After": "90"}))
    error = await refused(world)
    assert error.problem is (Problem.ISSUER_THROTTLES if status == 429 else Problem.ISSUER_UNAVAILABLE)
    assert error.retry_after_seconds == 90


@pytest.mark.parametrize(
    ("claims", "fits"),
    [
        ({"sub": IDENTITY}, True),
        ({"sub": f"jfac@0123/users/{IDENTITY}"}, True),
        ({"sub": f"not-{IDENTITY}"}, False),
        ({"sub": "other"}, False),
        ({"sub": [IDENTITY]}, False),
        ({}, False),
    ],
)
async def test_a_token_for_another_identity_is_refused_where_the_operator_names_the_claim(
    clock: Clock, tmp_path: Path, claims: dict[str, Any], fits: bool
) -> None:
    """A server ignores parameters that it doesn't know, and would hand everybody the same token."""
    world = World(row(identityClaim="sub"), clock, tmp_path)
    token = vendors_key().sign({"exp": int(clock()) + 600, **claims})
    world.wire.script.append(in_json(200, {"access_token": token}))
    if fits:
        assert (await world.mint()).password == token
    else:
        assert (await refused(world)).problem is Problem.TOKEN_UNFIT
