"""One HTTP exchange, bounded in time and size, that follows no redirect and reads no proxy from the environment.

`Transport` is the seam: unit tests put an in-memory server behind it that speaks status, headers and bytes. Deadlines
are kept above the seam, so that they are tested in virtual time; whatever goes wrong below it is `Unreachable`.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import email.utils
import hashlib
import ipaddress
import socket
import ssl
import urllib.parse
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import aiohttp

CONNECT_SECONDS = 3.0
_EC2_NETWORK = ipaddress.ip_network("fd00:ec2::/32")
"""Link-local in all but name: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html"""
_KEEPALIVE_IDLE_SECONDS, _KEEPALIVE_INTERVAL_SECONDS, _KEEPALIVE_PROBES = 15, 5, 3


class Unreachable(Exception):
    """No complete answer: connect, TLS, reset, timeout, or more bytes than allowed. Holds no URL, body or header."""


class TlsFilesUnfit(Unreachable):
    """Nothing was sent: our own files for TLS are missing, or aren't what they should be."""


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


def is_endpoint(url: str) -> bool:
    """Whether it is an http or https URL of host, port and path alone, so that a path can be put behind it."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    bare = parts.username is None and parts.password is None and not parts.query and not parts.fragment
    return parts.scheme in ("http", "https") and bool(host) and bare


def is_safe_url(url: str) -> bool:
    """Whether a credential may be sent there: it is https, or never leaves the machine."""
    scheme, host = _scheme_and_host(url)
    return bool(host) and (scheme == "https" or (scheme == "http" and is_loopback(url)))


def is_ca_file(path: Path) -> bool:
    """Whether a file holds certificates in PEM; one that isn't there could."""
    try:
        ssl.create_default_context(cafile=str(path))
    except FileNotFoundError:
        return True
    except OSError:  # ssl.SSLError too
        return False
    return True


def is_loopback(url: str) -> bool:
    """Whether the host is this machine; never through a proxy."""
    _, host = _scheme_and_host(url)
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def is_link_local(url: str) -> bool:
    """Whether the host is an address that only the node answers at, as metadata servers have; never through a proxy."""
    _, host = _scheme_and_host(url)
    address = _address(host)
    return address is not None and (address.is_link_local or address in _EC2_NETWORK)


def _scheme_and_host(url: str) -> tuple[str, str]:
    try:
        parts = urllib.parse.urlsplit(url)
        return parts.scheme, parts.hostname or ""
    except ValueError:
        return "", ""


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """None of a name. An IPv4 address that is written as IPv6 is what it stands for."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


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
        self._session_for = b""
        """The digest of the CA file that the session trusts."""
        self._ca_seen: tuple[tuple[int, int, int] | None, bytes] = (None, b"")
        """Of the CA file: what shows that it was written, and the digest of what was in it then."""
        self._uses: dict[aiohttp.ClientSession, int] = {}
        """Requests under way, by session: one that a newer bundle replaced ends with the last of its own."""

    @asynccontextmanager
    async def open(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None = None
    ) -> AsyncIterator[Stream]:
        """See Transport."""
        async with self._session_in_use() as session:
            try:
                response = await session.request(
                    method, url, headers=headers, data=body, allow_redirects=False, proxy=self._proxy_for(url)
                )
            except (aiohttp.ClientError, OSError, ValueError) as error:
                # The vendor's text can hold the URL and with it what was asked for; its class says enough.
                raise Unreachable(type(error).__name__) from error
            async with response:
                yield _AiohttpStream(response)

    async def close(self) -> None:
        """Close every connection."""
        for session in list(self._uses):
            await session.close()

    def _proxy_for(self, url: str) -> str | None:
        # To these two plain HTTP is allowed, since it never leaves the machine; a proxy would carry it off.
        return None if is_loopback(url) or is_link_local(url) else self._proxy

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
        # A kubelet writes ca.crt anew whenever it rotates the token beside it; only another content is another CA.
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
