"""Any OAuth 2.0 token exchange: a ServiceAccount token becomes a registry token at a configured endpoint.

Page: RFC 8693 (https://www.rfc-editor.org/rfc/rfc8693); JFrog's and Quay's endpoints differ only in what is configured.

Request   POST <tokenUrl>, form or JSON: grant_type, subject_token, subject_token_type, and the configured `parameters`,
          in which `{identity}` stands for the identity: as audience, resource, client id or whatever the server wants.
          `{identity}` in the path of tokenUrl stands for it too. With `clientId`: Basic, of client id and secret.
Response  200 {"access_token", "issued_token_type", "token_type", "expires_in", ...}; the names of the fields that are
          read are configurable, and so is where the docker user comes from.
Lifetime  the least of `expires_in` and the JWT's `exp`, if it is one; else defaultLifetime.
Errors    {"error": code, ...}, codes of RFC 6749 5.2 and RFC 8693 2.2.2; anything else by its status.
"""

from __future__ import annotations

import base64
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import msgspec

from controller.core.dockerconfig import jwt_claim, jwt_instant
from controller.core.errors import MintError, Problem, StaleProof
from controller.core.model import Token
from controller.http import Reply
from controller.providers.base import (
    ProviderSettings,
    Tools,
    Url,
    ask,
    is_username,
    lifetime_seconds,
    make_token,
    needs_token_file,
    read_json,
    refusal,
    refusal_detail,
    secret_file,
    with_proof,
)

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange"
IDENTITY = "{identity}"
"""Stands for the identity in `tokenUrl`, `parameters` and `username`."""

_RESERVED = frozenset({"grant_type", "subject_token", "subject_token_type"})
_SECRETS = frozenset({"client_secret", "client_assertion", "password"})
_PATH_SEGMENT = re.compile(r"[^/]+")
_PROBLEMS = {
    "invalid_request": Problem.REQUEST_REFUSED,
    "invalid_client": Problem.MINT_REFUSED,
    "invalid_grant": Problem.MINT_REFUSED,
    "unauthorized_client": Problem.MINT_REFUSED,
    "access_denied": Problem.MINT_REFUSED,
    "unsupported_grant_type": Problem.REQUEST_REFUSED,
    "invalid_scope": Problem.REQUEST_REFUSED,
    "invalid_target": Problem.IDENTITY_UNKNOWN,  # the audience or resource, which is mostly the identity
    "slow_down": Problem.ISSUER_THROTTLES,
    "temporarily_unavailable": Problem.ISSUER_UNAVAILABLE,
    "server_error": Problem.ISSUER_UNAVAILABLE,
}
# RFC 8693 2.2.2 wants invalid_request for a bad subject token; most servers say invalid_grant.
_MAY_BE_STALE = frozenset({"invalid_request", "invalid_grant"})


class TokenExchangeSettings(ProviderSettings, frozen=True, kw_only=True, rename="camel"):
    """The configuration of `type: token-exchange`."""

    token_url: Url = ""
    """Of the endpoint; `{identity}` may stand in its path."""
    audience: str = ""
    """Of the ServiceAccount token that we present."""
    format: Literal["form", "json"] = "form"
    """Of the request's body."""
    subject_token_type: str = "urn:ietf:params:oauth:token-type:jwt"  # noqa: S105 -- a type
    parameters: Mapping[str, str] = msgspec.field(default_factory=lambda: {"audience": IDENTITY})
    """Sent beside the proof; `{identity}` stands for the identity."""
    client_id: str | None = None
    client_secret_file: str | None = None
    """Path of the secret that belongs to `client_id`; read anew for every request."""
    token_field: str = "access_token"  # noqa: S105 -- a name
    lifetime_field: str = "expires_in"
    username: str | None = None
    """The docker user; `{identity}` stands for the identity."""
    username_field: str | None = None
    """Or the field of the answer that holds it."""
    username_claim: str | None = None
    """Or the claim of the minted JWT that holds it; of a path only its last segment."""
    identity_claim: str | None = None
    """The claim of the minted JWT that must be the identity, or a path that ends in it; other tokens are refused."""


class _Refused(msgspec.Struct, frozen=True):
    error: str


class TokenExchange:
    """Exchanges the controller's ServiceAccount token for a token of the identity."""

    SETTINGS: ClassVar[type[ProviderSettings]] = TokenExchangeSettings
    SHARES_TOKEN: ClassVar[bool] = True

    @staticmethod
    def problems(settings: TokenExchangeSettings) -> Iterator[str]:
        """See ProviderType."""
        yield from needs_token_file(settings)
        if not settings.audience:
            yield "audience: must be the audience of the ServiceAccount token that the server expects"
        if IDENTITY in urllib.parse.urlsplit(settings.token_url).netloc:
            yield "tokenUrl: the identity may stand in the path only"
        if not any(IDENTITY in text for text in (settings.token_url, *settings.parameters.values())):
            yield "parameters: must send {identity}, or tokenUrl must: else every identity would get the same token"
        for name in sorted(_RESERVED & settings.parameters.keys()):
            yield f"parameters.{name}: is set by the controller"
        for name in sorted(_SECRETS & settings.parameters.keys()):
            yield f"parameters.{name}: is a secret, and this file is none; use clientSecretFile"
        if (settings.client_id is None) != (settings.client_secret_file is None):
            yield "clientId: needs clientSecretFile, and the other way round; a client id alone goes in parameters"
        if sum(bool(way) for way in (settings.username, settings.username_field, settings.username_claim)) != 1:
            yield "username: exactly one of username, usernameField and usernameClaim must say who the docker user is"
        if settings.username and not is_username(settings.username):
            yield "username: must be printable and without a colon"

    def __init__(self, name: str, settings: TokenExchangeSettings, tools: Tools) -> None:
        self._name = name
        self._settings = settings
        self._tools = tools

    async def mint(self, identity: str, hosts: tuple[str, ...]) -> Token:
        """See Provider."""
        # An identity is a tenant's text: what can't be right is told as its fault, before the issuer is asked.
        url = _url(self._settings.token_url, identity)
        if self._settings.username is not None and not is_username(self._named(identity)):
            raise MintError(Problem.REQUEST_REFUSED, "the identity is no docker user")
        return await with_proof(
            lambda: self._tools.proof(self._settings.audience), lambda proof: self._exchange(url, identity, proof)
        )

    async def _exchange(self, url: str, identity: str, proof: str) -> Token:
        settings = self._settings
        parameters = {
            "grant_type": GRANT_TYPE,
            "subject_token": proof,
            "subject_token_type": settings.subject_token_type,
            **{name: text.replace(IDENTITY, identity) for name, text in settings.parameters.items()},
        }
        in_json = settings.format == "json"
        asked_at = self._tools.now()
        reply = await ask(
            self._tools,
            "POST",
            url,
            headers={
                "Content-Type": "application/json" if in_json else "application/x-www-form-urlencoded",
                "Accept": "application/json",
                **self._client(),
            },
            body=msgspec.json.encode(parameters) if in_json else urllib.parse.urlencode(parameters).encode(),
            timeout_seconds=settings.timeout_seconds,
        )
        if reply.status not in (200, 201):
            raise self._error(reply)
        return self._token(identity, reply, asked_at)

    def _client(self) -> dict[str, str]:
        """HTTP Basic of client id and secret, each form-encoded first (RFC 6749 2.3.1)."""
        if self._settings.client_id is None or self._settings.client_secret_file is None:
            return {}
        pair = (self._settings.client_id, secret_file(self._settings.client_secret_file))
        encoded = ":".join(urllib.parse.quote_plus(part) for part in pair).encode()
        return {"Authorization": f"Basic {base64.b64encode(encoded).decode()}"}

    def _token(self, identity: str, reply: Reply, asked_at: float) -> Token:
        answer: dict[str, Any] | None = read_json(reply, dict[str, Any])
        password = (answer or {}).get(self._settings.token_field)
        if answer is None or not isinstance(password, str):
            raise MintError(Problem.ISSUER_MALFORMED, f"HTTP {reply.status} without a token in JSON")
        token = make_token(
            self._tools,
            provider=self._name,
            username=self._username(identity, answer, password),
            password=password,
            asked_at=asked_at,
            reply=reply,
            lifetimes_seconds=(lifetime_seconds(answer.get(self._settings.lifetime_field)),),
            expiries=(jwt_instant(password, "exp"),),
            default_lifetime_seconds=self._settings.default_lifetime,
        )
        self._check(identity, password)
        return token

    def _check(self, identity: str, password: str) -> None:
        """That a token is for this identity: a server ignores parameters that it doesn't know (RFC 8693 2.1)."""
        if self._settings.identity_claim is None:
            return
        claim = jwt_claim(password, self._settings.identity_claim)
        if not isinstance(claim, str) or not f"/{claim}".endswith(f"/{identity}"):
            raise MintError(Problem.TOKEN_UNFIT, "for another identity")

    def _username(self, identity: str, answer: dict[str, Any], password: str) -> str:
        if self._settings.username is not None:
            return self._named(identity)
        if self._settings.username_field is not None:
            found = answer.get(self._settings.username_field)
        else:
            found = jwt_claim(password, self._settings.username_claim or "")
            found = found.rpartition("/")[2] if isinstance(found, str) else None
        if not isinstance(found, str):
            raise MintError(Problem.ISSUER_MALFORMED, "no docker user in the answer")
        return found

    def _named(self, identity: str) -> str:
        return (self._settings.username or "").replace(IDENTITY, identity)

    def _error(self, reply: Reply) -> MintError:
        answer = read_json(reply, _Refused)
        problem = _PROBLEMS.get(answer.error) if answer else None
        if answer is None or problem is None or reply.status == 429 or reply.status >= 500:
            if reply.status == 401:
                return StaleProof(refusal_detail(reply, self._tools))
            return refusal(reply, self._tools)
        if answer.error in _MAY_BE_STALE:
            return StaleProof(refusal_detail(reply, self._tools, code=answer.error), problem=problem)
        return refusal(reply, self._tools, problem=problem, code=answer.error)


def _url(template: str, identity: str) -> str:
    """The endpoint for an identity. One that could lead to another path is refused, however it would be encoded."""
    if IDENTITY in template and (not _PATH_SEGMENT.fullmatch(identity) or set(identity) <= {"."}):
        raise MintError(Problem.REQUEST_REFUSED, "the identity doesn't fit in a path")
    return template.replace(IDENTITY, urllib.parse.quote(identity, safe=""))
