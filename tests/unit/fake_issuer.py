"""A Chainguard issuer in memory, behind the transport seam: it speaks status, headers and bytes.

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
import urllib.parse
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from multidict import CIMultiDict

from controller.http import Stream, Unreachable
from tests.unit.virtual_time import Clock

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
    """A Chainguard issuer behind the Transport seam."""

    def __init__(self, clock: Clock, *, audience: str = "cgr.dev") -> None:
        self._clock = clock
        self._audience = audience
        self.lifetime_seconds = HOUR
        self.delay_seconds = 0.0
        self.same_token_until = 0.0
        """Before this instant the last token of an identity is handed out again."""
        self.requests: list[Exchange] = []
        self.tokens: list[str] = []
        self._latest: dict[str, tuple[str, float]] = {}
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

    @asynccontextmanager
    async def open(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None = None
    ) -> AsyncIterator[Stream]:
        """See Transport."""
        assert method == "POST"
        assert urllib.parse.urlsplit(url).path == "/sts/exchange"
        form = dict(urllib.parse.parse_qsl((body or b"").decode()))
        proof = headers["Authorization"].removeprefix("Bearer ")
        exchange = Exchange(self._clock(), form["identity"], form["aud"], proof)
        self.requests.append(exchange)
        await asyncio.sleep(self.delay_seconds)
        rule = self._rule(exchange)
        if rule is not None and rule.hang is not None:
            await rule.hang.wait()
        elif rule is not None and rule.status is None:
            raise Unreachable("ClientConnectorError")
        elif rule is not None:
            yield _Answer(rule.status or 0, CIMultiDict(rule.headers), rule.body)
            return
        yield self._mint(exchange)

    def _rule(self, exchange: Exchange) -> Rule | None:
        for rule in self._rules:
            if rule.identity in (None, exchange.identity):
                rule.times -= 1
                if rule.times <= 0:
                    self._rules.remove(rule)
                return rule
        return None

    def _mint(self, exchange: Exchange) -> _Answer:
        now = self._clock()
        token, expires_at = self._latest.get(exchange.identity, ("", 0.0))
        if not token or now >= self.same_token_until:
            expires_at = now + self.lifetime_seconds
            token = jwt(aud=[self._audience], sub=exchange.identity, exp=int(expires_at), jti=len(self.tokens))
            self._latest[exchange.identity] = token, expires_at
            self.tokens.append(token)
        headers = CIMultiDict({"Date": email.utils.formatdate(now, usegmt=True)})
        return _Answer(200, headers, json.dumps({"token": token, "expiry": None}).encode())


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """See Stream."""
        yield self.body
