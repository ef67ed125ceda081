"""The whole Controller in virtual time, between an API server and token issuers in memory.

    engine = Engine(clock, tmp_path)
    engine.ask("team-a")                      # a Secret that asks for an identity
    async with engine.running():
        await engine.settle()                 # let what is due now happen; takes a millisecond
        assert engine.password("team-a") == engine.issuer.minted[-1]
        await asyncio.sleep(3600)

Nothing of ours is replaced: requests to the API server end in `FakeApi`, those to an issuer in `Issuer`, both behind
the Transport seam. Every block that runs a controller ends by draining it, and fails if it leaves a task behind.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator, Mapping, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import structlog
from prometheus_client import generate_latest

from controller.app import Controller
from controller.config import AskingAccounts, Config, Limits, Removal
from controller.core import dockerconfig
from controller.core.annotations import Written, render_written
from controller.core.model import Keep, Key, Refresh, Resolved, View
from controller.core.policy import issued_for
from controller.core.targetconfig import TargetSettings
from controller.kube.admission import POLICIES
from controller.kube.client import KubeClient
from controller.kube.reflector import RELIST_REASONS
from controller.net.transport import Stream, Transport, Unreachable
from controller.observe.metrics import Metrics
from controller.providers.chainguard import USERNAME, ChainguardSettings
from testing.wire import Wire
from tests.unit.fake_api import FakeApi, Object
from tests.unit.fake_issuer import Issuer, jwt
from tests.unit.provider_world import WireTransport
from tests.unit.queues import deadline
from tests.unit.virtual_time import Clock

PREFIX = "pull-secret-updater.chainguard.dev/"
NAME = "pull-secret"


def identity(number: int) -> str:
    """One of the identities that the provider type chainguard takes."""
    return f"{number:040x}"


def asking(**ours: str | None) -> dict[str, Any]:
    """Our annotations by key; `service_account` means `service-account`, `identity__b` means `identity.b`."""
    return {PREFIX + key.replace("__", ".").replace("_", "-"): value for key, value in ours.items()}


@dataclass(frozen=True, slots=True)
class Filled:
    """What is in a Secret."""

    annotations: Mapping[str, str]
    config: bytes


class _InSteps:
    """Gives a canceller a place after every answer too: a request that was obeyed but whose answer was never read."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @asynccontextmanager
    async def open(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None = None
    ) -> AsyncIterator[Stream]:
        async with self._engine.api.transport.open(method, url, headers=headers, body=body) as stream:
            await asyncio.sleep(0)
            if method == "PATCH" and self._engine.lose_answers > 0:
                self._engine.lose_answers -= 1
                raise Unreachable("ServerDisconnectedError")
            yield stream


@dataclass(repr=False)
class Engine:
    """See the module. Further providers, by name, get an issuer and a registry `<name>.test` of their own."""

    clock: Clock
    directory: Path
    providers: tuple[str, ...] = ("chainguard",)
    names: tuple[str, ...] = (NAME,)
    """Of the Secrets that are watched."""
    more_registries: tuple[str, ...] = ()
    """That the first provider is configured for, beside its own."""
    targets: tuple[TargetSettings, ...] = ()
    asking: AskingAccounts = AskingAccounts()  # noqa: RUF009 -- it is frozen
    lose_answers: int = 0
    """Of so many patches that the API server obeys."""
    log: list[MutableMapping[str, Any]] = field(default_factory=list)
    """Every entry of the log, before any redaction."""

    def __post_init__(self) -> None:
        self.api = FakeApi(self.clock)
        self.proof = jwt(aud=["issuer.enforce.dev"], sub="system:serviceaccount:pull-secret-updater:controller")
        self.proof_file = self.directory / "oidc-token"
        self.proof_file.write_text(self.proof + "\n")
        self.issuers = {name: Issuer(self.clock, audience=self.registry(name)) for name in self.providers}
        self.transports: Mapping[str, Transport] = {
            name: WireTransport(Wire(issuer, clock=self.clock)) for name, issuer in self.issuers.items()
        }
        settings = {
            name: ChainguardSettings(
                type="chainguard",
                registries=(self.registry(name), *(self.more_registries if name == self.providers[0] else ())),
                issuer=f"https://issuer.{name}.test",
                token_audience=self.registry(name),
                token_file=str(self.proof_file),
            )
            for name in self.providers
        }
        self.config = Config(
            providers=settings, secret_names=self.names, targets=self.targets, service_accounts=self.asking
        )
        self.controller: Controller | None = None
        self.stopping = asyncio.Event()

    @property
    def issuer(self) -> Issuer:
        """The first provider's."""
        return self.issuers[self.providers[0]]

    @staticmethod
    def registry(provider: str) -> str:
        """The registry that a provider's tokens are for."""
        return "cgr.dev" if provider == "chainguard" else f"{provider}.test"

    # What a user does and sees.

    def ask(self, namespace: str, number: int = 1, *, name: str = NAME, config: Any = None, **ours: str) -> Object:
        """Create a Secret, or replace it, that asks for an identity."""
        wanted = asking(**{"identity": identity(number), **ours})
        return self.api.put_secret(namespace, name, annotations=wanted, config={} if config is None else config)

    def annotate(self, namespace: str, **ours: str | None) -> None:
        """Set or remove annotations of ours."""
        self.api.annotate(namespace, NAME, asking(**ours))

    def set_config(self, namespace: str, config: Any, *, manager: str = "kubectl-edit") -> None:
        """Change the content, as an editor of the Secret does."""
        raw = config if isinstance(config, bytes) else json.dumps(config).encode()
        self.api.merge_patch(
            namespace, NAME, {"data": {".dockerconfigjson": base64.b64encode(raw).decode()}}, manager=manager
        )

    def annotation(self, namespace: str, key: str) -> str | None:
        """One annotation of ours."""
        value: str | None = self.api.secret(namespace, NAME)["metadata"].get("annotations", {}).get(PREFIX + key)
        return value

    def password(self, namespace: str, registry: str = "cgr.dev", *, name: str = NAME) -> str | None:
        """The token in a Secret; None where there is none."""
        try:
            entry = self.api.config(namespace, name)["auths"][registry]
        except (KeyError, TypeError, ValueError):
            return None
        assert base64.b64decode(entry["auth"]).decode() == f"{entry['username']}:{entry['password']}"
        return str(entry["password"])

    def expiry(self, namespace: str, registry: str = "cgr.dev", *, name: str = NAME) -> float:
        """`exp` of the token in a Secret; 0 where there is none."""
        token = self.password(namespace, registry, name=name)
        return float(json.loads(_decoded(token.split(".")[1]))["exp"]) if token else 0.0

    @property
    def patches(self) -> int:
        """How many writes of Secrets the API server has seen."""
        return len(self.api.requests_of("patch"))

    @property
    def mints(self) -> int:
        """How many requests the issuers have seen."""
        return sum(len(issuer.requests) for issuer in self.issuers.values())

    @property
    def conflicts(self) -> float:
        """How many of our writes met another version than they were decided on."""
        samples = (sample for family in self.metrics.registry.collect() for sample in family.samples)
        totals = (sample for sample in samples if sample.name == "pull_secret_updater_refreshes_total")
        return sum(sample.value for sample in totals if sample.labels["result"] == "conflict")

    def told(self, namespace: str) -> list[str]:
        """The reasons of the warnings about a Secret, one per Event."""
        events = [event for event in self.api.events if event["metadata"]["namespace"] == namespace]
        return [event["reason"] for event in events if event["type"] == "Warning"]

    def written(self, who: str, *, issued_at: int, expires_at: int) -> Filled:
        """A Secret as the controller leaves it."""
        registry = self.registry(self.providers[0])
        token = jwt(aud=[registry], sub=who, exp=expires_at)
        claimed = Written(
            issued_at=issued_at,
            expires_at=expires_at,
            refresh_at=expires_at,
            issued_for=issued_for(Resolved(self.providers[0], who, (registry,), None)),
            fingerprint=dockerconfig.fingerprint({registry: (USERNAME, token)}),
            hosts=(registry,),
            refreshed_for=None,
        )
        ours = {key: value for key, value in render_written("", claimed).items() if value is not None}
        config = dockerconfig.merge(dockerconfig.EMPTY, entries={registry: (USERNAME, token)})
        return Filled({**asking(identity=who), **ours}, config)

    # The process.

    @asynccontextmanager
    async def running(self, *, alone: bool = True) -> AsyncIterator[Controller]:
        """Run a new controller; at the end it drains, and where it is alone, leaves no task."""
        controller, others = self.start(), asyncio.all_tasks()
        task = asyncio.create_task(controller.run(self.stopping, user=self.api.user))
        try:
            await self.settle()
            yield controller
            self.check_deadlines()
            self.stopping.set()
            await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert not alone or asyncio.all_tasks() - others <= {task}, "a task outlives its controller"

    def start(self, *, client_type: type[KubeClient] = KubeClient) -> Controller:
        """A new controller, as after a restart."""
        self.stopping = asyncio.Event()
        self.metrics = Metrics(providers=self.providers, policies=POLICIES, relist_reasons=RELIST_REASONS)
        client = client_type(
            access=self.api.access, requests=_InSteps(self), watches=self.api.transport, now=self.clock
        )
        self.controller = Controller(
            self.config,
            client=client,
            issuers=self.transports,
            metrics=self.metrics,
            now=self.clock,
            log=self.logger(),
        )
        return self.controller

    async def settle(self, seconds: float = 0.001) -> None:
        """Let everything happen that needs no more time than this."""
        await asyncio.sleep(seconds)

    def logger(self) -> structlog.typing.FilteringBoundLogger:
        """A logger whose entries end in `log`."""

        def keep(_logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
            self.log.append({**event, "level": method, "at": self.clock()})
            raise structlog.DropEvent

        logger: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
            structlog.PrintLogger(), processors=[keep], wrapper_class=structlog.make_filtering_bound_logger(0)
        )
        return logger

    def logged(self, text: str) -> list[MutableMapping[str, Any]]:
        """The entries with that sentence."""
        return [entry for entry in self.log if entry["event"] == text]

    def logged_with(self, beginning: str) -> list[MutableMapping[str, Any]]:
        """The entries whose sentence begins so."""
        return [entry for entry in self.log if entry["event"].startswith(beginning)]

    def with_removal(self, removal: Removal) -> Config:
        """The configuration with another brake."""
        return msgspec.structs.replace(self.config, limits=Limits(removal=removal))

    # What must hold.

    def metric(self, name: str, **labels: str) -> float:
        """A sample of a metric, by its name without prefix."""
        value = self.metrics.registry.get_sample_value(f"pull_secret_updater_{name}", labels)
        assert value is not None, f"no metric {name} {labels}"
        return value

    def readable(self) -> str:
        """Everything that people other than the Secret's readers can see."""
        return "\n".join(
            [
                *map(repr, self.log),
                json.dumps(self.api.events),
                generate_latest(self.metrics.registry).decode(),
                *(json.dumps(secret["metadata"]) for secret in self.api._secrets.values()),
            ]
        )

    def check_deadlines(self) -> None:
        """S1: a claim that waits for a time has one deadline, not after its end; one that doesn't has none."""
        assert self.controller is not None
        policy, now = self.controller._policy, self.clock()
        for view in self.views():
            if view.secret.ref not in self.api._secrets:
                continue  # deleted, and the watch will say so
            held = [queue for queue in self.controller._queues.values() if _holds(queue, view.key)]
            assert len(held) <= 1, f"{view.key} is in two queues"
            decision = policy.decide(view, now)
            if isinstance(decision, Refresh) and _mints_are_under_way():
                continue  # the end of one of them may be what it waits for
            if isinstance(decision, Keep | Refresh):
                assert held, f"{view.key} has no deadline"
                due, expiry = deadline(held[0], view.key), policy.expiry(view.claim)
                if isinstance(decision, Keep) and due is not None:
                    assert expiry is not None
                    # A JWT can end, by our clock, before it began; then it is looked at 10 s after it was issued.
                    assert due <= max(expiry, now + 10), f"{view.key} is looked at after its end"

    def views(self) -> Iterator[View]:
        """What the controller knows of every claim."""
        assert self.controller is not None
        return (view for secret in self.controller._store for view in secret.views())


def _mints_are_under_way() -> bool:
    return any(task.get_name().startswith("mint ") for task in asyncio.all_tasks())


def _holds(queue: Any, key: Key) -> bool:
    return deadline(queue, key) is not None or queue.is_processing(key)


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
