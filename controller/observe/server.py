"""/metrics, /healthz and /readyz, for whoever can reach the port.

Nobody has to authenticate, so nobody may cost much: one request a connection, its headers bounded in size and time, its
body never read. Everybody is let in: beyond 64 connections the one that has kept us waiting longest is cut. So an
attacker who holds connections loses them, and a probe, which sends its request at once, is answered.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from structlog.typing import FilteringBoundLogger

from controller.observe.logs import where

WAITING_CONNECTIONS = 56
"""Whose request isn't complete. Each can hold 32 headers of 4 KiB: 7 MiB for all."""

ANSWERED_CONNECTIONS = 8
"""Who were answered and haven't taken the answer yet; kubelet and Prometheus take it at once."""

GRACE_SECONDS = 0.1
"""Nobody is cut before, so that a burst of connections doesn't cut a probe whose request is on its way. Newcomers wait
for it in the kernel's queue, the last of it for a second."""

HEADER_SECONDS = 5.0
LINE_BYTES = 4096
HEADER_BYTES = 4096
"""Enough for the ServiceAccount token that Prometheus may be told to send."""

HEADERS = 32
TELL_SECONDS = 60.0
_SHUTDOWN_SECONDS = 1.0
_QUEUE = 512
_RECEIVE_BYTES = 16 * 1024
"""Of one connection, in the kernel: it counts as our memory. And no more is read, or held by an error, at once."""

_ADDRESS = re.compile(r"(?:\[(?P<ipv6>[^\[\]\s]+)\]|(?P<host>[^:\[\]\s]*)):(?P<port>[0-9]{1,5})")

Probe = Callable[[], str | None]
"""Returns the problem, None if there is none."""

_Answer = Callable[[web.BaseRequest], web.Response]


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen."""

    host: str | None
    """None means all addresses, of IPv4 and of IPv6."""
    port: int

    @classmethod
    def parse(cls, text: str) -> Address | None:
        """HOST:PORT, with an IPv6 address in brackets; without a host, all addresses. None if it is anything else."""
        found = _ADDRESS.fullmatch(text)
        if found is None or int(found["port"]) > 65535:
            return None
        return cls(found["ipv6"] or found["host"] or None, int(found["port"]))

    def __str__(self) -> str:
        host = self.host or ""
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


@asynccontextmanager
async def serving(
    address: Address, *, registry: CollectorRegistry, live: Probe, ready: Probe, log: FilteringBoundLogger
) -> AsyncIterator[int]:
    """Serve while the block runs; yields the port, which differs from the address's where that is 0. Raises OSError."""
    server = _Server(_answers(registry, live=live, ready=ready), log=log)
    listeners = _listen(address)
    tasks = [asyncio.create_task(server.accept(listener), name="metrics server") for listener in listeners]
    try:
        yield listeners[0].getsockname()[1]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for listener in listeners:
            listener.close()
        await server.shutdown(_SHUTDOWN_SECONDS)


def _listen(address: Address) -> list[socket.socket]:
    if address.host is not None:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        listeners = [socket.create_server(at, family=family, backlog=_QUEUE) for family, _, _, _, at in found]
    elif socket.has_dualstack_ipv6():
        every = ("", address.port)
        listeners = [socket.create_server(every, family=socket.AF_INET6, dualstack_ipv6=True, backlog=_QUEUE)]
    else:
        listeners = [socket.create_server(("", address.port), backlog=_QUEUE)]
    for listener in listeners:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)  # what it accepts inherits that
    return listeners


def _answers(registry: CollectorRegistry, *, live: Probe, ready: Probe) -> Mapping[str, _Answer]:
    def metrics(request: web.BaseRequest) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    def answer(probe: Probe) -> _Answer:
        def look(_request: web.BaseRequest) -> web.Response:
            problem = probe()
            return web.Response(status=200 if problem is None else 503, text=f"{problem or 'ok'}\n")

        return look

    return {"/metrics": metrics, "/healthz": answer(live), "/readyz": answer(ready)}


class _Server(web.Server):
    """aiohttp's low-level server, with room for a fixed number of connections."""

    def __init__(self, answers: Mapping[str, _Answer], *, log: FilteringBoundLogger) -> None:
        logger = logging.Logger("http")  # noqa: LOG001 -- none of the process's own, so it needs no name that is free
        logger.addHandler(_BadRequests(log))
        super().__init__(
            self._handle,
            logger=logger,
            access_log=None,
            max_line_size=LINE_BYTES,
            max_field_size=HEADER_BYTES,
            max_headers=HEADERS,
            # Counts from the connection on, so it bounds how long a request may take to come.
            keepalive_timeout=HEADER_SECONDS,
            # Don't read what is left of a request that was answered: close.
            lingering_time=0,
            auto_decompress=False,
        )
        self._answers = answers
        self._waiting: dict[web.RequestHandler, float] = {}
        """Since when, oldest first."""
        self._answered: dict[web.RequestHandler, asyncio.Transport] = {}
        """Oldest first."""

    async def accept(self, listener: socket.socket) -> None:
        """Let in who comes, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await self._make_room()
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError:  # it has gone already, or the process has no file descriptor left
                await asyncio.sleep(GRACE_SECONDS)
                continue
            await loop.connect_accepted_socket(self, connection)

    async def _make_room(self) -> None:
        now = asyncio.get_running_loop().time
        while len(self._waiting) >= WAITING_CONNECTIONS:
            oldest, since = next(iter(self._waiting.items()))
            if (early := since + GRACE_SECONDS - now()) > 0:
                await asyncio.sleep(early)  # and look again: it may have been answered
            else:
                del self._waiting[oldest]
                oldest.force_close()

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Called by aiohttp."""
        super().connection_made(handler, transport)
        self._waiting[handler] = asyncio.get_running_loop().time()

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """Called by aiohttp."""
        super().connection_lost(handler, exc)
        self._waiting.pop(handler, None)
        self._answered.pop(handler, None)

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        self._waiting.pop(request.protocol, None)
        if request.transport is not None:
            self._answered[request.protocol] = request.transport
        if len(self._answered) > ANSWERED_CONNECTIONS:
            self._answered.pop(next(iter(self._answered))).abort()
        response = self._answer(request)
        response.force_close()
        return response

    def _answer(self, request: web.BaseRequest) -> web.Response:
        answer = self._answers.get(request.path)
        if answer is None:
            return web.Response(status=404, text="not found\n")
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, headers={"Allow": "GET, HEAD"}, text="method not allowed\n")
        return answer(request)


class _BadRequests(logging.Handler):
    """Turns what aiohttp logs, which is a line a request, into a line a minute, with the number of all since."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        self._count = 0
        self._tell_at = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Called by aiohttp's logger."""
        self._count += 1
        now = asyncio.get_running_loop().time()
        if now < self._tell_at:
            return
        told: dict[str, Any] = {"detail": record.getMessage().partition("\n")[0], "count": self._count}
        if record.exc_info and record.exc_info[1]:
            told["error"] = where(record.exc_info[1])
        self._log.warning("a request for metrics or health could not be answered", **told)
        self._count, self._tell_at = 0, now + TELL_SECONDS
