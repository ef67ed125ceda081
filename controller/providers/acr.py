"""Azure Container Registry: an Entra token becomes a refresh token of one registry, which is the password.

Pages: https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow,
https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token and
https://github.com/Azure/acr/blob/main/docs/AAD-OAuth.md.

Request   1. the Entra token, by `credentials`:
             workloadIdentity  POST <authority>/<tenant>/oauth2/v2.0/token, form, with the projected token as assertion
             clientSecret      the same, with the secret
             clientCertificate the same, with an assertion that the certificate's key has signed (PS256), as
                               https://learn.microsoft.com/entra/identity-platform/certificate-credentials describes
             managedIdentity   GET <metadata server>/metadata/identity/oauth2/token, always with client_id: without it
                               the node's own identity would answer
          2. POST https://<registry>/oauth2/exchange, form: grant_type, service, tenant, access_token
          3. with `scopes`: POST https://<registry>/oauth2/token, form: grant_type, service, scope, refresh_token
Response  1. {"access_token"}; the managed identity's also says {"client_id"}. 2. {"refresh_token": JWT}, whose `aud` is
          the registry. 3. {"access_token": JWT}. The user is 00000000-0000-0000-0000-000000000000.
Lifetime  `exp` of the refresh token, up to 3 hours; or of the access token, 75 minutes.
Errors    1. {"error", "error_codes": [AADSTS]}: the status and `error` count, the numbers refine them.
          2. {"errors": [{"code"}]}: only the status counts.

A refresh token is good for one registry. A claim for several has one Entra token, and with it a password for each.

azure-identity isn't used: whatever its credentials are given, they obey AZURE_* (multi-tenancy, regional authority, the
metadata server's address), and they keep tokens and count lives of their own by the system's clock.
"""

from __future__ import annotations

import asyncio
import base64
import re
import urllib.parse
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

import msgspec

from controller.core.conversion import shown
from controller.core.errors import MintError, Problem
from controller.core.jwt import jwt_claim, jwt_instant
from controller.core.model import Token
from controller.net.urls import is_safe_url
from controller.providers.contract import SettingsType, Tools, needs_extra
from controller.providers.exchange import (
    OAUTH_PROBLEMS,
    IssuerReply,
    ask,
    malformed,
    read_answer,
    read_json,
    refusal,
    stale,
)
from controller.providers.proof import KeySource, secret_file, with_proof
from controller.providers.settings import IssuerSettings, NodeUrl, ProofBy, Url, matching
from controller.providers.token import make_token

_GUID = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"

IDENTITY = rf"(?:{_GUID}/)?{_GUID}"
"""The client id of an app registration or managed identity, with its tenant before it if none is configured."""

USERNAME = "00000000-0000-0000-0000-000000000000"

_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

_PROBLEMS = {**OAUTH_PROBLEMS, "invalid_resource": Problem.REQUEST_REFUSED}
_HINTS = {
    50166: Problem.CLUSTER_ISSUER_UNREACHABLE,  # "Request to External OIDC endpoint failed", as the next two say
    50196: Problem.ISSUER_THROTTLES,  # the same request in a loop
    70021: Problem.MINT_REFUSED,  # no federated credential matches; also for minutes after one is made
    700211: Problem.MINT_REFUSED,  # ... by issuer,
    700212: Problem.MINT_REFUSED,  # ... audience,
    700213: Problem.MINT_REFUSED,  # ... or subject
    700016: Problem.IDENTITY_UNKNOWN,  # no such application in the tenant
    90002: Problem.IDENTITY_UNKNOWN,  # no such tenant
    90024: Problem.ISSUER_UNAVAILABLE,
    90033: Problem.ISSUER_UNAVAILABLE,
    90061: Problem.CLUSTER_ISSUER_UNREACHABLE,
    501661: Problem.CLUSTER_ISSUER_UNREACHABLE,
    500011: Problem.REQUEST_REFUSED,  # no such resource in the tenant
}
_STALE = frozenset({700024, 700027, 7000215, 7000222})
"""The assertion isn't valid now, or is of an unknown certificate; the secret is wrong, or has expired.

Another may be in the file by now.
"""
_ASSERTION_BACKDATED_SECONDS = 60
_ASSERTION_SECONDS = 480
"""Ahead of now; with the minute before it less than the ten that Entra advises."""

_SCOPE = re.compile(r"repository:[a-z0-9._/-]+:[a-z_]+(,[a-z_]+)*")

_Guid = Annotated[str, matching(_GUID, "must be a GUID")]


class _Settings(IssuerSettings, frozen=True, kw_only=True, rename="camel", tag_field="credentials"):
    """The configuration of `type: acr`, whatever the credentials. No other source is ever tried in their place."""

    tenant: _Guid | None = None
    """An identity that names another is refused. Without it, each identity names its own."""
    resource: str = "https://containerregistry.azure.net"
    """What the Entra token is for."""
    registry_endpoint: Url | None = None
    """Where the registry's own exchange is, if not at its host."""
    scopes: tuple[str, ...] = ()
    """What the password is narrowed to, such as repository:team/app:pull; by default all that the identity may."""
    service: str | None = None
    """What the registry calls itself, if not by its host: behind a domain of your own, <name>.azurecr.io."""

    def problems(self) -> Iterator[str]:
        """See ProviderSettings."""
        for scope in self.scopes:
            if not _SCOPE.fullmatch(scope):
                yield f"scopes: {shown(scope)} must be like repository:team/app:pull; Azure takes no wildcards"
        if len({_host(registry) for registry in self.registries}) > 1:
            for key, value in (("registryEndpoint", self.registry_endpoint), ("service", self.service)):
                if value is not None:
                    yield f"{key}: is for one registry, and there are several; add a provider for the one that needs it"


class AcrWorkloadIdentity(_Settings, frozen=True, kw_only=True, rename="camel", tag="workloadIdentity"):
    """Entra trusts the projected token."""

    token_file: str
    proof: ProofBy = "either"
    audience: str = "api://AzureADTokenExchange"
    """Of the projected token."""
    authority: Url = "https://login.microsoftonline.com"


class AcrManagedIdentity(_Settings, frozen=True, kw_only=True, rename="camel", tag="managedIdentity"):
    """The node's metadata server gives tokens of the identity."""

    metadata_endpoint: NodeUrl = "http://169.254.169.254"


class AcrClientSecret(_Settings, frozen=True, kw_only=True, rename="camel", tag="clientSecret"):
    """A secret that Entra knows proves one identity, and no other."""

    tenant: _Guid
    client_id: _Guid
    client_secret_file: str | None = None
    client_secret_variable: str | None = None
    """Name of the environment variable that holds the secret."""
    authority: Url = "https://login.microsoftonline.com"

    def problems(self) -> Iterator[str]:
        """See ProviderSettings."""
        yield from super().problems()
        if bool(self.client_secret_file) == bool(self.client_secret_variable):
            yield "clientSecretFile: exactly one of clientSecretFile and clientSecretVariable is needed"

    def secret(self) -> str:
        """The client secret as it is now. Raises MintError."""
        return KeySource(env=self.client_secret_variable, file=self.client_secret_file).read()


@dataclass(frozen=True, slots=True)
class _Pair:
    """A certificate and a key, in PEM."""

    certificate: str = field(repr=False)
    key: str = field(repr=False)


class AcrClientCertificate(_Settings, frozen=True, kw_only=True, rename="camel", tag="clientCertificate"):
    """A certificate that Entra knows proves one identity, and no other."""

    tenant: _Guid
    client_id: _Guid
    certificate_file: str
    """Path of the certificate in PEM; read anew for every request."""
    private_key_file: str | None = None
    """Path of its RSA key in PEM; None is the certificate's file."""
    authority: Url = "https://login.microsoftonline.com"

    def problems(self) -> Iterator[str]:
        """See ProviderSettings. A file that is missing is reported when it is needed: this may be another machine."""
        yield from super().problems()
        sign = _signer()
        try:
            sign(self.pair(), {})
        except MintError as error:
            if error.problem is not Problem.PROOF_MISSING:
                yield f"certificateFile: {error.detail}"

    def pair(self) -> _Pair:
        """Certificate and key as they are now. Raises MintError."""
        certificate = secret_file(self.certificate_file, lines=True)
        key = secret_file(self.private_key_file, lines=True) if self.private_key_file else certificate
        return _Pair(certificate, key)


AcrSettings = AcrWorkloadIdentity | AcrManagedIdentity | AcrClientSecret | AcrClientCertificate
_Proven = AcrWorkloadIdentity | AcrClientSecret | AcrClientCertificate


class _EntraToken(msgspec.Struct, frozen=True):
    access_token: str
    client_id: str | None = None


class _EntraError(msgspec.Struct, frozen=True):
    error: str
    error_codes: tuple[int, ...] = ()


class _RefreshToken(msgspec.Struct, frozen=True):
    refresh_token: str


class _AccessToken(msgspec.Struct, frozen=True):
    access_token: str


@dataclass(frozen=True, slots=True)
class _Principal:
    """The identity to act as; GUIDs in lower case."""

    client: str
    tenant: str | None


@dataclass(frozen=True, slots=True)
class Acr:
    """Exchanges what proves an Entra identity for a token of a registry."""

    SETTINGS: ClassVar[SettingsType] = AcrSettings
    SHARES_TOKEN: ClassVar[bool] = False

    settings: AcrSettings
    tools: Tools

    async def mint(self, identity: str, hosts: tuple[str, ...]) -> Token:
        """See Provider."""
        principal = self._principal(identity)
        entra = await self._entra(principal)
        registries = sorted(set(map(_host, hosts)))
        tokens = {registry: await self._exchange(principal, registry, entra) for registry in registries}
        first, *others = tokens.values()
        if not others:
            return first
        return replace(
            first,
            expires_at=min(token.expires_at for token in tokens.values()),
            passwords={host: tokens[_host(host)].password for host in hosts},
        )

    async def check_proof(self) -> None:
        """See Provider."""
        if isinstance(self.settings, AcrManagedIdentity):
            return
        proof = await self._proof(self.settings)
        if isinstance(proof, _Pair):
            await asyncio.to_thread(_signer(), proof, {})

    def _principal(self, identity: str) -> _Principal:
        """The principal of an identity. Raises MintError if the configuration is for another."""
        named, _, client = identity.lower().rpartition("/")
        configured = (self.settings.tenant or "").lower()
        if named and configured and named != configured:
            raise MintError(Problem.IDENTITY_UNKNOWN, "the configuration is for another tenant")
        match self.settings:
            case AcrClientSecret(client_id=own) | AcrClientCertificate(client_id=own) if client != own.lower():
                raise MintError(Problem.IDENTITY_UNKNOWN, "the configured secret or certificate is another identity's")
        return _Principal(client, named or configured or None)

    async def _entra(self, principal: _Principal) -> str:
        """An Entra token of the principal."""
        match self.settings:
            case AcrManagedIdentity() as managed:
                return await self._by_managed_identity(principal, managed)
            case proven:
                return await self._by_proof(principal, proven)

    async def _by_proof(self, principal: _Principal, settings: _Proven) -> str:
        if principal.tenant is None:
            raise MintError(Problem.REQUEST_REFUSED, "neither the identity nor the configuration names a tenant")
        url = f"{settings.authority.rstrip('/')}/{principal.tenant}/oauth2/v2.0/token"

        async def attempt(proof: str | _Pair) -> str:
            form = {
                "grant_type": "client_credentials",
                "client_id": principal.client,
                "scope": f"{settings.resource.rstrip('/')}/.default",
            }
            if isinstance(settings, AcrClientSecret):
                form["client_secret"] = str(proof)
            else:
                form["client_assertion_type"] = _ASSERTION_TYPE
                form["client_assertion"] = await self._assertion(proof, principal.client, url)
            reply = await ask(self.tools, "POST", url, form=form)
            if reply.status != 200:
                raise self._entra_error(reply)
            return _entra_token(reply).access_token

        return await with_proof(lambda: self._proof(settings), attempt)

    async def _proof(self, settings: _Proven) -> str | _Pair:
        """What proves the principal: an assertion, a secret, or what an assertion can be signed with."""
        match settings:
            case AcrClientSecret():
                return settings.secret()
            case AcrClientCertificate():
                return settings.pair()
            case AcrWorkloadIdentity():
                return await self.tools.proof(settings.audience)

    async def _assertion(self, proof: str | _Pair, client: str, audience: str) -> str:
        if not isinstance(proof, _Pair):
            return proof
        now = int(self.tools.now())
        claims: dict[str, object] = {"aud": audience, "iss": client, "sub": client, "jti": str(uuid.uuid4())}
        claims |= {"nbf": now - _ASSERTION_BACKDATED_SECONDS, "iat": now, "exp": now + _ASSERTION_SECONDS}
        return await asyncio.to_thread(_signer(), proof, claims)  # an RSA key takes tens of milliseconds to load

    async def _by_managed_identity(self, principal: _Principal, settings: AcrManagedIdentity) -> str:
        query = {
            "api-version": "2018-02-01",
            "resource": settings.resource,
            "client_id": principal.client,
        }
        endpoint = f"{settings.metadata_endpoint.rstrip('/')}/metadata/identity/oauth2/token"
        url = f"{endpoint}?{urllib.parse.urlencode(query)}"
        reply = await ask(self.tools, "GET", url, headers={"Metadata": "true"})
        if reply.status != 200:
            raise self._metadata_error(reply)
        answer = _entra_token(reply)
        if (answer.client_id or "").lower() != principal.client:
            raise MintError(Problem.TOKEN_UNFIT, "the answer is for another managed identity")
        if principal.tenant is not None and not _is(jwt_claim(answer.access_token, "tid"), principal.tenant):
            raise MintError(Problem.TOKEN_UNFIT, "the managed identity belongs to another tenant")
        return answer.access_token

    async def _exchange(self, principal: _Principal, registry: str, entra: str) -> Token:
        service = self.settings.service or registry
        form = {"grant_type": "access_token", "service": service, "access_token": entra}
        if principal.tenant is not None:
            form["tenant"] = principal.tenant
        url = f"{(self.settings.registry_endpoint or _origin(registry)).rstrip('/')}/oauth2"
        reply = await self._ask_registry(f"{url}/exchange", form)
        password = read_answer(reply, _RefreshToken, "a token of the registry in JSON").refresh_token
        token = self._token(reply, password, principal, service)
        if not self.settings.scopes:
            return token
        narrower = {"grant_type": "refresh_token", "service": service, "refresh_token": password}
        reply = await self._ask_registry(f"{url}/token", {**narrower, "scope": self.settings.scopes})
        answer = read_answer(reply, _AccessToken, "a token of the registry in JSON")
        return self._token(reply, answer.access_token, principal, service)

    async def _ask_registry(self, url: str, form: Mapping[str, str | Sequence[str]]) -> IssuerReply:
        reply = await ask(self.tools, "POST", url, form=form)
        if reply.status != 200:
            unknown = Problem.REQUEST_REFUSED if reply.status == 404 else None
            raise refusal(reply, self.tools, problem=unknown, code="registry")
        return reply

    def _token(self, reply: IssuerReply, password: str, principal: _Principal, service: str) -> Token:
        token = make_token(
            self.tools,
            username=USERNAME,
            password=password,
            reply=reply,
            expiries=(jwt_instant(password, "exp"),),
        )
        _check(password, principal, service)
        return token

    def _entra_error(self, reply: IssuerReply) -> MintError:
        error = read_json(reply, _EntraError)
        if error is None or reply.status == 429 or reply.status >= 500:
            return refusal(reply, self.tools, code="Entra")
        code = ", ".join(["Entra", *(f"AADSTS{number}" for number in error.error_codes[:3])])
        if _STALE.intersection(error.error_codes):
            return stale(reply, self.tools, code=code)
        hints = [_HINTS[number] for number in error.error_codes if number in _HINTS]
        return refusal(reply, self.tools, problem=hints[0] if hints else _PROBLEMS.get(error.error), code=code)

    def _metadata_error(self, reply: IssuerReply) -> MintError:
        """400 means that the node doesn't have the identity; 404 and 410 pass."""
        error = read_json(reply, _EntraError)
        problem = None
        if reply.status == 400:
            is_resource = error is not None and error.error == "invalid_resource"
            problem = Problem.REQUEST_REFUSED if is_resource else Problem.IDENTITY_UNKNOWN
        elif reply.status in (404, 410):
            problem = Problem.ISSUER_UNAVAILABLE
        return refusal(reply, self.tools, problem=problem, code="metadata server")


def _signer() -> Callable[[_Pair, dict[str, object]], str]:
    """Makes assertions that the key of a certificate signs. Raises MissingExtra."""
    with needs_extra("azure"):
        import jwt  # noqa: PLC0415 -- an extra
        from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415
        from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415
        from cryptography.x509 import load_pem_x509_certificate  # noqa: PLC0415

    def sign(pair: _Pair, claims: dict[str, object]) -> str:
        try:
            certificate = load_pem_x509_certificate(_block(pair.certificate, "CERTIFICATE"))
            key = load_pem_private_key(_block(pair.key, "(?:RSA )?PRIVATE KEY"), password=None)
            is_pair = certificate.public_key() == key.public_key()
            thumbprint = base64.urlsafe_b64encode(certificate.fingerprint(SHA256())).rstrip(b"=").decode()
            signed = jwt.encode(claims, key, algorithm="PS256", headers={"x5t#S256": thumbprint})  # type: ignore[arg-type]
        except Exception:  # the vendor's text could quote the key
            otherwise = (
                "must hold a certificate in PEM, and it or privateKeyFile its RSA key in PEM, without a password"
            )
            raise MintError(Problem.PROOF_UNFIT, otherwise) from None
        if not is_pair:
            raise MintError(Problem.PROOF_UNFIT, "the private key is not the certificate's")
        return signed

    return sign


def _block(pem: str, label: str) -> bytes:
    """The first block of that kind. Raises ValueError."""
    found = re.search(rf"-----BEGIN ({label})-----.*?-----END \1-----", pem, re.DOTALL)
    if found is None:
        raise ValueError
    return found[0].encode()


def _host(registry: str) -> str:
    return registry.partition("/")[0]


def _origin(host: str) -> str:
    """Where a registry is; plain HTTP for loopback only, as container runtimes do."""
    plain = f"http://{host}"
    return plain if is_safe_url(plain) else f"https://{host}"


def _entra_token(reply: IssuerReply) -> _EntraToken:
    answer = read_answer(reply, _EntraToken, "a token of Entra in JSON")
    if not answer.access_token:
        raise malformed(reply, "a token of Entra in JSON")
    return answer


def _check(token: str, principal: _Principal, service: str) -> None:
    """Check that a registry's token is for this registry, and for this principal if it names one. Raises MintError."""
    if not _is(jwt_claim(token, "aud"), service):
        raise MintError(Problem.TOKEN_UNFIT, "for another registry")
    for claim, wanted in (("appid", principal.client), ("tenant", principal.tenant)):
        named = jwt_claim(token, claim)
        if named is not None and wanted is not None and not _is(named, wanted):
            raise MintError(Problem.TOKEN_UNFIT, "for another identity")


def _is(claim: object, wanted: str) -> bool:
    return isinstance(claim, str) and claim.lower() == wanted.lower()
