"""What holds no usable token is counted, whatever the reason: one faulty Secret of each kind beside a good one."""

import time
from collections import Counter
from collections.abc import Callable

import pytest

from testing.controller import ControllerProcess
from testing.exchange import Issuer
from testing.mounted import MountedTokens
from tests.e2e.support.faulty import KINDS, create, providers
from tests.e2e.support.tenant import FILL_SECONDS, Tenant, filled_for

Start = Callable[..., ControllerProcess]
SETTLED_SECONDS = 20


@pytest.fixture
def running(controller: Start, mounted: MountedTokens, issuer: Issuer) -> ControllerProcess:
    """With two providers of one type that have a host in common, and series per Secret."""
    return controller(config={"perSecretMetrics": True, "providers": providers(issuer, mounted)})


def test_each_kind_of_faulty_secret_moves_its_series(
    running: ControllerProcess, tenants: Callable[[], Tenant], issuer: Issuer
) -> None:
    others = Counter(running.metrics().by("claims", "state"))
    other_problems = Counter(running.metrics().by("refused_claims", "reason"))
    good = tenants()
    good.create(annotations={"registries": "cgr.dev"})
    good.filled()
    expected = others + Counter(valid=1)
    faulty: dict[str, Tenant] = {}
    for reason, (state, _) in KINDS.items():
        faulty[reason] = tenants()
        create(reason, faulty[reason], issuer)
        expected[state] += 1
    contested = tenants()
    contested.create(annotations={"registries": "cgr.dev"})
    contested.filled()
    for _ in range(3):
        revert(contested)
    expected["contested"] += 1

    deadline = time.monotonic() + SETTLED_SECONDS
    while (metrics := running.metrics()).by("claims", "state") != expected and time.monotonic() < deadline:
        time.sleep(0.1)
    assert metrics.by("claims", "state") == expected
    assert metrics.by("refused_claims", "reason") == other_problems + Counter([*KINDS, "Fight"])
    assert metrics.value("contested_claims") == others["contested"] + 1
    assert metrics.value("managed_claims") == others.total() + 16
    assert good.namespace in metrics.by("secret_ready", "namespace")
    assert not {tenant.namespace for tenant in faulty.values()} & metrics.by("secret_ready", "namespace").keys()
    unready = {tenant.namespace for reason, tenant in faulty.items() if reason != "PausedUnclear"}
    listed = {sample.labels["namespace"] for sample in metrics.families["pull_secret_updater_secret_ready"].samples}
    assert unready < listed, "one that is paused is in no series of its own"
    assert faulty["PausedUnclear"].namespace not in listed


def revert(tenant: Tenant) -> None:
    """Empty the Secret, and return once the controller has restored it."""
    emptied = int(tenant.set_config({})["metadata"]["resourceVersion"])
    filled = filled_for(tenant.identity)
    tenant.wait(lambda one: int(one["metadata"]["resourceVersion"]) > emptied and filled(one), timeout=FILL_SECONDS)
