"""Azure: the exact requests of each kind of credentials, whose identity is refused, what a registry's token says."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from controller import config
from controller.core.errors import MintError, Problem
from controller.providers import acr
from testing.azure import AUDIENCE, CLIENT, REGISTRY, RESOURCE, TENANT, Azure, entra_error, registry_error
from testing.wire import Answer, in_json
from tests.unit.contract_acr import (
    AT_THE_REGISTRY,
    CERTIFIED,
    FEDERATED,
    IDENTITY,
    SECRET,
    SECRETIVE,
    certificate,
    row,
)
from tests.unit.fakes import jwt as unsigned
from tests.unit.provider_world import Row, World, configured
from tests.unit.virtual_time import Clock
from tests.unit.watched_environment import never_looked_at

EC_KEY = (
    ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
)
CERTIFICATE_SETTINGS = {
    "type": "acr",
    "credentials": "clientCertificate",
    "registries": [REGISTRY],
    "tenant": TENANT,
    "clientId": CLIENT,
}
MANAGED = "e0c3a1d2-0000-4000-8000-00000000c0de"
OTHER = "11111111-2222-4333-8444-555555555555"
ON_THE_NODE = row(
    lambda _directory: {"credentials": "managedIdentity"}, identity=MANAGED, refusals={}, stale=None, proofless={}
)
TWO = {"registries": [REGISTRY, f"{REGISTRY}/team", "other.azurecr.io"]}
KINDS = {
    "federated": FEDERATED,
    "client secret": SECRETIVE,
    "client certificate": CERTIFIED,
    "managed identity": ON_THE_NODE,
}
each_kind = pytest.mark.parametrize("kind", KINDS)

NewWorld = Callable[..., World]


@pytest.fixture
def new_world(clock: Clock, tmp_path: Path) -> NewWorld:
    return lambda kind, **overrides: World(kind, clock, tmp_path, overrides)


def vendor_of(world: World) -> Azure:
    assert isinstance(world.vendor, Azure)
    return world.vendor


def asked(world: World) -> list[str]:
    return [f"{one.method} {one.url}" for one in world.wire.asked]


async def refused(world: World, identity: str | None = None, hosts: tuple[str, ...] = (REGISTRY,)) -> MintError:
    with pytest.raises(MintError) as caught:
        await world.provider.mint(world.row.identity if identity is None else identity, hosts)
    return caught.value


def problems(kind: Row, directory: Path, **overrides: Any) -> str:
    with pytest.raises(config.ConfigError) as caught:
        configured(kind, directory, overrides)
    return str(caught.value)


# The requests.


async def test_an_assertion_becomes_a_registrys_token_as_the_pages_say(new_world: NewWorld) -> None:
    world = new_world(FEDERATED)
    token = await world.mint()
    assert asked(world) == [
        f"POST https://login.microsoftonline.com/{TENANT}/oauth2/v2.0/token",
        f"POST https://{REGISTRY}/oauth2/exchange",
    ]
    entra, exchange = world.wire.asked
    assert entra.form() == {
        "grant_type": ["client_credentials"],
        "client_id": [CLIENT],
        "scope": ["https://containerregistry.azure.net/.default"],
        "client_assertion_type": ["urn:ietf:params:oauth:client-assertion-type:jwt-bearer"],
        "client_assertion": [world.proofs_read[0]],
    }
    assert jwt.decode(world.proofs_read[0], options={"verify_signature": False})["aud"] == [AUDIENCE]
    assert exchange.form() == {
        "grant_type": ["access_token"],
        "service": [REGISTRY],
        "tenant": [TENANT],
        "access_token": [world.vendor.minted[0]],
    }
    assert not any("Authorization" in request.headers for request in world.wire.asked)
    assert (token.username, vendor_of(world).whose(token.password)) == (acr.USERNAME, CLIENT)


async def test_a_secret_takes_the_place_of_the_assertion(new_world: NewWorld) -> None:
    world = new_world(SECRETIVE)
    await world.mint()
    form = world.wire.asked[0].form() or {}
    assert form["client_secret"] == [SECRET]
    assert not [name for name in form if "assertion" in name]


async def test_a_certificates_key_signs_an_assertion_of_minutes(new_world: NewWorld) -> None:
    world = new_world(CERTIFIED)
    await world.mint()
    await world.mint()
    form = world.wire.asked[0].form() or {}
    assert "client_secret" not in form
    (assertion,) = form["client_assertion"]
    _, _, thumbprint, public = certificate(1)
    assert jwt.get_unverified_header(assertion) == {"alg": "PS256", "typ": "JWT", "x5t#S256": thumbprint}
    now = int(world.clock())
    url = f"https://login.microsoftonline.com/{TENANT}/oauth2/v2.0/token"
    options: Any = {"verify_exp": False, "verify_nbf": False, "verify_iat": False}
    claims = jwt.decode(assertion, public, algorithms=["PS256"], audience=url, options=options)
    ids = {"aud": url, "iss": CLIENT, "sub": CLIENT, "jti": claims["jti"]}
    assert claims == {**ids, "nbf": now - 60, "iat": now, "exp": now + 480}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["certificate first", "key first"])
async def test_certificate_and_key_may_be_in_one_file(
    new_world: NewWorld, tmp_path: Path, order: tuple[int, int]
) -> None:
    (tmp_path / "both.pem").write_text("".join(certificate(1)[part] for part in order))
    world = new_world(CERTIFIED, certificateFile=str(tmp_path / "both.pem"), privateKeyFile=None)
    await world.provider.check_proof()
    assert (await world.mint()).username == acr.USERNAME


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("tls.key", certificate(2)[1], "the private key is not the certificate's"),
        ("tls.key", certificate(1)[0], "must hold a certificate in PEM"),
        ("tls.key", certificate(1)[1].replace("PRIVATE", "ENCRYPTED PRIVATE"), "without a password"),
        ("tls.key", EC_KEY, "RSA key in PEM"),
        ("tls.crt", certificate(1)[1], "must hold a certificate in PEM"),
        ("tls.crt", certificate(1)[0].replace("M", "N"), "must hold a certificate in PEM"),
    ],
)
async def test_a_certificate_that_cannot_be_used_is_told_at_the_start_and_when_it_is_replaced(
    new_world: NewWorld, tmp_path: Path, file: str, content: str, reason: str
) -> None:
    world = new_world(CERTIFIED)
    (tmp_path / file).write_text(content)
    error = await refused(world)
    assert (error.problem, reason in error.detail) == (Problem.PROOF_UNFIT, True)
    with pytest.raises(MintError):
        await world.provider.check_proof()
    assert not world.wire.asked
    written = {"certificateFile": str(tmp_path / "tls.crt"), "privateKeyFile": str(tmp_path / "tls.key")}
    with pytest.raises(config.ConfigError) as caught:
        config.load(None, {"providers": {"x": {**CERTIFICATE_SETTINGS, **written}}})
    assert reason in str(caught.value)


def test_a_certificate_needs_an_extra_and_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jwt", None)
    assert "pip install pull-secret-updater[azure]" in problems(CERTIFIED, tmp_path)
    assert configured(SECRETIVE, tmp_path).type == "acr"


async def test_a_secret_may_be_in_a_named_variable(new_world: NewWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world = new_world(SECRETIVE, clientSecretFile=None, clientSecretVariable="PULLER_SECRET")
    assert (await refused(world)).problem is Problem.PROOF_MISSING
    assert not world.wire.asked
    monkeypatch.setenv("PULLER_SECRET", f"{SECRET}\n")
    await world.mint()
    assert (world.wire.asked[0].form() or {})["client_secret"] == [SECRET]


async def test_a_managed_identity_has_no_proof_to_check(new_world: NewWorld) -> None:
    world = new_world(ON_THE_NODE)
    await world.provider.check_proof()
    assert (world.wire.asked, world.proofs_read) == ([], [])


async def test_a_managed_identity_is_asked_for_by_its_client_id(new_world: NewWorld) -> None:
    world = new_world(ON_THE_NODE)
    token = await world.mint()
    request = world.wire.asked[0]
    assert request.url.startswith("http://169.254.169.254/metadata/identity/oauth2/token?")
    assert request.headers["Metadata"] == "true"
    assert request.parameters() == {
        "api-version": ["2018-02-01"],
        "resource": ["https://containerregistry.azure.net"],
        "client_id": [MANAGED],
    }
    assert "tenant" not in (world.wire.asked[1].form() or {}), "which is not known"
    assert vendor_of(world).whose(token.password) == MANAGED


@pytest.mark.parametrize("slash", ["", "/"])
async def test_a_node_is_asked_for_the_resource_as_it_is_configured(new_world: NewWorld, slash: str) -> None:
    world = new_world(ON_THE_NODE, resource=f"https://management.chinacloudapi.cn{slash}")
    vendor_of(world).resource = "https://management.chinacloudapi.cn"
    await world.mint()
    assert world.wire.asked[0].parameters()["resource"] == [f"https://management.chinacloudapi.cn{slash}"]


async def test_a_sovereign_cloud_is_a_matter_of_configuration(new_world: NewWorld) -> None:
    """P: US Government."""
    world = new_world(
        FEDERATED,
        registries=["team.azurecr.us"],
        authority="https://login.microsoftonline.us/",
        audience="api://AzureADTokenExchangeUSGov",
        resource="https://management.usgovcloudapi.net/",
    )
    vendor_of(world).resource, vendor_of(world).registry = "https://management.usgovcloudapi.net", "team.azurecr.us"
    vendor_of(world)._trust = world.trust("api://AzureADTokenExchangeUSGov")
    await world.provider.mint(IDENTITY, ("team.azurecr.us",))
    assert asked(world) == [
        f"POST https://login.microsoftonline.us/{TENANT}/oauth2/v2.0/token",
        "POST https://team.azurecr.us/oauth2/exchange",
    ]


async def test_a_registry_behind_another_name_is_asked_as_it_calls_itself(new_world: NewWorld) -> None:
    host = "images.example.com"
    world = new_world(
        FEDERATED, registries=[host], registryEndpoint="https://team.azurecr.io/", service="team.azurecr.io"
    )
    await world.provider.mint(IDENTITY, (host,))
    assert asked(world)[1] == "POST https://team.azurecr.io/oauth2/exchange"
    assert (world.wire.asked[1].form() or {})["service"] == ["team.azurecr.io"]


async def test_the_path_of_a_registry_is_no_part_of_its_address(new_world: NewWorld) -> None:
    world = new_world(FEDERATED, registries=[f"{REGISTRY}/team"])
    await world.provider.mint(IDENTITY, (f"{REGISTRY}/team",))
    assert asked(world)[1] == f"POST https://{REGISTRY}/oauth2/exchange"


@pytest.mark.parametrize("host", ["127.0.0.1:5000", "localhost:5000", "[::1]:5000"])
async def test_plain_http_is_for_loopback_only(new_world: NewWorld, host: str) -> None:
    world = new_world(FEDERATED, registries=[host])
    vendor_of(world).registries.add(host)
    await world.provider.mint(IDENTITY, (host,))
    assert asked(world)[1] == f"POST http://{host}/oauth2/exchange"


async def test_a_refusal_of_the_registry_reads_no_proof_again(new_world: NewWorld) -> None:
    """Entra has just taken it."""
    world = new_world(AT_THE_REGISTRY)
    vendor_of(world).pullers.clear()
    assert (await refused(world)).problem is Problem.MINT_REFUSED
    assert len(world.proofs_read) == 1


# The identity.


async def test_the_tenant_may_be_configured_or_named(new_world: NewWorld) -> None:
    configured_once = new_world(FEDERATED, tenant=TENANT.upper())
    for identity in (CLIENT, IDENTITY, IDENTITY.upper()):
        await configured_once.provider.mint(identity, (REGISTRY,))
        assert (configured_once.wire.asked[-2].form() or {})["client_id"] == [CLIENT]
    nowhere = new_world(FEDERATED)
    assert (await refused(nowhere, CLIENT)).problem is Problem.REQUEST_REFUSED
    assert not nowhere.wire.asked


@each_kind
async def test_an_identity_of_another_tenant_is_refused(new_world: NewWorld, kind: str) -> None:
    world = new_world(KINDS[kind], tenant=TENANT)
    client = KINDS[kind].identity.rpartition("/")[2]
    assert (await refused(world, f"{OTHER}/{client}")).problem is Problem.IDENTITY_UNKNOWN
    assert not world.wire.asked


async def test_a_secret_proves_no_other_identity(new_world: NewWorld) -> None:
    world = new_world(SECRETIVE)
    assert (await refused(world, f"{TENANT}/{OTHER}")).problem is Problem.IDENTITY_UNKNOWN
    assert not world.wire.asked


async def test_the_nodes_own_identity_never_stands_in_for_another(new_world: NewWorld) -> None:
    world = new_world(ON_THE_NODE)
    error = await refused(world, OTHER)
    assert (error.problem, error.detail) == (Problem.IDENTITY_UNKNOWN, "HTTP 400, metadata server")
    assert world.wire.asked[0].parameters()["client_id"] == [OTHER]
    assert len(world.wire.asked) == 1


@pytest.mark.parametrize("named", [OTHER, None])
async def test_a_metadata_service_that_answers_for_another_is_not_believed(
    new_world: NewWorld, named: str | None
) -> None:
    world = new_world(ON_THE_NODE)
    world.wire.script.append(in_json(200, {"access_token": "a.b.c", "expires_in": "86399", "client_id": named}))
    assert (await refused(world)).problem is Problem.TOKEN_UNFIT
    assert len(world.wire.asked) == 1


@pytest.mark.parametrize("token", [unsigned(tid=OTHER), unsigned(), "opaque"])
async def test_a_managed_identity_must_be_of_the_tenant_that_is_named(new_world: NewWorld, token: str) -> None:
    world = new_world(ON_THE_NODE, tenant=TENANT)
    await world.mint()
    world.wire.script.append(in_json(200, {"access_token": token, "client_id": MANAGED}))
    assert (await refused(world)).problem is Problem.TOKEN_UNFIT


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (in_json(400, {"error": "invalid_resource"}), Problem.REQUEST_REFUSED),
        (in_json(400, {"error": "invalid_request"}), Problem.IDENTITY_UNKNOWN),
        (Answer(400, b"<html>"), Problem.IDENTITY_UNKNOWN),
        (Answer(404), Problem.ISSUER_UNAVAILABLE),
        (Answer(410), Problem.ISSUER_UNAVAILABLE),
        (Answer(429), Problem.ISSUER_THROTTLES),
        (Answer(500), Problem.ISSUER_UNAVAILABLE),
    ],
)
async def test_the_metadata_service_has_words_of_its_own(new_world: NewWorld, answer: Answer, problem: Problem) -> None:
    world = new_world(ON_THE_NODE)
    world.wire.script.append(answer)
    assert (await refused(world)).problem is problem


async def test_a_subject_that_entra_does_not_trust_is_told_with_its_number(new_world: NewWorld) -> None:
    world = new_world(FEDERATED)
    vendor_of(world).federated[CLIENT] = "system:serviceaccount:elsewhere:controller"
    error = await refused(world)
    assert (error.problem, error.detail) == (Problem.MINT_REFUSED, "HTTP 400, Entra, AADSTS700213")


async def test_no_word_of_entra_is_repeated(new_world: NewWorld) -> None:
    world = new_world(FEDERATED)
    world.wire.script.append(entra_error("tell-tale", None))
    assert (await refused(world)).detail == "HTTP 400, Entra"


# The registry's token.


@pytest.mark.parametrize(
    ("claims", "problem"),
    [
        ({"aud": "other.azurecr.io"}, Problem.TOKEN_UNFIT),
        ({"aud": None}, Problem.TOKEN_UNFIT),
        ({"appid": OTHER}, Problem.TOKEN_UNFIT),
        ({"tenant": OTHER}, Problem.TOKEN_UNFIT),
        ({"exp": None}, Problem.TOKEN_UNFIT),
        ({"exp": 1}, Problem.TOKEN_UNFIT),
    ],
)
async def test_a_token_that_is_not_what_was_asked_for_is_refused(
    new_world: NewWorld, claims: Mapping[str, Any], problem: Problem
) -> None:
    world = new_world(FEDERATED)
    content = {"aud": REGISTRY, "appid": CLIENT, "tenant": TENANT, "exp": int(world.clock()) + 3600, **claims}
    token = unsigned({name: value for name, value in content.items() if value is not None})
    world.wire.script.extend([None, in_json(200, {"refresh_token": token})])
    assert (await refused(world)).problem is problem


async def test_a_token_need_not_say_whose_it_is(new_world: NewWorld) -> None:
    world = new_world(FEDERATED)
    token = unsigned(aud=REGISTRY, exp=int(world.clock()) + 2100)
    world.wire.script.extend([None, in_json(200, {"refresh_token": token})])
    assert (await world.mint()).lifetime_seconds == 2100


@each_kind
async def test_a_password_may_be_narrowed_to_repositories(new_world: NewWorld, kind: str) -> None:
    scopes = ["repository:team/app:pull", "repository:team/base:pull,metadata_read"]
    world = new_world(KINDS[kind], scopes=scopes)
    token = await world.mint()
    *_, exchange, narrow = asked(world)
    assert (exchange, narrow) == (f"POST https://{REGISTRY}/oauth2/exchange", f"POST https://{REGISTRY}/oauth2/token")
    _, refresh, access = world.vendor.minted
    assert world.wire.asked[-1].form() == {
        "grant_type": ["refresh_token"],
        "service": [REGISTRY],
        "refresh_token": [refresh],
        "scope": scopes,
    }
    assert (token.username, token.password) == (acr.USERNAME, access)
    assert token.lifetime_seconds == pytest.approx(75 * 60, abs=1)


async def test_a_registry_that_refuses_a_scope_gives_no_wider_token_instead(new_world: NewWorld) -> None:
    world = new_world(FEDERATED, scopes=["repository:team/app:pull"])
    world.wire.script.extend([None, None, registry_error(401, "UNAUTHORIZED")])
    assert (await refused(world)).problem is Problem.MINT_REFUSED


@each_kind
async def test_several_registries_have_a_password_each_by_one_token_of_entra(new_world: NewWorld, kind: str) -> None:
    world = new_world(KINDS[kind], **TWO)
    vendor_of(world).registries.add("other.azurecr.io")
    hosts = world.hosts
    token = await world.mint()
    assert asked(world)[1:] == [f"POST https://{host}/oauth2/exchange" for host in ("other.azurecr.io", REGISTRY)]
    client = KINDS[kind].identity.rpartition("/")[2]
    passwords = {host: token.credential(host)[1] for host in hosts}
    for host in hosts:
        assert vendor_of(world).whose(passwords[host], host.partition("/")[0]) == client
    assert passwords[REGISTRY] == passwords[f"{REGISTRY}/team"] != passwords["other.azurecr.io"]


async def test_the_first_registrys_token_to_end_is_the_end_of_all(new_world: NewWorld, clock: Clock) -> None:
    world = new_world(FEDERATED, **TWO)
    vendor_of(world).registries.add("other.azurecr.io")

    def short_lived() -> Answer:
        token = unsigned(aud="other.azurecr.io", exp=int(clock()) + 600)
        return in_json(200, {"refresh_token": token})

    world.wire.script.extend([None, short_lived])
    assert (await world.mint()).lifetime_seconds == 600


async def test_a_claim_for_one_of_several_registries_asks_that_one_alone(new_world: NewWorld) -> None:
    world = new_world(FEDERATED, **TWO)
    token = await world.provider.mint(IDENTITY, (REGISTRY,))
    assert asked(world)[1:] == [f"POST https://{REGISTRY}/oauth2/exchange"]
    assert token.credential(REGISTRY) == (acr.USERNAME, token.password)


async def test_one_registry_that_refuses_is_named_and_nothing_is_minted_for_the_others(new_world: NewWorld) -> None:
    world = new_world(FEDERATED, **TWO)
    world.wire.script.extend([None, registry_error(401, "UNAUTHORIZED")])
    error = await refused(world, hosts=world.hosts)
    assert (error.problem, error.named) == (Problem.MINT_REFUSED, ("host other.azurecr.io",))


def test_a_token_of_one_registry_is_not_shared_with_another() -> None:
    assert acr.Acr.SHARES_TOKEN is False


# The configuration.


@pytest.mark.parametrize(
    ("kind", "overrides", "problem"),
    [
        (
            FEDERATED,
            {**TWO, "service": REGISTRY},
            "service: is for one registry, and there are several; add a provider",
        ),
        (
            FEDERATED,
            {**TWO, "registryEndpoint": f"https://{REGISTRY}"},
            "registryEndpoint: is for one registry, and th",
        ),
        (FEDERATED, {"scopes": ["repository:team/*:pull"]}, "scopes: 'repository:team/*:pull' must be like reposi"),
        (FEDERATED, {"scopes": ["team/app"]}, "scopes: 'team/app' must be like repository:team/app:pull"),
        (FEDERATED, {"registries": []}, "registries: must name at least one host"),
        (FEDERATED, {"tokenFile": None}, "tokenFile: is needed with credentials workloadIdentity"),
        (FEDERATED, {"clientId": CLIENT}, "clientId: is not used with credentials workloadIdentity; remove it"),
        (FEDERATED, {"clientSecretFile": "/x"}, "clientSecretFile: is not used with credentials workloadIdentity"),
        (FEDERATED, {"tenant": "common"}, "tenant: must be a GUID"),
        (FEDERATED, {"authority": "http://login.example"}, "authority: must be https"),
        (FEDERATED, {"registryEndpoint": "http://registry.example"}, "registryEndpoint: must be https"),
        (ON_THE_NODE, {"metadataEndpoint": "http://10.0.0.1"}, "metadataEndpoint: must be https, unless"),
        (FEDERATED, {"credentials": "default"}, "credentials: must be one of workloadIdentity, managedIdentity, cli"),
        (ON_THE_NODE, {"tokenFile": "/x"}, "tokenFile: is not used with credentials managedIdentity; remove it"),
        (ON_THE_NODE, {"audience": "x"}, "audience: is not used with credentials managedIdentity; remove it"),
        (FEDERATED, {"metadataEndpoint": "https://a.example"}, "metadataEndpoint: is not used with credentials work"),
        (SECRETIVE, {"clientSecretFile": "", "clientSecretVariable": "X"}, "clientSecretFile: must not be empty"),
        (CERTIFIED, {"tenant": None}, "tenant: is needed with credentials clientCertificate"),
        (CERTIFIED, {"clientSecretFile": "/x"}, "clientSecretFile: is not used with credentials clientCertificate"),
        (SECRETIVE, {"privateKeyFile": "/x"}, "privateKeyFile: is not used with credentials clientSecret; remove it"),
        (SECRETIVE, {"tenant": None}, "tenant: is needed with credentials clientSecret"),
        (SECRETIVE, {"clientId": "the-puller"}, "clientId: must be a GUID"),
        (SECRETIVE, {"clientSecretFile": None}, "clientSecretFile: exactly one of clientSecretFile and cl"),
        (SECRETIVE, {"clientSecretVariable": "X"}, "clientSecretFile: exactly one of clientSecretFile and cl"),
    ],
)
def test_what_contradicts_itself_is_refused_at_the_start(
    tmp_path: Path, kind: Row, overrides: Mapping[str, Any], problem: str
) -> None:
    assert f"providers.under-test.{problem}" in problems(kind, tmp_path, **overrides)


@pytest.mark.parametrize(
    ("identity", "fits"),
    [
        (CLIENT, True),
        (CLIENT.upper(), True),
        (IDENTITY, True),
        (f"{IDENTITY}/{CLIENT}", False),
        (f"common/{CLIENT}", False),
        (CLIENT[:-1], False),
        (CLIENT.replace("-", ""), False),
    ],
)
def test_an_identity_is_known_by_its_shape(identity: str, fits: bool) -> None:
    assert (re.fullmatch(acr.IDENTITY, identity) is not None) is fits


def test_no_package_of_azure_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("azure", "azure.identity", "azure.core", "msal"):
        monkeypatch.setitem(sys.modules, name, None)
    for kind in KINDS.values():
        assert configured(kind, tmp_path).type == "acr"


# The environment.


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Settings that would lead Azure's own libraries to another identity, another server or another proxy."""
    (tmp_path / "other").write_text("another proof")
    variables = {
        "AZURE_CLIENT_ID": OTHER,
        "AZURE_TENANT_ID": OTHER,
        "AZURE_CLIENT_SECRET": "another-secret",
        "AZURE_FEDERATED_TOKEN_FILE": str(tmp_path / "other"),
        "AZURE_AUTHORITY_HOST": "https://evil.example",
        "AZURE_REGIONAL_AUTHORITY_NAME": "evil",
        "AZURE_POD_IDENTITY_AUTHORITY_HOST": "https://evil.example",
        "IDENTITY_ENDPOINT": "https://evil.example",
        "IDENTITY_HEADER": "evil",
        "MSI_ENDPOINT": "https://evil.example",
    }
    with never_looked_at(variables, monkeypatch):
        yield


@each_kind
@pytest.mark.usefixtures("hostile")
async def test_the_environment_is_never_looked_at(new_world: NewWorld, kind: str) -> None:
    world = new_world(KINDS[kind])
    token = await world.mint()
    assert vendor_of(world).whose(token.password) == KINDS[kind].identity.rpartition("/")[2]
    assert {request.host for request in world.wire.asked} <= {
        "login.microsoftonline.com",
        "169.254.169.254",
        REGISTRY,
    }


def test_the_default_resource_is_the_registry_service_not_all_of_azure() -> None:
    assert acr.AcrManagedIdentity(type="acr").resource == RESOURCE
