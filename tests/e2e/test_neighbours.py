"""One identity's trouble is nobody else's."""

import itertools
import statistics
from collections.abc import Callable

import pytest

from testing.behaviour import Behaviour, Fault
from testing.exchange import Issuer
from tests.e2e.support.tenant import Tenant, new_identity

SECRETS = 50
SAMPLES = 10
pytestmark = pytest.mark.usefixtures("shared_controller")


def test_a_hanging_and_a_refused_identity_slow_nobody_and_cost_one_request_a_step(
    tenants: Callable[[], Tenant], issuer: Issuer
) -> None:
    hanging, refused = new_identity(), new_identity()
    issuer.behave(hanging, Behaviour(fault=Fault.HANG))
    issuer.behave(refused, Behaviour(status=403))
    before = fill_seconds(tenants)
    for _ in range(SECRETS):
        tenants().create(hanging)
        tenants().create(refused)
    during = fill_seconds(tenants)
    assert during < before + 1, f"{before:.3f} s at rest, {during:.3f} s beside them; a held worker costs 2 s"

    steps = issuer.wait_for(hanging, 4, timeout=30)
    pauses = [later.asked_at - earlier.answered_at for earlier, later in itertools.pairwise(steps)]
    # Doubling from 1 s, less a jitter of up to half. One of them may be cut short: a success of somebody else may mean
    # that the issuer is back, so what waits is tried early, once a minute at most, and that try doesn't count.
    assert all(0 < pause < 2**number + 1.5 for number, pause in enumerate(pauses)), pauses
    assert sum(pauses) > 0.5 + 1.0, pauses
    assert len(issuer.exchanges(refused)) == 1, "the first step of a refusal is 15 s at least"


def fill_seconds(tenants: Callable[[], Tenant]) -> float:
    """The median from created to filled, of Secrets one after the other."""
    taken = []
    for _ in range(SAMPLES):
        tenant = tenants()
        tenant.create()
        filled = tenant.filled()
        taken.append(filled.at - tenant.history()[0].at)
    return statistics.median(taken)
