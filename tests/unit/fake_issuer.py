"""A Chainguard issuer in memory, a `Vendor` like those of testing; the one with signatures is testing/exchange.py.

issuer = Issuer(clock)
issuer.lifetime_seconds = 900
issuer.fail(503, identity=somebody)
released = issuer.hang()
assert [exchange.identity for exchange in issuer.requests] == [...]
"""

from __future__ import annotations

import asyncio
import base64
import email.utils
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from testing.tokens import Trust, UntrustedError
from testing.wire import Answer, Asked, ConnectionBroken, in_json

HOUR = 3600.0
CANARY = "CanaryCanaryCanary"
"""In every token and every proof; whatever people can read must never hold it."""


def jwt(**claims: object) -> str:
    """A JWT that nobody signed."""
    parts = (json.dumps(part, separators=(",", ":")).encode() for part in ({"alg": "none"}, claims))
    return ".".join([*(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts), CANARY])


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request for a token."""

    at: float
    identity: str
    audience: str
    proof: str


@dataclass(slots=True)
class Rule:
    """What an issuer does instead of minting."""

    identity: str | None
    status: int | None
    """None refuses the connection."""
    headers: Mapping[str, str]
    body: bytes
    times: float
    hang: asyncio.Event | None = None


class Issuer:
    """See the module. With `trust` it takes only proofs that this accepts, of `subject`."""

    def __init__(
        self, clock: Callable[[], float], *, audience: str = "cgr.dev", trust: Trust | None = None, subject: str = ""
    ) -> None:
        self._clock = clock
        self._audience = audience
        self._trust = trust
        self._subject = subject
        self.lifetime_seconds = HOUR
        self.delay_seconds = 0.0
        self.again = False
        """Hand the last token of an identity out again."""
        self.requests: list[Exchange] = []
        self.minted: list[str] = []
        self._latest: dict[str, str] = {}
        self._rules: list[Rule] = []

    def fail(
        self,
        status: int | None,
        *,
        identity: str | None = None,
        retry_after: int | None = None,
        body: bytes | None = None,
        times: float = float("inf"),
    ) -> None:
        """Fail the next requests, of one identity or of all. The body quotes the proof, as careless issuers do."""
        headers = {} if retry_after is None else {"retry-after": str(retry_after)}
        said = body if body is not None else f"<h1>no: {jwt(aud='issuer.enforce.dev')}</h1>".encode()
        self._rules.append(Rule(identity, status, headers, said, times))

    def hang(self, *, identity: str | None = None) -> asyncio.Event:
        """Leave requests without an answer until the event is set; then mint."""
        released = asyncio.Event()
        self._rules.append(Rule(identity, 200, {}, b"", float("inf"), released))
        return released

    def heal(self) -> None:
        """Forget every fault."""
        self._rules.clear()

    def asked(self, identity: str) -> list[Exchange]:
        """The requests for one identity."""
        return [request for request in self.requests if request.identity == identity]

    async def handle(self, asked: Asked) -> Answer:
        """See testing.wire.Vendor."""
        form = asked.form()
        if asked.path != "/sts/exchange" or asked.method != "POST" or form is None:
            return refusal(404, 5)
        proof = asked.headers["Authorization"].removeprefix("Bearer ")
        exchange = Exchange(self._clock(), form["identity"][0], form["aud"][0], proof)
        self.requests.append(exchange)
        await asyncio.sleep(self.delay_seconds)
        rule = self._rule(exchange)
        if rule is not None and rule.hang is not None:
            await rule.hang.wait()
        elif rule is not None and rule.status is None:
            raise ConnectionBroken
        elif rule is not None:
            return Answer(rule.status or 0, rule.body, rule.headers)
        return await self._refused(exchange) or self._mint(exchange)

    def _rule(self, exchange: Exchange) -> Rule | None:
        for rule in self._rules:
            if rule.identity in (None, exchange.identity):
                rule.times -= 1
                if rule.times <= 0:
                    self._rules.remove(rule)
                return rule
        return None

    async def _refused(self, exchange: Exchange) -> Answer | None:
        if self._trust is None:
            return None
        try:
            claims = await self._trust.claims(exchange.proof)
        except UntrustedError:
            return refusal(401, 16)
        return None if claims["sub"] == self._subject else refusal(403, 7)

    def _mint(self, exchange: Exchange) -> Answer:
        now = self._clock()
        token = self._latest.get(exchange.identity)
        if token is None or not self.again:
            expires_at = int(now + self.lifetime_seconds)
            token = jwt(aud=[self._audience], sub=exchange.identity, exp=expires_at, jti=len(self.minted))
            self._latest[exchange.identity] = token
            self.minted.append(token)
        return in_json(200, {"token": token, "expiry": None}, Date=email.utils.formatdate(now, usegmt=True))


def refusal(status: int, code: int, **headers: str) -> Answer:
    """In the words of the gateway."""
    return in_json(status, {"code": code, "message": "eyJsomething", "details": []}, **headers)
