"""Any OAuth 2.0 token exchange: a ServiceAccount token becomes a registry token at a configured endpoint.

Page: RFC 8693 (https://www.rfc-editor.org/rfc/rfc8693); JFrog's and Quay's endpoints differ only in what is configured.

Request   POST <tokenUrl>, form or JSON: grant_type, subject_token, subject_token_type, and the configured `parameters`,
          in which `{identity}` means the identity: as audience, resource, client id or whatever the server expects.
          So does `{identity}` in the path of tokenUrl. With `clientId`: Basic, with client id and secret.
Response  200 {"access_token", "issued_token_type", "token_type", "expires_in", ...}; the names of the fields that are
          read are configurable, and so is where the docker user comes from.
Lifetime  the least of `expires_in` and the JWT's `exp`, if it is one; else defaultLifetime.
Errors    {"error": code, ...}, codes of RFC 6749 5.2 and RFC 8693 2.2.2; anything else by its status.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import msgspec

from controller.core.errors import MintError, Problem
from controller.core.jwt import jwt_claim, jwt_instant
from controller.core.model import Token
from controller.providers.contract import SettingsType, Tools
from controller.providers.exchange import (
    OAUTH_PROBLEMS,
    IssuerReply,
    ask,
    basic,
    malformed,
    oauth_refusal,
    read_answer,
    refusal,
    stale,
)
from controller.providers.proof import secret_file, with_proof
from controller.providers.settings import ProofSettings, Url
from controller.providers.token import is_username, lifetime_seconds, make_token

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange"
IDENTITY = "{identity}"
"""Means the identity in `tokenUrl`, `parameters` and `username`."""

_RESERVED = frozenset({"grant_type", "subject_token", "subject_token_type"})
_SECRETS = frozenset({"client_secret", "client_assertion", "password"})
_PATH_SEGMENT = re.compile(r"[^/]+")
_PROBLEMS = {**OAUTH_PROBLEMS, "invalid_target": Problem.IDENTITY_UNKNOWN}
"""The target is the audience or resource, which mostly is the identity."""
_MAY_BE_STALE = frozenset({"invalid_request", "invalid_grant"})
"""For a bad subject token RFC 8693 2.2.2 asks for the first; most servers send the second."""


class TokenExchangeSettings(ProofSettings, frozen=True, kw_only=True, rename="camel"):
    """The configuration of `type: token-exchange`."""

    token_url: Url
    """Of the endpoint; its path may hold `{identity}`."""
    audience: str
    """Of the ServiceAccount token that we present."""
    format: Literal["form", "json"] = "form"
    """Of the request's body."""
    subject_token_type: str = "urn:ietf:params:oauth:token-type:jwt"  # noqa: S105 -- a type
    parameters: Mapping[str, str] = msgspec.field(default_factory=lambda: {"audience": IDENTITY})
    """Sent beside the proof; may hold `{identity}`."""
    client_id: str | None = None
    client_secret_file: str | None = None
    """Path of the secret of `client_id`; read anew for every request."""
    token_field: str = "access_token"  # noqa: S105 -- a name
    lifetime_field: str = "expires_in"
    username: str | None = None
    """The docker user; may hold `{identity}`."""
    username_field: str | None = None
    """Or the field of the answer that holds it."""
    username_claim: str | None = None
    """Or, if the answer lacks it, the claim of the minted JWT that holds it; of a path only its last segment."""
    identity_claim: str | None = None
    """The claim of the minted JWT that must be the identity, or a path that ends in it; other tokens are refused."""

    def problems(self) -> Iterator[str]:
        """See ProviderSettings."""
        if IDENTITY in urllib.parse.urlsplit(self.token_url).netloc:
            yield "tokenUrl: only the path may hold {identity}"
        if not any(IDENTITY in text for text in (self.token_url, *self.parameters.values())):
            yield "parameters: parameters or tokenUrl must hold {identity}, else every identity gets the same token"
        for name in sorted(_RESERVED & self.parameters.keys()):
            yield f"parameters.{name}: is set by the controller; remove it"
        for name in sorted(_SECRETS & self.parameters.keys()):
            yield f"parameters.{name}: is a secret and must not be in this file; use clientSecretFile"
        if (self.client_id is None) != (self.client_secret_file is None):
            yield "clientId: needs clientSecretFile, and the other way round; a client id alone goes in parameters"
        if bool(self.username) == bool(self.username_field or self.username_claim):
            yield "username: either username, or usernameField, usernameClaim or both are needed, for the docker user"
        if self.username and not is_username(self.username):
            yield "username: must be printable and without a colon"


@dataclass(frozen=True, slots=True)
class TokenExchange:
    """Exchanges the controller's ServiceAccount token for a token of the identity."""

    SETTINGS: ClassVar[SettingsType] = TokenExchangeSettings
    SHARES_TOKEN: ClassVar[bool] = True

    settings: TokenExchangeSettings
    tools: Tools

    async def mint(self, identity: str, hosts: tuple[str, ...]) -> Token:
        """See Provider."""
        # An identity is a tenant's text: if it can't be valid, the issuer isn't asked.
        url = _url(self.settings.token_url, identity)
        if self.settings.username is not None and not is_username(self._named(identity)):
            raise MintError(Problem.REQUEST_REFUSED, "the identity is not a valid docker user")
        return await with_proof(
            lambda: self.tools.proof(self.settings.audience), lambda proof: self._exchange(url, identity, proof)
        )

    async def check_proof(self) -> None:
        """See Provider."""
        await self.tools.proof(self.settings.audience)
        self._client()

    async def _exchange(self, url: str, identity: str, proof: str) -> Token:
        settings = self.settings
        parameters = {
            "grant_type": GRANT_TYPE,
            "subject_token": proof,
            "subject_token_type": settings.subject_token_type,
            **{name: text.replace(IDENTITY, identity) for name, text in settings.parameters.items()},
        }
        in_json = settings.format == "json"
        json = {"Content-Type": "application/json", "Accept": "application/json"} if in_json else {}
        reply = await ask(
            self.tools,
            "POST",
            url,
            headers={**json, **self._client()},
            form=None if in_json else parameters,
            body=msgspec.json.encode(parameters) if in_json else None,
        )
        if reply.status not in (200, 201):
            raise self._error(reply)
        return self._token(identity, reply)

    def _client(self) -> dict[str, str]:
        """HTTP Basic of client id and secret, each form-encoded first (RFC 6749 2.3.1)."""
        if self.settings.client_id is None or self.settings.client_secret_file is None:
            return {}
        pair = (self.settings.client_id, secret_file(self.settings.client_secret_file))
        return basic(*map(urllib.parse.quote_plus, pair))

    def _token(self, identity: str, reply: IssuerReply) -> Token:
        answer = read_answer(reply, dict[str, Any])
        password = answer.get(self.settings.token_field)
        if not isinstance(password, str):
            raise malformed(reply)
        token = make_token(
            self.tools,
            username=self._username(identity, answer, password),
            password=password,
            reply=reply,
            # 0 is how JFrog and others say that a token has no end of its own.
            lifetimes_seconds=(lifetime_seconds(answer.get(self.settings.lifetime_field)) or None,),
            expiries=(jwt_instant(password, "exp"),),
        )
        self._check(identity, password)
        return token

    def _check(self, identity: str, password: str) -> None:
        """Check that a token is for this identity: a server ignores parameters that it doesn't know (RFC 8693 2.1)."""
        if self.settings.identity_claim is None:
            return
        claim = jwt_claim(password, self.settings.identity_claim)
        if not isinstance(claim, str) or not f"/{claim}".endswith(f"/{identity}"):
            raise MintError(Problem.TOKEN_UNFIT, "for another identity")

    def _username(self, identity: str, answer: dict[str, Any], password: str) -> str:
        if self.settings.username is not None:
            return self._named(identity)
        found = answer.get(self.settings.username_field) if self.settings.username_field else None
        if found is None and self.settings.username_claim is not None:
            claim = jwt_claim(password, self.settings.username_claim)
            found = claim.rpartition("/")[2] if isinstance(claim, str) else None
        if not isinstance(found, str):
            raise MintError(Problem.ISSUER_MALFORMED, "no docker user in the answer")
        return found

    def _named(self, identity: str) -> str:
        return (self.settings.username or "").replace(IDENTITY, identity)

    def _error(self, reply: IssuerReply) -> MintError:
        if error := oauth_refusal(reply, self.tools, _PROBLEMS, may_be_stale=_MAY_BE_STALE):
            return error
        return stale(reply, self.tools) if reply.status == 401 else refusal(reply, self.tools)


def _url(template: str, identity: str) -> str:
    """The endpoint for an identity. Raises MintError if the identity could lead to another path, however encoded."""
    if IDENTITY in template and (not _PATH_SEGMENT.fullmatch(identity) or set(identity) <= {"."}):
        raise MintError(Problem.REQUEST_REFUSED, "the identity doesn't fit in a path")
    return template.replace(IDENTITY, urllib.parse.quote(identity, safe=""))
