"""Chainguard (cgr.dev): a ServiceAccount token becomes a registry token at the issuer's own exchange.

Page: https://edu.chainguard.dev/chainguard/administration/assumable-ids/ and the public SDK
(chainguard.dev/sdk, proto/platform/oidc). It is gRPC behind grpc-gateway, not RFC 8693.

Request   POST <issuer>/sts/exchange, form: aud, identity, and a `cap` for each configured capability;
          `Authorization: Bearer <ServiceAccount token>`. A JSON body is silently ignored by the gateway, so the form
          is sent.
Response  200 {"token": JWT, "expiry": RFC 3339 or null}. The JWT's `aud` and `sub` must be what was asked for.
Lifetime  the earlier of `expiry` and the JWT's `exp`; up to an hour.
Errors    {"code": gRPC code, ...}; the code is trusted over the HTTP status.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import msgspec

from controller.core.errors import MintError, Problem
from controller.core.jwt import jwt_claim, jwt_instant
from controller.core.model import Token
from controller.providers.contract import SettingsType, Tools
from controller.providers.exchange import IssuerReply, ask, bearer, read_answer, read_json, refusal, stale
from controller.providers.proof import with_proof
from controller.providers.settings import ProofSettings, Url
from controller.providers.token import make_token, rfc3339

IDENTITY = r"[0-9a-f]{40}(/[0-9a-f]{16})*"
"""A UIDP: 20 random bytes for the organisation, 8 for each level below (SDK, uidp)."""

USERNAME = "_token"

_UNAUTHENTICATED = 16
_PROBLEMS = {
    1: ("CANCELLED", Problem.ISSUER_UNAVAILABLE),
    2: ("UNKNOWN", Problem.ISSUER_UNAVAILABLE),
    3: ("INVALID_ARGUMENT", Problem.REQUEST_REFUSED),
    4: ("DEADLINE_EXCEEDED", Problem.ISSUER_UNAVAILABLE),
    5: ("NOT_FOUND", Problem.IDENTITY_UNKNOWN),
    7: ("PERMISSION_DENIED", Problem.MINT_REFUSED),
    8: ("RESOURCE_EXHAUSTED", Problem.ISSUER_THROTTLES),
    9: ("FAILED_PRECONDITION", Problem.REQUEST_REFUSED),
    10: ("ABORTED", Problem.ISSUER_UNAVAILABLE),
    11: ("OUT_OF_RANGE", Problem.REQUEST_REFUSED),
    12: ("UNIMPLEMENTED", Problem.REQUEST_REFUSED),
    13: ("INTERNAL", Problem.ISSUER_UNAVAILABLE),
    14: ("UNAVAILABLE", Problem.ISSUER_UNAVAILABLE),
    15: ("DATA_LOSS", Problem.ISSUER_UNAVAILABLE),
}


class ChainguardSettings(ProofSettings, frozen=True, kw_only=True, rename="camel"):
    """The configuration of `type: chainguard`."""

    registries: tuple[str, ...] = ("cgr.dev",)
    token_file: str = "/var/run/chainguard/oidc/oidc-token"  # noqa: S105 -- a path
    issuer: Url = "https://issuer.enforce.dev"
    audience: str = "issuer.enforce.dev"
    """Of the ServiceAccount token that we present."""
    token_audience: str = "cgr.dev"  # noqa: S105 -- an audience
    """Sent as `aud`; must be in the minted token."""
    capabilities: tuple[str, ...] = ()
    """The names of those that the token is narrowed to; by default it has all that the identity has."""

    def problems(self) -> Iterator[str]:
        """See ProviderSettings."""
        if "" in self.capabilities:
            yield "capabilities: must be names such as manifest.list; remove the empty one"


class _RawToken(msgspec.Struct, frozen=True):
    token: str
    expiry: str | None = None


class _Status(msgspec.Struct, frozen=True):
    code: int


@dataclass(frozen=True, slots=True)
class Chainguard:
    """Exchanges the controller's ServiceAccount token for a token of the identity."""

    SETTINGS: ClassVar[SettingsType] = ChainguardSettings
    SHARES_TOKEN: ClassVar[bool] = True

    settings: ChainguardSettings
    tools: Tools

    async def mint(self, identity: str, hosts: tuple[str, ...]) -> Token:
        """See Provider."""
        return await with_proof(
            lambda: self.tools.proof(self.settings.audience), lambda proof: self._exchange(identity, proof)
        )

    async def check_proof(self) -> None:
        """See Provider."""
        await self.tools.proof(self.settings.audience)

    async def _exchange(self, identity: str, proof: str) -> Token:
        reply = await ask(
            self.tools,
            "POST",
            f"{self.settings.issuer.rstrip('/')}/sts/exchange",
            headers=bearer(proof),
            form={"aud": self.settings.token_audience, "identity": identity, **self._narrowed()},
        )
        if reply.status != 200:
            raise self._error(reply)
        answer = read_answer(reply, _RawToken)
        token = make_token(
            self.tools,
            username=USERNAME,
            password=answer.token,
            reply=reply,
            expiries=(rfc3339(answer.expiry), jwt_instant(answer.token, "exp")),
        )
        audiences = jwt_claim(answer.token, "aud")
        if self.settings.token_audience not in (audiences if isinstance(audiences, list) else [audiences]):
            raise MintError(Problem.TOKEN_UNFIT, "for another audience")
        if jwt_claim(answer.token, "sub") != identity:
            raise MintError(Problem.TOKEN_UNFIT, "for another identity")
        return token

    def _narrowed(self) -> dict[str, tuple[str, ...]]:
        return {"cap": self.settings.capabilities} if self.settings.capabilities else {}

    def _error(self, reply: IssuerReply) -> MintError:
        status = read_json(reply, _Status)
        code = status.code if status else _UNAUTHENTICATED if reply.status == 401 else None
        if code == _UNAUTHENTICATED:
            return stale(reply, self.tools, code="UNAUTHENTICATED")
        if code in _PROBLEMS:
            name, problem = _PROBLEMS[code]
            return refusal(reply, self.tools, problem=problem, code=name)
        return refusal(reply, self.tools)
