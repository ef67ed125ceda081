"""Limits per namespace: the oldest Secrets of one are served, its mints wait for their turn, and no other notices."""

from collections.abc import Callable

import pytest

from testing.behaviour import Behaviour
from testing.controller import ControllerProcess
from testing.exchange import Issuer
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.tenant import (
    AT_ONCE_SECONDS,
    EVENT_SECONDS,
    FILL_SECONDS,
    Tenant,
    eventually,
    filled_for,
    new_identity,
    token,
)

SERVED = 20
MINTS = 12
PACE_SECONDS = 60 / MINTS
Start = Callable[..., ControllerProcess]

pytestmark = pytest.mark.usefixtures("whole_cluster")


def wait_for_the_next_second(tenant: Tenant, after: str) -> None:
    """Until what is created is younger than that by its timestamp, which has whole seconds."""

    def is_younger() -> bool:
        created: str = tenant.create("", name="clock")["metadata"]["creationTimestamp"]
        tenant.delete("clock")
        return created > after

    eventually(is_younger, timeout=AT_ONCE_SECONDS, what="the next second")


def over_limit_events(cluster: Cluster, namespace: str) -> list[str]:
    """The names of the Secrets that a namespace was told about."""
    events = cluster.api.items(f"/api/v1/namespaces/{namespace}/events")
    return [event["involvedObject"]["name"] for event in events if event["reason"] == "OverLimit"]


def test_of_40_secrets_of_a_namespace_the_20_oldest_are_filled_with_one_event_and_no_other_namespace_waits(
    controller: Start, cluster: Cluster, tenants: Callable[[], Tenant], issuer: Issuer
) -> None:
    ours, theirs = tenants(), tenants()
    issuer.behave(ours.identity, Behaviour(lifetime_seconds=3600))
    # The younger ones come first by name, so that it is the age that counts.
    oldest = [f"older-{number:02}" for number in range(SERVED)]
    youngest = [f"a-younger-{number:02}" for number in range(SERVED)]
    created = [ours.create(name=name)["metadata"]["creationTimestamp"] for name in oldest]
    wait_for_the_next_second(ours, created[-1])
    for name in youngest:
        ours.create(name=name)
    started = controller(config={"scope": "cluster", "limits": {"perNamespace": {"secrets": SERVED}}})
    for name in oldest:
        ours.filled(name=name)

    def over_limit() -> float:
        return started.metrics().value("refused_claims", reason="OverLimit")

    eventually(lambda: over_limit() == 20, timeout=FILL_SECONDS, what="the others are refused")
    theirs.create()
    theirs.filled(timeout=AT_ONCE_SECONDS)
    assert [token(ours.secret(name)) for name in youngest] == [""] * 20
    assert [len(ours.history(name)) for name in youngest] == [1] * 20, "and nothing is written to them"
    eventually(lambda: over_limit_events(cluster, ours.namespace), timeout=EVENT_SECONDS, what="Event OverLimit")

    for gone, next_one in zip(oldest[:2], youngest[:2], strict=True):
        ours.delete(gone)
        ours.filled(name=next_one, timeout=AT_ONCE_SECONDS)
    eventually(lambda: over_limit() == 18, timeout=AT_ONCE_SECONDS, what="two have moved up")
    filled = filled_for(ours.identity)
    assert [name for name in youngest if filled(ours.secret(name))] == youngest[:2]
    assert len(over_limit_events(cluster, ours.namespace)) == 1
    assert over_limit_events(cluster, theirs.namespace) == []


def test_a_namespace_of_many_identities_gets_so_many_tokens_at_once_and_no_other_namespace_waits(
    controller: Start, tenants: Callable[[], Tenant], issuer: Issuer
) -> None:
    ours, theirs = tenants(), tenants()
    identities = [new_identity() for _ in range(MINTS + 8)]
    for identity in identities:
        issuer.behave(identity, Behaviour(lifetime_seconds=3600))
    for number, identity in enumerate(identities):
        ours.create(identity, name=f"secret-{number:02}")
    controller(config={"scope": "cluster", "limits": {"perNamespace": {"mintsPerMinute": MINTS}}})
    eventually(lambda: len(issuer.exchanges(*identities)) >= MINTS, timeout=FILL_SECONDS, what="a minute's share")
    theirs.create()
    theirs.filled(timeout=AT_ONCE_SECONDS)
    eventually(
        lambda: len(issuer.exchanges(*identities)) > MINTS, timeout=PACE_SECONDS + FILL_SECONDS, what="the next one"
    )
    asked = sorted(exchange.asked_at for exchange in issuer.exchanges(*identities))
    # Half the pace, since the first request may have been slow on its way.
    assert asked[MINTS] - asked[0] > PACE_SECONDS / 2
    assert {exchange.status for exchange in issuer.exchanges(*identities)} == {200}
