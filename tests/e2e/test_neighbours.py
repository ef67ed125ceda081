"""One identity's trouble is nobody else's."""

import itertools
import statistics
from collections.abc import Callable

import pytest

from hack.standin.behaviour import Behaviour, Fault
from hack.standin.exchange import Issuer
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
    assert during < 2 * before + 0.1, f"{before:.3f} s at rest, {during:.3f} s beside them"

    steps = issuer.wait_for(hanging, 4, timeout=30)
    for number, (earlier, later) in enumerate(itertools.pairwise(steps)):
        pause = later.asked_at - earlier.answered_at
        # Doubling from 1 s, less a jitter of up to half; and not more than one request at a time.
        assert 0.5 * 2**number - 0.1 < pause < 2**number + 1.5, f"{pause} s after request {number + 1}"
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
