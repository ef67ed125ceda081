"""200 Secrets in 20 namespaces with 5 identities, and what a restart costs."""

import base64
import itertools
import os
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest

from testing.behaviour import Behaviour
from testing.controller import ControllerProcess
from testing.exchange import Issuer
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.kubelet import claims
from tests.e2e.support.observer import Observer, Version
from tests.e2e.support.requests import AuditLog
from tests.e2e.support.tenant import Tenant, annotation, new_identity, token

NAMESPACES, NAMES, IDENTITIES = 20, 10, 5
FILL_SECONDS = 30
LIFETIME_SECONDS = 30
MEBIBYTE = 1024 * 1024
SCOPE = {"scope": "cluster"}
Start = Callable[..., ControllerProcess]


class Fleet:
    """The 200 Secrets, and the identity of each."""

    def __init__(self, cluster: Cluster, observer: Observer) -> None:
        self.tenants = [Tenant(cluster, observer) for _ in range(NAMESPACES)]
        self.identities = [new_identity() for _ in range(IDENTITIES)]
        places = itertools.product(range(NAMES), self.tenants)
        self.members = [
            (tenant, f"pull-secret-{number}", self.identities[index % IDENTITIES])
            for index, (number, tenant) in enumerate(places)
        ]

    def create(self) -> None:
        """All of them, empty."""
        for tenant, name, identity in self.members:
            tenant.create(identity, name=name)

    def filled(self) -> list[Version]:
        """The version that holds a valid token, of each, once all do."""
        return [tenant.filled(identity, timeout=FILL_SECONDS, name=name) for tenant, name, identity in self.members]

    def refreshed(self, value: str) -> list[Version]:
        """Ask for a refresh of all, and wait for it."""
        for tenant, name, _ in self.members:
            tenant.annotate(name, refresh=value)
        for tenant, name, _ in self.members:
            tenant.wait(lambda one: annotation(one, "refreshed-for") == value, timeout=FILL_SECONDS, name=name)
        return self.latest()

    def latest(self) -> list[Version]:
        """What was last seen of each."""
        return [tenant.history(name)[-1] for tenant, name, _ in self.members]


@pytest.fixture
def fleet(cluster: Cluster, observer: Observer, whole_cluster: None, issuer: Issuer) -> Iterator[Fleet]:
    """200 Secrets that ask for tokens of ten minutes."""
    made = Fleet(cluster, observer)
    for identity in made.identities:
        issuer.behave(identity, Behaviour(lifetime_seconds=600))
    made.create()
    yield made
    for tenant in made.tenants:
        tenant.leave()


def test_two_hundred_secrets_cost_no_more_than_two_mints_an_identity(
    fleet: Fleet, controller: Start, issuer: Issuer
) -> None:
    controller(config=SCOPE)
    fleet.filled()
    assert len(issuer.exchanges(*fleet.identities)) <= 2 * IDENTITIES


def test_fifty_secrets_of_a_mebibyte_that_anybody_created_hold_up_nobody(
    whole_cluster: None, controller: Start, tenants: Callable[[], Tenant]
) -> None:
    large, served = tenants(), tenants()
    for number in range(50):
        blob = base64.b64encode(os.urandom(MEBIBYTE)).decode()[: MEBIBYTE - 100]
        large.create("", name=f"pull-secret-{number}", data={"blob": blob})
    served.create()
    controller(config=SCOPE)
    served.filled(timeout=FILL_SECONDS)


def test_a_restart_with_nothing_due_mints_and_writes_nothing(
    fleet: Fleet, controller: Start, issuer: Issuer, tenants: Callable[[], Tenant], audit: AuditLog
) -> None:
    controller(config=SCOPE)
    before = fleet.filled()
    minted = len(issuer.exchanges(*fleet.identities))
    restarted_at = time.time()
    restarted = controller(config=SCOPE)
    fence = tenants()
    fence.create()
    fence.filled()
    assert restarted.metrics().value("managed_claims") >= len(fleet.members)
    assert len(issuer.exchanges(*fleet.identities)) == minted
    assert [version.number for version in fleet.latest()] == [version.number for version in before]
    patches = audit.requests(since=restarted_at, verb="patch")
    assert {request.namespace for request in patches if request.resource == "secrets"} == {fence.namespace}


def test_a_restart_with_everything_due_serves_namespaces_in_turn_and_the_longest_overdue_first(
    fleet: Fleet, controller: Start, issuer: Issuer
) -> None:
    first = controller(config=SCOPE)
    fleet.filled()
    for identity in fleet.identities:
        issuer.behave(identity, Behaviour(lifetime_seconds=LIFETIME_SECONDS))
    before = fleet.refreshed("short")
    first.stop()
    for identity in fleet.identities:
        issuer.behave(identity, Behaviour(lifetime_seconds=600))
    due = {key(version): refresh_at(version) for version in before}
    time.sleep(max(0.0, max(due.values()) + 1 - time.time()))  # all due, and by the clock alone

    controller(config={**SCOPE, "limits": {"writeConcurrency": 1}})
    old = {key(version): token(version.secret) for version in before}
    for tenant, name, _ in fleet.members:
        tenant.wait(
            lambda one, was=old[tenant.namespace, name]: token(one) != was,  # type: ignore[misc]
            timeout=FILL_SECONDS,
            name=name,
        )
    after = sorted(fleet.latest(), key=lambda version: version.number)
    for version in after:
        assert version.at < claims(old[key(version)])["exp"], "replaced in time"
    for namespace, writes in itertools.groupby(sorted(map(key, after), key=lambda one: one[0]), lambda one: one[0]):
        del writes
        order = [due[key(version)] for version in after if key(version)[0] == namespace]
        assert order == sorted(order), f"{namespace}: the longest overdue first"
    served = dict.fromkeys((tenant.namespace for tenant in fleet.tenants), 0)
    for version in after:
        served[key(version)[0]] += 1
        # All Secrets of a namespace have one identity, and those of the identity that was minted last all come last.
        for first_of_identity in range(IDENTITIES):
            same = list(served.values())[first_of_identity::IDENTITIES]
            assert max(same) <= min(same) + 2


def key(version: Version) -> tuple[str, str]:
    """Namespace and name."""
    metadata: dict[str, Any] = version.secret["metadata"]
    return metadata["namespace"], metadata["name"]


def refresh_at(version: Version) -> float:
    """When it was due, in whole seconds."""

    return datetime.fromisoformat(annotation(version.secret, "refresh-at") or "").timestamp()
