"""The port of metrics and probes on real sockets, without a cluster."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import structlog
from prometheus_client import CollectorRegistry, Gauge
from structlog.testing import capture_logs

from controller.observe.server import Address, serving

REQUEST = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@asynccontextmanager
async def served(text: str = "127.0.0.1:0", registry: CollectorRegistry | None = None) -> AsyncIterator[int]:
    """The port of a server at this address, which is healthy and not ready."""
    address = Address.parse(text)
    assert address
    async with serving(
        address,
        registry=registry or CollectorRegistry(),
        live=lambda: None,
        ready=lambda: "starting",
        log=structlog.get_logger(),
    ) as port:
        yield port


async def answer(port: int, request: bytes = REQUEST, *, host: str = "127.0.0.1") -> bytes:
    """All that comes until the server hangs up; nothing where it doesn't listen, or cuts."""
    with contextlib.suppress(OSError):
        reader, writer = await asyncio.open_connection(host, port)
        with contextlib.closing(writer):
            writer.write(request)
            return await reader.read()
    return b""


@pytest.mark.parametrize(
    ("text", "on_ipv4", "on_ipv6"),
    [
        (":0", True, True),
        ("0.0.0.0:0", True, False),
        ("127.0.0.1:0", True, False),
        ("[::]:0", False, True),
        ("[::1]:0", False, True),
    ],
)
async def test_it_listens_where_it_was_told_to_and_nowhere_else(text: str, on_ipv4: bool, on_ipv6: bool) -> None:
    if on_ipv6 and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    async with served(text) as port:
        assert bool(await answer(port, host="127.0.0.1")) == on_ipv4
        assert bool(await answer(port, host="::1")) == on_ipv6


async def test_all_addresses_are_those_of_ipv4_on_a_machine_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    async with served(":0") as port:
        assert b"200 OK" in await answer(port)


async def test_a_port_that_is_taken_is_an_error_of_the_start() -> None:
    async with served(":0") as port:
        with pytest.raises(OSError, match="in use"):
            async with served(f":{port}"):
                pass


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET /metrics", 200),
        ("GET /metrics?name=x", 200),
        ("HEAD /healthz", 200),
        ("GET /readyz", 503),
        ("GET /", 404),
        ("GET /metrics/", 404),
        ("POST /metrics", 405),
        ("GET /" + "x" * 4096, 400),
    ],
)
async def test_three_paths_are_read_and_nothing_else_is(request_line: str, status: int) -> None:
    async with served() as port:
        first, *_ = (await answer(port, f"{request_line} HTTP/1.1\r\nHost: x\r\n\r\n".encode())).splitlines()
        assert int(first.split()[1]) == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"X: " + b"x" * 4000, 200),
        (b"X: " + b"x" * 4097, 400),
        (b"\r\n".join(b"X-%d: x" % number for number in range(31)), 200),
        (b"\r\n".join(b"X-%d: x" % number for number in range(32)), 400),
    ],
)
async def test_headers_are_32_of_4_kib(headers: bytes, status: int) -> None:
    async with served() as port:
        first, *_ = (await answer(port, b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n\r\n")).splitlines()
        assert int(first.split()[1]) == status


async def test_a_body_is_never_read() -> None:
    async with served() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\n" + b"x" * 1000)
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            assert b" 405 " in await asyncio.wait_for(reader.read(), 2)


async def test_a_request_that_drips_is_cut_after_5_seconds() -> None:
    async with served() as port:
        began = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)

        async def drip() -> None:
            while True:
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n" if time.monotonic() - began < 0.1 else b"X: x\r\n")
                await asyncio.sleep(0.5)

        dripping = asyncio.create_task(drip())
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 10) == b""
        dripping.cancel()
        writer.close()
        assert 4.5 < time.monotonic() - began < 8


async def test_of_connections_that_wait_the_oldest_goes_and_a_new_one_is_answered() -> None:
    async with served() as port, contextlib.AsyncExitStack() as stack:
        held = []
        for _ in range(80):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(writer.close)
            held.append(reader)
        assert b"200 OK" in await answer(port)
        await asyncio.sleep(0.5)
        cut = [number for number, reader in enumerate(held) if reader.at_eof() or reader.exception()]
        assert cut == list(range(len(cut))), "the oldest"
        assert 80 - 56 <= len(cut) <= 80 - 56 + 2


async def test_who_takes_no_answer_holds_8_of_them_at_most() -> None:
    registry = CollectorRegistry()
    Gauge("g", "Larger than what the kernel buffers.", ["label"], registry=registry).labels("x" * 20_000_000).set(1)
    async with served(registry=registry) as port, contextlib.AsyncExitStack() as stack:
        held = []
        for _ in range(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1000)
            stack.callback(writer.close)
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readline()
            held.append(reader)

        async def is_whole(reader: asyncio.StreamReader) -> bool:
            with contextlib.suppress(ConnectionError):
                return len(await reader.read()) > 20_000_000
            return False

        assert [await is_whole(reader) for reader in held] == [False] * 12 + [True] * 8


async def test_bad_requests_are_one_line() -> None:
    with capture_logs() as lines:
        async with served() as port:
            for _ in range(20):
                await answer(port, b"GET / HTTP/1.1\r\n: x\r\n\r\n")
    assert [line["event"] for line in lines] == ["a request for metrics or health could not be answered"]
