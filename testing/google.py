"""A stand-in for Google: Security Token Service, IAM Credentials, OAuth 2.0 and a node's metadata server.

One vendor (see wire.py) serves all four, at different paths. It verifies ServiceAccount tokens, workload identity
pools, key assertions and impersonation rights, and returns opaque tokens that it recognises.

Pages: https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token,
https://cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts/generateAccessToken,
https://cloud.google.com/compute/docs/metadata/querying-metadata
"""

import re
import secrets
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import jwt

from testing.tokens import Trust, UntrustedError
from testing.wire import Answer, Asked, in_json

CONTROLLER = "system:serviceaccount:pull-secret-updater:controller"
PROVIDER = "projects/123456789/locations/global/workloadIdentityPools/clusters/providers/kind"
AUDIENCE = f"https://iam.googleapis.com/{PROVIDER}"
"""The audience that a ServiceAccount token must have by default."""
GKE_POOL = "my-project.svc.id.goog"
GKE_PROVIDER = (
    f"identitynamespace:{GKE_POOL}:https://container.googleapis.com/v1/projects/my-project/locations/europe-west1"
    "/clusters/prod"
)
CLOUD_PLATFORM = "https://www.googleapis.com/auth/cloud-platform"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105 -- a grant type
TOKEN_TYPE = "urn:ietf:params:oauth:token-type:"  # noqa: S105 -- a prefix of types

_ACCOUNTS = "/computeMetadata/v1/instance/service-accounts/"
_IMPERSONATION = re.compile(r"/v1/projects/-/serviceAccounts/([^/]+):generateAccessToken")
_CACHE_ENDS_SECONDS = 300
"""The metadata server returns the same token until it has only this much left."""


class _Refused(Exception):
    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


@dataclass(slots=True)
class _Issued:
    token: str = field(repr=False)
    principal: str
    scopes: frozenset[str]
    expires_at: float


class Google:
    """A test may change everything public between requests."""

    def __init__(
        self,
        clock: Callable[[], float],
        trust: Trust,
        *,
        provider: str = PROVIDER,
        subject: str = CONTROLLER,
        oauth2_audience: str = "https://oauth2.googleapis.com/token",
    ) -> None:
        self.lifetime_seconds = 3600.0
        self.federated_seconds: float | None = None
        """The life of the token service's tokens, if it is different."""
        self.longest_seconds = 3600
        """The maximum for impersonation; a longer one needs an organisation policy."""
        self.again = False
        self.minted: list[str] = []
        self.provider = provider
        self.subject = subject
        self.impersonators: dict[str, set[str]] = {}
        """By e-mail address: the pool's principals, and other e-mail addresses, that may act as the service account."""
        self.keys: dict[str, tuple[str, Any]] = {}
        """By key ID: the account's e-mail address and the public key."""
        self.node_account = "node@project.iam.gserviceaccount.com"
        """What the metadata server calls the account; on GKE it may be the pool."""
        self.oauth2_audience = oauth2_audience
        self.canary = f"canary-{secrets.token_hex(8)}"
        self._clock = clock
        self._trust = trust
        self._issued: dict[str, _Issued] = {}
        self._latest: dict[str, _Issued] = {}

    @property
    def principal(self) -> str:
        """The pool's principal for the controller's ServiceAccount."""
        if self.provider.startswith("identitynamespace:"):
            _, _, namespace, name = self.subject.split(":")
            pool = f"projects/123456789/locations/global/workloadIdentityPools/{self.provider.split(':')[1]}"
            return f"principal://iam.googleapis.com/{pool}/subject/ns/{namespace}/sa/{name}"
        pool = self.provider.partition("/providers/")[0]
        return f"principal://iam.googleapis.com/{pool}/subject/{self.subject}"

    def whose(self, token: str) -> str | None:
        """The principal of a token that is still valid; a registry calls this."""
        issued = self._issued.get(token)
        return issued.principal if issued and issued.expires_at > self._clock() else None

    async def handle(self, asked: Asked) -> Answer:
        """See wire.Vendor."""
        impersonation = _IMPERSONATION.fullmatch(urllib.parse.unquote(asked.path))
        try:
            match asked.method, asked.path:
                case "POST", "/v1/token":
                    return await self._exchange(asked)
                case "POST", "/token":
                    return self._grant(asked)
                case "POST", _ if impersonation:
                    return self._impersonate(asked, impersonation[1])
                case "GET", path if path.startswith(_ACCOUNTS):
                    return self._metadata(asked, path.removeprefix(_ACCOUNTS))
        except _Refused as refused:
            return refused.answer
        return in_json(404, {"error": {"code": 404, "message": "Not Found", "status": "NOT_FOUND"}})

    async def _exchange(self, asked: Asked) -> Answer:
        if "Authorization" in asked.headers:
            raise _Refused(oauth_error("invalid_request", "Request had an Authorization header."))
        form = _single(asked)
        audience = form.get("audience", "")
        if form.get("grant_type") != TOKEN_EXCHANGE:
            raise _Refused(oauth_error("unsupported_grant_type", "Bad grant type."))
        if not audience.startswith(("//iam.googleapis.com/", "identitynamespace:")):
            raise _Refused(oauth_error("invalid_request", "Invalid value for audience."))
        if audience.removeprefix("//iam.googleapis.com/") != self.provider:
            raise _Refused(oauth_error("invalid_target", "The target service indicated by the audience is invalid."))
        known = {f"{TOKEN_TYPE}jwt", f"{TOKEN_TYPE}id_token"}
        if form.get("requested_token_type") != f"{TOKEN_TYPE}access_token" or not form.get("scope"):
            raise _Refused(oauth_error("invalid_request", "Bad requested_token_type or scope."))
        if form.get("subject_token_type") not in known:
            raise _Refused(oauth_error("invalid_request", "Bad subject_token_type."))
        try:
            claims = await self._trust.claims(form.get("subject_token", ""))
        except UntrustedError as error:
            raise _Refused(oauth_error("invalid_grant", f"The ID token is not usable: {error}.")) from error
        if claims["sub"] != self.subject:
            raise _Refused(oauth_error("unauthorized_client", "The given credential is rejected by the condition."))
        issued = self._issue("sts", self.principal, form["scope"].split(), lifetime_seconds=self.federated_seconds)
        return in_json(200, {**self._access_token(issued), "issued_token_type": f"{TOKEN_TYPE}access_token"})

    def _grant(self, asked: Asked) -> Answer:
        form = _single(asked)
        if form.get("grant_type") != JWT_BEARER:
            raise _Refused(oauth_error("unsupported_grant_type", "Invalid grant_type"))
        claims = self._verified(form.get("assertion", ""))
        issued = self._issue("oauth2", str(claims["iss"]), str(claims["scope"]).split())
        return in_json(200, self._access_token(issued))

    def _verified(self, assertion: str) -> dict[str, Any]:
        """The claims of an assertion by one of the keys (RFC 7523 3)."""
        try:
            email, key = self.keys[jwt.get_unverified_header(assertion)["kid"]]
            options: Any = {"verify_exp": False, "verify_iat": False, "require": ["iss", "aud", "iat", "exp", "scope"]}
            claims: dict[str, Any] = jwt.decode(
                assertion, key, algorithms=["RS256"], audience=self.oauth2_audience, issuer=email, options=options
            )
        except (KeyError, jwt.PyJWTError) as error:
            raise _Refused(oauth_error("invalid_grant", "Invalid JWT Signature.")) from error
        now = self._clock()
        if not claims["iat"] - 300 <= now < claims["exp"] or claims["exp"] - claims["iat"] > 3600:
            text = "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe."
            raise _Refused(oauth_error("invalid_grant", text))
        return claims

    def _impersonate(self, asked: Asked, email: str) -> Answer:
        bearer = self._issued.get(asked.headers.get("Authorization", "").removeprefix("Bearer "))
        if bearer is None or bearer.expires_at <= self._clock() or CLOUD_PLATFORM not in bearer.scopes:
            raise _Refused(api_error(401, "UNAUTHENTICATED", "Request had invalid authentication credentials."))
        wish = asked.json() or {}
        lifetime = re.fullmatch(r"(\d+)s", str(wish.get("lifetime", "3600s")))
        if not lifetime or not 0 < int(lifetime[1]) <= self.longest_seconds or not wish.get("scope"):
            raise _Refused(api_error(400, "INVALID_ARGUMENT", "Request contains an invalid argument."))
        if email not in self.impersonators:
            raise _Refused(api_error(404, "NOT_FOUND", "Not found; Gaia id not found for email"))
        chain = [bearer.principal]
        for delegate in wish.get("delegates", []):
            if not delegate.startswith("projects/-/serviceAccounts/"):
                raise _Refused(api_error(400, "INVALID_ARGUMENT", "Invalid delegate."))
            chain.append(delegate.removeprefix("projects/-/serviceAccounts/"))
        if any(who not in self.impersonators.get(whom, ()) for who, whom in pairwise([*chain, email])):
            text = "Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist)."
            raise _Refused(api_error(403, "PERMISSION_DENIED", text))
        longest = min(float(lifetime[1]), self.lifetime_seconds)
        issued = self._issue("iamcredentials", email, wish["scope"], lifetime_seconds=longest)
        end = datetime.fromtimestamp(int(issued.expires_at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return in_json(200, {"accessToken": issued.token, "expireTime": end})

    def _metadata(self, asked: Asked, path: str) -> Answer:
        if asked.headers.get("Metadata-Flavor") != "Google" or "X-Forwarded-For" in asked.headers:
            return _flavored(403, b"Missing required header", "text/html")
        account, _, what = path.partition("/")
        if urllib.parse.unquote(account) not in ("default", self.node_account):
            return _flavored(404, b"Not Found", "text/html")
        match what:
            case "email":
                return _flavored(200, self.node_account.encode(), "application/text")
            case "token":
                scopes = asked.parameters().get("scopes", [CLOUD_PLATFORM])[0].split(",")
                cached = self._latest.get(f"metadata {sorted(scopes)}")
                fresh = cached is None or cached.expires_at - self._clock() < _CACHE_ENDS_SECONDS
                issued = self._issue("metadata", self.node_account, scopes) if fresh or cached is None else cached
                answer = in_json(200, self._access_token(issued))
                return _flavored(200, answer.body, "application/json")
        return _flavored(404, b"Not Found", "text/html")

    def _issue(
        self, service: str, principal: str, scopes: list[str], *, lifetime_seconds: float | None = None
    ) -> _Issued:
        kind = f"metadata {sorted(scopes)}" if service == "metadata" else f"{service} {principal}"
        if self.again and kind in self._latest:
            return self._latest[kind]
        token = f"ya29.c.{self.canary}-{secrets.token_urlsafe(48)}"
        life = self.lifetime_seconds if lifetime_seconds is None else lifetime_seconds
        issued = _Issued(token, principal, frozenset(scopes), self._clock() + life)
        self._issued[token] = self._latest[kind] = issued
        self.minted.append(token)
        return issued

    def _access_token(self, issued: _Issued) -> Mapping[str, Any]:
        left = int(issued.expires_at - self._clock())
        return {"access_token": issued.token, "expires_in": left, "token_type": "Bearer"}


def oauth_error(error: str, description: str = "as scripted", *, status: int = 400) -> Answer:
    """A refusal by sts or oauth2 (RFC 6749 5.2)."""
    return in_json(status, {"error": error, "error_description": description})


def api_error(status: int, name: str, message: str = "as scripted") -> Answer:
    """A refusal by any other API (https://google.aip.dev/193)."""
    return in_json(status, {"error": {"code": status, "message": message, "status": name}})


def _flavored(status: int, body: bytes, content_type: str) -> Answer:
    return Answer(
        status, body, {"Content-Type": content_type, "Metadata-Flavor": "Google", "Server": "Metadata Server"}
    )


def _single(asked: Asked) -> dict[str, str]:
    """The parameters of a form, or of JSON in camelCase, each given once."""
    if (content := asked.json()) is not None:
        return {
            re.sub("[A-Z]", lambda upper: f"_{upper[0].lower()}", key): str(value) for key, value in content.items()
        }
    form = asked.form()
    if form is None or any(len(values) > 1 for values in form.values()):
        raise _Refused(oauth_error("invalid_request", "Could not parse the body."))
    return {key: values[0] for key, values in form.items()}
