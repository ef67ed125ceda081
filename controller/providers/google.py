"""Google (Artifact Registry, gcr.io): an OAuth access token is the password of the user `oauth2accesstoken`.

Pages: https://cloud.google.com/artifact-registry/docs/docker/authentication,
https://cloud.google.com/iam/docs/reference/sts/rest, https://cloud.google.com/iam/docs/reference/credentials/rest and
https://google.aip.dev/auth (4111 keys, 4115 metadata server, 4117 external accounts).

Request   by `credentials`; the last request is the one that gives the token of the identity:
          workloadIdentity   POST <sts>/v1/token (RFC 8693) with the projected token; for an e-mail then impersonation
          externalAccount    the same, with the provider that an external_account file names
          metadata           GET <metadata server>/computeMetadata/v1/instance/service-accounts/<account>/token; for
                             another e-mail than the node's own then impersonation. On GKE a ServiceAccount without an
                             account has the pool, <project>.svc.id.goog, in place of the e-mail
          serviceAccountKey  POST <oauth2>/token (RFC 7523) with an assertion that the key has signed
          impersonation      POST <iamcredentials>/v1/projects/-/serviceAccounts/<e-mail>:generateAccessToken
Response  {"access_token", "expires_in"}; of an impersonation {"accessToken", "expireTime"}. Tokens are opaque.
Lifetime  `expires_in` or `expireTime`; an hour, but a metadata server hands out what it has, down to 5 minutes.
Errors    {"error": code} of OAuth (RFC 6749 5.2) from sts and oauth2; elsewhere only the HTTP status counts.

google-auth signs the assertion. The rest is done here, because its credentials block the event loop while they read,
send and wait between attempts of their own, use the system's clock, and obey GCE_METADATA_HOST and the like.
"""

from __future__ import annotations

import asyncio
import re
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, TypeVar

import msgspec

from controller.core.conversion import Seconds, shown
from controller.core.errors import MintError, Problem
from controller.core.model import Token
from controller.net.urls import is_safe_url
from controller.providers.contract import SettingsType, Tools, needs_extra
from controller.providers.exchange import (
    OAUTH_PROBLEMS,
    IssuerReply,
    ask,
    bearer,
    is_sendable,
    malformed,
    oauth_refusal,
    read_answer,
    read_json,
    refusal,
)
from controller.providers.proof import secret_file, with_proof
from controller.providers.settings import IssuerSettings, NodeUrl, ProofBy, Url, matching
from controller.providers.token import lifetime_seconds, make_token, rfc3339

F = TypeVar("F", bound=msgspec.Struct)

_EMAIL = r"[a-z0-9-]+@([a-z0-9:-]+\.)+gserviceaccount\.com"
_WORKLOAD_IDENTITY_PROVIDER = r"projects/\d+/locations/global/workloadIdentityPools/[a-z0-9-]+/providers/[a-z0-9-]+"
_RESOURCE_PREFIX = "//iam.googleapis.com/"
_GKE_POOL = r"[a-z][a-z0-9-]*\.svc\.id\.goog"
_GKE_PREFIX = "identitynamespace:"
_GKE_PROVIDER = rf"{_GKE_PREFIX}{_GKE_POOL}:https://(container|gkehub)\.[a-z0-9.-]+/[A-Za-z0-9._/:-]+"
_PROVIDER = rf"{_WORKLOAD_IDENTITY_PROVIDER}|{_GKE_PROVIDER}"

IDENTITY = rf"{_EMAIL}|({_RESOURCE_PREFIX})?{_WORKLOAD_IDENTITY_PROVIDER}|{_GKE_POOL}"
"""The e-mail of a service account; or a workload identity provider or GKE pool, whose principal has the role itself."""

USERNAME = "oauth2accesstoken"

_CLOUD_PLATFORM = "https://www.googleapis.com/auth/cloud-platform"
_UNIVERSE = "googleapis.com"
_REGISTRY = re.compile(
    r"(([a-z0-9-]+\.)?gcr\.io|([a-z0-9-]+-)?docker\.pkg\.dev|docker\.[a-z0-9-]+\.rep\.pkg\.dev)(/.*)?"
)
_ASSERTION_SECONDS = 3600
_LIFETIME_AT_MOST_SECONDS = 12 * 3600
_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:"  # noqa: S105 -- a type

_PROBLEMS = {
    **OAUTH_PROBLEMS,
    "invalid_target": Problem.REQUEST_REFUSED,  # the pool or provider doesn't exist or is disabled
    "internal_failure": Problem.ISSUER_UNAVAILABLE,
}

_UNREACHABLE = "Error connecting to the given credential's issuer."
"""Google can't reach the cluster's issuer, the provider has another, or Google doesn't know its newest key yet."""

_ProviderName = Annotated[
    str,
    matching(
        _PROVIDER,
        "must be projects/<number>/locations/global/workloadIdentityPools/<pool>/providers/<provider>, "
        "or on GKE identitynamespace:<project>.svc.id.goog:https://container.googleapis.com/v1/<cluster's path>",
    ),
]
_DnsName = Annotated[str, matching(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", "must be a DNS name, such as googleapis.com")]


class _Settings(IssuerSettings, frozen=True, kw_only=True, rename="camel", tag_field="credentials"):
    """The configuration of `type: google`, whatever the credentials. No other source is ever tried in their place."""

    scope: str = _CLOUD_PLATFORM
    universe_domain: _DnsName = _UNIVERSE

    def problems(self) -> Iterator[str]:
        """See ProviderSettings."""
        for host in self.registries:
            # The token opens more than registries, so no other service may get it.
            known = _REGISTRY.fullmatch(host) or is_safe_url(f"http://{host}") or self.universe_domain != _UNIVERSE
            if not known:
                yield f"registries: {host!r} is not a registry of Google, such as gcr.io or us-docker.pkg.dev"

    def endpoint(self, service: str, configured: str | None) -> str:
        """Where a service of the universe is."""
        return (configured or f"https://{service}.{self.universe_domain}").rstrip("/")


class _Impersonating(_Settings, frozen=True, kw_only=True, rename="camel"):
    """Credentials that may act as a service account."""

    lifetime: Seconds = Seconds(3600)
    """Asked for at an impersonation; more than an hour needs a policy of the organisation."""
    delegates: tuple[str, ...] = ()
    """The e-mails of service accounts in between, each of which may act as the next, and the last as the identity."""
    iam_credentials_endpoint: Url | None = None

    def problems(self) -> Iterator[str]:
        """See ProviderSettings."""
        yield from super().problems()
        if not 1 <= self.lifetime <= _LIFETIME_AT_MOST_SECONDS:
            yield "lifetime: must be at least 1s and at most 12h"
        for delegate in self.delegates:
            if not _is_email(delegate):
                yield f"delegates: {shown(delegate)} is not the e-mail address of a service account"

    def impersonation_url(self, email: str) -> str:
        """Gives tokens of a service account to those who may act as it. The `-` is its project, always."""
        endpoint = self.endpoint("iamcredentials", self.iam_credentials_endpoint)
        return f"{endpoint}/v1/projects/-/serviceAccounts/{email}:generateAccessToken"


class _Federating(_Impersonating, frozen=True, kw_only=True, rename="camel"):
    """Credentials that a workload identity provider makes of the projected token."""

    token_file: str
    proof: ProofBy = "either"
    audience: str | None = None
    """Of the projected token; by default what a workload identity provider expects."""
    sts_endpoint: Url | None = None

    def proof_audience(self, provider: str) -> str:
        """Of the projected token that this workload identity provider is given."""
        of_pool = _own_identity(provider) if provider.startswith(_GKE_PREFIX) else f"https:{_RESOURCE_PREFIX}{provider}"
        return self.audience or of_pool

    @property
    def sts_url(self) -> str:
        """Exchanges ServiceAccount tokens for federated ones."""
        return f"{self.endpoint('sts', self.sts_endpoint)}/v1/token"


class GoogleWorkloadIdentity(_Federating, frozen=True, kw_only=True, rename="camel", tag="workloadIdentity"):
    """The workload identity provider is configured here."""

    workload_identity_provider: _ProviderName


class GoogleExternalAccount(_Federating, frozen=True, kw_only=True, rename="camel", tag="externalAccount"):
    """An external_account file names the workload identity provider."""

    credentials_file: str
    """Read anew for every request."""

    def problems(self) -> Iterator[str]:
        """See ProviderSettings."""
        yield from super().problems()
        yield from _file_problems(lambda: _external_account(self))


class GoogleMetadata(_Impersonating, frozen=True, kw_only=True, rename="camel", tag="metadata"):
    """The node's metadata server gives tokens of the node's account."""

    metadata_endpoint: NodeUrl = "http://169.254.169.254"

    def metadata_url(self, account: str, what: str) -> str:
        """`what` the metadata server knows of a service account."""
        endpoint = self.metadata_endpoint.rstrip("/")
        return f"{endpoint}/computeMetadata/v1/instance/service-accounts/{account}/{what}"


class GoogleServiceAccountKey(_Settings, frozen=True, kw_only=True, rename="camel", tag="serviceAccountKey"):
    """The key of a service account signs assertions."""

    credentials_file: str
    """Path of the key; read anew for every request."""
    oauth2_endpoint: Url | None = None

    @property
    def oauth2_url(self) -> str:
        """Takes assertions signed with a key, and is their audience."""
        return f"{self.endpoint('oauth2', self.oauth2_endpoint)}/token"

    def problems(self) -> Iterator[str]:
        """See ProviderSettings."""
        yield from super().problems()
        sign = _signer()
        yield from _file_problems(lambda: sign(_key(self), {}))


GoogleSettings = GoogleWorkloadIdentity | GoogleExternalAccount | GoogleMetadata | GoogleServiceAccountKey


class _AccessToken(msgspec.Struct, frozen=True):
    access_token: str
    expires_in: Any = None


class _OauthError(msgspec.Struct, frozen=True):
    error_description: str
    """Compared with one sentence, and never shown."""


class _ImpersonatedToken(msgspec.Struct, frozen=True, rename="camel"):
    access_token: str
    expire_time: str


class _Key(msgspec.Struct, frozen=True):
    type: str
    client_email: str
    private_key: str
    private_key_id: str
    token_uri: str
    universe_domain: str = _UNIVERSE

    def __repr__(self) -> str:
        return "_Key(...)"


class _ExternalAccount(msgspec.Struct, frozen=True):
    type: str
    audience: str
    subject_token_type: str
    token_url: str
    credential_source: dict[str, Any]
    service_account_impersonation_url: str | None = None
    universe_domain: str = _UNIVERSE


@dataclass(frozen=True, slots=True)
class _Granted:
    """An access token, and what its answer says about its end."""

    reply: IssuerReply = field(repr=False)
    access_token: str = field(repr=False)
    lifetime_seconds: float | None = None
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class Google:
    """Gets access tokens for service accounts, and for what a workload identity provider makes of us."""

    SETTINGS: ClassVar[SettingsType] = GoogleSettings
    SHARES_TOKEN: ClassVar[bool] = True

    settings: GoogleSettings
    tools: Tools

    async def mint(self, identity: str, hosts: tuple[str, ...]) -> Token:
        """See Provider. `hosts` don't matter: one token serves every registry of Google."""
        granted = await self._grant(identity.removeprefix(_RESOURCE_PREFIX))
        return make_token(
            self.tools,
            username=USERNAME,
            password=granted.access_token,
            reply=granted.reply,
            lifetimes_seconds=(granted.lifetime_seconds,),
            expiries=(granted.expires_at,),
        )

    async def check_proof(self) -> None:
        """See Provider."""
        match self.settings:
            case GoogleWorkloadIdentity(workload_identity_provider=provider) as settings:
                await self.tools.proof(settings.proof_audience(provider))
            case GoogleExternalAccount() as settings:
                provider, _ = _external_account(settings)
                await self.tools.proof(settings.proof_audience(provider))
            case GoogleServiceAccountKey() as settings:
                await asyncio.to_thread(_signer(), _key(settings), {})
            case GoogleMetadata():
                pass

    async def _grant(self, identity: str) -> _Granted:
        match self.settings:
            case GoogleWorkloadIdentity(workload_identity_provider=provider) as settings:
                _refuse_unless(identity == _own_identity(provider) or _is_email(identity))
                return await self._by_federation(settings, identity, provider)
            case GoogleExternalAccount() as settings:
                provider, email = _external_account(settings)
                _refuse_unless(identity == (email or _own_identity(provider)))
                return await self._by_federation(settings, identity, provider)
            case GoogleMetadata() as settings:
                return await self._by_metadata(settings, identity)
            case GoogleServiceAccountKey() as settings:
                return await self._by_key(settings, identity)

    async def _by_federation(self, settings: _Federating, identity: str, provider: str) -> _Granted:
        async def attempt(proof: str) -> _Granted:
            if identity == _own_identity(provider):
                return await self._federated(settings, provider, proof, settings.scope)
            source = await self._federated(settings, provider, proof, _CLOUD_PLATFORM)
            return await self._impersonated(settings, identity, source)

        return await with_proof(lambda: self.tools.proof(settings.proof_audience(provider)), attempt)

    async def _by_metadata(self, settings: GoogleMetadata, identity: str) -> _Granted:
        is_pool = re.fullmatch(_GKE_POOL, identity) is not None
        _refuse_unless(is_pool or _is_email(identity))
        reply = await self._ask_metadata(settings.metadata_url("default", "email"))
        if reply.body.strip() == identity.encode():
            # By its name, because `default` could be another account by now; what is no account has no name.
            return await self._of_metadata(settings, "default" if is_pool else identity, settings.scope)
        _refuse_unless(not is_pool)
        source = await self._of_metadata(settings, "default", _CLOUD_PLATFORM)
        return await self._impersonated(settings, identity, source)

    async def _by_key(self, settings: GoogleServiceAccountKey, identity: str) -> _Granted:
        async def read() -> _Key:
            return _key(settings)

        async def attempt(key: _Key) -> _Granted:
            _refuse_unless(identity == key.client_email)
            now = int(self.tools.now())
            claims: dict[str, object] = {
                "iss": key.client_email,
                "aud": settings.oauth2_url,
                "scope": settings.scope,
                "iat": now,
                "exp": now + _ASSERTION_SECONDS,
            }
            assertion = await asyncio.to_thread(_signer(), key, claims)  # an RSA key takes tens of milliseconds to load
            form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": assertion}
            return await self._post_form(settings.oauth2_url, form)

        return await with_proof(read, attempt)

    async def _federated(self, settings: _Federating, provider: str, proof: str, scope: str) -> _Granted:
        form = {
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "audience": provider if provider.startswith(_GKE_PREFIX) else _RESOURCE_PREFIX + provider,
            "scope": scope,
            "requested_token_type": f"{_TOKEN_TYPE}access_token",
            "subject_token_type": f"{_TOKEN_TYPE}jwt",
            "subject_token": proof,
        }
        return await self._post_form(settings.sts_url, form)

    async def _post_form(self, url: str, form: Mapping[str, str]) -> _Granted:
        # Without Authorization, which the token exchange refuses.
        reply = await ask(self.tools, "POST", url, form=form)
        if reply.status != 200:
            said = read_json(reply, _OauthError)
            if reply.status == 400 and said is not None and said.error_description == _UNREACHABLE:
                raise refusal(reply, self.tools, problem=Problem.CLUSTER_ISSUER_UNREACHABLE)
            error = oauth_refusal(reply, self.tools, _PROBLEMS, may_be_stale=("invalid_grant",))
            raise error or refusal(reply, self.tools)
        return _granted(reply)

    async def _impersonated(self, settings: _Impersonating, email: str, source: _Granted) -> _Granted:
        delegates = [f"projects/-/serviceAccounts/{delegate}" for delegate in settings.delegates]
        wish = {"scope": [settings.scope], "lifetime": f"{int(settings.lifetime)}s", "delegates": delegates}
        headers = {**bearer(source.access_token), "Content-Type": "application/json"}
        url, body = settings.impersonation_url(email), msgspec.json.encode(wish)
        reply = await ask(self.tools, "POST", url, headers=headers, body=body)
        if reply.status != 200:
            raise refusal(reply, self.tools, code="impersonation")
        answer = read_answer(reply, _ImpersonatedToken, "a token of the impersonation in JSON")
        life, expires_at = float(settings.lifetime), rfc3339(answer.expire_time)
        return _Granted(reply, answer.access_token, lifetime_seconds=life, expires_at=expires_at)

    async def _of_metadata(self, settings: GoogleMetadata, account: str, scope: str) -> _Granted:
        query = urllib.parse.urlencode({"scopes": scope})
        return _granted(await self._ask_metadata(f"{settings.metadata_url(account, 'token')}?{query}"))

    async def _ask_metadata(self, url: str) -> IssuerReply:
        reply = await ask(self.tools, "GET", url, headers={"Metadata-Flavor": "Google"})
        if reply.status != 200:
            raise refusal(reply, self.tools, code="metadata server")
        if reply.headers.get("Metadata-Flavor") != "Google":
            raise MintError(Problem.ISSUER_MALFORMED, "the answer is not from a metadata server")
        return reply


def _granted(reply: IssuerReply) -> _Granted:
    answer = read_answer(reply, _AccessToken)
    if not is_sendable(answer.access_token):
        raise malformed(reply)
    return _Granted(reply, answer.access_token, lifetime_seconds=lifetime_seconds(answer.expires_in))


def _refuse_unless(proven: bool) -> None:
    """Refuse an identity that the configured credentials can't prove; never use one that they can instead."""
    if not proven:
        raise MintError(Problem.IDENTITY_UNKNOWN, "the configured credentials are another identity's")


def _own_identity(provider: str) -> str:
    """The identity that means what a workload identity provider makes of us: itself, or on GKE its pool."""
    return provider.split(":")[1] if provider.startswith(_GKE_PREFIX) else provider


def _is_email(identity: str) -> bool:
    return re.fullmatch(_EMAIL, identity) is not None


def _file_problems(read: Callable[[], object]) -> Iterator[str]:
    """The problem of a file. A missing one is reported when it is needed: this may be another machine."""
    try:
        read()
    except MintError as error:
        if error.problem is not Problem.PROOF_MISSING:
            yield f"credentialsFile: {error.detail}"


def _key(settings: GoogleServiceAccountKey) -> _Key:
    """The key in the file. Raises MintError."""
    key = _read(settings.credentials_file, _Key, "type, client_email, private_key, private_key_id and token_uri")
    _fit(key.type == "service_account", "its type must be service_account")
    _fit(key.universe_domain == settings.universe_domain, "its universe_domain must be the configured one")
    _fit(key.universe_domain == _UNIVERSE, "keys are exchanged for tokens only in the universe googleapis.com")
    _fit(key.token_uri == settings.oauth2_url, "its token_uri must be the configured one")
    return key


def _external_account(settings: GoogleExternalAccount) -> tuple[str, str | None]:
    """The workload identity provider in the file, and the e-mail that it impersonates. Raises MintError.

    The configuration alone decides where anything is sent; a file that says otherwise is refused.
    """
    fields = "type, audience, subject_token_type, token_url and credential_source"
    account = _read(settings.credentials_file, _ExternalAccount, fields)
    _fit(account.type == "external_account", "its type must be external_account")
    provider = account.audience.removeprefix(_RESOURCE_PREFIX)
    is_provider = re.fullmatch(_PROVIDER, provider) is not None
    _fit(is_provider, "its audience must be a workload identity provider; workforce pools have users")
    kinds = {f"{_TOKEN_TYPE}jwt", f"{_TOKEN_TYPE}id_token"}
    _fit(account.subject_token_type in kinds, "its subject_token_type must be jwt or id_token")
    source = account.credential_source
    is_text_file = source.keys() <= {"file", "format"} and source.get("format") in (None, {}, {"type": "text"})
    _fit(is_text_file, "its credential_source must be a file of text; url, executable, aws and certificate are not")
    _fit(source.get("file") == settings.token_file, "its credential_source.file must be the configured tokenFile")
    _fit(account.universe_domain == settings.universe_domain, "its universe_domain must be the configured one")
    _fit(account.token_url == settings.sts_url, "its token_url must be the configured one")
    url = account.service_account_impersonation_url
    if url is None:
        return provider, None
    email = url.rpartition("/")[2].removesuffix(":generateAccessToken")
    is_ours = _is_email(email) and url == settings.impersonation_url(email)
    _fit(is_ours, "its service_account_impersonation_url must be the configured one, with an e-mail")
    return provider, email


def _read(path: str, type_: type[F], fields: str) -> F:
    try:
        return msgspec.json.decode(secret_file(path, lines=True), type=type_)
    except (msgspec.DecodeError, RecursionError):
        raise MintError(Problem.PROOF_UNFIT, f"must be a JSON object with {fields}") from None


def _fit(fits: bool, otherwise: str) -> None:
    if not fits:
        raise MintError(Problem.PROOF_UNFIT, otherwise)


def _signer() -> Callable[[_Key, dict[str, object]], str]:
    """Makes assertions that a key signs. Raises MissingExtra."""
    with needs_extra("google"):
        from google.auth import crypt, jwt  # noqa: PLC0415 -- an extra

    def sign(key: _Key, claims: dict[str, object]) -> str:
        try:
            signer = crypt.RSASigner.from_string(key.private_key, key.private_key_id)  # type: ignore[no-untyped-call]
            return str(jwt.encode(signer, claims), "ascii")  # type: ignore[no-untyped-call]
        except Exception:  # the vendor's text could quote the key
            raise MintError(Problem.PROOF_UNFIT, "its private_key is not an RSA key in PEM") from None

    return sign
