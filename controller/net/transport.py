"""One HTTP exchange, bounded in time and size, that follows no redirect and reads no proxy from the environment.

`Transport` is the seam: unit tests put an in-memory server behind it that speaks status, headers and bytes. Deadlines
are kept above the seam, so that tests run them in virtual time; every failure below it is `Unreachable`.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import email.utils
import hashlib
import os
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from controller.net.urls import host_and_port, is_host_in, is_link_local, is_loopback

CONNECT_SECONDS = 3.0
_MAX_HEADER_BYTES = 8 * 1024
_KEEPALIVE_IDLE_SECONDS, _KEEPALIVE_INTERVAL_SECONDS, _KEEPALIVE_PROBES = 15, 5, 3


class Unreachable(Exception):
    """No complete answer: connect, TLS, reset, timeout, or more bytes than allowed.

    The text is for the log: host, port and reason. It holds no path, query, header or body.
    """


class TooLarge(Unreachable):
    """More bytes than allowed."""


class TlsFilesUnfit(Unreachable):
    """Nothing was sent: our own files for TLS are missing or not valid."""


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
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


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
                        raise TooLarge(f"{host_and_port(url)}: answer larger than {max_bytes} bytes")
            return Reply(stream.status, stream.headers, bytes(content))
    except TimeoutError as error:
        raise Unreachable(f"{host_and_port(url)}: no answer within {total_seconds:g} s") from error


def retry_after_seconds(headers: Mapping[str, str], now: float) -> float | None:
    """`Retry-After` in seconds from `now` (RFC 9110 10.2.3: seconds or an HTTP date), None if there is none."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    at = http_date(value)
    return None if at is None else max(0.0, at - now)


def http_date(value: str | None) -> float | None:
    """An HTTP date (RFC 9110 5.6.7) in seconds since the epoch, None if it is missing or unreadable."""
    try:
        parsed = email.utils.parsedate_to_datetime(value or "")
    except (ValueError, OverflowError):
        return None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=dt.UTC)).timestamp()


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Verifies what client-go verifies, with every Python: against `ca_file`, else against the system's roots.

    Python 3.13 refuses a certificate without Authority Key Identifier, as API servers of some EKS, GKE and k3s clusters
    have; Python before 3.13 refuses a CA file that holds an intermediate CA and not its root. Raises OSError.
    """
    context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def is_ca_file(path: Path) -> bool:
    """Whether a file holds certificates in PEM. A missing one may: it is checked when it is needed."""
    try:
        tls_context(path)
    except FileNotFoundError:
        return True
    except OSError:  # ssl.SSLError too
        return False
    return True


class AiohttpTransport:
    """The real transport: aiohttp, TLS verified against `ca_file` or the system's roots.

    `ca_file` is checked before every request, so a rotated bundle needs no restart. TCP keepalive detects a peer that
    vanished, within 30 s (15 s idle, 3 probes 5 s apart), which HTTP/1.1 alone never does.
    """

    def __init__(
        self,
        *,
        ca_file: Path | None = None,
        client_certificate: tuple[Path, Path] | None = None,
        verify: bool = True,
        proxy: str | None = None,
        no_proxy: Collection[str] = (),
        connections: int = 64,
    ) -> None:
        self._ca_file = ca_file
        self._client_certificate = client_certificate
        self._verify = verify
        self._proxy = proxy
        self._no_proxy = tuple(no_proxy)
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None
        self._session_for = b""
        """The digest of the CA file that the session trusts."""
        self._ca_seen: tuple[tuple[int, int, int] | None, bytes] = (None, b"")
        """The CA file's time, inode and size when it was last read, and the digest of its content."""
        self._uses: dict[aiohttp.ClientSession, int] = {}
        """Requests under way, by session: a session that a newer bundle replaced closes with its last request."""

    @asynccontextmanager
    async def open(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None = None
    ) -> AsyncIterator[Stream]:
        """See Transport."""
        proxy = self._proxy_for(url)
        place = host_and_port(url) + (f" through {host_and_port(proxy)}" if proxy else "")
        async with self._session_in_use() as session:
            try:
                response = await session.request(
                    method, url, headers=headers, data=body, allow_redirects=False, proxy=proxy
                )
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise Unreachable(f"{place}: {_reason(error)}") from error
            async with response:
                yield _AiohttpStream(response, place)

    async def close(self) -> None:
        """Close every connection."""
        for session in list(self._uses):
            await session.close()

    def _proxy_for(self, url: str) -> str | None:
        # Plain HTTP is allowed to these two, since it never leaves the machine; a proxy would take it elsewhere.
        is_direct = is_loopback(url) or is_link_local(url) or is_host_in(url, self._no_proxy)
        return None if is_direct else self._proxy

    @asynccontextmanager
    async def _session_in_use(self) -> AsyncIterator[aiohttp.ClientSession]:
        session = self._current_session()
        self._uses[session] += 1
        try:
            yield session
        finally:
            self._uses[session] -= 1
            for over in [s for s, uses in self._uses.items() if uses == 0 and s is not self._session]:
                del self._uses[over]
                await over.close()

    def _current_session(self) -> aiohttp.ClientSession:
        try:
            return self._session_of_files()
        except OSError as error:  # ssl.SSLError too
            raise TlsFilesUnfit(type(error).__name__) from error

    def _session_of_files(self) -> aiohttp.ClientSession:
        digest = self._ca_digest(self._ca_file) if self._ca_file else b""
        if self._session is None or digest != self._session_for:
            self._session, self._session_for = self._new_session(), digest
            self._uses[self._session] = 0
        return self._session

    def _ca_digest(self, file: Path) -> bytes:
        # A kubelet rewrites ca.crt whenever it rotates the token beside it; only new content is a new CA.
        stat = file.stat()
        written = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        if self._ca_seen[0] != written:
            self._ca_seen = (written, hashlib.sha256(file.read_bytes()).digest())
        return self._ca_seen[1]

    def _new_session(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            ssl=self._tls(), limit=self._connections, socket_factory=_socket_with_keepalive, happy_eyeballs_delay=0.25
        )
        return aiohttp.ClientSession(
            connector=connector,
            # Only connecting is bounded here: aiohttp's default total of 300 s would cut every healthy watch.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, connect=None),
            trust_env=False,
            # Decompressed, an answer would exceed the bytes that are counted; so none is asked for or decompressed.
            auto_decompress=False,
            max_line_size=_MAX_HEADER_BYTES,
            max_field_size=_MAX_HEADER_BYTES,
            headers={"User-Agent": "pull-secret-updater", "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    def _tls(self) -> ssl.SSLContext | bool:
        if not self._verify:
            return False
        context = tls_context(self._ca_file)
        if self._client_certificate is not None:
            certificate, key = self._client_certificate
            context.load_cert_chain(certificate, key)
        return context


class _AiohttpStream:
    def __init__(self, response: aiohttp.ClientResponse, place: str) -> None:
        self._response = response
        self._place = place
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"{self._place}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Words of OpenSSL and of the system, which quote at most our own host; of any other error the class.

    Its text can hold the URL, and with it what was asked for.
    """
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return f"no connection within {CONNECT_SECONDS:g} s"
    match error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error.__cause__ or error:
        case ssl.SSLCertVerificationError() as unverified:
            return f"certificate verify failed: {unverified.verify_message}"
        case ssl.SSLError(reason=str(reason)):
            return f"TLS failed: {reason}"
        case socket.gaierror():
            return "the name can't be resolved"
        case OSError(errno=int(number)):
            return os.strerror(number)
        case HttpProcessingError(message=str(text)) if text.startswith("Got more than"):  # made of a LineTooLong
            return f"a line of the answer's header is longer than {_MAX_HEADER_BYTES:,} bytes"
    return type(error).__name__


def _socket_with_keepalive(address: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, _, _ = address
    connection = socket.socket(family=family, type=kind, proto=protocol)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):  # Linux; elsewhere the system's own interval
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)
    return connection
