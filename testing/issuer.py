"""Serves the stand-in issuer: in a thread for tests, as a process, or in a Pod of the cluster that it trusts.

with IssuerThread(Issuer(PublishedKeys(cluster.api.get, audience=AUDIENCE))) as issuer: ...
python -m testing.issuer [--kubeconfig FILE] [--port N] [--control]      prints its URL, exits on SIGTERM
"""

import asyncio
import contextlib
import signal
import ssl
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import click
from aiohttp import web

from testing.behaviour import Behaviour
from testing.exchange import AUDIENCE, CONTROLLER, Issuer
from testing.pod import in_pod
from testing.tokens import Get, PublishedKeys


@dataclass(frozen=True, slots=True, kw_only=True)
class Public:
    """How clients on other machines reach it."""

    url: str
    """The URL for others, also the issuer in the tokens."""
    certificates: Path
    """A directory with tls.crt and tls.key, like a mounted Secret of type kubernetes.io/tls."""


@contextlib.asynccontextmanager
async def serve(
    issuer: Issuer, *, port: int = 0, control: bool = False, public: Public | None = None
) -> AsyncIterator[str]:
    """Listen on loopback, or with TLS on all addresses; yields the URL. Port 0 means any free port."""
    # A hang ends, and is recorded, when the handler is cancelled because its caller has left.
    runner = web.AppRunner(
        issuer.application(control=control), access_log=None, handler_cancellation=True, shutdown_timeout=0.1
    )
    await runner.setup()
    try:
        if public:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(public.certificates / "tls.crt", public.certificates / "tls.key")
            await web.TCPSite(runner, None, port, ssl_context=context).start()
            issuer.url = public.url
        else:
            await web.TCPSite(runner, "127.0.0.1", port).start()
            issuer.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield issuer.url
    finally:
        await runner.cleanup()


class IssuerThread:
    """Runs an issuer in a separate thread and event loop, for tests that block."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self._listening = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._done = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="issuer", daemon=True)

    def __enter__(self) -> Issuer:
        self._thread.start()
        if not self._listening.wait(10):
            raise TimeoutError("the stand-in issuer is not listening")
        return self._issuer

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join(10)

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        async with serve(self._issuer):
            self._listening.set()
            await self._done.wait()


async def _until_signalled(issuer: Issuer, *, port: int, control: bool, public: Public | None) -> None:
    signalled = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, signalled.set)
    async with serve(issuer, port=port, control=control, public=public) as url:
        click.echo(url)
        await signalled.wait()


def _cluster(kubeconfig: Path | None) -> Get:
    if kubeconfig is None:
        return in_pod()
    from testing.api import Api  # noqa: PLC0415 - the official client, which the image has not

    return Api(kubeconfig).get


@click.command(help="A stand-in for Chainguard's token issuer. Prints its URL and runs until SIGTERM.")
@click.option(
    "--kubeconfig",
    type=click.Path(exists=True, path_type=Path),
    help="whose tokens to trust [default: this Pod's]",
)
@click.option("--port", default=0, show_default="a free one")
@click.option("--public", nargs=2, metavar="URL DIRECTORY", help="listen on all addresses, with tls.crt, tls.key")
@click.option("--lifetime", default=30.0, show_default=True, help="of a minted token, in seconds")
@click.option("--subject", default=CONTROLLER, show_default=True, help="who may assume any identity")
@click.option("--trust", multiple=True, metavar="IDENTITY=SUBJECT", help="who alone may assume this identity")
@click.option("--control", is_flag=True, help="serve POST /control and GET /exchanges")
def main(
    *,
    kubeconfig: Path | None,
    port: int,
    public: tuple[str, str] | None,
    lifetime: float,
    subject: str,
    trust: tuple[str, ...],
    control: bool,
) -> None:
    """Run the stand-in issuer as a process."""
    keys = PublishedKeys(_cluster(kubeconfig), audience=AUDIENCE)
    issuer = Issuer(keys, subject=subject, default=Behaviour(lifetime_seconds=lifetime))
    for pair in trust:
        identity, _, only = pair.partition("=")
        issuer.trust(identity, subject=only)
    known = Public(url=public[0], certificates=Path(public[1])) if public else None
    asyncio.run(_until_signalled(issuer, port=port, control=control, public=known))


if __name__ == "__main__":
    main()
