"""The process between real sockets, without a cluster: its probes, its HTTP client, its pools of connections, its end.

The API server and the issuer are those that the unit tests keep in memory; here they are served on loopback.
"""

from __future__ import annotations

import asyncio
import gzip
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
import yaml
from aiohttp import web
from prometheus_client import CollectorRegistry
from structlog.testing import LogCapture

from controller import app, config
from controller.kube.errors import StartError
from controller.net.transport import AiohttpTransport, Reply, Transport, Unreachable, fetch
from controller.observe.server import Address, serving
from hack.pki import Pair, make_authority, make_client, make_server
from testing import wire
from testing.wire import Answer, Asked, Wire
from tests.unit.engine import NAME, asking, identity
from tests.unit.fake_api import FakeApi
from tests.unit.fake_issuer import Issuer, jwt

SIGNALS = (signal.SIGTERM, signal.SIGINT)
TEAMS = 70
"""More than the 64 connections of a pool."""


@asynccontextmanager
async def served(transport: Transport) -> AsyncIterator[str]:
    """Serve what is behind a transport in memory; yields the URL."""

    async def carry(request: web.Request) -> web.StreamResponse:
        url, body = str(request.url), await request.read()
        async with transport.open(request.method, url, headers=request.headers, body=body or None) as stream:
            response = web.StreamResponse(status=stream.status, headers=stream.headers)
            await response.prepare(request)
            async for chunk in stream.chunks():
                await response.write(chunk)
            return response

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", carry)
    runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class World:
    """An API server, an issuer and a controller between them."""

    def __init__(self, directory: Path, api_url: str, issuer_url: str) -> None:
        self.directory = directory
        self.capture = LogCapture()
        self.kubeconfig = directory / "kubeconfig"
        self.kubeconfig.write_text(yaml.safe_dump(_kubeconfig(api_url)))
        proof = directory / "proof"
        proof.write_text(jwt(aud=["issuer.enforce.dev"], sub="system:serviceaccount:a:b"))
        chainguard = {"type": "chainguard", "issuer": issuer_url, "tokenFile": str(proof)}
        self.content: dict[str, Any] = {"providers": {"chainguard": chainguard}}

    async def run(self, *, port: int = 0) -> None:
        """As the command does."""
        log = structlog.wrap_logger(None, processors=[self.capture])
        settings = config.load(None, self.content)
        await app.run(settings, kubeconfig=self.kubeconfig, metrics_address=Address("127.0.0.1", port), log=log)

    def logged(self, text: str) -> list[Any]:
        """The entries with that sentence."""
        return [entry for entry in self.capture.entries if entry["event"] == text]

    async def get(self, path: str) -> tuple[int, str]:
        """What the controller's own server answers."""
        [entry] = self.logged("controller started")
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{entry['metrics_port']}{path}") as response,
        ):
            return response.status, await response.text()


def _kubeconfig(url: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": "token-1"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }


@pytest.fixture
def api() -> FakeApi:
    return FakeApi(time.time)


@pytest.fixture
async def world(api: FakeApi, tmp_path: Path) -> AsyncIterator[World]:
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    issuer = Wire(Issuer(time.time), clock=time.time)
    with wire.listen() as listener:
        async with served(api.transport) as api_url, wire.serving(issuer, listener) as issuer_url:
            yield World(tmp_path, api_url, issuer_url)
    for number, handler in handlers.items():
        asyncio.get_running_loop().remove_signal_handler(number)
        signal.signal(number, handler)


async def until(look: Callable[[], object], *, seconds: float = 10.0) -> None:
    """Wait for something to be so."""
    async with asyncio.timeout(seconds):
        while not look():  # noqa: ASYNC110 -- what is waited for knows nothing of us
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(world: World) -> AsyncIterator[asyncio.Task[None]]:
    """A controller that has started; it is cancelled at the end if it hasn't ended by then."""
    task = asyncio.create_task(world.run())
    try:
        await until(lambda: task.done() or world.logged("controller started"))
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_readyz_is_503_until_the_secrets_are_listed_and_healthz_is_200_meanwhile(
    world: World, api: FakeApi
) -> None:
    api.fail("list", 503, times=10_000)
    async with running(world):
        status, text = await world.get("/readyz")
        assert status == 503
        assert "first list" in text
        assert await world.get("/healthz") == (200, "ok\n")
        api.heal()
        await until(lambda: api.watches)
        assert await world.get("/readyz") == (200, "ok\n")


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/healthz", (503, "dead\n")),
        ("/readyz", (503, "early\n")),
        ("/metrics", (200, "")),
        ("/", (404, "not found\n")),
    ],
)
async def test_each_probe_answers_for_itself(path: str, answer: tuple[int, str]) -> None:
    probes: dict[str, Callable[[], str]] = {"live": lambda: "dead", "ready": lambda: "early"}
    async with (
        serving(Address("127.0.0.1", 0), registry=CollectorRegistry(), **probes, log=structlog.get_logger()) as port,
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}{path}") as response,
    ):
        assert (response.status, await response.text()) == answer


async def test_a_secret_is_filled_and_metrics_say_so_until_sigterm_closes_every_connection(
    world: World, api: FakeApi
) -> None:
    api.put_secret("team-a", NAME, annotations=asking(identity=identity(1)), config={})
    async with running(world) as task:
        await until(lambda: "cgr.dev" in api.config("team-a", NAME).get("auths", {}))
        status, text = await world.get("/metrics")
        assert status == 200
        assert "pull_secret_updater_managed_claims 1.0" in text.splitlines()
        assert 'pull_secret_updater_relists_total{reason="start"} 1.0' in text.splitlines()
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait_for(task, 5)
    assert api.answers_open == 0, "no connection to the API server is left"


async def test_a_flood_of_writes_never_takes_the_watchs_connection(world: World, api: FakeApi) -> None:
    """Every connection for requests waits for an answer, and the watch breaks off."""
    world.content["limits"] = {"writeConcurrency": TEAMS}
    api.fail("patch", 200, after_seconds=60, times=10 * TEAMS)
    for number in range(TEAMS):
        api.put_secret(f"team-{number}", NAME, annotations=asking(identity=identity(1)), config={})
    async with running(world):
        await until(lambda: len(api.requests_of("patch")) >= 64 - 1)
        before = len(api.requests_of("watch"))
        api.end_watches()
        await until(lambda: len(api.requests_of("watch")) > before, seconds=5)


@pytest.mark.parametrize("scope", ["namespaces", "name"])
async def test_the_65th_namespace_or_name_is_served_like_the_first(world: World, api: FakeApi, scope: str) -> None:
    """Each has a watch of its own, and each watch a connection."""
    named = [f"team-{number}" for number in range(TEAMS)]
    world.content |= {"scope": scope, {"namespaces": "namespaces", "name": "secretNames"}[scope]: named}
    places = [(each, NAME) if scope == "namespaces" else ("team", each) for each in named]
    async with running(world):
        await until(lambda: len(api.watches) == TEAMS)
        assert (await world.get("/readyz"))[0] == 200
        for namespace, name in places:
            api.put_secret(namespace, name, annotations=asking(identity=identity(1)), config={})
        await until(lambda: all("cgr.dev" in api.config(*place).get("auths", {}) for place in places))
    [started] = world.logged("controller started")
    assert started["watches"] == TEAMS
    assert started["watched_names"] == (["*"] if scope == "namespaces" else sorted(named))
    assert started["watched_namespaces"] == (sorted(named) if scope == "namespaces" else ["*"])


async def test_an_address_that_is_taken_is_told_in_words(world: World) -> None:
    with wire.listen() as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=rf"^can't listen on 127\.0\.0\.1:{port}: "):
            await world.run(port=port)


async def test_without_the_policies_that_it_requires_it_does_not_start(world: World, api: FakeApi) -> None:
    world.content["requirePolicies"] = True
    with pytest.raises(StartError, match="pull-secret-updater-use-identity"):
        await world.run()
    assert api.requests_of("list") == []


# The HTTP client.


class Vendor:
    """Answers always the same."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    async def handle(self, asked: Asked) -> Answer:
        """See testing.wire.Vendor."""
        del asked
        return self.answer


@asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[tuple[str, Wire]]:
    """A server that answers always the same."""
    server = Wire(Vendor(answer), clock=time.time)
    with wire.listen() as listener:
        async with wire.serving(server, listener) as url:
            yield url, server


@asynccontextmanager
async def client(**settings: Any) -> AsyncIterator[AiohttpTransport]:
    """The real transport."""
    transport = AiohttpTransport(**settings)
    try:
        yield transport
    finally:
        await transport.close()


async def get(transport: Transport, url: str, *, max_bytes: int = 64 * 1024, total_seconds: float = 5.0) -> Reply:
    return await fetch(transport, "GET", url, headers={}, total_seconds=total_seconds, max_bytes=max_bytes)


async def test_a_compressed_answer_is_not_unpacked_so_that_a_small_one_never_fills_the_memory() -> None:
    """Nobody asked for it: a megabyte of nothing is a kilobyte on the wire, and those bytes are all that is counted."""
    bomb = gzip.compress(b"\0" * (1 << 20))
    async with answering(Answer(200, bomb, {"Content-Encoding": "gzip"})) as (url, server), client() as transport:
        reply = await get(transport, url)
        assert reply.body == bomb
        assert server.asked[0].headers["Accept-Encoding"] == "identity"


async def test_requests_say_who_asks_and_bring_back_no_cookie() -> None:
    async with answering(Answer(200, b"", {"Set-Cookie": "a=b"})) as (url, server), client() as transport:
        for _ in range(2):
            await get(transport, url)
        assert [asked.headers["User-Agent"] for asked in server.asked] == ["pull-secret-updater"] * 2
        assert not any("Cookie" in asked.headers for asked in server.asked)


async def test_an_answer_that_breaks_off_is_unreachable_and_not_half_an_answer() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server, client() as transport:
        with pytest.raises(Unreachable, match=r"^127\.0\.0\.1:\d+: ClientPayloadError$"):
            await get(transport, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")


async def test_a_line_of_the_header_over_8_kib_is_said_as_that() -> None:
    for length, fits in ((8000, True), (8300, False)):
        async with answering(Answer(200, b"", {"X-Long": "x" * length})) as (url, _), client() as transport:
            if fits:
                await get(transport, url)
                continue
            with pytest.raises(Unreachable, match=r": a line of the answer's header is longer than 8,192 bytes$"):
                await get(transport, url)


@pytest.mark.parametrize(("connections", "arrived"), [(1, 1), (2, 2), (5, 3)])
async def test_no_more_connections_are_open_than_allowed(connections: int, arrived: int) -> None:
    async with answering(Answer(200)) as (url, server), client(connections=connections) as transport:
        server.script.extend([wire.Hang()] * 3)
        tasks = [asyncio.create_task(get(transport, url)) for _ in range(3)]
        await until(lambda: len(server.asked) >= arrived)
        await asyncio.sleep(0.05)
        assert len(server.asked) == arrived
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE"), reason="the system has an interval of its own")
async def test_a_peer_that_vanishes_is_found_within_30_seconds() -> None:
    """W7: by TCP keepalive, 15 s idle and 3 probes 5 s apart."""
    async with (
        answering(wire.OVERSIZE) as (url, _),
        client() as transport,
        transport.open("GET", url, headers={}) as stream,
    ):
        connection = stream._response.connection.transport.get_extra_info("socket")  # type: ignore[attr-defined]
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        assert [connection.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [15, 5, 3]


@asynccontextmanager
async def behind_tls(authority: Pair, directory: Path) -> AsyncIterator[tuple[str, list[str], Path]]:
    """A server whose certificate `authority` signed: its URL, the users it was spoken to by, and the CA's file."""
    pair = make_server(authority, addresses=["127.0.0.1"])
    certificate, ca_file = directory / "server.pem", directory / "ca.pem"
    certificate.write_bytes(pair.certificate + pair.key)
    ca_file.write_bytes(authority.certificate)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(ca_file))
    context.load_cert_chain(certificate)
    context.verify_mode = ssl.CERT_OPTIONAL
    users: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        assert request.transport is not None
        subject = (request.transport.get_extra_info("peercert") or {}).get("subject", ())
        users.append(dict(pair for [pair] in subject).get("commonName", "nobody"))
        return web.Response()

    application = web.Application()
    application.router.add_get("/", handle)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        yield f"https://127.0.0.1:{runner.addresses[0][1]}/", users, ca_file
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(("verify", "reached"), [(True, False), (False, True)])
async def test_a_server_whose_certificate_nobody_vouches_for_is_not_spoken_to_unless_that_is_asked_for(
    tmp_path: Path, verify: bool, reached: bool
) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(make_authority().certificate)
    async with (
        behind_tls(make_authority(), tmp_path) as (url, users, _),
        client(ca_file=other, verify=verify) as transport,
    ):
        if reached:
            assert (await get(transport, url)).status == 200
        else:
            with pytest.raises(Unreachable, match=r"^127\.0\.0\.1:\d+: certificate verify failed: "):
                await get(transport, url)
        assert bool(users) is reached


async def test_who_has_a_client_certificate_shows_it(tmp_path: Path) -> None:
    authority = make_authority()
    pair = make_client(authority, user="jane", groups=[])
    certificate, key = tmp_path / "client.pem", tmp_path / "client.key"
    certificate.write_bytes(pair.certificate)
    key.write_bytes(pair.key)
    async with behind_tls(authority, tmp_path) as (url, users, ca_file):
        for settings in ({}, {"client_certificate": (certificate, key)}):
            async with client(ca_file=ca_file, **settings) as transport:
                await get(transport, url)
        assert users == ["nobody", "jane"]
