"""The stand-in for Chainguard's token issuer: its responses, and a record of them.

It verifies the bearer with the cluster's keys, responds with the original's messages and codes, and mints signed tokens
with a configurable life. A test can change how each identity is treated at any time. `issuer.py` serves it.

The wire protocol is SecurityTokenService.Exchange behind grpc-gateway, as sdk-go of chainguard.dev speaks it.
"""

import asyncio
import email.utils
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from aiohttp import web

from testing.behaviour import Behaviour, Exchange, Fault
from testing.tokens import SigningKey, Trust, UntrustedError

AUDIENCE = "issuer.enforce.dev"
CONTROLLER = "system:serviceaccount:pull-secret-updater:controller"
IDENTITY = re.compile(r"[0-9a-f]{40}(/[0-9a-f]{16})*")
GRPC_CODES: Mapping[int, int] = {400: 3, 401: 16, 403: 7, 404: 5, 405: 12, 409: 6, 429: 8, 500: 13, 503: 14, 504: 4}


class RefusedError(Exception):
    """A refusal, with a status and a message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Issuer:
    """The state of one issuer and its HTTP handlers.

    Handlers run in one event loop. Any other thread may call everything public.
    """

    def __init__(
        self,
        trust: Trust,
        *,
        subject: str = CONTROLLER,
        default: Behaviour | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.url = ""
        """Set once the server is listening."""
        self.tokens: list[str] = []
        """Every token that was ever minted, for tests that look for leaks."""
        self._trust = trust
        self._subject = subject
        self._default = default or Behaviour()
        self._clock = clock
        self._key = SigningKey()
        self._behaviours: dict[str, Behaviour] = {}
        self._subjects: dict[str, str] = {}
        self._cache: dict[str, tuple[float, str]] = {}  # identity -> minted at, token
        self._exchanges: list[Exchange] = []
        self._recorded = threading.Condition()

    @property
    def canary(self) -> str:
        """A string that is in every token minted here and nowhere else."""
        return self._key.canary

    def behave(self, identity: str, behaviour: Behaviour) -> None:
        """From now on, treat `identity` (`*`: every identity without a behaviour) like this."""
        if identity == "*":
            self._default = behaviour
        else:
            self._behaviours[identity] = behaviour

    def trust(self, identity: str, *, subject: str) -> None:
        """Let only this ServiceAccount (`system:serviceaccount:<namespace>:<name>`) assume `identity`."""
        self._subjects[identity] = subject

    def exchanges(self, *identities: str) -> list[Exchange]:
        """The exchanges so far, oldest first; of all identities if none is given."""
        with self._recorded:
            return [one for one in self._exchanges if not identities or one.identity in identities]

    def minted(self, *identities: str) -> int:
        """How many tokens were returned for these identities."""
        return sum(one.status == 200 and one.result in {"minted", "cached"} for one in self.exchanges(*identities))

    def wait_for(self, identity: str, count: int, *, timeout: float) -> list[Exchange]:
        """The exchanges of `identity` once there are `count`; raises TimeoutError after `timeout` seconds."""
        with self._recorded:
            if not self._recorded.wait_for(lambda: len(self._of(identity)) >= count, timeout):
                raise TimeoutError(f"{len(self._of(identity))} of {count} exchanges after {timeout} s")
            return self._of(identity)

    def _of(self, identity: str) -> list[Exchange]:
        return [one for one in self._exchanges if one.identity == identity]

    def application(self, *, control: bool = False) -> web.Application:
        """The routes. With `control`, anyone who can reach the server can script it: use it on loopback or in tests."""
        app = web.Application(middlewares=[_errors_in_json], client_max_size=1 << 16)
        app.router.add_get("/sts/exchange", self._exchange)
        app.router.add_post("/sts/exchange", self._exchange)
        app.router.add_get("/.well-known/openid-configuration", self._discovery)
        app.router.add_get("/jwks", self._jwks)
        app.router.add_route("*", "/followed-a-redirect", self._followed)
        if control:
            app.router.add_post("/control", self._control)
            app.router.add_get("/exchanges", self._list)
        return app

    async def _exchange(self, request: web.Request) -> web.StreamResponse:
        asked_at = self._clock()
        identity = subject = ""
        status, result = 0, "given up by the caller"
        try:
            identity, audience = await _parameters(request)
            subject, upstream = await self._authenticate(request, identity)
            response, result = await self._answer(request, identity, audience=audience, upstream=upstream)
            status = response.status if response else 0
            return response or web.Response(status=499)
        except RefusedError as error:
            status, result = error.status, str(error)
            return _error(error.status, str(error))
        finally:
            # Also when cancelled: if a caller gives up on a hang, that is an exchange too.
            self._record(asked_at, identity=identity, subject=subject, status=status, result=result)

    async def _authenticate(self, request: web.Request, identity: str) -> tuple[str, dict[str, Any]]:
        headers = request.headers.getall("Authorization", [])
        if len(headers) != 1 or not headers[0].startswith("Bearer "):
            raise RefusedError(401, "expected exactly one authorization header")
        if not IDENTITY.fullmatch(identity):
            raise RefusedError(404, "identity not found")
        try:
            claims = await self._trust.claims(headers[0].removeprefix("Bearer "))
        except UntrustedError as error:
            raise RefusedError(401, "unable to verify bearer token") from error
        subject = str(claims["sub"])
        if subject != self._subjects.get(identity, self._subject):
            raise RefusedError(403, "subject does not match the identity")
        return subject, claims

    async def _answer(
        self, request: web.Request, identity: str, *, audience: str, upstream: dict[str, Any]
    ) -> tuple[web.Response | None, str]:
        behaviour = self._behaviours.get(identity, self._default)
        await asyncio.sleep(behaviour.delay_seconds)
        now = self._clock() + behaviour.clock_shift_seconds
        headers = {"Date": email.utils.formatdate(now, usegmt=True)}
        if behaviour.status != 200:
            if behaviour.retry_after_seconds is not None:
                headers["Retry-After"] = str(behaviour.retry_after_seconds)
            return _error(behaviour.status, "scripted", headers=headers), f"scripted {behaviour.status}"
        if behaviour.fault in {Fault.HANG, Fault.RESET, Fault.HTML, Fault.REDIRECT}:
            return await _break(request, behaviour.fault), f"scripted {behaviour.fault}"
        token, result = self._token(identity, behaviour, now=now, audience=audience, upstream=upstream)
        answer = {"token": token, "refreshToken": "", "expiry": _rfc3339(now, behaviour.expiry_seconds)}
        if behaviour.fault is Fault.OVERSIZE:
            answer["padding"] = "x" * (1 << 20)
        return web.json_response(answer, headers=headers), f"scripted {behaviour.fault}" if behaviour.fault else result

    def _token(
        self, identity: str, behaviour: Behaviour, *, now: float, audience: str, upstream: dict[str, Any]
    ) -> tuple[str, str]:
        if behaviour.fault is Fault.EMPTY_TOKEN:
            return "", "scripted empty token"
        minted_at, cached = self._cache.get(identity, (0.0, ""))
        if cached and now - minted_at < behaviour.cache_seconds:
            return cached, "cached"
        token = self._key.sign(
            {
                "iss": self.url,
                "aud": behaviour.audience or audience,
                "sub": behaviour.subject or identity,
                "iat": int(now),
                "exp": int(now + behaviour.lifetime_seconds),
                "act": {"iss": upstream["iss"], "sub": upstream["sub"], "aud": AUDIENCE},
                "cap": {},
            }
        )
        self.tokens.append(token)
        self._cache[identity] = (now, token)
        return token, "minted"

    def _record(self, asked_at: float, *, identity: str, subject: str, status: int, result: str) -> None:
        exchange = Exchange(
            asked_at=asked_at,
            answered_at=self._clock(),
            identity=identity,
            subject=subject,
            status=status,
            result=result,
        )
        with self._recorded:
            self._exchanges.append(exchange)
            self._recorded.notify_all()

    async def _discovery(self, request: web.Request) -> web.Response:
        del request
        return web.json_response(
            {
                "issuer": self.url,
                "jwks_uri": f"{self.url}/jwks",
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
            }
        )

    async def _jwks(self, request: web.Request) -> web.Response:
        del request
        return web.json_response(self._key.jwks())

    async def _followed(self, request: web.Request) -> web.Response:
        del request
        self._record(self._clock(), identity="", subject="", status=404, result="followed a redirect")
        return _error(404, "Not Found")

    async def _control(self, request: web.Request) -> web.Response:
        order = msgspec.json.decode(await request.read(), type=_Order)
        self.behave(order.identity, order.behaviour)
        return web.json_response({})

    async def _list(self, request: web.Request) -> web.Response:
        del request
        return web.Response(body=msgspec.json.encode(self.exchanges()), content_type="application/json")


class _Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /control."""

    identity: str
    behaviour: Behaviour


async def _parameters(request: web.Request) -> tuple[str, str]:
    """(identity, audience) from the query and a form body. Any other body is ignored, as the original does."""
    identity, audiences = request.query.get("identity", ""), request.query.getall("aud", [])
    if request.content_type == "application/x-www-form-urlencoded":
        form = await request.post()
        identity = str(form.get("identity", identity))
        audiences += [str(value) for value in form.getall("aud", [])]
    if not any(audiences):
        raise RefusedError(400, "Audience must be specified")
    if not identity:
        raise RefusedError(400, "identity must be provided")
    return identity, audiences[0]


async def _break(request: web.Request, fault: Fault) -> web.Response | None:
    """Respond with a fault; None if nothing was sent."""
    match fault:
        case Fault.HTML:
            return web.Response(text="<html><body>Please log in.</body></html>", content_type="text/html")
        case Fault.REDIRECT:
            return web.Response(status=307, headers={"Location": "/followed-a-redirect"})
        case Fault.RESET if request.transport is not None:
            raw = request.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST, not FIN
            request.transport.abort()
        case _:
            await asyncio.Event().wait()
    return None


@web.middleware
async def _errors_in_json(request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
    """Respond to unknown paths and methods as grpc-gateway does, in JSON."""
    try:
        response: web.StreamResponse = await handler(request)
    except web.HTTPException as error:
        return _error(error.status, error.reason)
    return response


def _error(status: int, message: str, *, headers: Mapping[str, str] | None = None) -> web.Response:
    body = {"code": GRPC_CODES.get(status, 2), "message": message, "details": []}
    return web.json_response(body, status=status, headers=headers)


def _rfc3339(now: float, seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(now + seconds, UTC).isoformat(timespec="milliseconds")
