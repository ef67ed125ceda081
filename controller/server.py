"""/metrics, /healthz and /readyz."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

Probe = Callable[[], str | None]
"""What is wrong, None when nothing is."""


@asynccontextmanager
async def serving(
    host: str, port: int, *, registry: CollectorRegistry, live: Probe, ready: Probe
) -> AsyncIterator[int]:
    """Serve while the block runs; yields the port, which differs from `port` where that is 0. Raises OSError."""
    runner = web.AppRunner(_application(registry, live=live, ready=ready), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _application(registry: CollectorRegistry, *, live: Probe, ready: Probe) -> web.Application:
    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    def answer(probe: Probe) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            problem = probe()
            return web.Response(status=200 if problem is None else 503, text=f"{problem or 'ok'}\n")

        return handle

    application = web.Application(client_max_size=0)
    application.router.add_get("/metrics", metrics)
    application.router.add_get("/healthz", answer(live))
    application.router.add_get("/readyz", answer(ready))
    return application
