"""The stand-in for Quay's robot federation: one GET with the ServiceAccount token as Basic password."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping

from testing.tokens import SigningKey, Trust, UntrustedError
from testing.wire import Answer, Asked, in_json


class Quay:
    """A server with some robots, each of which trusts one subject."""

    def __init__(
        self, clock: Callable[[], float], trust: Trust, *, robots: Mapping[str, str], key: SigningKey | None = None
    ) -> None:
        self.lifetime_seconds = 3600.0
        self.again = False
        self.minted: list[str] = []
        self._clock = clock
        self._trust = trust
        self._robots = robots
        self._key = key or SigningKey()

    async def handle(self, asked: Asked) -> Answer:
        """See Vendor."""
        if asked.path != "/oauth2/federation/robot/token":
            return in_json(404, {"error": "not found"})
        if asked.method != "GET":
            return Answer(405)
        scheme, _, encoded = asked.headers.get("Authorization", "").partition(" ")
        try:
            robot, _, proof = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return in_json(401, {"error": "malformed credentials"})
        if scheme != "Basic" or not proof:
            return in_json(401, {"error": "missing auth"})
        try:
            claims = await self._trust.claims(proof)
        except UntrustedError:
            return in_json(400, {"message": "Invalid token"})
        if self._robots.get(robot) != claims["sub"]:
            return in_json(400, {"message": "Token does not match robot"})
        if not self.again or not self.minted:
            self.minted.append(self._key.sign({"aud": "quay.io", "exp": int(self._clock() + self.lifetime_seconds)}))
        return in_json(200, {"token": self.minted[-1]})
