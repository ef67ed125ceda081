"""Who runs when. The cluster is shared and a controller watches all of it, so there is never more than one.

Most tests use the *shared* controller, each with namespaces and identities of its own, and judge only by those. Tests
that need a controller's start, end or configuration for themselves run after those (`tests/e2e/conftest.py` sorts
them) and start their own, which ends the one before.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from testing.controller import COMMAND, CONFIG, ControllerProcess
from testing.exchange import Issuer
from testing.mounted import MountedTokens
from tests.e2e.support import leaks
from tests.e2e.support.cluster import Cluster

TIMEOUT_SECONDS = 2
"""Of a request to the issuer in these tests, so that a hang is over soon."""


class Controllers:
    """Every controller of the session, one at a time, and what they left behind."""

    def __init__(self, cluster: Cluster, issuer: Issuer, mounted: MountedTokens, *, directory: Path) -> None:
        self._cluster = cluster
        self._issuer = issuer
        self._mounted = mounted
        self._directory = directory
        self._numbers = itertools.count()
        self._all: list[ControllerProcess] = []
        self._shared: ControllerProcess | None = None
        self._at_end_of_shared: list[Callable[[], None]] = []

    def start(
        self,
        *,
        config: Mapping[str, Any] | None = None,
        provider: Mapping[str, Any] | None = None,
        args: tuple[str, ...] = ("run", "--config", CONFIG),
        env: Mapping[str, str] | None = None,
        in_cluster: bool = True,
        ready: bool = True,
        shared: bool = False,
        beside: bool = False,
        program: Sequence[str] = (str(COMMAND),),
    ) -> ControllerProcess:
        """End the controller that runs, start another, and return it once it is ready.

        `config` goes over the top level of the configuration file, `provider` over its provider `chainguard`. With
        `beside` the one that runs goes on. `program` starts another version.
        """
        if not beside:
            self.stop()
        while self._at_end_of_shared and not shared:
            self._at_end_of_shared.pop()()
        chainguard = {
            "type": "chainguard",
            "issuer": self._issuer.url,
            "tokenFile": str(self._mounted.oidc_token),
            "timeoutSeconds": TIMEOUT_SECONDS,
            **(provider or {}),
        }
        self._all.append(
            ControllerProcess(
                self._cluster,
                self._mounted,
                directory=self._directory / f"controller-{next(self._numbers)}",
                config={"requirePolicies": True, "providers": {"chainguard": chainguard}, **(config or {})},
                args=args,
                env=env,
                in_cluster=in_cluster,
                program=program,
            )
        )
        if ready:
            self._all[-1].wait_until_ready()
        return self._all[-1]

    def shared(self) -> ControllerProcess:
        """The one that most tests share; started when it is first wanted, or wanted again."""
        if self._shared is None or not self._shared.running():
            self._shared = self.start(shared=True)
        return self._shared

    def at_end_of_shared(self, clean_up: Callable[[], None]) -> None:
        """Call this before the first controller that a test has for itself."""
        self._at_end_of_shared.append(clean_up)

    def stop(self) -> None:
        """End the one that runs, if any, as a rollout would."""
        if self._all:
            self._all[-1].stop()

    def end(self) -> None:
        """At the end of the session, whatever happened before: no process stays."""
        for controller in self._all:
            if controller.running():
                controller.kill()

    def find_leaks(self) -> list[str]:
        """Where any credential of this session can be read: logs of every process, metrics, Events. Must be empty."""
        tokens = [*self._issuer.tokens, *self._cluster.issued_tokens]
        return leaks.find(self._texts(), tokens=tokens, canary=self._issuer.canary)

    def _texts(self) -> Iterator[tuple[str, str]]:
        logs = [*(controller.log_file for controller in self._all), *self._cluster.logs]
        yield from ((path.name, path.read_text(errors="replace")) for path in logs)
        for controller in self._all:
            yield from ((f"metrics of {controller.log_file}", scrape) for scrape in controller.scrapes)
        events = self._cluster.api.items("/api/v1/events")
        yield from leaks.events_as_texts(event for event in events if event["metadata"]["namespace"].startswith("e2e-"))
