"""What all vendor stand-ins share: requests and responses as plain values, and faults on the way.

A vendor is an object with `async handle(Asked) -> Answer`; it doesn't use sockets. `Wire` can script faults in front of
it, and records requests, so that a unit test can call it on virtual time. `serving` serves it over HTTP.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import socket
import struct
import threading
import urllib.parse
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self

from aiohttp import web
from multidict import CIMultiDict


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, as it arrived."""

    method: str
    url: str
    """Scheme, host, path and query, as they were sent."""
    headers: CIMultiDict[str]
    body: bytes = b""

    @property
    def host(self) -> str:
        """The host, with the port if there is one."""
        return urllib.parse.urlsplit(self.url).netloc

    @property
    def path(self) -> str:
        """The path as it was sent, including percent-encoding."""
        return urllib.parse.urlsplit(self.url).path

    @property
    def query(self) -> str:
        """The query as it was sent, without the question mark."""
        return urllib.parse.urlsplit(self.url).query

    def parameters(self) -> dict[str, list[str]]:
        """The parameters in the query."""
        return urllib.parse.parse_qs(self.query, keep_blank_values=True)

    def form(self) -> dict[str, list[str]] | None:
        """The form in the body; None if it isn't one."""
        if self.headers.get("Content-Type", "").partition(";")[0] != "application/x-www-form-urlencoded":
            return None
        return urllib.parse.parse_qs(self.body.decode(), keep_blank_values=True)

    def json(self) -> dict[str, Any] | None:
        """The JSON object in the body; None if it isn't one."""
        if self.headers.get("Content-Type", "").partition(";")[0] != "application/json":
            return None
        try:
            value = json.loads(self.body)
        except ValueError:
            return None
        return value if isinstance(value, dict) else None


@dataclass(frozen=True, slots=True)
class Answer:
    """One response, byte for byte."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


def in_json(status: int, content: object, **headers: str) -> Answer:
    """An answer in JSON; an underscore in a header's name becomes a hyphen."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, json.dumps(content).encode(), {"Content-Type": "application/json", **named})


class Hang:
    """In a script: accept the request and never respond."""


class Reset:
    """In a script: break the connection instead of responding."""


@dataclass(frozen=True, slots=True)
class Slow:
    """In a script: respond as usual, but later."""

    seconds: float


class ConnectionBroken(Exception):
    """How a Reset appears to the transport."""


Scripted = Answer | Hang | Reset | Slow | Callable[[], Answer]
"""What a script has instead of the vendor's response; a function is called when it is due."""

HTML = Answer(200, b"<html><body>Please log in.</body></html>", {"Content-Type": "text/html"})
"""A page as from a captive portal."""
TRUNCATED = Answer(200, b'{"token": "eyJ', {"Content-Type": "application/json"})
EMPTY = Answer(200)
OVERSIZE = Answer(200, b'{"padding": "' + b"x" * (1 << 20) + b'"}', {"Content-Type": "application/json"})
REDIRECT = Answer(307, b"", {"Location": "http://127.0.0.1:1/followed-a-redirect"})


class Vendor(Protocol):
    """One service. Unknown paths get 404, wrong methods 404 or 405, as from the original."""

    async def handle(self, asked: Asked) -> Answer:
        """Answer one request."""
        ...


class Wire:
    """Passes requests to a vendor, unless the script says otherwise; None in a script passes one request."""

    def __init__(self, vendor: Vendor, *, clock: Callable[[], float]) -> None:
        self.script: deque[Scripted | None] = deque()
        self.asked: list[Asked] = []
        self._vendor = vendor
        self._clock = clock

    async def answer(self, asked: Asked) -> Answer:
        """The answer, with a Date. Raises ConnectionBroken."""
        self.asked.append(asked)
        scripted = self.script.popleft() if self.script else None
        match scripted:
            case Hang():
                await asyncio.Event().wait()
            case Reset():
                raise ConnectionBroken
            case Slow(seconds):
                await asyncio.sleep(seconds)
        if callable(scripted):
            scripted = scripted()
        answer = scripted if isinstance(scripted, Answer) else await self._vendor.handle(asked)
        date = email.utils.formatdate(self._clock(), usegmt=True)
        return Answer(answer.status, answer.body, {"Date": date, **answer.headers})


def application(wire: Wire) -> web.Application:
    """Serves a wire over HTTP."""

    async def carry(request: web.Request) -> web.StreamResponse:
        url = f"{request.scheme}://{request.host}{request.raw_path}"
        asked = Asked(request.method, url, CIMultiDict(request.headers), await request.read())
        try:
            answer = await wire.answer(asked)
        except ConnectionBroken:
            if request.transport is not None:
                raw = request.transport.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST, not FIN
                request.transport.abort()
            return web.Response(status=499)
        return web.Response(status=answer.status, body=answer.body, headers=answer.headers)

    app = web.Application(client_max_size=1 << 16)
    app.router.add_route("*", "/{path:.*}", carry)
    return app


@asynccontextmanager
async def serving(wire: Wire, listener: socket.socket) -> AsyncIterator[str]:
    """Serve a wire on a socket bound to a loopback address; yields its URL."""
    # A hang ends when the handler is cancelled because its caller has left.
    runner = web.AppRunner(application(wire), access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        yield url_of(listener)
    finally:
        await runner.cleanup()


class Servers:
    """Serves any number of wires in a separate thread and event loop, for tests that block."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="stand-ins", daemon=True)
        self._running = AsyncExitStack()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._running.aclose(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def serve(self, wire: Wire, listener: socket.socket | None = None) -> str:
        """Serve a wire until the end, on a free loopback port unless a socket is given; returns its URL."""
        running = self._running.enter_async_context(serving(wire, listener or listen()))
        return asyncio.run_coroutine_threadsafe(running, self._loop).result(10)


def listen(port: int = 0) -> socket.socket:
    """A socket on loopback, so that its URL is known before anything is served. Port 0 means any free port."""
    return socket.create_server(("127.0.0.1", port))


def url_of(listener: socket.socket) -> str:
    """The URL of a server on that socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
