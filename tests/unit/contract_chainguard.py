"""Chainguard in the contract suite."""

from __future__ import annotations

from collections.abc import Callable

from controller.core.errors import Problem
from hack.standin.tokens import Trust, UntrustedError
from hack.standin.wire import Answer, Asked, in_json
from tests.unit.provider_world import SUBJECT, Row, vendors_key
from tests.unit.virtual_time import Clock

IDENTITY = "c95870ebffa72a258df087ea727ee92daf177e29/f067a9080d45a098"


def _error(status: int, code: int, **headers: str) -> Answer:
    return in_json(status, {"code": code, "message": "eyJsomething", "details": []}, **headers)


class Chainguard:
    """The exchange endpoint in memory; the server form is hack/standin/exchange.py."""

    def __init__(self, clock: Clock, trust: Callable[[str], Trust]) -> None:
        self.lifetime_seconds = 3600.0
        self.again = False
        self.minted: list[str] = []
        self._clock = clock
        self._trust = trust("issuer.enforce.dev")
        self._key = vendors_key()

    async def handle(self, asked: Asked) -> Answer:
        """See Vendor."""
        form = asked.form()
        if asked.path != "/sts/exchange" or asked.method != "POST" or form is None:
            return _error(404, 5)
        try:
            claims = await self._trust.claims(asked.headers["Authorization"].removeprefix("Bearer "))
        except UntrustedError:
            return _error(401, 16)
        if form["identity"] != [IDENTITY]:
            return _error(404, 5)
        if claims["sub"] != SUBJECT:
            return _error(403, 7)
        if not self.again or not self.minted:
            expires_at = int(self._clock() + self.lifetime_seconds)
            self.minted.append(self._key.sign({"sub": IDENTITY, "aud": form["aud"][0], "exp": expires_at}))
        return in_json(200, {"token": self.minted[-1], "refreshToken": "", "expiry": None})


ROW = Row(
    type="chainguard",
    identity=IDENTITY,
    username="_token",
    vendor=Chainguard,
    settings=lambda _directory: {},
    refusals={
        "refused": (_error(403, 7), Problem.MINT_REFUSED),
        "refused, with the status of another class": (_error(400, 7), Problem.MINT_REFUSED),
        "unknown": (_error(404, 5), Problem.IDENTITY_UNKNOWN),
        "malformed request": (_error(400, 3), Problem.REQUEST_REFUSED),
        "throttled": (_error(429, 8), Problem.ISSUER_THROTTLES),
        "unavailable": (_error(503, 14), Problem.ISSUER_UNAVAILABLE),
    },
    stale=_error(401, 16),
    at=lambda url: {"issuer": url},
    proofless={"tokenFile": None},
)
