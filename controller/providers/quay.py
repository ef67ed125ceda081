"""Quay robots, federated: a ServiceAccount token becomes a robot's token.

Page: https://docs.projectquay.io/manage_quay.html#setting-robot-federation, and the server's source,
endpoints/oauth/robot_identity_federation.py. Newer servers speak RFC 8693 too, at /sts/token:
that is `type: token-exchange`.

Request   GET <url>/oauth2/federation/robot/token, `Authorization: Basic <robot>:<ServiceAccount token>`.
Response  200 {"token": JWT}. The docker user is the robot.
Lifetime  the JWT's `exp`; an hour.
Errors    401 {"error": text}: the token isn't from a trusted issuer and subject, or has expired; 400 {"message": text}:
          there is no such robot, or the token is another's.
"""

from __future__ import annotations

import base64
import re
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
    lifetime_seconds,
    make_token,
    needs_token_file,
    read_json,
    refusal,
    refusal_detail,
    with_proof,
)

IDENTITY = r"[a-z0-9_.-]+\+[a-z0-9_-]+"
"""A robot: the organisation or user it belongs to, and its own name."""


class QuaySettings(ProviderSettings, frozen=True, kw_only=True, rename="camel"):
    """The configuration of `type: quay`."""

    registries: tuple[str, ...] = ("quay.io",)
    token_file: str | None = "/var/run/quay/oidc/oidc-token"  # noqa: S105 -- a path
    url: Url = "https://quay.io"
    audience: str = "quay.io"
    """Of the ServiceAccount token that we present."""


class _RobotToken(msgspec.Struct, frozen=True):
    token: str
    expires_in: int | float | str | None = None


class Quay:
    """Exchanges the controller's ServiceAccount token for a token of the robot."""

    SETTINGS: ClassVar[type[ProviderSettings]] = QuaySettings
    SHARES_TOKEN: ClassVar[bool] = True
    problems = staticmethod(needs_token_file)

    def __init__(self, name: str, settings: QuaySettings, tools: Tools) -> None:
        self._name = name
        self._settings = settings
        self._tools = tools

    async def mint(self, identity: str, hosts: tuple[str, ...]) -> Token:
        """See Provider."""
        return await with_proof(
            lambda: self._tools.proof(self._settings.audience), lambda proof: self._exchange(identity, proof)
        )

    async def _exchange(self, robot: str, proof: str) -> Token:
        asked_at = self._tools.now()
        reply = await ask(
            self._tools,
            "GET",
            f"{self._settings.url.rstrip('/')}/oauth2/federation/robot/token",
            headers={
                "Authorization": f"Basic {base64.b64encode(f'{robot}:{proof}'.encode()).decode()}",
                "Accept": "application/json",
            },
            body=None,
            timeout_seconds=self._settings.timeout_seconds,
        )
        if reply.status != 200:
            raise self._error(reply)
        answer = read_json(reply, _RobotToken)
        if answer is None:
            raise MintError(Problem.ISSUER_MALFORMED, "HTTP 200 without a token in JSON")
        token = make_token(
            self._tools,
            provider=self._name,
            username=robot,
            password=answer.token,
            asked_at=asked_at,
            reply=reply,
            lifetimes_seconds=(lifetime_seconds(answer.expires_in),),
            expiries=(jwt_instant(answer.token, "exp"),),
            default_lifetime_seconds=self._settings.default_lifetime,
        )
        whose = jwt_claim(answer.token, "sub")
        if isinstance(whose, str) and re.fullmatch(IDENTITY, whose) and whose != robot:
            raise MintError(Problem.TOKEN_UNFIT, "for another robot")
        return token

    def _error(self, reply: Reply) -> MintError:
        match reply.status:
            case 400:  # a robot that is unknown and one that trusts somebody else are not told apart
                return refusal(reply, self._tools, problem=Problem.MINT_REFUSED)
            case 401:
                return StaleProof(refusal_detail(reply, self._tools))
            case _:
                return refusal(reply, self._tools)
