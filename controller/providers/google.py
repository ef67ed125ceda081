"""Google (Artifact Registry, gcr.io): an OAuth access token is the password of the user `oauth2accesstoken`.

Pages: https://cloud.google.com/artifact-registry/docs/docker/authentication,
https://cloud.google.com/iam/docs/reference/sts/rest, https://cloud.google.com/iam/docs/reference/credentials/rest and
https://google.aip.dev/auth (4111 keys, 4115 metadata server, 4117 external accounts).

Request   by `credentials`; the last request is the one that gives the token of the identity:
          workloadIdentity   POST <sts>/v1/token (RFC 8693) with the projected token; for an e-mail then impersonation
          externalAccount    the same, as an external_account file says it
          metadata           GET <metadata server>/computeMetadata/v1/instance/service-accounts/<account>/token; for
                             another e-mail than the node's own then impersonation
          serviceAccountKey  POST <oauth2>/token (RFC 7523) with an assertion that the key has signed
          impersonation      POST <iamcredentials>/v1/projects/-/serviceAccounts/<e-mail>:generateAccessToken
Response  {"access_token", "expires_in"}; of an impersonation {"accessToken", "expireTime"}. Tokens are opaque.
Lifetime  `expires_in` or `expireTime`; an hour, but a metadata server hands out what it has, down to 5 minutes.
Errors    {"error": code} of OAuth (RFC 6749 5.2) from sts and oauth2; elsewhere the HTTP status says all.

google-auth signs the assertion. The rest is done here, because its credentials block the event loop while they read,
send and wait between attempts of their own, go by the system's clock, and obey GCE_METADATA_HOST and its like.
"""

from __future__ import annotations

import asyncio
import re
import urllib.parse
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal, TypeVar

import msgspec

from controller.core.errors import MintError, Problem, StaleProof
from controller.core.model import Token
from controller.http import Reply, is_safe_url
from controller.providers.base import (
    ProviderSettings,
    Seconds,
    Tools,
    Url,
    ask,
    lifetime_seconds,
    make_token,
    needs_exactly,
    needs_extra,
    needs_node_address,
    only_with,
    read_json,
    refusal,
    refusal_detail,
    rfc3339,
    secret_file,
    with_proof,
)

F = TypeVar("F", bound=msgspec.Struct)

_EMAIL = r"[a-z0-9-]+@([a-z0-9:-]+\.)+gserviceaccount\.com"
_WORKLOAD_IDENTITY_PROVIDER = r"projects/\d+/locations/global/workloadIdentityPools/[a-z0-9-]+/providers/[a-z0-9-]+"
_RESOURCE_PREFIX = "//iam.googleapis.com/"

IDENTITY = rf"{_EMAIL}|({_RESOURCE_PREFIX})?{_WORKLOAD_IDENTITY_PROVIDER}"
"""The e-mail of a service account, or a workload identity provider whose principal has the role itself."""

USERNAME = "oauth2accesstoken"

_CLOUD_PLATFORM = "https://www.googleapis.com/auth/cloud-platform"
_UNIVERSE = "googleapis.com"
_REGISTRY = re.compile(r"(([a-z0-9-]+\.)?gcr\.io|([a-z0-9-]+-)?docker\.pkg\.dev)(/.*)?")
_ASSERTION_SECONDS = 3600
_LIFETIME_AT_MOST_SECONDS = 12 * 3600
_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:"  # noqa: S105 -- a type

_PROBLEMS = {
    "invalid_request": Problem.REQUEST_REFUSED,
    "invalid_scope": Problem.REQUEST_REFUSED,
    "invalid_target": Problem.REQUEST_REFUSED,  # no such pool or provider, or it is disabled
    "unsupported_grant_type": Problem.REQUEST_REFUSED,
    "access_denied": Problem.MINT_REFUSED,
    "invalid_client": Problem.MINT_REFUSED,
    "invalid_grant": Problem.MINT_REFUSED,  # stale, or forged, or of another issuer or audience
    "unauthorized_client": Problem.MINT_REFUSED,  # by the provider's attribute condition
    "internal_failure": Problem.ISSUER_UNAVAILABLE,
    "server_error": Problem.ISSUER_UNAVAILABLE,
    "temporarily_unavailable": Problem.ISSUER_UNAVAILABLE,
    "slow_down": Problem.ISSUER_THROTTLES,
}

_DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")

_Kind = Literal["workloadIdentity", "externalAccount", "metadata", "serviceAccountKey"]
_PARTS: Mapping[_Kind, frozenset[str]] = {
    "workloadIdentity": frozenset({"tokenFile", "workloadIdentityProvider"}),
    "externalAccount": frozenset({"tokenFile", "credentialsFile"}),
    "metadata": frozenset(),
    "serviceAccountKey": frozenset({"credentialsFile"}),
}
"""What each kind of credentials is made of: all of it must be configured, and nothing of another kind."""
_ONLY_WITH: Mapping[str, frozenset[_Kind]] = {
    "audience": frozenset({"workloadIdentity", "externalAccount"}),
    "sts_endpoint": frozenset({"workloadIdentity", "externalAccount"}),
    "metadata_endpoint": frozenset({"metadata"}),
    "oauth2_endpoint": frozenset({"serviceAccountKey"}),
    "iam_credentials_endpoint": frozenset({"workloadIdentity", "externalAccount", "metadata"}),
    "lifetime": frozenset({"workloadIdentity", "externalAccount", "metadata"}),
}
"""Which kinds a setting has a meaning for."""


class GoogleSettings(ProviderSettings, frozen=True, kw_only=True, rename="camel"):
    """The configuration of `type: google`."""

    credentials: _Kind = "workloadIdentity"
    """What proves who asks. No other source is ever tried in its place."""
    workload_identity_provider: str | None = None
    """projects/<number>/locations/global/workloadIdentityPools/<pool>/providers/<provider>"""
    credentials_file: str | None = None
    """Path of a service account's key or of an external_account file; read anew for every request."""
    audience: str | None = None
    """Of the ServiceAccount token that we present; by default what a workload identity provider expects."""
    scope: str = _CLOUD_PLATFORM
    lifetime: Seconds = Seconds(3600)
    """Asked for at an impersonation; more than an hour needs a policy of the organisation."""
    universe_domain: str = _UNIVERSE
    metadata_endpoint: str = "http://169.254.169.254"
    sts_endpoint: Url | None = None
    iam_credentials_endpoint: Url | None = None
    oauth2_endpoint: Url | None = None

    @property
    def sts_url(self) -> str:
        """Exchanges ServiceAccount tokens for federated ones."""
        return f"{self._endpoint('sts', self.sts_endpoint)}/v1/token"

    @property
    def oauth2_url(self) -> str:
        """Takes assertions signed with a key, and is their audience."""
        return f"{self._endpoint('oauth2', self.oauth2_endpoint)}/token"

    def impersonation_url(self, email: str) -> str:
        """Gives tokens of a service account to those who may act as it. The `-` stands for its project, always."""
        endpoint = self._endpoint("iamcredentials", self.iam_credentials_endpoint)
        return f"{endpoint}/v1/projects/-/serviceAccounts/{email}:generateAccessToken"

    def metadata_url(self, account: str, what: str) -> str:
        """`what` the node's metadata server knows of a service account."""
        endpoint = self.metadata_endpoint.rstrip("/")
        return f"{endpoint}/computeMetadata/v1/instance/service-accounts/{account}/{what}"

    def _endpoint(self, service: str, configured: str | None) -> str:
        return (configured or f"https://{service}.{self.universe_domain}").rstrip("/")


class _AccessToken(msgspec.Struct, frozen=True):
    access_token: str
    expires_in: Any = None


class _ImpersonatedToken(msgspec.Struct, frozen=True, rename="camel"):
    access_token: str
    expire_time: str


class _OauthError(msgspec.Struct, frozen=True):
    error: str


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
    """An access token, and what its answer says of its end."""

    asked_at: float
    reply: Reply = field(repr=False)
    access_token: str = field(repr=False)
    lifetime_seconds: float | None = None
    expires_at: float | None = None


class Google:
    """Gets access tokens for service accounts, and for what a workload identity provider makes of us."""

    SETTINGS: ClassVar[type[ProviderSettings]] = GoogleSettings
    SHARES_TOKEN: ClassVar[bool] = True

    def __init__(self, name: str, settings: GoogleSettings, tools: Tools) -> None:
        self._name = name
        self._settings = settings
        self._tools = tools
        self._grant: Callable[[str], Awaitable[_Granted]]
        match settings.credentials:
            case "workloadIdentity":
                self._grant = self._by_workload_identity
            case "externalAccount":
                self._grant = self._by_external_account
            case "metadata":
                self._grant = self._by_metadata
            case "serviceAccountKey":
                self._grant = partial(self._by_key, _signer())

    @staticmethod
    def problems(settings: GoogleSettings) -> Iterator[str]:
        """See ProviderType."""
        yield from _unfit_parts(settings)
        for host in settings.registries:
            # The token opens more than registries, so it isn't put where another service could be.
            known = _REGISTRY.fullmatch(host) or is_safe_url(f"http://{host}") or settings.universe_domain != _UNIVERSE
            if not known:
                yield f"registries: {host!r} is no registry of Google, such as gcr.io or us-docker.pkg.dev"
        if not 1 <= settings.lifetime <= _LIFETIME_AT_MOST_SECONDS:
            yield "lifetime: must be at least 1s and at most 12h"
        yield from needs_node_address("metadataEndpoint", settings.metadata_endpoint)
        if not _DNS_NAME.fullmatch(settings.universe_domain):
            yield "universeDomain: must be a DNS name, such as googleapis.com"

    async def mint(self, identity: str, hosts: tuple[str, ...]) -> Token:
        """See Provider. `hosts` don't matter: one token serves every registry of Google."""
        granted = await self._grant(identity.removeprefix(_RESOURCE_PREFIX))
        return make_token(
            self._tools,
            provider=self._name,
            username=USERNAME,
            password=granted.access_token,
            asked_at=granted.asked_at,
            reply=granted.reply,
            lifetimes_seconds=(granted.lifetime_seconds,),
            expiries=(granted.expires_at,),
            default_lifetime_seconds=self._settings.default_lifetime,
        )

    async def _by_workload_identity(self, identity: str) -> _Granted:
        provider = self._settings.workload_identity_provider or ""
        _refuse_unless(identity == provider or _is_email(identity))
        return await self._by_federation(identity, provider)

    async def _by_external_account(self, identity: str) -> _Granted:
        provider, email = _external_account(self._settings)
        _refuse_unless(identity == (email or provider))
        return await self._by_federation(identity, provider)

    async def _by_federation(self, identity: str, provider: str) -> _Granted:
        audience = self._settings.audience or f"https:{_RESOURCE_PREFIX}{provider}"

        async def attempt(proof: str) -> _Granted:
            if identity == provider:
                return await self._federated(provider, proof, self._settings.scope)
            source = await self._federated(provider, proof, _CLOUD_PLATFORM)
            return await self._impersonated(identity, source)

        return await with_proof(lambda: self._tools.proof(audience), attempt)

    async def _by_metadata(self, identity: str) -> _Granted:
        _refuse_unless(_is_email(identity))
        _, reply = await self._ask_metadata(self._settings.metadata_url("default", "email"))
        if reply.body.strip() == identity.encode():
            # By its name, because `default` could be another account by now.
            return await self._of_metadata(identity, self._settings.scope)
        return await self._impersonated(identity, await self._of_metadata("default", _CLOUD_PLATFORM))

    async def _by_key(self, sign: Callable[[_Key, dict[str, object]], str], identity: str) -> _Granted:
        async def read() -> _Key:
            return _key(self._settings)

        async def attempt(key: _Key) -> _Granted:
            _refuse_unless(identity == key.client_email)
            now = int(self._tools.now())
            claims: dict[str, object] = {
                "iss": key.client_email,
                "aud": self._settings.oauth2_url,
                "scope": self._settings.scope,
                "iat": now,
                "exp": now + _ASSERTION_SECONDS,
            }
            assertion = await asyncio.to_thread(sign, key, claims)  # loading an RSA key takes tens of milliseconds
            form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": assertion}
            return await self._post_form(self._settings.oauth2_url, form)

        return await with_proof(read, attempt)

    async def _federated(self, provider: str, proof: str, scope: str) -> _Granted:
        form = {
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "audience": _RESOURCE_PREFIX + provider,
            "scope": scope,
            "requested_token_type": f"{_TOKEN_TYPE}access_token",
            "subject_token_type": f"{_TOKEN_TYPE}jwt",
            "subject_token": proof,
        }
        return await self._post_form(self._settings.sts_url, form)

    async def _post_form(self, url: str, form: Mapping[str, str]) -> _Granted:
        # Without Authorization, which the token exchange doesn't take.
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        asked_at, reply = await self._ask("POST", url, headers=headers, body=urllib.parse.urlencode(form).encode())
        if reply.status != 200:
            raise self._oauth_error(reply)
        return _granted(asked_at, reply)

    async def _impersonated(self, email: str, source: _Granted) -> _Granted:
        wish = {"scope": [self._settings.scope], "lifetime": f"{int(self._settings.lifetime)}s", "delegates": []}
        headers = {"Authorization": f"Bearer {source.access_token}", "Content-Type": "application/json"}
        url = self._settings.impersonation_url(email)
        asked_at, reply = await self._ask("POST", url, headers=headers, body=msgspec.json.encode(wish))
        if reply.status != 200:
            raise refusal(reply, self._tools, code="impersonation")
        answer = read_json(reply, _ImpersonatedToken)
        if answer is None:
            raise MintError(Problem.ISSUER_MALFORMED, "HTTP 200 of the impersonation without a token in JSON")
        life, expires_at = float(self._settings.lifetime), rfc3339(answer.expire_time)
        return _Granted(asked_at, reply, answer.access_token, lifetime_seconds=life, expires_at=expires_at)

    async def _of_metadata(self, account: str, scope: str) -> _Granted:
        query = urllib.parse.urlencode({"scopes": scope})
        return _granted(*await self._ask_metadata(f"{self._settings.metadata_url(account, 'token')}?{query}"))

    async def _ask_metadata(self, url: str) -> tuple[float, Reply]:
        asked_at, reply = await self._ask("GET", url, headers={"Metadata-Flavor": "Google"})
        if reply.status != 200:
            raise refusal(reply, self._tools, code="metadata server")
        if reply.headers.get("Metadata-Flavor") != "Google":
            raise MintError(Problem.ISSUER_MALFORMED, "the answer is not from a metadata server")
        return asked_at, reply

    async def _ask(
        self, method: str, url: str, *, headers: dict[str, str], body: bytes | None = None
    ) -> tuple[float, Reply]:
        asked_at = self._tools.now()
        seconds = self._settings.timeout_seconds
        return asked_at, await ask(self._tools, method, url, headers=headers, body=body, timeout_seconds=seconds)

    def _oauth_error(self, reply: Reply) -> MintError:
        error = read_json(reply, _OauthError)
        if error is None or error.error not in _PROBLEMS or reply.status == 429 or reply.status >= 500:
            return refusal(reply, self._tools)
        if error.error == "invalid_grant":
            return StaleProof(refusal_detail(reply, self._tools, code=error.error))
        return refusal(reply, self._tools, problem=_PROBLEMS[error.error], code=error.error)


def _granted(asked_at: float, reply: Reply) -> _Granted:
    answer = read_json(reply, _AccessToken)
    token = answer.access_token if answer else ""
    if answer is None or not token or not token.isascii() or not token.isprintable():
        raise MintError(Problem.ISSUER_MALFORMED, "HTTP 200 without a token in JSON")
    return _Granted(asked_at, reply, token, lifetime_seconds=lifetime_seconds(answer.expires_in))


def _refuse_unless(proven: bool) -> None:
    """An identity that the configured credentials can't prove is refused, and never replaced by one that they can."""
    if not proven:
        raise MintError(Problem.IDENTITY_UNKNOWN, "the configured credentials are another identity's")


def _is_email(identity: str) -> bool:
    return re.fullmatch(_EMAIL, identity) is not None


def _unfit_parts(settings: GoogleSettings) -> Iterator[str]:
    wanted = _PARTS[settings.credentials]
    provider = settings.workload_identity_provider
    parts = {
        "tokenFile": settings.token_file,
        "workloadIdentityProvider": provider,
        "credentialsFile": settings.credentials_file,
    }
    yield from needs_exactly(settings.credentials, wanted, parts)
    yield from only_with(settings, settings.credentials, _ONLY_WITH)
    if provider and not re.fullmatch(_WORKLOAD_IDENTITY_PROVIDER, provider):
        form = "projects/<number>/locations/global/workloadIdentityPools/<pool>/providers/<provider>"
        yield f"workloadIdentityProvider: must be {form}"
    if settings.credentials_file and "credentialsFile" in wanted:
        yield from _unfit_file(settings)


def _unfit_file(settings: GoogleSettings) -> Iterator[str]:
    """One that isn't there is told when it is needed, like a missing proof: here may be another machine."""
    try:
        if settings.credentials == "serviceAccountKey":
            _signer()(_key(settings), {})
        else:
            _external_account(settings)
    except MintError as error:
        if error.problem is not Problem.PROOF_MISSING:
            yield f"credentialsFile: {error.detail}"


def _key(settings: GoogleSettings) -> _Key:
    """The key in the file. Raises MintError."""
    key = _read(settings, _Key, "type, client_email, private_key, private_key_id and token_uri")
    _fit(key.type == "service_account", "its type must be service_account")
    _fit(key.universe_domain == settings.universe_domain, "its universe_domain must be the configured one")
    _fit(key.universe_domain == _UNIVERSE, "keys are exchanged for tokens in the universe googleapis.com alone")
    _fit(key.token_uri == settings.oauth2_url, "its token_uri must be the configured one")
    return key


def _external_account(settings: GoogleSettings) -> tuple[str, str | None]:
    """The workload identity provider that the file names, and whom it impersonates. Raises MintError.

    Where to send what is the configuration's word alone; a file that says otherwise is refused.
    """
    fields = "type, audience, subject_token_type, token_url and credential_source"
    account = _read(settings, _ExternalAccount, fields)
    _fit(account.type == "external_account", "its type must be external_account")
    provider = account.audience.removeprefix(_RESOURCE_PREFIX)
    is_provider = re.fullmatch(_WORKLOAD_IDENTITY_PROVIDER, provider) is not None
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


def _read(settings: GoogleSettings, type_: type[F], fields: str) -> F:
    try:
        return msgspec.json.decode(secret_file(settings.credentials_file or "", lines=True), type=type_)
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
            raise MintError(Problem.PROOF_UNFIT, "its private_key is no RSA key in PEM") from None

    return sign
