"""Quay robots, federated: a ServiceAccount token becomes a robot's token.

Page: https://docs.projectquay.io/manage_quay.html#setting-robot-federation, and the server's source,
endpoints/oauth/robot_identity_federation.py and util/security/federated_robot_auth.py.

Request   GET <url>/oauth2/federation/robot/token, `Authorization: Basic <robot>:<ServiceAccount token>`.
Response  200 {"token": JWT}. The docker user is the robot.
Lifetime  the JWT's `exp`; an hour.
Errors    400 {"message": text}: the ServiceAccount token has expired or isn't the one that the robot trusts, or there
          is no such robot; 401: it is missing or can't be parsed. A robot without federation may be a 500.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import msgspec

from controller.core.errors import MintError, Problem
from controller.core.jwt import jwt_claim, jwt_instant
from controller.core.model import Token
from controller.providers.contract import SettingsType, Tools
from controller.providers.exchange import IssuerReply, ask, basic, read_answer, refusal, stale
from controller.providers.proof import with_proof
from controller.providers.settings import ProofSettings, Url
from controller.providers.token import lifetime_seconds, make_token

IDENTITY = r"[a-z0-9_.-]+\+[a-z0-9]+(?:[._-][a-z0-9]+)*"
"""A robot: its organisation or user, and its own name, which has the format of Quay's users."""


class QuaySettings(ProofSettings, frozen=True, kw_only=True, rename="camel"):
    """The configuration of `type: quay`."""

    registries: tuple[str, ...] = ("quay.io",)
    token_file: str = "/var/run/quay/oidc/oidc-token"  # noqa: S105 -- a path
    url: Url = "https://quay.io"
    audience: str = "quay.io"
    """Of the ServiceAccount token that we present."""


class _RobotToken(msgspec.Struct, frozen=True):
    token: str
    expires_in: int | float | str | None = None


@dataclass(frozen=True, slots=True)
class Quay:
    """Exchanges the controller's ServiceAccount token for a token of the robot."""

    SETTINGS: ClassVar[SettingsType] = QuaySettings
    SHARES_TOKEN: ClassVar[bool] = True

    settings: QuaySettings
    tools: Tools

    async def mint(self, identity: str, hosts: tuple[str, ...]) -> Token:
        """See Provider."""
        return await with_proof(
            lambda: self.tools.proof(self.settings.audience), lambda proof: self._exchange(identity, proof)
        )

    async def check_proof(self) -> None:
        """See Provider."""
        await self.tools.proof(self.settings.audience)

    async def _exchange(self, robot: str, proof: str) -> Token:
        reply = await ask(
            self.tools,
            "GET",
            f"{self.settings.url.rstrip('/')}/oauth2/federation/robot/token",
            headers={**basic(robot, proof), "Accept": "application/json"},
        )
        if reply.status != 200:
            raise self._error(reply)
        answer = read_answer(reply, _RobotToken)
        token = make_token(
            self.tools,
            username=robot,
            password=answer.token,
            reply=reply,
            lifetimes_seconds=(lifetime_seconds(answer.expires_in),),
            expiries=(jwt_instant(answer.token, "exp"),),
        )
        subject = jwt_claim(answer.token, "sub")
        if isinstance(subject, str) and re.fullmatch(IDENTITY, subject) and subject != robot:
            raise MintError(Problem.TOKEN_UNFIT, "for another robot")
        return token

    def _error(self, reply: IssuerReply) -> MintError:
        # 400 is the same for a proof that has expired, one that isn't trusted, and a robot that doesn't exist.
        return stale(reply, self.tools) if reply.status in (400, 401) else refusal(reply, self.tools)
