"""The whole graph on one page: what is built from what, what runs, and how it ends."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from structlog.typing import FilteringBoundLogger

from controller.census import CensusTaker
from controller.config import Config
from controller.core.dockerconfig import normalise
from controller.core.errors import MintError
from controller.core.model import Key
from controller.core.policy import Policy, Profile
from controller.core.queue import QueueClosed, RefreshQueue
from controller.core.store import Store
from controller.dispatcher import NO_PROVIDER, Dispatcher
from controller.fights import Fights
from controller.guard import StartError, check_policies
from controller.health import Health
from controller.http import AiohttpTransport, Transport
from controller.kube import auth
from controller.kube.admission import POLICIES
from controller.kube.client import KubeClient, Selector
from controller.kube.events import EventRecorder
from controller.kube.proof import ProofFile
from controller.kube.reflector import RELIST_REASONS, Reflector
from controller.minter import Minter
from controller.notices import Notices
from controller.probe import Probed
from controller.providers import SHAPES, TYPES
from controller.providers.base import ProviderSettings, Tools
from controller.reconciler import Reconciler
from controller.server import serving
from controller.telemetry import Telemetry, where
from controller.writer import Writer

DRAIN_SECONDS = 10.0
"""After SIGTERM, for runs that are under way to end by themselves."""

UNEXPECTED_RETRY_SECONDS = 300.0
CONNECTIONS = 64
TIMEOUTS_PER_MINT = 3
"""A whole mint may take so many times `timeoutSeconds`, however many requests it makes of its issuer."""
CLOCK_LOOK_SECONDS = 10.0
CLOCK_STEP_SECONDS = 5.0
_BAD_INPUT_WORKERS = 4
_EVENTS_FLUSH_SECONDS = 1.0


async def run(
    config: Config, *, kubeconfig: Path | None, metrics_host: str, metrics_port: int, log: FilteringBoundLogger
) -> None:
    """Run until SIGTERM or SIGINT. Raises StartError; any other exception is a defect, and ends the process."""
    stopping = _stop_signal()
    async with AsyncExitStack() as stack:

        def closing(transport: AiohttpTransport) -> AiohttpTransport:
            stack.push_async_callback(transport.close)
            return transport

        try:
            access = await _access(kubeconfig)
        except auth.NoAccess as error:
            raise StartError(str(error)) from error
        # Two pools: a flood of writes never takes the watch's connection.
        client = KubeClient(
            access=access,
            requests=closing(access.transport(connections=CONNECTIONS)),
            watches=closing(access.transport(connections=CONNECTIONS)),
            now=time.time,
        )
        issuers = {name: closing(_issuer_transport(settings)) for name, settings in config.providers.items()}
        telemetry = Telemetry(providers=config.providers, policies=POLICIES, relist_reasons=RELIST_REASONS)
        controller = Controller(config, client=client, issuers=issuers, telemetry=telemetry, now=time.time, log=log)
        try:
            port = await stack.enter_async_context(
                serving(
                    metrics_host,
                    metrics_port,
                    registry=telemetry.registry,
                    live=controller.health.live,
                    ready=controller.health.ready,
                )
            )
        except OSError as error:
            raise StartError(f"can't listen on {metrics_host}:{metrics_port}: {error.strerror}") from error
        await check_policies(client, required=config.require_policies, stopping=stopping, telemetry=telemetry, log=log)
        if not stopping.is_set():
            log.info("controller started", scope=config.scope, providers=sorted(config.providers), metrics_port=port)
            await controller.run(stopping)
    log.info("controller stopped")


class Controller:
    """Everything between the API server and the issuers."""

    def __init__(
        self,
        config: Config,
        *,
        client: KubeClient,
        issuers: Mapping[str, Transport],
        telemetry: Telemetry,
        now: Callable[[], float],
        log: FilteringBoundLogger,
    ) -> None:
        self._config = config
        self._client = client
        self._issuers = issuers
        self._telemetry = telemetry
        self._now = now
        self._log = log
        self._store = Store()
        self._fights = Fights()
        self._policy = Policy(tuple(_profiles(config)), shapes=SHAPES, window=config.refresh.window)
        self._queues = {
            name: RefreshQueue[Key](now, turn=lambda key: key.namespace) for name in (*config.providers, NO_PROVIDER)
        }
        census = CensusTaker(store=self._store, policy=self._policy, now=now, per_secret=config.per_secret_metrics)
        self._dispatcher = Dispatcher(
            store=self._store,
            policy=self._policy,
            queues=self._queues,
            fights=self._fights,
            census=census,
            now=now,
        )
        self._reflectors = [
            Reflector(
                client=client,
                selector=selector,
                sink=self._dispatcher,
                now=now,
                random=random.random,
                on_relist=telemetry.relisted,
                log=log,
            )
            for selector in _selectors(config)
        ]
        self._events = EventRecorder(client=client, now=now, log=log)
        self.health = Health(self._reflectors, now=now)
        telemetry.watch_census(census.take)
        telemetry.watch_state(age_seconds=self.health.watch_age_seconds, refused=self.health.refused)

    async def run(self, stopping: asyncio.Event) -> None:
        """Run until `stopping` is set, then drain. The death of any task is the death of all."""
        async with asyncio.TaskGroup() as group:
            minters = {name: self._minter(name, group) for name in self._config.providers}
            reconciler = self._reconciler(minters)
            for name, minter in minters.items():
                self._telemetry.watch_provider(name, self._queues[name], minter.circuit)
            background: list[asyncio.Task[Any]] = [
                group.create_task(self._events.run(), name="events"),
                group.create_task(self._watch_clock(), name="clock"),
                *(group.create_task(reflector.run(), name="reflector") for reflector in self._reflectors),
            ]
            workers = [
                group.create_task(self._work(name, queue, reconciler), name=f"worker {name}")
                for name, queue in self._queues.items()
                for _ in range(self._config.limits.write_concurrency if name in minters else _BAD_INPUT_WORKERS)
            ]
            await stopping.wait()
            self._log.info("controller stops")
            await self._drain(workers)
            await self._events.flush(_EVENTS_FLUSH_SECONDS)
            for minter in minters.values():
                minter.close()
            for task in background:
                task.cancel()

    async def _work(self, provider: str, queue: RefreshQueue[Key], reconciler: Reconciler) -> None:
        while True:
            try:
                due = await queue.get()
            except QueueClosed:
                return
            next_at = None
            try:
                if self._dispatcher.serves(provider, due.key):
                    next_at = await reconciler.run(due.key, due_at=due.at)
            except Exception as error:
                self._log.error(
                    "a claim can't be reconciled because of a defect; please report it",
                    namespace=due.key.namespace,
                    name=due.key.name,
                    error=where(error),
                )
                next_at = self._now() + UNEXPECTED_RETRY_SECONDS
            finally:
                queue.done(due.key, next_at)
            if not self._dispatcher.serves(provider, due.key):
                queue.forget(due.key)
                self._dispatcher.look_again(due.key)

    async def _watch_clock(self) -> None:
        """Notice within 10 s that the wall clock was set back: it is what all deadlines are kept in."""
        loop = asyncio.get_running_loop()
        ahead = self._now() - loop.time()
        while True:
            await asyncio.sleep(CLOCK_LOOK_SECONDS)
            before, ahead = ahead, self._now() - loop.time()
            if ahead < before - CLOCK_STEP_SECONDS:
                self._log.warning("the clock was set back", seconds=round(before - ahead))
                self._dispatcher.look_at_all_again()

    async def _drain(self, workers: Sequence[asyncio.Task[None]]) -> None:
        """Take no more work, let what is under way end, then cancel what is left."""
        for queue in self._queues.values():
            queue.close()
        _, late = await asyncio.wait(workers, timeout=DRAIN_SECONDS)
        for worker in late:
            worker.cancel()

    def _minter(self, name: str, group: asyncio.TaskGroup) -> Minter[Key]:
        settings, limits = self._config.providers[name], self._config.limits
        tools = Tools(
            transport=self._issuers[name],
            proof=ProofFile(Path(settings.token_file or ""), now=self._now),
            now=self._now,
            max_lifetime_seconds=float(self._config.refresh.max_lifetime),
            refreshed_by_share=self._config.refresh.to,
            cleaned=lambda error: self._cleaned(name, error),
        )
        provider = TYPES[settings.type](name, settings, tools)
        return Minter(
            name,
            Probed(provider, settings, tools, self._log.bind(provider=name)) if settings.probe else provider,
            group=group,
            now=self._now,
            wake=self._dispatcher.look_again,
            mints_per_second=limits.mints_per_second,
            mint_seconds=TIMEOUTS_PER_MINT * settings.timeout_seconds,
            concurrency=limits.mint_concurrency,
            telemetry=self._telemetry,
            log=self._log,
        )

    def _cleaned(self, name: str, error: MintError | None) -> None:
        self._telemetry.cleaned(name, succeeded=error is None)
        if error is not None:
            self._log.warning("clean-up at the issuer failed", provider=name, detail=str(error))

    def _reconciler(self, minters: Mapping[str, Minter[Key]]) -> Reconciler:
        writer = Writer(
            client=self._client, observe=self._dispatcher.replied, policy=self._policy, now=self._now, log=self._log
        )
        return Reconciler(
            view=self._dispatcher.view,
            policy=self._policy,
            minters=minters,
            shares_token=[name for name, s in self._config.providers.items() if _shares_token(s)],
            writer=writer,
            tells=Notices(self._events),
            fights=self._fights,
            now=self._now,
            telemetry=self._telemetry,
            log=self._log,
        )


async def _access(kubeconfig: Path | None) -> auth.Access:
    if kubeconfig is None:
        return auth.in_cluster(os.environ, now=time.time)
    return await auth.from_kubeconfig(kubeconfig, now=time.time)


def _shares_token(settings: ProviderSettings) -> bool:
    """A probe tells for some hosts that a token is good, so those that ask for others get one of their own."""
    return TYPES[settings.type].SHARES_TOKEN and not settings.probe


def _profiles(config: Config) -> Iterable[Profile]:
    for name, settings in config.providers.items():
        yield Profile(name, settings.type, tuple(sorted(map(normalise, settings.registries))))


def _selectors(config: Config) -> list[Selector]:
    match config.scope:
        case "name":
            return [Selector(namespace=None, name=name) for name in config.secret_names]
        case "namespaces":
            return [Selector(namespace=namespace, name=None) for namespace in config.namespaces]
        case "cluster":
            return [Selector(namespace=None, name=None)]


def _issuer_transport(settings: ProviderSettings) -> AiohttpTransport:
    ca_file = Path(settings.ca_file) if settings.ca_file else None
    return AiohttpTransport(ca_file=ca_file, proxy=settings.proxy, connections=CONNECTIONS)


def _stop_signal() -> asyncio.Event:
    stopping, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    return stopping
