"""Chainguard (cgr.dev): a ServiceAccount token becomes a registry token at the issuer's own exchange.

Page: https://edu.chainguard.dev/chainguard/administration/assumable-ids/ and the public SDK
(chainguard.dev/sdk, proto/platform/oidc). It is gRPC behind grpc-gateway, not RFC 8693.

Request   POST <issuer>/sts/exchange, form: aud, identity; `Authorization: Bearer <ServiceAccount token>`. A JSON body
          is silently ignored by the gateway, so the form is sent.
Response  200 {"token": JWT, "expiry": RFC 3339 or null}. The JWT's `aud` and `sub` must be what was asked for.
Lifetime  the earlier of `expiry` and the JWT's `exp`; up to an hour.
Errors    {"code": gRPC code, ...}; the code is trusted over the HTTP status.
"""

from __future__ import annotations

import urllib.parse
from typing import ClassVar

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
    make_token,
    needs_token_file,
    read_json,
    refusal,
    refusal_detail,
    rfc3339,
    with_proof,
)

IDENTITY = r"[0-9a-f]{40}(/[0-9a-f]{16})*"
"""A UIDP: 20 random bytes for the organisation, 8 for each level below (SDK, uidp)."""

USERNAME = "_token"

_UNAUTHENTICATED = 16
_PROBLEMS = {
    1: Problem.ISSUER_UNAVAILABLE,  # cancelled
    2: Problem.ISSUER_UNAVAILABLE,  # unknown
    3: Problem.REQUEST_REFUSED,  # invalid argument
    4: Problem.ISSUER_UNAVAILABLE,  # deadline exceeded
    5: Problem.IDENTITY_UNKNOWN,  # not found
    7: Problem.MINT_REFUSED,  # permission denied
    8: Problem.ISSUER_THROTTLES,  # resource exhausted
    9: Problem.REQUEST_REFUSED,  # failed precondition
    10: Problem.ISSUER_UNAVAILABLE,  # aborted
    11: Problem.REQUEST_REFUSED,  # out of range
    12: Problem.REQUEST_REFUSED,  # unimplemented
    13: Problem.ISSUER_UNAVAILABLE,  # internal
    14: Problem.ISSUER_UNAVAILABLE,  # unavailable
    15: Problem.ISSUER_UNAVAILABLE,  # data loss
}


class ChainguardSettings(ProviderSettings, frozen=True, kw_only=True, rename="camel"):
    """The configuration of `type: chainguard`."""

    registries: tuple[str, ...] = ("cgr.dev",)
    token_file: str | None = "/var/run/chainguard/oidc/oidc-token"  # noqa: S105 -- a path
    issuer: Url = "https://issuer.enforce.dev"
    audience: str = "issuer.enforce.dev"
    """Of the ServiceAccount token that we present."""
    token_audience: str = "cgr.dev"  # noqa: S105 -- an audience
    """Sent as `aud`; must be in the minted token."""


class _RawToken(msgspec.Struct, frozen=True):
    token: str
    expiry: str | None = None


class _Status(msgspec.Struct, frozen=True):
    code: int


class Chainguard:
    """Exchanges the controller's ServiceAccount token for a token of the identity."""

    SETTINGS: ClassVar[type[ProviderSettings]] = ChainguardSettings
    SHARES_TOKEN: ClassVar[bool] = True
    problems = staticmethod(needs_token_file)

    def __init__(self, name: str, settings: ChainguardSettings, tools: Tools) -> None:
        self._name = name
        self._settings = settings
        self._tools = tools

    async def mint(self, identity: str, hosts: tuple[str, ...]) -> Token:
        """See Provider."""
        return await with_proof(
            lambda: self._tools.proof(self._settings.audience), lambda proof: self._exchange(identity, proof)
        )

    async def _exchange(self, identity: str, proof: str) -> Token:
        asked_at = self._tools.now()
        reply = await ask(
            self._tools,
            "POST",
            f"{self._settings.issuer.rstrip('/')}/sts/exchange",
            headers={
                "Authorization": f"Bearer {proof}",
                "Content-Type": "application/x-www-form-urlencoded",
                "Accept": "application/json",
            },
            body=urllib.parse.urlencode({"aud": self._settings.token_audience, "identity": identity}).encode(),
            timeout_seconds=self._settings.timeout_seconds,
        )
        if reply.status != 200:
            raise self._error(reply)
        return self._token(identity, reply, asked_at)

    def _token(self, identity: str, reply: Reply, asked_at: float) -> Token:
        answer = read_json(reply, _RawToken)
        if answer is None:
            raise MintError(Problem.ISSUER_MALFORMED, "HTTP 200 without a token in JSON")
        token = make_token(
            self._tools,
            provider=self._name,
            username=USERNAME,
            password=answer.token,
            asked_at=asked_at,
            reply=reply,
            expiries=(rfc3339(answer.expiry), jwt_instant(answer.token, "exp")),
            default_lifetime_seconds=self._settings.default_lifetime,
        )
        audiences = jwt_claim(answer.token, "aud")
        if self._settings.token_audience not in (audiences if isinstance(audiences, list) else [audiences]):
            raise MintError(Problem.TOKEN_UNFIT, "for another audience")
        if jwt_claim(answer.token, "sub") != identity:
            raise MintError(Problem.TOKEN_UNFIT, "for another identity")
        return token

    def _error(self, reply: Reply) -> MintError:
        status = read_json(reply, _Status)
        code = status.code if status else _UNAUTHENTICATED if reply.status == 401 else None
        if code == _UNAUTHENTICATED:
            return StaleProof(refusal_detail(reply, self._tools, code=f"code {code}"))
        if code in _PROBLEMS:
            return refusal(reply, self._tools, problem=_PROBLEMS[code], code=f"code {code}")
        return refusal(reply, self._tools)
