"""The whole graph on one page: what is built from what, what runs, and how it ends."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from structlog.typing import FilteringBoundLogger

from controller import __version__
from controller.config import Config
from controller.core.dockerconfig import normalise
from controller.core.errors import MintError
from controller.core.fights import ContestedClaims
from controller.core.grants import Grants
from controller.core.model import Key, Ref, Resolved, View
from controller.core.policy import OBJECT_NAME, Policy, Profile
from controller.core.projection import Observed, ObservedSecret, project, project_account, project_namespace
from controller.core.queue import QueueClosed, RefreshQueue
from controller.core.quota import Quota
from controller.core.store import Store
from controller.core.targets import Account, Brake, Namespace, Targets, installation_of
from controller.engine.confirmations import Confirmations
from controller.engine.dispatcher import NO_PROVIDER, Dispatcher
from controller.engine.fanout import FanOut
from controller.engine.grants import GrantChecker
from controller.engine.minter import Minter
from controller.engine.proofs import FirstProofs
from controller.engine.reconciler import Reconciler
from controller.engine.tenantproof import TenantProof
from controller.engine.writer import Writer
from controller.kube import auth
from controller.kube.admission import ASK, POLICIES, SERVICE_ACCOUNTS, TARGETS, TENANT_PROOF, USE_IDENTITY
from controller.kube.client import KubeClient, Selector
from controller.kube.errors import StartError
from controller.kube.events import EventRecorder
from controller.kube.guard import Guard
from controller.kube.notices import Notices
from controller.kube.reflector import RELIST_REASONS, Reflector, Sink
from controller.net.clocks import ClockedTransport
from controller.net.transport import AiohttpTransport, Transport
from controller.observe.counts import StateCounter
from controller.observe.eventloop import watch_event_loop
from controller.observe.health import Health
from controller.observe.logs import where
from controller.observe.metrics import Metrics
from controller.observe.server import Address, serving
from controller.providers import SHAPES, TYPES
from controller.providers.contract import Provider, Tools
from controller.providers.probe import Probed
from controller.providers.proof import ProofFile
from controller.providers.settings import ProviderSettings

DRAIN_SECONDS = 10.0
"""After SIGTERM, how long runs that are under way may take to finish."""

UNEXPECTED_RETRY_SECONDS = 300.0
CONNECTIONS = 64
TIMEOUTS_PER_MINT = 3
"""A whole mint may take this many times `timeoutSeconds`, however many requests it sends."""
CLOCK_LOOK_SECONDS = 10.0
CLOCK_STEP_SECONDS = 5.0
_BAD_INPUT_WORKERS = 4
_EVENTS_FLUSH_SECONDS = 1.0

T = TypeVar("T")


async def run(config: Config, *, kubeconfig: Path | None, metrics_address: Address, log: FilteringBoundLogger) -> None:
    """Run until SIGTERM or SIGINT. Raises StartError; any other exception is a defect, and ends the process."""
    stopping = _stop_signal()
    async with AsyncExitStack() as stack:

        def closing(transport: AiohttpTransport) -> AiohttpTransport:
            stack.push_async_callback(transport.close)
            return transport

        access = await _access(kubeconfig)
        selectors = selectors_of(config)
        watches = len(selectors) + len(target_selectors(config))
        # Two pools: a flood of writes never takes a watch's connection, and each watch has one for as long as we run.
        client = KubeClient(
            access=access,
            requests=closing(access.transport(connections=CONNECTIONS)),
            watches=closing(access.transport(connections=watches)),
            now=time.time,
        )
        issuers = {name: closing(issuer_transport(settings)) for name, settings in config.providers.items()}
        policies = policies_of(config)
        metrics = Metrics(providers=config.providers, policies=policies, relist_reasons=RELIST_REASONS)
        controller = Controller(config, client=client, issuers=issuers, metrics=metrics, now=time.time, log=log)
        try:
            port = await stack.enter_async_context(
                serving(
                    metrics_address,
                    registry=metrics.registry,
                    live=controller.health.live,
                    ready=controller.health.ready,
                    log=log,
                )
            )
        except OSError as error:
            raise StartError(f"can't listen on {metrics_address}: {error.strerror}") from error
        guard = Guard(
            client,
            policies=policies,
            prefix=config.policy_prefix,
            required=config.require_policies,
            report=metrics.policy_installed,
            log=log,
        )
        await guard.start(stopping)
        if not stopping.is_set():
            for warning in config.warnings:
                log.warning("the configuration may not do what was meant", detail=warning)
            log.info(
                "controller started",
                version=__version__,
                kubeconfig=kubeconfig and str(kubeconfig),
                scope=config.scope,
                watches=watches,
                watched_names=sorted({selector.name or "*" for selector in selectors}),
                watched_namespaces=sorted({selector.namespace or "*" for selector in selectors}),
                providers=sorted(config.providers),
                targets=[target.name for target in config.targets],
                metrics_port=port,
            )
            async with asyncio.TaskGroup() as group:
                looking: list[asyncio.Task[Any]] = [
                    group.create_task(guard.run(), name="guard"),
                    group.create_task(watch_event_loop(metrics.held), name="event loop"),
                ]
                await controller.run(stopping, user=guard.user)
                for task in looking:
                    task.cancel()
    log.info("controller stopped")


class Controller:
    """Everything between the API server and the issuers."""

    def __init__(
        self,
        config: Config,
        *,
        client: KubeClient,
        issuers: Mapping[str, Transport],
        metrics: Metrics,
        now: Callable[[], float],
        log: FilteringBoundLogger,
    ) -> None:
        self._config = config
        self._client = client
        self._issuers = {
            name: ClockedTransport(transport, now=now, report=partial(metrics.clock_skew, name))
            for name, transport in issuers.items()
        }
        self._metrics = metrics
        self._now = now
        self._log = log
        self._store = Store()
        self._fan_out: FanOut | None = None
        """Where there are targets."""
        self._installation: str | None = None
        self._draining = self._drained = False
        self._confirmations = Confirmations(self._store)
        self._last_runs: set[asyncio.Task[float | None]] = set()
        self._contested = ContestedClaims()
        most = config.limits.per_namespace.secrets
        quota = None if most is None else Quota(most)
        grants = self._known_grants() if config.grants.asks_namespaces else None
        self._policy = Policy(
            tuple(_profiles(config)),
            shapes=SHAPES,
            window=config.refresh.window,
            quota=quota,
            grants=grants,
            is_gift=self._is_gift,
        )
        self._queues = {
            name: RefreshQueue[Key](now, turn=lambda key: key.namespace) for name in (*config.providers, NO_PROVIDER)
        }
        self._grants = None if grants is None else self._grant_checker(grants)
        self._states = StateCounter(store=self._store, policy=self._policy, contested=self._contested, now=now)
        self._dispatcher = Dispatcher(
            store=self._store,
            policy=self._policy,
            queues=self._queues,
            contested=self._contested,
            states=self._states,
            now=now,
            confirmations=self._confirmations,
            assign=lambda secret: self._fan_out.assign(secret) if self._fan_out else secret,
            seen=lambda ref: self._fan_out.seen(ref) if self._fan_out else None,
            quota=quota,
            grants=self._grants,
        )
        self._writer = Writer(
            client=client,
            observe=self._dispatcher.replied,
            rolled_back=self._roll_back,
            wake=self._dispatcher.look_again,
            policy=self._policy,
            now=now,
            log=log,
        )
        self._paging = asyncio.Lock()
        self._reflectors = [
            self._reflector(selector, self._project, self._dispatcher) for selector in selectors_of(config)
        ]
        self._target_reflectors: list[Reflector[Namespace] | Reflector[Account]] = []
        self._events = EventRecorder(client=client, now=now, count=metrics.event_recorded, log=log)
        with_own_proof = [name for name, s in config.providers.items() if s.proof_by != "serviceAccount"]
        self._proofs = FirstProofs(with_own_proof, log=log)
        self.health = Health(self._reflectors, others=self._target_reflectors, unproven=self._proofs.problem, now=now)
        metrics.watch_states(self._states.count, secrets=self._states.secrets if config.per_secret_metrics else None)
        metrics.watch_state(age_seconds=self.health.watch_age_seconds, refused=self.health.refused)

    async def run(self, stopping: asyncio.Event, *, user: str | None = None) -> None:
        """Run until `stopping` is set, then drain. If one task fails, all end.

        `user` is our own name, by which targets mark what is theirs. Raises StartError if they can't.
        """
        if _fans_out(self._config):
            try:
                self._installation = installation_of(user)
            except ValueError as error:
                raise StartError(f"targets can't mark their Secrets with our own name: {error}") from error
        async with asyncio.TaskGroup() as group:
            providers = {name: self._provider(name, self._own_proof(name)) for name in self._config.providers}
            minters: dict[str, Minter] = {}
            reconciler = self._reconciler(minters)
            wake = self._waker(group, reconciler)
            minters |= {name: self._minter(name, provider, group, wake) for name, provider in providers.items()}
            for name, minter in minters.items():
                self._watch_provider(name, minter)
            if self._installation is not None:
                self._fan_out = self._build_fan_out(minters, self._installation)
            background: list[asyncio.Task[Any]] = [
                group.create_task(self._events.run(), name="events"),
                group.create_task(self._watch_clock(), name="clock"),
                group.create_task(self._proofs.run(providers), name="proofs"),
                group.create_task(self._writer.run(), name="probe"),
                *(group.create_task(reflector.run(), name="reflector") for reflector in self._reflectors),
                *(group.create_task(reflector.run(), name="reflector") for reflector in self._target_reflectors),
                *([group.create_task(self._grants.run(), name="grants")] if self._grants is not None else []),
            ]
            workers = [
                group.create_task(self._work(name, queue, reconciler), name=f"worker {name}")
                for name, queue in self._queues.items()
                for _ in range(self._config.limits.write_concurrency if name in minters else _BAD_INPUT_WORKERS)
            ]
            if self._fan_out is not None:
                workers.append(group.create_task(self._fan_out.run(listed=self._list_secrets()), name="targets"))
            await stopping.wait()
            self._log.info("controller is stopping")
            await self._drain(workers, minters.values())
            await self._events.flush(_EVENTS_FLUSH_SECONDS)
            for minter in minters.values():
                minter.close()
            for task in background:
                task.cancel()

    def _waker(self, group: asyncio.TaskGroup, reconciler: Reconciler) -> Callable[[Key], None]:
        """What to call when the flight that a claim waited for has ended."""

        def wake(key: Key) -> None:
            if not self._draining:
                self._dispatcher.look_again(key)
                if self._fan_out is not None:
                    self._fan_out.look_again(key)
            if not self._draining or self._drained:
                return
            # The queues are closed: a token that came in after that is written by a last run of its own.
            last = group.create_task(reconciler.run(key, due_at=self._now()), name="last run")
            self._last_runs.add(last)
            last.add_done_callback(self._last_runs.discard)

        return wake

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
                    "a defect stopped the work on a claim; please report it",
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
        """Notice within 10 s that the wall clock was set back: all deadlines are kept in it."""
        loop = asyncio.get_running_loop()
        ahead = self._now() - loop.time()
        while True:
            await asyncio.sleep(CLOCK_LOOK_SECONDS)
            before, ahead = ahead, self._now() - loop.time()
            if ahead < before - CLOCK_STEP_SECONDS:
                self._log.warning("the clock was set back", seconds=round(before - ahead))
                self._dispatcher.look_at_all_again()

    def _roll_back(self, observed: ObservedSecret) -> None:
        """A read has shown that the cluster was restored from a backup: what else is known may be as wrong."""
        self._dispatcher.rolled_back(observed)
        for reflector in self._reflectors:
            if reflector.covers(observed.ref):
                reflector.roll_back()

    async def _drain(self, workers: Sequence[asyncio.Task[None]], minters: Collection[Minter]) -> None:
        """Take no more work, let runs and mints finish and write what they got, then cancel the rest."""
        self._draining = True
        for queue in self._queues.values():
            queue.close()
        if self._fan_out is not None:
            self._fan_out.close()
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await asyncio.gather(*workers, *(minter.drain() for minter in minters))
                while self._last_runs:
                    await asyncio.wait(self._last_runs)
        except TimeoutError:
            for task in (*workers, *self._last_runs):
                task.cancel()
        self._drained = True

    def _is_watched(self, ref: Ref) -> bool:
        """Whether we would see a Secret; never one of a name that Kubernetes doesn't allow."""
        return bool(OBJECT_NAME.fullmatch(ref.name)) and any(reflector.covers(ref) for reflector in self._reflectors)

    async def _list_secrets(self) -> None:
        for reflector in self._reflectors:
            await reflector.wait_until_listed()

    def _project(self, raw: msgspec.Raw) -> ObservedSecret:
        return project(raw, installation=self._installation)

    def _reflector(
        self, selector: Selector, project: Callable[[msgspec.Raw], Observed[T]], sink: Sink[T]
    ) -> Reflector[T]:
        return Reflector(
            client=self._client,
            selector=selector,
            project=project,
            sink=sink,
            paging=self._paging,
            now=self._now,
            random=random.random,
            on_relist=self._metrics.relisted,
            on_recovery=self._writer.recovered,
            log=self._log,
        )

    def _build_fan_out(self, minters: Mapping[str, Minter], installation: str) -> FanOut:
        removal = self._config.limits.removal
        fan_out = FanOut(
            targets_of(self._config, own_namespace=installation.partition(".")[0]),
            asking=self._config.service_accounts.asking,
            is_watched=self._is_watched,
            installation=installation,
            brake=Brake(removal.most, removal.share),
            grace_seconds=float(removal.grace),
            store=self._store,
            policy=self._policy,
            minters=minters,
            assign_again=self._dispatcher.assign_again,
            client=self._client,
            notices=Notices(self._events),
            now=self._now,
            log=self._log,
        )
        for selector in target_selectors(self._config):
            if selector.resource == "namespaces":
                self._target_reflectors.append(self._reflector(selector, project_namespace, fan_out.namespaces))
            else:
                self._target_reflectors.append(
                    self._reflector(selector, partial(project_account, installation=installation), fan_out.accounts)
                )
        self._metrics.watch_targets(fan_out.count)
        return fan_out

    def _needs_grant(self, view: View) -> bool | None:
        """Whether the namespace needs a grant; None while that can't be told.

        Not for what a target gives, since that is the operator's own grant. And not where a ServiceAccount of the
        namespace proves itself: the issuer judges that one, and whoever may use it could go there in person.
        """
        if view.claim.service_account is not None:
            return False
        given = self._given(view)
        return None if given is None else not given

    def _given(self, view: View) -> bool | None:
        """Whether a claim's token is what a target gives; None while that can't be told."""
        if self._fan_out is None or view.secret.target is None or view.claim.name:
            return False
        return self._fan_out.gives(view)

    def _is_gift(self, view: View) -> bool:
        return self._given(view) is not False

    def _known_grants(self) -> Grants:
        settings = self._config.grants
        wipes = settings.on_revoke == "wipe"
        return Grants(recheck_seconds=float(settings.recheck), wipes=wipes, needs=self._needs_grant)

    def _view(self, key: Key) -> View | None:
        return self._dispatcher.view(key)

    def _look_again(self, key: Key) -> None:
        self._dispatcher.look_again(key)

    def _grant_checker(self, grants: Grants) -> GrantChecker:
        return GrantChecker(
            grants,
            client=self._client,
            needs=self._needs_grant,
            view=self._view,
            look_again=self._look_again,
            count=self._metrics.watch_grants(),
            now=self._now,
            log=self._log,
        )

    def _own_proof(self, name: str) -> ProofFile:
        # Credentials without a tokenFile never ask for it.
        return ProofFile(Path(getattr(self._config.providers[name], "token_file", "")), now=self._now)

    def _tenants_proof(self, name: str, service_account: Ref, askers: Iterable[Key]) -> TenantProof:
        views = (self._dispatcher.view(key) or (self._fan_out and self._fan_out.wanted(key)) for key in askers)
        secret = next((view.secret for view in views if view), None)
        timeout_seconds = self._config.providers[name].timeout_seconds
        return TenantProof(self._client, service_account, secret=secret, timeout_seconds=timeout_seconds)

    async def _allowed(self, key: Key) -> Resolved | None:
        """What a claim asks for, if it is still there and its namespace may have that."""
        view = self._dispatcher.view(key) or (self._fan_out and self._fan_out.wanted(key))
        resolved = self._policy.resolve(view) if view else None
        if not view or not isinstance(resolved, Resolved):
            return None
        return resolved if self._grants is None or await self._grants.obstacle(view) is None else None

    def _provider(self, name: str, proof: Callable[[str], Awaitable[str]]) -> Provider:
        settings = self._config.providers[name]
        tools = Tools(
            name=name,
            timeout_seconds=settings.timeout_seconds,
            default_lifetime_seconds=getattr(settings, "default_lifetime", None),
            transport=self._issuers[name],
            proof=proof,
            now=self._now,
            max_lifetime_seconds=float(self._config.refresh.max_lifetime),
            refreshed_by_share=self._config.refresh.to,
            cleaned=lambda error: self._cleaned(name, error),
        )
        provider = TYPES[settings.type](settings, tools)
        return Probed(provider, tools, self._log.bind(provider=name)) if settings.probe else provider

    def _minter(self, name: str, provider: Provider, group: asyncio.TaskGroup, wake: Callable[[Key], None]) -> Minter:
        limits = self._config.limits
        return Minter(
            name,
            provider,
            proven_by=lambda tenant, askers: self._provider(name, self._tenants_proof(name, tenant, askers)),
            allowed=self._allowed,
            group=group,
            now=self._now,
            wake=wake,
            mints_per_second=limits.mints_per_second,
            mint_seconds=TIMEOUTS_PER_MINT * self._config.providers[name].timeout_seconds,
            concurrency=limits.mint_concurrency,
            mints_per_minute=limits.per_namespace.mints_per_minute,
            shares_token=_shares_token(self._config.providers[name]),
            metrics=self._metrics,
            log=self._log,
        )

    def _watch_provider(self, name: str, minter: Minter) -> None:
        self._metrics.watch_provider(
            name,
            queue_depth=lambda: self._queues[name].depth() + minter.pending(),
            circuit_open=lambda: minter.circuit.is_open,
        )

    def _cleaned(self, name: str, error: MintError | None) -> None:
        self._metrics.cleaned(name, succeeded=error is None)
        if error is not None:
            self._log.warning("cleaning up old tokens at the issuer failed", provider=name, detail=str(error))

    def _reconciler(self, minters: Mapping[str, Minter]) -> Reconciler:
        return Reconciler(
            view=self._dispatcher.view,
            confirmations=self._confirmations,
            policy=self._policy,
            minters=minters,
            grants=self._grants,
            writer=self._writer,
            notices=Notices(self._events),
            contested=self._contested,
            states=self._states,
            now=self._now,
            metrics=self._metrics,
            log=self._log,
        )


async def _access(kubeconfig: Path | None) -> auth.Access:
    if kubeconfig is None:
        return auth.in_cluster(os.environ, now=time.time)
    return await auth.from_kubeconfig(kubeconfig, now=time.time)


def _shares_token(settings: ProviderSettings) -> bool:
    """A probe proves a token for the hosts it tried, so a claim with other hosts needs a token of its own."""
    return TYPES[settings.type].SHARES_TOKEN and not settings.probe


def _profiles(config: Config) -> Iterable[Profile]:
    for name, settings in config.providers.items():
        yield Profile(
            name,
            settings.type,
            tuple(sorted(map(normalise, settings.registries))),
            is_default=settings.default,
            namespaces=settings.namespaces,
            identities=settings.identities,
            takes_own_proof=settings.proof_by != "serviceAccount",
            takes_tenants_proof=settings.proof_by in ("serviceAccount", "either"),
        )


def policy_of(config: Config) -> Policy:
    """The policy by the configuration alone, without what a running controller knows of quotas and grants."""
    return Policy(tuple(_profiles(config)), shapes=SHAPES, window=config.refresh.window)


def selectors_of(config: Config) -> list[Selector]:
    """What is watched; each is a watch of its own."""
    match config.scope:
        case "name":
            return [Selector(namespace=None, name=name) for name in config.secret_names]
        case "namespaces":
            return [Selector(namespace=namespace, name=None) for namespace in config.namespaces]
        case "cluster":
            return [Selector(namespace=None, name=None)]


def policies_of(config: Config) -> tuple[str, ...]:
    """The admission policies that guard what is configured."""
    asks = config.service_accounts.enabled
    attaches = asks or any(target.service_accounts for target in config.targets)
    by_writers = config.grants.check != "namespace"
    is_needed = {policy: policy != USE_IDENTITY or by_writers for policy in POLICIES}
    is_needed |= {TARGETS: _fans_out(config), SERVICE_ACCOUNTS: attaches, ASK: asks}
    is_needed[TENANT_PROOF] = (
        asks
        or any(target.service_account for target in config.targets)
        or any(provider.proof_by == "serviceAccount" for provider in config.providers.values())
    )
    return tuple(policy for policy, needed in is_needed.items() if needed)


def target_selectors(config: Config) -> list[Selector]:
    """What is watched for targets: the namespaces, unless they are known by name, and the ServiceAccounts they name."""
    targets = targets_of(config, own_namespace="")
    namespaces = [Selector(None, None, "namespaces")] if targets.exact_namespaces is None else []
    accounts = sorted({*targets.service_account_names, *config.service_accounts.asking})
    return [*namespaces, *(Selector(None, name, "serviceaccounts") for name in accounts)]


def _fans_out(config: Config) -> bool:
    """Whether the controller makes Secrets itself."""
    return bool(config.targets) or config.service_accounts.enabled


def targets_of(config: Config, *, own_namespace: str) -> Targets:
    """The configured targets; none selects the controller's own namespace, but by its name."""
    return Targets([settings.target for settings in config.targets], own_namespace=own_namespace)


def issuer_transport(settings: ProviderSettings) -> AiohttpTransport:
    """How a provider reaches its issuer and registries."""
    ca_file = Path(settings.ca_file) if settings.ca_file else None
    return AiohttpTransport(ca_file=ca_file, proxy=settings.proxy, no_proxy=settings.no_proxy, connections=CONNECTIONS)


def _stop_signal() -> asyncio.Event:
    stopping, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    return stopping
