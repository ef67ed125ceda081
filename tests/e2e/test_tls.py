"""The real transport and real certificates: what client-go verifies is verified, and a failure says why."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from controller.net.transport import AiohttpTransport, Unreachable, fetch
from hack import pki

BOTH = [pytest.param(True, id="with key identifiers"), pytest.param(False, id="without key identifiers")]
LOOPBACKS = ["127.0.0.1", pytest.param("::1", marks=pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6"))]


class Hosts:
    """A CA, and servers whose certificates it signs."""

    def __init__(self, directory: Path, *, key_identifiers: bool = True) -> None:
        self.authority = pki.make_authority(key_identifiers=key_identifiers)
        self.ca_file = directory / "ca.crt"
        self.ca_file.write_bytes(self.authority.certificate)
        self._directory = directory

    @asynccontextmanager
    async def serve(
        self,
        address: str = "127.0.0.1",
        *,
        named: str | None = None,
        tls: bool = True,
    ) -> AsyncIterator[str]:
        """A server at this address, whose certificate is for the address `named`; yields its URL."""
        pair = pki.make_server(self.authority, addresses=[named or address])
        certificate, key = self._directory / "tls.crt", self._directory / "tls.key"
        certificate.write_bytes(pair.certificate)
        pki.write_private(key, pair.key)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        runner = web.ServerRunner(web.Server(_answer, access_log=None), shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, address, 0, ssl_context=context if tls else None).start()
            host = f"[{address}]" if ":" in address else address
            yield f"https://{host}:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


async def _answer(_: web.BaseRequest) -> web.Response:
    return web.Response(text="ok")


async def get(url: str, ca_file: Path | None = None) -> int:
    """The status. Raises Unreachable."""
    transport = AiohttpTransport(ca_file=ca_file)
    try:
        reply = await fetch(transport, "GET", f"{url}/the-path?hush", headers={}, total_seconds=5, max_bytes=1000)
        return reply.status
    finally:
        await transport.close()


async def why(url: str, ca_file: Path | None = None) -> str:
    """What is told of a request that fails."""
    with pytest.raises(Unreachable) as caught:
        await get(url, ca_file)
    assert not any(word in str(caught.value) for word in ("the-path", "hush", "https"))
    return str(caught.value)


@pytest.mark.parametrize("key_identifiers", BOTH)
@pytest.mark.parametrize("address", LOOPBACKS)
async def test_a_certificate_without_authority_key_identifier_is_taken(
    tmp_path: Path, address: str, key_identifiers: bool
) -> None:
    hosts = Hosts(tmp_path, key_identifiers=key_identifiers)
    async with hosts.serve(address) as url:
        assert await get(url, hosts.ca_file) == 200


async def test_a_ca_file_need_not_hold_the_root(tmp_path: Path) -> None:
    hosts = Hosts(tmp_path)
    async with hosts.serve() as url:
        assert await get(url, tmp_path / "tls.crt") == 200


@pytest.mark.parametrize("key_identifiers", BOTH)
async def test_a_server_of_another_ca_is_refused_and_the_reason_told(tmp_path: Path, key_identifiers: bool) -> None:
    hosts = Hosts(tmp_path, key_identifiers=key_identifiers)
    (tmp_path / "other").mkdir()
    other = Hosts(tmp_path / "other", key_identifiers=key_identifiers)
    async with hosts.serve() as url:
        told = await why(url, other.ca_file)
        assert told.startswith(f"{url.removeprefix('https://')}: certificate verify failed: ")
        assert told.endswith(("unable to get local issuer certificate", "certificate signature failure"))
        assert "unable to get local issuer certificate" in await why(url)


async def test_a_certificate_for_another_address_is_refused_and_the_reason_told(tmp_path: Path) -> None:
    hosts = Hosts(tmp_path)
    async with hosts.serve(named="192.0.2.1") as url:
        mismatch = "certificate verify failed: IP address mismatch, certificate is not valid for '127.0.0.1'."
        assert await why(url, hosts.ca_file) == f"{url.removeprefix('https://')}: {mismatch}"


async def test_a_server_that_speaks_no_tls_is_told_apart(tmp_path: Path) -> None:
    hosts = Hosts(tmp_path)
    async with hosts.serve(tls=False) as url:
        assert "TLS failed: " in await why(url, hosts.ca_file)


@pytest.mark.parametrize("address", LOOPBACKS)
async def test_a_port_that_nobody_listens_on_is_named(address: str) -> None:
    with socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET) as listener:
        port = listener.getsockname()[1]
    place = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    assert await why(f"https://{place}") == f"{place}: Connection refused"


async def test_a_name_that_nobody_knows_is_told() -> None:
    assert await why("https://issuer.invalid") == "issuer.invalid:443: the name can't be resolved"
