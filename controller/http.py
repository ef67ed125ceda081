"""One HTTP exchange, bounded in time and size, that follows no redirect and reads no proxy from the environment.

`Transport` is the seam: unit tests put an in-memory server behind it that speaks status, headers and bytes. Deadlines
are kept above the seam, so that they are tested in virtual time; whatever goes wrong below it is `Unreachable`.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import email.utils
import ipaddress
import socket
import ssl
import urllib.parse
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import aiohttp

CONNECT_SECONDS = 3.0
_EC2_NETWORK = ipaddress.ip_network("fd00:ec2::/32")
"""Link-local in all but name: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html"""
_KEEPALIVE_IDLE_SECONDS, _KEEPALIVE_INTERVAL_SECONDS, _KEEPALIVE_PROBES = 15, 5, 3


class Unreachable(Exception):
    """No complete answer: connect, TLS, reset, timeout, or more bytes than allowed. Holds no URL, body or header."""


class Stream(Protocol):
    """An answer whose body is still to be read. `headers` finds names in any case."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body, split anywhere. Raises Unreachable when it breaks off."""
        ...


class Transport(Protocol):
    """Sends one request. Raises Unreachable when no status arrives."""

    def open(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None = None
    ) -> AbstractAsyncContextManager[Stream]: ...


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


async def fetch(
    transport: Transport,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    body: bytes | None = None,
    total_seconds: float,
    max_bytes: int,
) -> Reply:
    """Send a request and read its whole answer. Raises Unreachable after `total_seconds` or `max_bytes`."""
    try:
        async with (
            asyncio.timeout(total_seconds),
            transport.open(method, url, headers=headers, body=body) as stream,
        ):
            content = bytearray()
            async with aclosing(stream.chunks()) as chunks:
                async for chunk in chunks:
                    content += chunk
                    if len(content) > max_bytes:
                        raise Unreachable(f"answer larger than {max_bytes} bytes")
            return Reply(stream.status, stream.headers, bytes(content))
    except TimeoutError as error:
        raise Unreachable(f"no answer within {total_seconds:g} s") from error


def retry_after_seconds(headers: Mapping[str, str], now: float) -> float | None:
    """`Retry-After` in seconds from `now` (RFC 9110 10.2.3: seconds or an HTTP date), None where there is none."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    at = http_date(value)
    return None if at is None else max(0.0, at - now)


def http_date(value: str | None) -> float | None:
    """An HTTP date (RFC 9110 5.6.7) in seconds since the epoch, None where it is missing or unreadable."""
    try:
        parsed = email.utils.parsedate_to_datetime(value or "")
    except (ValueError, OverflowError):
        return None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=dt.UTC)).timestamp()


def is_safe_url(url: str) -> bool:
    """Whether a credential may be sent there: it is https, or never leaves the machine."""
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host)))


def is_link_local(url: str) -> bool:
    """Whether the host is an address that only the node answers at, as metadata servers have; never through a proxy."""
    try:
        address = ipaddress.ip_address(urllib.parse.urlsplit(url).hostname or "")
    except ValueError:
        return False
    return address.is_link_local or address in _EC2_NETWORK


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class AiohttpTransport:
    """The real transport: aiohttp, TLS verified against `ca_file` or the system's roots.

    `ca_file` is looked at before every request, so a rotated bundle needs no restart. TCP keepalive finds a peer that
    vanished within 30 s (15 s idle, 3 probes 5 s apart), which HTTP/1.1 alone never does.
    """

    def __init__(
        self,
        *,
        ca_file: Path | None = None,
        client_certificate: tuple[Path, Path] | None = None,
        verify: bool = True,
        proxy: str | None = None,
        connections: int = 64,
    ) -> None:
        self._ca_file = ca_file
        self._client_certificate = client_certificate
        self._verify = verify
        self._proxy = proxy
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None
        self._session_for: tuple[int, int] | None = None
        self._retiring: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def open(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None = None
    ) -> AsyncIterator[Stream]:
        """See Transport."""
        try:
            response = await self._current_session().request(
                method, url, headers=headers, data=body, allow_redirects=False, proxy=self._proxy_for(url)
            )
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # The vendor's text can hold the URL and with it what was asked for; its class says enough.
            raise Unreachable(type(error).__name__) from error
        async with response:
            yield _AiohttpStream(response)

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
        for task in list(self._retiring):
            await task

    def _proxy_for(self, url: str) -> str | None:
        return None if is_link_local(url) else self._proxy

    def _current_session(self) -> aiohttp.ClientSession:
        stat = self._ca_file.stat() if self._ca_file else None
        version = (stat.st_mtime_ns, stat.st_ino) if stat else None
        if self._session is None or version != self._session_for:
            if self._session is not None:
                retired = asyncio.create_task(self._session.close())
                self._retiring.add(retired)
                retired.add_done_callback(self._retiring.discard)
            self._session, self._session_for = self._new_session(), version
        return self._session

    def _new_session(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            ssl=self._tls(), limit=self._connections, socket_factory=_socket_with_keepalive, happy_eyeballs_delay=0.25
        )
        return aiohttp.ClientSession(
            connector=connector,
            # Only connecting is bounded here: aiohttp's default of 300 s in all would cut every healthy watch.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, connect=None),
            trust_env=False,
            # A compressed answer would be larger than the bytes that are counted; so none is asked for or unpacked.
            auto_decompress=False,
            headers={"User-Agent": "pull-secret-updater", "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    def _tls(self) -> ssl.SSLContext | bool:
        if not self._verify:
            return False
        context = ssl.create_default_context(cafile=str(self._ca_file) if self._ca_file else None)
        if self._client_certificate is not None:
            certificate, key = self._client_certificate
            context.load_cert_chain(certificate, key)
        return context


class _AiohttpStream:
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(type(error).__name__) from error


def _socket_with_keepalive(address: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, _, _ = address
    connection = socket.socket(family=family, type=kind, proto=protocol)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):  # Linux; elsewhere the system's own interval
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)
    return connection
