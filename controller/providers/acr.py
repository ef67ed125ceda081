"""Azure Container Registry: an Entra token becomes a refresh token of one registry, which is the password.

Pages: https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow,
https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token and
https://github.com/Azure/acr/blob/main/docs/AAD-OAuth.md.

Request   1. the Entra token, by `credentials`:
             workloadIdentity  POST <authority>/<tenant>/oauth2/v2.0/token, form, with the projected token as assertion
             clientSecret      the same, with the secret
             managedIdentity   GET <metadata server>/metadata/identity/oauth2/token, always with client_id: without it
                               the node's own identity would answer
          2. POST https://<registry>/oauth2/exchange, form: grant_type, service, tenant, access_token
Response  1. {"access_token"}; the managed identity's also says {"client_id"}. 2. {"refresh_token": JWT}, whose `aud` is
          the registry. The user is 00000000-0000-0000-0000-000000000000.
Lifetime  `exp` of the refresh token; up to 3 hours.
Errors    1. {"error", "error_codes": [AADSTS]}: the status and `error` are trusted, the numbers refine them.
          2. {"errors": [{"code"}]}: the status says all.

A refresh token is good for one registry, so a provider of this type is configured for one host; several are several.

azure-identity isn't used: whatever its credentials are told, they obey AZURE_* (multi-tenancy, regional authority, the
metadata server's address), and they keep tokens and count lives of their own by the system's clock.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import msgspec

from controller.core.dockerconfig import jwt_claim, jwt_instant
from controller.core.errors import MintError, Problem, StaleProof
from controller.core.model import Token
from controller.http import Reply
from controller.providers.base import (
    KeySource,
    ProviderSettings,
    Tools,
    Url,
    ask,
    make_token,
    needs_exactly,
    needs_node_address,
    only_with,
    read_json,
    refusal,
    refusal_detail,
    with_proof,
)

_GUID = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"

IDENTITY = rf"(?:{_GUID}/)?{_GUID}"
"""The client id of an app registration or managed identity, with its tenant before it where none is configured."""

USERNAME = "00000000-0000-0000-0000-000000000000"

_FORM = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

_PROBLEMS = {
    "invalid_request": Problem.REQUEST_REFUSED,
    "invalid_scope": Problem.REQUEST_REFUSED,
    "invalid_resource": Problem.REQUEST_REFUSED,
    "unsupported_grant_type": Problem.REQUEST_REFUSED,
    "access_denied": Problem.MINT_REFUSED,
    "invalid_client": Problem.MINT_REFUSED,
    "invalid_grant": Problem.MINT_REFUSED,
    "unauthorized_client": Problem.MINT_REFUSED,
    "server_error": Problem.ISSUER_UNAVAILABLE,
    "temporarily_unavailable": Problem.ISSUER_UNAVAILABLE,
}
_HINTS = {
    50196: Problem.ISSUER_THROTTLES,  # the same request in a loop
    70021: Problem.MINT_REFUSED,  # no federated credential matches; also for minutes after one is made
    700211: Problem.MINT_REFUSED,  # ... none by issuer,
    700212: Problem.MINT_REFUSED,  # ... audience,
    700213: Problem.MINT_REFUSED,  # ... or subject
    700016: Problem.IDENTITY_UNKNOWN,  # no such application in the tenant
    90002: Problem.IDENTITY_UNKNOWN,  # no such tenant
    90024: Problem.ISSUER_UNAVAILABLE,
    90033: Problem.ISSUER_UNAVAILABLE,
    500011: Problem.REQUEST_REFUSED,  # no such resource in the tenant
}
_STALE = frozenset({700024, 7000215, 7000222})
"""The assertion isn't valid now; the secret is wrong; it has expired. Another may be in the file by now."""

_Kind = Literal["workloadIdentity", "managedIdentity", "clientSecret"]
_PARTS: Mapping[_Kind, frozenset[str]] = {
    "workloadIdentity": frozenset({"tokenFile"}),
    "managedIdentity": frozenset(),
    "clientSecret": frozenset({"clientId"}),
}
"""What each kind of credentials is made of, beside a tenant and the secret itself."""
_ONLY_WITH: Mapping[str, frozenset[_Kind]] = {
    "audience": frozenset({"workloadIdentity"}),
    "authority": frozenset({"workloadIdentity", "clientSecret"}),
    "metadata_endpoint": frozenset({"managedIdentity"}),
}
"""Which kinds a setting has a meaning for."""


class AcrSettings(ProviderSettings, frozen=True, kw_only=True, rename="camel"):
    """The configuration of `type: acr`."""

    credentials: _Kind = "workloadIdentity"
    """What proves who asks. No other source is ever tried in its place."""
    tenant: str | None = None
    """Its GUID; an identity that names another is refused. Without it, each identity names its own."""
    client_id: str | None = None
    """Whose the client secret is: the only identity that it proves."""
    client_secret_file: str | None = None
    client_secret_variable: str | None = None
    """Name of the environment variable that holds the secret."""
    authority: Url = "https://login.microsoftonline.com"
    audience: str = "api://AzureADTokenExchange"
    """Of the ServiceAccount token that we present."""
    resource: str = "https://containerregistry.azure.net"
    """What the Entra token is for."""
    metadata_endpoint: str = "http://169.254.169.254"
    registry_endpoint: Url | None = None
    """Where the registry's own exchange is, if not at its host."""
    service: str | None = None
    """What the registry calls itself, if not by its host: behind a domain of your own, <name>.azurecr.io."""


class _EntraToken(msgspec.Struct, frozen=True):
    access_token: str
    client_id: str | None = None


class _EntraError(msgspec.Struct, frozen=True):
    error: str
    error_codes: tuple[int, ...] = ()


class _RefreshToken(msgspec.Struct, frozen=True):
    refresh_token: str


@dataclass(frozen=True, slots=True)
class _Principal:
    """Who to become; GUIDs in lower case."""

    client: str
    tenant: str | None


class Acr:
    """Exchanges what proves an Entra identity for a token of a registry."""

    SETTINGS: ClassVar[type[ProviderSettings]] = AcrSettings
    SHARES_TOKEN: ClassVar[bool] = False

    def __init__(self, name: str, settings: AcrSettings, tools: Tools) -> None:
        self._name = name
        self._settings = settings
        self._tools = tools

    @staticmethod
    def problems(settings: AcrSettings) -> Iterator[str]:
        """See ProviderType."""
        if len(settings.registries) > 1:
            yield "registries: must be one host, since a token of Azure is for one registry; add a provider for each"
        yield from _unfit_parts(settings)
        for key, value in (("tenant", settings.tenant), ("clientId", settings.client_id)):
            if value is not None and not re.fullmatch(_GUID, value):
                yield f"{key}: must be a GUID"
        yield from needs_node_address("metadataEndpoint", settings.metadata_endpoint)

    async def mint(self, identity: str, hosts: tuple[str, ...]) -> Token:
        """See Provider."""
        if len(hosts) != 1:
            raise MintError(Problem.REQUEST_REFUSED, "a token of Azure is for one registry")
        principal = self._principal(identity)
        if self._settings.credentials == "managedIdentity":
            entra = await self._by_managed_identity(principal)
        else:
            entra = await self._by_proof(principal)
        return await self._exchange(principal, hosts[0], entra)

    def _principal(self, identity: str) -> _Principal:
        """Whom an identity means. Raises MintError for one that the configuration isn't for."""
        named, _, client = identity.lower().rpartition("/")
        configured = (self._settings.tenant or "").lower()
        if named and configured and named != configured:
            raise MintError(Problem.IDENTITY_UNKNOWN, "the configuration is for another tenant")
        if self._settings.credentials == "clientSecret" and client != (self._settings.client_id or "").lower():
            raise MintError(Problem.IDENTITY_UNKNOWN, "the configured secret is another identity's")
        return _Principal(client, named or configured or None)

    async def _by_proof(self, principal: _Principal) -> str:
        if principal.tenant is None:
            raise MintError(Problem.REQUEST_REFUSED, "neither the identity nor the configuration names a tenant")
        url = f"{self._settings.authority.rstrip('/')}/{principal.tenant}/oauth2/v2.0/token"

        async def attempt(proof: dict[str, str]) -> str:
            form = {
                "grant_type": "client_credentials",
                "client_id": principal.client,
                "scope": f"{self._settings.resource.rstrip('/')}/.default",
                **proof,
            }
            reply = await self._ask("POST", url, headers=_FORM, body=urllib.parse.urlencode(form).encode())
            if reply.status != 200:
                raise self._entra_error(reply)
            return _entra_token(reply).access_token

        return await with_proof(self._proof, attempt)

    async def _proof(self) -> dict[str, str]:
        """The parameters that prove who asks."""
        if self._settings.credentials == "clientSecret":
            return {"client_secret": _secret(self._settings)}
        assertion = await self._tools.proof(self._settings.audience)
        return {"client_assertion_type": _ASSERTION_TYPE, "client_assertion": assertion}

    async def _by_managed_identity(self, principal: _Principal) -> str:
        query = urllib.parse.urlencode(
            {
                "api-version": "2018-02-01",
                "resource": f"{self._settings.resource.rstrip('/')}/",
                "client_id": principal.client,
            }
        )
        url = f"{self._settings.metadata_endpoint.rstrip('/')}/metadata/identity/oauth2/token?{query}"
        reply = await self._ask("GET", url, headers={"Metadata": "true"})
        if reply.status != 200:
            raise self._metadata_error(reply)
        answer = _entra_token(reply)
        if (answer.client_id or "").lower() != principal.client:
            raise MintError(Problem.TOKEN_UNFIT, "the managed identity is another")
        if principal.tenant is not None and not _is(jwt_claim(answer.access_token, "tid"), principal.tenant):
            raise MintError(Problem.TOKEN_UNFIT, "the managed identity is of another tenant")
        return answer.access_token

    async def _exchange(self, principal: _Principal, registry: str, entra: str) -> Token:
        host = registry.partition("/")[0]
        service = self._settings.service or host
        form = {"grant_type": "access_token", "service": service, "access_token": entra}
        if principal.tenant is not None:
            form["tenant"] = principal.tenant
        url = f"{(self._settings.registry_endpoint or f'https://{host}').rstrip('/')}/oauth2/exchange"
        asked_at = self._tools.now()
        reply = await self._ask("POST", url, headers=_FORM, body=urllib.parse.urlencode(form).encode())
        if reply.status != 200:
            unknown = Problem.REQUEST_REFUSED if reply.status == 404 else None
            raise refusal(reply, self._tools, problem=unknown, code="registry")
        answer = read_json(reply, _RefreshToken)
        if answer is None:
            raise MintError(Problem.ISSUER_MALFORMED, "HTTP 200 of the registry without a token in JSON")
        token = make_token(
            self._tools,
            provider=self._name,
            username=USERNAME,
            password=answer.refresh_token,
            asked_at=asked_at,
            reply=reply,
            expiries=(jwt_instant(answer.refresh_token, "exp"),),
            default_lifetime_seconds=self._settings.default_lifetime,
        )
        _check(answer.refresh_token, principal, service)
        return token

    async def _ask(self, method: str, url: str, *, headers: dict[str, str], body: bytes | None = None) -> Reply:
        seconds = self._settings.timeout_seconds
        return await ask(self._tools, method, url, headers=headers, body=body, timeout_seconds=seconds)

    def _entra_error(self, reply: Reply) -> MintError:
        error = read_json(reply, _EntraError)
        if error is None or reply.status == 429 or reply.status >= 500:
            return refusal(reply, self._tools, code="Entra")
        code = ", ".join(["Entra", *(f"AADSTS{number}" for number in error.error_codes[:3])])
        if _STALE.intersection(error.error_codes):
            return StaleProof(refusal_detail(reply, self._tools, code=code))
        hints = [_HINTS[number] for number in error.error_codes if number in _HINTS]
        return refusal(reply, self._tools, problem=hints[0] if hints else _PROBLEMS.get(error.error), code=code)

    def _metadata_error(self, reply: Reply) -> MintError:
        """Of the instance metadata service: 400 is an identity that the node hasn't got; 404 and 410 pass."""
        error = read_json(reply, _EntraError)
        problem = None
        if reply.status == 400:
            is_resource = error is not None and error.error == "invalid_resource"
            problem = Problem.REQUEST_REFUSED if is_resource else Problem.IDENTITY_UNKNOWN
        elif reply.status in (404, 410):
            problem = Problem.ISSUER_UNAVAILABLE
        return refusal(reply, self._tools, problem=problem, code="metadata server")


def _entra_token(reply: Reply) -> _EntraToken:
    answer = read_json(reply, _EntraToken)
    if answer is None or not answer.access_token:
        raise MintError(Problem.ISSUER_MALFORMED, "HTTP 200 of Entra without a token in JSON")
    return answer


def _check(token: str, principal: _Principal, service: str) -> None:
    """That a refresh token is for this registry, and for this principal as far as it says for whom."""
    if not _is(jwt_claim(token, "aud"), service):
        raise MintError(Problem.TOKEN_UNFIT, "for another registry")
    for claim, wanted in (("appid", principal.client), ("tenant", principal.tenant)):
        named = jwt_claim(token, claim)
        if named is not None and wanted is not None and not _is(named, wanted):
            raise MintError(Problem.TOKEN_UNFIT, "for another identity")


def _is(claim: object, wanted: str) -> bool:
    return isinstance(claim, str) and claim.lower() == wanted.lower()


def _unfit_parts(settings: AcrSettings) -> Iterator[str]:
    kind = settings.credentials
    yield from needs_exactly(kind, _PARTS[kind], {"tokenFile": settings.token_file, "clientId": settings.client_id})
    yield from only_with(settings, kind, _ONLY_WITH)
    secrets = (settings.client_secret_file, settings.client_secret_variable)
    if kind != "clientSecret":
        if secrets != (None, None):
            yield f"clientSecretFile: is not used for credentials {kind}, nor is clientSecretVariable; remove them"
        return
    if not settings.tenant:
        yield f"tenant: is needed for credentials {kind}"
    if sum(map(bool, secrets)) != 1:
        yield f"clientSecretFile: is needed for credentials {kind}, or clientSecretVariable in its place"


def _secret(settings: AcrSettings) -> str:
    """The client secret as it is now. Raises MintError."""
    source = KeySource(env=settings.client_secret_variable, file=settings.client_secret_file)
    return source.read() or ""
