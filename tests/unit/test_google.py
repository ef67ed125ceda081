"""Google: the exact requests of each kind of credentials, whose identity is refused, and what a file may not say."""

from __future__ import annotations

import dataclasses
import re
import sys
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jwt
import pytest

from controller import config
from controller.core.errors import MintError, Problem
from controller.net.transport import AiohttpTransport
from controller.net.urls import is_link_local
from controller.providers import SHAPES, google
from testing.google import AUDIENCE, CLOUD_PLATFORM, GKE_POOL, GKE_PROVIDER, PROVIDER, Google, api_error, oauth_error
from testing.wire import Answer, in_json
from tests.unit.contract_google import (
    DIRECT,
    EMAIL,
    EXTERNAL,
    IMPERSONATED,
    KEY,
    ON_GKE,
    TOKEN_FILE,
    private_key,
    row,
    write_external_account,
    write_key,
)
from tests.unit.provider_world import Row, World, configured
from tests.unit.virtual_time import Clock
from tests.unit.watched_environment import never_looked_at

NODE = "node@project.iam.gserviceaccount.com"
OTHER = "somebody-else@my-project.iam.gserviceaccount.com"
METADATA = row(lambda _directory: {"credentials": "metadata"}, identity=NODE, refusals={}, stale=None, proofless={})
METADATA_IMPERSONATED = dataclasses.replace(METADATA, identity=EMAIL, minting_call=2)
KINDS = {
    "workload identity, direct": DIRECT,
    "workload identity, of a GKE cluster": ON_GKE,
    "workload identity, impersonated": IMPERSONATED,
    "external account": EXTERNAL,
    "key": KEY,
    "metadata, the node's own": METADATA,
    "metadata, impersonated": METADATA_IMPERSONATED,
}
each_kind = pytest.mark.parametrize("kind", KINDS)

NewWorld = Callable[..., World]


@pytest.fixture
def new_world(clock: Clock, tmp_path: Path) -> NewWorld:
    def build(kind: Row, **overrides: Any) -> World:
        world = World(kind, clock, tmp_path, overrides)
        vendor_of(world).impersonators[EMAIL].add(NODE)
        return world

    return build


def vendor_of(world: World) -> Google:
    assert isinstance(world.vendor, Google)
    return world.vendor


def asked(world: World) -> list[str]:
    return [f"{one.method} {one.url}" for one in world.wire.asked]


async def refused(world: World, identity: str) -> MintError:
    with pytest.raises(MintError) as caught:
        await world.provider.mint(identity, ())
    return caught.value


def problems(kind: Row, directory: Path, **overrides: Any) -> str:
    with pytest.raises(config.ConfigError) as caught:
        configured(kind, directory, overrides)
    return str(caught.value)


# The requests.


async def test_a_workload_identity_provider_is_exchanged_for_as_the_page_says(new_world: NewWorld) -> None:
    world = new_world(DIRECT)
    token = await world.mint()
    assert asked(world) == ["POST https://sts.googleapis.com/v1/token"]
    (request,) = world.wire.asked
    assert "Authorization" not in request.headers, "which makes the call fail"
    assert request.form() == {
        "grant_type": ["urn:ietf:params:oauth:grant-type:token-exchange"],
        "audience": [f"//iam.googleapis.com/{PROVIDER}"],
        "scope": [CLOUD_PLATFORM],
        "requested_token_type": ["urn:ietf:params:oauth:token-type:access_token"],
        "subject_token_type": ["urn:ietf:params:oauth:token-type:jwt"],
        "subject_token": [world.proofs_read[0]],
    }
    assert jwt.decode(world.proofs_read[0], options={"verify_signature": False})["aud"] == [AUDIENCE]
    assert vendor_of(world).whose(token.password) == vendor_of(world).principal


async def test_a_gke_cluster_is_exchanged_for_by_its_identity_namespace(new_world: NewWorld) -> None:
    world = new_world(ON_GKE)
    token = await world.mint()
    (request,) = world.wire.asked
    assert (request.form() or {})["audience"] == [GKE_PROVIDER]
    assert jwt.decode(world.proofs_read[0], options={"verify_signature": False})["aud"] == [GKE_POOL]
    assert vendor_of(world).whose(token.password) == vendor_of(world).principal
    await world.provider.mint(EMAIL, ())
    assert asked(world)[-1].endswith(f"{EMAIL}:generateAccessToken")


async def test_an_external_account_file_may_be_of_a_fleet(new_world: NewWorld, tmp_path: Path) -> None:
    fleet = GKE_PROVIDER.replace(
        "container.googleapis.com/v1/projects/my-project/locations/europe-west1/clusters/prod",
        "gkehub.googleapis.com/projects/my-project/locations/global/memberships/prod",
    )
    path = write_external_account(tmp_path / "fleet.json", audience=fleet, service_account_impersonation_url=None)
    world = new_world(EXTERNAL, credentialsFile=path)
    vendor_of(world).provider, vendor_of(world)._trust = fleet, world.trust(GKE_POOL)
    await world.provider.mint(GKE_POOL, ())
    assert (world.wire.asked[0].form() or {})["audience"] == [fleet]


async def test_gke_without_a_google_service_account_gives_a_token_of_the_controllers_own_principal(
    new_world: NewWorld,
) -> None:
    world = new_world(METADATA)
    vendor_of(world).node_account = GKE_POOL
    token = await world.provider.mint(GKE_POOL, ())
    accounts = "http://169.254.169.254/computeMetadata/v1/instance/service-accounts"
    scope = urllib.parse.quote_plus(CLOUD_PLATFORM)
    assert asked(world) == [f"GET {accounts}/default/email", f"GET {accounts}/default/token?scopes={scope}"]
    assert vendor_of(world).whose(token.password) == GKE_POOL


@pytest.mark.parametrize("account", [NODE, "other-project.svc.id.goog"])
async def test_a_pool_that_is_not_the_nodes_is_refused_and_no_token_is_asked_for(
    new_world: NewWorld, account: str
) -> None:
    world = new_world(METADATA)
    vendor_of(world).node_account = account
    assert (await refused(world, GKE_POOL)).problem is Problem.IDENTITY_UNKNOWN
    assert [request.path.rpartition("/")[2] for request in world.wire.asked] == ["email"]


async def test_an_email_is_impersonated_with_the_federated_token(new_world: NewWorld) -> None:
    world = new_world(IMPERSONATED, lifetime="1h", scope="https://www.googleapis.com/auth/cloud-platform.read-only")
    token = await world.mint()
    path = f"/v1/projects/-/serviceAccounts/{EMAIL}:generateAccessToken"
    assert asked(world) == [
        "POST https://sts.googleapis.com/v1/token",
        f"POST https://iamcredentials.googleapis.com{path}",
    ]
    exchange, impersonation = world.wire.asked
    assert (exchange.form() or {})["scope"] == [CLOUD_PLATFORM], "to impersonate; the wanted scope is for the account"
    assert impersonation.headers["Authorization"] == f"Bearer {world.vendor.minted[0]}"
    assert impersonation.json() == {
        "scope": ["https://www.googleapis.com/auth/cloud-platform.read-only"],
        "lifetime": "3600s",
        "delegates": [],
    }
    assert vendor_of(world).whose(token.password) == EMAIL


@pytest.mark.parametrize("kind", ["workload identity, impersonated", "metadata, impersonated", "external account"])
async def test_service_accounts_in_between_are_named_and_each_must_be_allowed_to_act_as_the_next(
    new_world: NewWorld, kind: str
) -> None:
    between = ("first@my-project.iam.gserviceaccount.com", "second@my-project.iam.gserviceaccount.com")
    world = new_world(KINDS[kind], delegates=list(between))
    cloud = vendor_of(world)
    first = NODE if kind.startswith("metadata") else cloud.principal
    cloud.impersonators = {between[0]: {first}, between[1]: {between[0]}, EMAIL: {between[1]}}
    token = await world.mint()
    assert cloud.whose(token.password) == EMAIL
    wish = world.wire.asked[-1].json() or {}
    assert wish["delegates"] == [f"projects/-/serviceAccounts/{each}" for each in between]
    cloud.impersonators[between[1]] = {first}
    assert (await refused(world, EMAIL)).problem is Problem.MINT_REFUSED


async def test_an_external_account_file_is_another_way_to_say_the_same(new_world: NewWorld) -> None:
    world, same = new_world(EXTERNAL), new_world(IMPERSONATED)
    await world.mint()
    await same.mint()
    assert asked(world) == asked(same)
    assert world.wire.asked[0].body == same.wire.asked[0].body
    assert world.wire.asked[1].body == same.wire.asked[1].body


async def test_a_key_signs_an_assertion_of_one_hour(new_world: NewWorld) -> None:
    world = new_world(KEY)
    await world.mint()
    assert asked(world) == ["POST https://oauth2.googleapis.com/token"]
    form = world.wire.asked[0].form() or {}
    assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    (assertion,) = form["assertion"]
    assert jwt.get_unverified_header(assertion) == {"alg": "RS256", "typ": "JWT", "kid": "key-1"}
    now = int(world.clock())
    assert jwt.decode(
        assertion,
        private_key("key-1").public_key(),
        algorithms=["RS256"],
        options={"verify_aud": False, "verify_exp": False, "verify_iat": False},
    ) == {
        "iss": EMAIL,
        "aud": "https://oauth2.googleapis.com/token",
        "scope": CLOUD_PLATFORM,
        "iat": now,
        "exp": now + 3600,
    }


async def test_a_metadata_server_needs_no_proof_that_could_be_checked(new_world: NewWorld) -> None:
    world = new_world(METADATA)
    await world.provider.check_proof()
    assert (world.wire.asked, world.proofs_read) == ([], [])


async def test_the_node_gives_a_token_of_its_own_account_by_name(new_world: NewWorld) -> None:
    world = new_world(METADATA)
    token = await world.mint()
    accounts = "http://169.254.169.254/computeMetadata/v1/instance/service-accounts"
    scope = urllib.parse.quote_plus(CLOUD_PLATFORM)
    assert asked(world) == [f"GET {accounts}/default/email", f"GET {accounts}/{NODE}/token?scopes={scope}"]
    assert all(request.headers["Metadata-Flavor"] == "Google" for request in world.wire.asked)
    assert vendor_of(world).whose(token.password) == NODE


async def test_the_nodes_account_impersonates_another_that_the_secret_names(new_world: NewWorld) -> None:
    world = new_world(METADATA_IMPERSONATED)
    token = await world.mint()
    assert [request.path.rpartition("/")[2] for request in world.wire.asked] == [
        "email",
        "token",
        f"{EMAIL}:generateAccessToken",
    ]
    assert vendor_of(world).whose(token.password) == EMAIL


async def test_the_nodes_token_may_have_only_minutes_left(new_world: NewWorld, clock: Clock) -> None:
    """P: the metadata server hands out what it has."""
    world = new_world(METADATA)
    first = await world.mint()
    clock.step(3300)
    second = await world.mint()
    assert second.password == first.password
    assert second.lifetime_seconds == 300


async def test_the_provider_may_be_named_as_google_prints_it(new_world: NewWorld) -> None:
    world = new_world(DIRECT)
    await world.provider.mint(f"//iam.googleapis.com/{PROVIDER}", ())
    assert (world.wire.asked[0].form() or {})["audience"] == [f"//iam.googleapis.com/{PROVIDER}"]


async def test_another_universe_has_its_own_endpoints(new_world: NewWorld) -> None:
    world = new_world(IMPERSONATED, universeDomain="apis-example.goog", registries=["docker.pkg-example.goog"])
    await world.mint()
    assert [urllib.parse.urlsplit(request.url).netloc for request in world.wire.asked] == [
        "sts.apis-example.goog",
        "iamcredentials.apis-example.goog",
    ]


async def test_every_endpoint_can_be_configured(new_world: NewWorld) -> None:
    base = "http://127.0.0.1:8080/prefix/"
    for kind in KINDS.values():
        names = ["stsEndpoint", "iamCredentialsEndpoint"]
        if kind is KEY:
            names = ["oauth2Endpoint"]
        elif kind in (METADATA, METADATA_IMPERSONATED):
            names = ["metadataEndpoint", "iamCredentialsEndpoint"]
        world = new_world(kind)
        file = world.directory / "credentials.json"
        if kind is KEY:
            write_key(file, token_uri=f"{base}token")
        if kind is EXTERNAL:
            impersonation = f"{base}v1/projects/-/serviceAccounts/{EMAIL}:generateAccessToken"
            write_external_account(file, token_url=f"{base}v1/token", service_account_impersonation_url=impersonation)
        overrides = dict.fromkeys(names, base) | ({"credentialsFile": str(file)} if file.exists() else {})
        world = new_world(kind, **overrides)
        world.wire.script.append(Answer(503))
        await refused(world, kind.identity)
        file.unlink(missing_ok=True)
        assert [request.host for request in world.wire.asked] == ["127.0.0.1:8080"]
        assert all(request.path.startswith("/prefix/") for request in world.wire.asked)


# The life.


async def test_a_date_of_the_issuer_that_is_years_off_makes_no_token_live_longer(new_world: NewWorld) -> None:
    world = new_world(IMPERSONATED, lifetime="1h")
    answer = {"accessToken": "ya29.x", "expireTime": "2026-01-02T04:04:05Z"}
    world.wire.script += [None, in_json(200, answer, Date="Thu, 01 Jan 1970 00:00:00 GMT")]
    assert (await world.mint()).lifetime_seconds == 3600


@pytest.mark.parametrize(("said", "seconds"), [(1800, 1800), ("1800", 1800), (1800.0, 1800)])
async def test_a_life_may_be_digits_in_a_string(new_world: NewWorld, said: object, seconds: int) -> None:
    world = new_world(DIRECT)
    world.wire.script.append(in_json(200, {"access_token": "ya29.x", "expires_in": said}))
    assert (await world.mint()).lifetime_seconds == seconds


async def test_no_life_is_guessed(new_world: NewWorld) -> None:
    answer = in_json(200, {"access_token": "ya29.x"})
    world = new_world(DIRECT)
    world.wire.script.append(answer)
    assert (await refused(world, PROVIDER)).problem is Problem.TOKEN_UNFIT
    world = new_world(DIRECT, defaultLifetime="10m")
    world.wire.script.append(answer)
    assert (await world.mint()).lifetime_seconds == 600


@pytest.mark.parametrize("said", ["soon", "1e9", [], True, "-5"])
async def test_a_life_that_is_no_number_is_malformed(new_world: NewWorld, said: object) -> None:
    world = new_world(DIRECT)
    world.wire.script.append(in_json(200, {"access_token": "ya29.x", "expires_in": said}))
    assert (await refused(world, PROVIDER)).problem is Problem.ISSUER_MALFORMED


async def test_an_impersonation_asks_for_the_configured_life(new_world: NewWorld) -> None:
    world = new_world(IMPERSONATED, lifetime="2h")
    vendor_of(world).lifetime_seconds = 12 * 3600
    assert (await world.mint()).lifetime_seconds == 7200


async def test_a_longer_life_than_the_organisation_allows_is_a_configuration_to_change(new_world: NewWorld) -> None:
    world = new_world(IMPERSONATED, lifetime="2h")
    vendor_of(world).longest_seconds = 3600
    assert (await refused(world, EMAIL)).problem is Problem.REQUEST_REFUSED


# An identity that isn't proven is refused, and nobody is asked.


@pytest.mark.parametrize(
    ("kind", "identity"),
    [
        (DIRECT, PROVIDER.replace("kind", "another")),
        (DIRECT, "someone@example.com"),
        (DIRECT, GKE_POOL),
        (ON_GKE, GKE_PROVIDER),
        (ON_GKE, "other-project.svc.id.goog"),
        (EXTERNAL, OTHER),
        (EXTERNAL, PROVIDER),
        (METADATA, PROVIDER),
        (METADATA, "node/../other@project.iam.gserviceaccount.com"),
        (KEY, OTHER),
        (KEY, PROVIDER),
    ],
)
async def test_an_identity_that_is_not_proven_is_refused(new_world: NewWorld, kind: Row, identity: str) -> None:
    world = new_world(kind)
    error = await refused(world, identity)
    assert error.problem is Problem.IDENTITY_UNKNOWN
    assert not world.wire.asked


async def test_the_nodes_own_account_never_stands_in_for_another(new_world: NewWorld) -> None:
    world = new_world(METADATA)
    error = await refused(world, OTHER)
    assert error.problem is Problem.IDENTITY_UNKNOWN
    assert asked(world)[-1].endswith(f"/serviceAccounts/{OTHER}:generateAccessToken")
    vendor_of(world).impersonators[OTHER] = set()
    assert (await refused(world, OTHER)).problem is Problem.MINT_REFUSED


async def test_what_answers_without_the_flavor_is_no_metadata_server(new_world: NewWorld) -> None:
    world = new_world(METADATA)
    world.wire.script.append(Answer(200, NODE.encode()))
    assert (await refused(world, NODE)).problem is Problem.ISSUER_MALFORMED
    world.wire.script.extend([None, in_json(200, {"access_token": "ya29.x", "expires_in": 3600})])
    assert (await refused(world, NODE)).problem is Problem.ISSUER_MALFORMED


async def test_a_node_without_an_account_is_told(new_world: NewWorld) -> None:
    world = new_world(METADATA)
    world.wire.script.append(Answer(404, b"Not Found", {"Metadata-Flavor": "Google"}))
    assert (await refused(world, NODE)).problem is Problem.IDENTITY_UNKNOWN


@pytest.mark.parametrize("token", ["", "two\r\nlines", "ünicode", "a\x00b"])
async def test_a_federated_token_that_no_header_takes_goes_nowhere(new_world: NewWorld, token: str) -> None:
    world = new_world(IMPERSONATED)
    world.wire.script.append(in_json(200, {"access_token": token, "expires_in": 3600}))
    assert (await refused(world, EMAIL)).problem is Problem.ISSUER_MALFORMED
    assert len(world.wire.asked) == 1


# What the vendor refuses before the request that mints.


async def test_a_stale_proof_is_read_again_before_an_impersonation_too(new_world: NewWorld) -> None:
    def renewed() -> Answer:
        world.proof_serial += 1
        return oauth_error("invalid_grant", "ID Token issued at 1 is stale to sign-in.")

    world = new_world(IMPERSONATED)
    world.wire.script.append(renewed)
    await world.mint()
    assert [request.path for request in world.wire.asked][:2] == ["/v1/token", "/v1/token"]
    assert len(set(world.proofs_read)) == 2


@pytest.mark.parametrize("kind", ["external account", "workload identity, impersonated", "metadata, impersonated"])
async def test_who_may_not_impersonate_is_refused(new_world: NewWorld, kind: str) -> None:
    world = new_world(KINDS[kind])
    vendor_of(world).impersonators[EMAIL] = {"somebody else"}
    error = await refused(world, EMAIL)
    assert (error.problem, error.detail) == (Problem.MINT_REFUSED, "HTTP 403, impersonation")


async def test_a_word_of_the_issuer_that_is_not_known_is_not_repeated(new_world: NewWorld) -> None:
    world = new_world(DIRECT)
    world.wire.script.append(oauth_error("tell-tale-word"))
    error = await refused(world, PROVIDER)
    assert (error.problem, error.detail) == (Problem.REQUEST_REFUSED, "HTTP 400")
    world.wire.script.append(api_error(403, "TELL_TALE"))
    assert (await refused(world, PROVIDER)).detail == "HTTP 403"


# Files.


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"type": "authorized_user"}, "type must be external_account"),
        ({"audience": None}, "must be a JSON object with type, audience"),
        ({"audience": "//iam.googleapis.com/locations/global/workforcePools/p/providers/q"}, "workforce pools"),
        ({"subject_token_type": "urn:ietf:params:aws:token-type:aws4_request"}, "jwt or id_token"),
        ({"credential_source": {"url": "http://169.254.169.254/x"}}, "must be a file of text"),
        ({"credential_source": {"executable": {"command": "/bin/sh"}}}, "must be a file of text"),
        ({"credential_source": {"environment_id": "aws1"}}, "must be a file of text"),
        ({"credential_source": {"certificate": {}}}, "must be a file of text"),
        ({"credential_source": {"file": TOKEN_FILE, "format": {"type": "json"}}}, "must be a file of text"),
        ({"credential_source": {"file": "/etc/shadow"}}, "must be the configured tokenFile"),
        ({"credential_source": "x"}, "must be a JSON object"),
        ({"token_url": "https://sts.evil.example/v1/token"}, "token_url must be the configured one"),
        ({"universe_domain": "evil.example"}, "universe_domain"),
        ({"service_account_impersonation_url": f"https://evil.example/{EMAIL}:generateAccessToken"}, "with an e-mail"),
        ({"service_account_impersonation_url": ""}, "with an e-mail"),
    ],
)
async def test_an_external_account_file_that_cannot_be_honoured_is_refused_with_the_reason(
    new_world: NewWorld, tmp_path: Path, changes: Mapping[str, Any], reason: str
) -> None:
    """At the start; and where the file is replaced later, at the next mint."""
    path = tmp_path / "changed.json"
    write_external_account(path)
    world = new_world(EXTERNAL, credentialsFile=str(path))
    write_external_account(path, **changes)
    text = problems(EXTERNAL, tmp_path, credentialsFile=str(path))
    assert re.search(rf"^providers\.under-test\.credentialsFile: .*{re.escape(reason)}", text, re.MULTILINE)
    assert (await refused(world, EMAIL)).problem is Problem.PROOF_UNFIT
    assert not world.wire.asked


async def test_an_external_account_file_without_impersonation_is_the_providers_own(
    new_world: NewWorld, tmp_path: Path
) -> None:
    path = write_external_account(tmp_path / "direct.json", service_account_impersonation_url=None)
    world = new_world(EXTERNAL, credentialsFile=path)
    await world.provider.mint(PROVIDER, ())
    assert len(world.wire.asked) == 1
    assert (await refused(world, EMAIL)).problem is Problem.IDENTITY_UNKNOWN


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"type": "external_account"}, "type must be service_account"),
        ({"private_key": None}, "must be a JSON object with type, client_email"),
        (
            {"private_key": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"},
            "private_key is not an RSA key in PEM",
        ),
        ({"token_uri": "https://evil.example/token"}, "token_uri must be the configured one"),
        ({"universe_domain": "evil.example"}, "universe_domain"),
    ],
)
async def test_a_key_file_that_cannot_be_honoured_is_refused_with_the_reason(
    new_world: NewWorld, tmp_path: Path, changes: Mapping[str, Any], reason: str
) -> None:
    path = tmp_path / "changed.json"
    write_key(path)
    world = new_world(KEY, credentialsFile=str(path))
    write_key(path, **changes)
    text = problems(KEY, tmp_path, credentialsFile=str(path))
    assert re.search(rf"^providers\.under-test\.credentialsFile: .*{re.escape(reason)}", text, re.MULTILINE)
    assert (await refused(world, EMAIL)).problem is Problem.PROOF_UNFIT
    assert not world.wire.asked


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b"{", b"[" * 50_000, b"x" * 100_000])
@pytest.mark.parametrize("kind", [KEY, EXTERNAL], ids=["key", "external account"])
def test_a_file_that_is_no_json_object_is_refused_unquoted(kind: Row, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    assert len(problems(kind, tmp_path, credentialsFile=str(path))) < 200


def test_a_key_in_another_universe_is_refused(tmp_path: Path) -> None:
    path = write_key(
        tmp_path / "k.json", universe_domain="apis-example.goog", token_uri="https://oauth2.apis-example.goog/token"
    )
    text = problems(KEY, tmp_path, credentialsFile=path, universeDomain="apis-example.goog")
    assert "keys are exchanged for tokens only in the universe googleapis.com" in text


async def test_a_file_that_is_not_there_yet_is_told_when_it_is_needed(new_world: NewWorld, tmp_path: Path) -> None:
    world = new_world(KEY, credentialsFile=str(tmp_path / "later.json"))
    assert (await refused(world, EMAIL)).problem is Problem.PROOF_MISSING
    write_key(tmp_path / "later.json")
    assert (await world.mint()).username == "oauth2accesstoken"


# The configuration.

ON_A_NODE = {"credentials": "metadata", "tokenFile": None, "workloadIdentityProvider": None}


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        ({"tokenFile": None}, "tokenFile: is needed with credentials workloadIdentity"),
        ({"workloadIdentityProvider": None}, "workloadIdentityProvider: is needed"),
        ({"workloadIdentityProvider": "projects/my-project/x"}, "workloadIdentityProvider: must be projects/<number>/"),
        (
            {"workloadIdentityProvider": GKE_PROVIDER.replace("container", "evil")},
            "workloadIdentityProvider: must be projects/<number>/",
        ),
        ({"credentialsFile": "/etc/key.json"}, "credentialsFile: is not used with credentials workloadIdentity; remov"),
        ({"credentials": "metadata"}, "tokenFile: is not used with credentials metadata; remove it"),
        ({"credentials": "default"}, "credentials: must be one of workloadIdentity, externalAccount, metadata"),
        ({"lifetime": "13h"}, "lifetime: must be at least 1s and at most 12h"),
        ({"lifetime": 0.5}, "lifetime: must have a unit: write 0.5s, 0.5m or 0.5h"),
        ({"stsEndpoint": "http://sts.example"}, "stsEndpoint: must be https"),
        (
            {**ON_A_NODE, "metadataEndpoint": "http://metadata.example"},
            "metadataEndpoint: must be https, unless its host is a link",
        ),
        (
            {**ON_A_NODE, "metadataEndpoint": "ftp://u:p@169.254.169.254/x?y#z"},
            "metadataEndpoint: must be an http or https URL",
        ),
        (
            {"metadataEndpoint": "http://169.254.169.254:8080"},
            "metadataEndpoint: is not used with credentials work",
        ),
        ({"oauth2Endpoint": "https://a.example"}, "oauth2Endpoint: is not used with credentials workloadIdentity"),
        ({"credentials": "metadata", "audience": "x"}, "audience: is not used with credentials metadata"),
        ({"universeDomain": "e vil/x"}, "universeDomain: must be a DNS name, such as googleapis.com"),
        (
            {"delegates": ["someone@example.com"]},
            "delegates: 'someone@example.com' is not the e-mail address of a serv",
        ),
        ({"registries": ["ghcr.io"]}, "registries: 'ghcr.io' is not a registry of Google"),
        ({"registries": ["gcr.io.evil.example"]}, "registries: 'gcr.io.evil.example' is not a registry of Google"),
        ({"registries": ["docker.rep.pkg.dev"]}, "registries: 'docker.rep.pkg.dev' is not a registry of Google"),
    ],
)
def test_what_contradicts_itself_is_refused_at_the_start(
    tmp_path: Path, overrides: Mapping[str, Any], problem: str
) -> None:
    assert f"providers.under-test.{problem}" in problems(DIRECT, tmp_path, **overrides)


@pytest.mark.parametrize(
    "host",
    [
        "gcr.io",
        "eu.gcr.io",
        "docker.us-east1.rep.pkg.dev",
        "docker.africa-south1.rep.pkg.dev/p/r",
        "us-docker.pkg.dev",
        "europe-west1-docker.pkg.dev",
        "us-docker.pkg.dev/p/r",
        "127.0.0.1:5000",
    ],
)
def test_googles_own_registries_and_loopback_are_allowed(tmp_path: Path, host: str) -> None:
    assert configured(DIRECT, tmp_path, {"registries": [host]}).registries == (host,)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://169.254.169.254", True),
        ("http://[fe80::1]/", True),
        ("http://[fd00:ec2::23]:80/v1", True),
        ("http://[::ffff:169.254.169.254]", True),
        ("http://metadata.google.internal", False),
        ("http://10.0.0.1", False),
        ("http://169.254.169.254.evil.example", False),
        ("http://[", False),
    ],
)
def test_a_metadata_server_is_known_by_its_address_and_never_asked_through_a_proxy(url: str, expected: bool) -> None:
    assert is_link_local(url) is expected
    proxy = AiohttpTransport(proxy="http://127.0.0.1:3128")._proxy_for(url)
    assert proxy == (None if expected else "http://127.0.0.1:3128")


@pytest.mark.parametrize(
    ("identity", "fits"),
    [
        (EMAIL, True),
        ("name@example.com.my-project.iam.gserviceaccount.com", True),
        ("123456-compute@developer.gserviceaccount.com", True),
        ("my-project@appspot.gserviceaccount.com", True),
        (PROVIDER, True),
        (f"//iam.googleapis.com/{PROVIDER}", True),
        (GKE_POOL, True),
        (GKE_PROVIDER, False),
        ("my-project.svc.id.goog.evil.example", False),
        ("name@gserviceaccount.com.evil.example", False),
        ("name@evilgserviceaccount.com", False),
        ("a/b@p.iam.gserviceaccount.com", False),
        (PROVIDER.replace("123456789", "my-project"), False),
        ("someone@example.com", False),
    ],
)
def test_an_identity_is_known_by_its_shape(identity: str, fits: bool) -> None:
    assert (re.fullmatch(google.IDENTITY, identity) is not None) is fits


@pytest.mark.parametrize(
    ("identity", "type_"), [(EMAIL, "google"), (PROVIDER, "google"), (GKE_POOL, "google"), ("a@b.example", "crusoe")]
)
def test_of_all_emails_only_those_of_service_accounts_are_googles(identity: str, type_: str) -> None:
    assert next(shape.types for shape in SHAPES if shape.pattern.fullmatch(identity)) == {type_}


def test_a_missing_package_is_named_with_what_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name == "google.auth" or name.startswith("google.auth.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "google.auth", None)
    assert "pip install pull-secret-updater[google]" in problems(KEY, tmp_path)
    assert configured(DIRECT, tmp_path).type == "google", "which needs no package"


# The environment.


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Settings that would lead Google's own libraries to another account, another server or another proxy."""
    variables = {
        "GOOGLE_APPLICATION_CREDENTIALS": write_key(tmp_path / "other.json", "key-2", client_email=OTHER),
        "GOOGLE_CLOUD_PROJECT": "evil",
        "GOOGLE_CLOUD_UNIVERSE_DOMAIN": "evil.example",
        "GCE_METADATA_HOST": "evil.example",
        "GCE_METADATA_IP": "192.0.2.1",
        "GCE_METADATA_ROOT": "evil.example",
        "CLOUDSDK_CONFIG": str(tmp_path),
    }
    with never_looked_at(variables, monkeypatch):
        yield


@each_kind
@pytest.mark.usefixtures("hostile")
async def test_the_environment_is_never_looked_at(new_world: NewWorld, kind: str) -> None:
    world = new_world(KINDS[kind])
    token = await world.mint()
    assert vendor_of(world).whose(token.password) in (KINDS[kind].identity, vendor_of(world).principal)
    hosts = {request.host for request in world.wire.asked}
    assert hosts <= {"sts.googleapis.com", "iamcredentials.googleapis.com", "oauth2.googleapis.com", "169.254.169.254"}


def test_a_key_is_never_printed(tmp_path: Path) -> None:
    settings = configured(KEY, tmp_path)
    assert "PRIVATE" not in repr(google._key(settings))
