"""The cluster as a command sees it: by a kubeconfig, or as the Pod it runs in.

The kubeconfig is read by the official client, as in the controller: a reader of our own would have to do exec plugins,
files of several clusters and certificates as well, for the half second that the client takes to import.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec

from controller.cli.exits import Exit
from controller.cli.flags import Flags
from controller.cli.output import told
from controller.kube import auth
from controller.kube.answers import read_page
from controller.kube.client import PAGE_BYTES, KubeClient
from controller.kube.errors import ApiError, Forbidden, StartError, Unauthorized, Unavailable
from controller.observe.logs import where

_CONNECTIONS = 8
_PAGE = 500
_PARTIAL = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1"


class Cluster:
    """What commands ask of the API server."""

    def __init__(self, client: KubeClient, *, url: str, namespace: str, flags: Flags, now: Callable[[], float]) -> None:
        self.client = client
        self.url = url
        self.namespace = namespace
        """The one that `-n` or the context names."""
        self._flags = flags
        self._now = now
        self._skew_seconds = 0.0

    @property
    def skew_seconds(self) -> float:
        """How far the API server's clock is ahead of ours, by its last answer."""
        return self._skew_seconds

    def now(self) -> float:
        """By the API server's clock: a laptop's may be wrong, and the Secrets' instants were made in the cluster."""
        return self._now() + self._skew_seconds

    async def list(
        self, path: str, *, query: Mapping[str, str] | None = None, metadata_only: bool = False
    ) -> list[msgspec.Raw]:
        """All objects of a list, to its end. Raises ApiError."""
        what = f"list {path.rpartition('/')[2]}"
        items: list[msgspec.Raw] = []
        more: str | None = None
        while True:
            asked = {**(query or {}), "limit": str(_PAGE), **({"continue": more} if more else {})}
            accept = _PARTIAL.format("List") if metadata_only else "application/json"
            page = read_page(await self.send("GET", path, what=what, query=asked, accept=accept), what)
            items += page.items
            more = page.continue_token
            if more is None:
                return items

    async def get(self, path: str, *, metadata_only: bool = False, accept: str = "application/json") -> bytes:
        """One object, or what else is at a path. Raises ApiError."""
        parts = path.strip("/").split("/")
        what = parts[-2] if parts[0] in ("api", "apis") and len(parts) > 3 else path
        return await self.send("GET", path, what=f"get {what}", accept=_PARTIAL.format("") if metadata_only else accept)

    async def send(
        self,
        method: str,
        path: str,
        *,
        what: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> bytes:
        """Any request; `what` is verb and resource. Raises ApiError."""
        began = time.monotonic()
        result = "failed"
        try:
            reply = await self.client.send(
                method,
                path,
                what=what,
                query=query,
                body=None if body is None else msgspec.json.encode(body),
                content_type=content_type,
                accept=accept,
                total_seconds=self._flags.request_timeout,
                max_bytes=PAGE_BYTES,
            )
            result = str(reply.status)
            self._take_date(reply.headers.get("Date"))
            return reply.body
        except ApiError as error:
            result = type(error).__name__
            raise
        finally:
            if self._flags.verbose:
                milliseconds = (time.monotonic() - began) * 1000
                click.echo(f"{method} {path}: {result} in {milliseconds:.0f} ms", err=True)

    def _take_date(self, date: str | None) -> None:
        try:
            # It is cut to whole seconds, so the middle of that second is the best guess.
            skew = parsedate_to_datetime(date or "").timestamp() + 0.5 - self._now()
        except ValueError:
            return
        self._skew_seconds = skew if abs(skew) > 1.0 else 0.0


@asynccontextmanager
async def connect(flags: Flags) -> AsyncIterator[Cluster]:
    """The cluster that the flags name. Nothing is asked of it yet. Raises StartError."""
    access = await _access(flags)
    transport = access.transport(_CONNECTIONS)
    client = KubeClient(access=access, requests=transport, watches=transport, now=time.time)
    try:
        namespace = flags.namespace or access.namespace or "default"
        yield Cluster(client, url=access.url, namespace=namespace, flags=flags, now=time.time)
    finally:
        await transport.close()


async def _access(flags: Flags) -> auth.Access:
    standard = Path(os.environ.get("HOME", "/"), ".kube", "config")  # a Pod's user may have no home
    if (path := _kubeconfig(flags, standard)) is not None:
        return await auth.from_kubeconfig(path, context=flags.context, now=time.time)
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return auth.in_cluster(os.environ, now=time.time)
    raise StartError(f"no cluster is named: there is no {standard}; set KUBECONFIG, or pass --kubeconfig FILE")


def _kubeconfig(flags: Flags, standard: Path) -> Path | None:
    """The file to read; None to act as the Pod."""
    return flags.kubeconfig or (standard if flags.context is not None or standard.exists() else None)


def run(flags: Flags, command: Callable[[Cluster], Coroutine[Any, Any, Exit]]) -> NoReturn:
    """Run a command on the cluster and exit with its code, or with why it could not begin."""

    async def connected() -> Exit:
        async with connect(flags) as cluster:
            return await command(cluster)

    try:
        sys.exit(asyncio.run(connected()))
    except StartError as error:
        told(str(error))
        sys.exit(Exit.UNUSABLE)
    except ApiError as error:
        told(f"{error}\n  cure: {cure_of(error)}")
        sys.exit(Exit.UNKNOWN)
    except BrokenPipeError:  # as by `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.UNKNOWN)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # its text and traceback may quote a credential
        told(f"a defect; please report it: {where(error)}")
        sys.exit(Exit.UNKNOWN)


def cure_of(error: ApiError) -> str:
    """What a person does about an answer that says nothing about what was asked."""
    match error:
        case Unauthorized():
            return "your credential has expired or is not of this cluster; log in again, or check --context"
        case Forbidden():
            return f"ask whoever manages RBAC for this right: {error.why or 'see the message'}"
        case Unavailable():
            return "check the server's address in the kubeconfig, the network, and that the API server is up"
    return "check that the object exists and the cluster is the one you mean"
