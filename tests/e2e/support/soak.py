"""What takes two minutes to see, seen beside the other tests: ten refreshes in a row, and a minute of nothing."""

import time
from types import TracebackType
from typing import Self

from testing.behaviour import Behaviour
from testing.exchange import Issuer
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.kubelet import Checker
from tests.e2e.support.observer import Observer
from tests.e2e.support.tenant import Tenant

LIFETIME_SECONDS = 20
QUIET_SECRETS = 3


class Soak:
    """Two groups of namespaces that no test touches, under the shared controller."""

    def __init__(self, cluster: Cluster, observer: Observer, issuer: Issuer) -> None:
        self.busy = Tenant(cluster, observer)
        """Its tokens live for 20 seconds; `checker` reads its Secret every 100 ms."""
        self.checker = Checker(cluster.api, self.busy.namespace)
        self.quiet = [Tenant(cluster, observer) for _ in range(QUIET_SECRETS)]
        """Their tokens live for an hour, so there is nothing to do for them after `quiet_since`."""
        self.quiet_since = 0.0
        issuer.behave(self.busy.identity, Behaviour(lifetime_seconds=LIFETIME_SECONDS))
        for tenant in self.quiet:
            issuer.behave(tenant.identity, Behaviour(lifetime_seconds=3600))

    def __enter__(self) -> Self:
        self.checker.__enter__()
        self.busy.create()
        for tenant in self.quiet:
            tenant.create()
        for tenant in self.quiet:
            tenant.warned("TokenWritten")  # the Event is the last request of a fill
        self.quiet_since = time.time()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def leave(self) -> None:
        """Stop looking, and delete what there was to see. Fine if it is done already."""
        self.checker.__exit__(None, None, None)
        for tenant in (self.busy, *self.quiet):
            tenant.leave()
