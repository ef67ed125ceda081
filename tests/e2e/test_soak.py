"""Long observations, begun with the first test that used the shared controller."""

import time

import pytest

from tests.e2e.support.requests import AuditLog
from tests.e2e.support.soak import LIFETIME_SECONDS, Soak

REFRESHES = 10
QUIET_SECONDS = 60


@pytest.mark.timeout(200)
@pytest.mark.usefixtures("shared_controller")
def test_ten_refreshes_in_a_row_come_before_expiry(soak: Soak) -> None:
    soak.checker.wait_for_tokens(REFRESHES + 1, timeout=180)
    assert soak.checker.faults == []
    assert soak.checker.reads > REFRESHES * LIFETIME_SECONDS / 2 / 0.1 / 2, "the checker hardly ran"
    # Due at 65 % of the life at the latest, so at least 35 % is left, less a second for whole-second instants.
    assert min(soak.checker.remaining) > LIFETIME_SECONDS * 0.35 - 1.5, soak.checker.remaining
    assert len(soak.checker.uids) == 1


@pytest.mark.timeout(200)
@pytest.mark.usefixtures("shared_controller")
def test_a_secret_with_nothing_due_costs_no_request_for_a_minute_but_the_watch(soak: Soak, audit: AuditLog) -> None:
    time.sleep(max(0.0, soak.quiet_since + QUIET_SECONDS - time.time()))  # a minute is a minute
    made = audit.requests(since=soak.quiet_since)
    quiet = {tenant.namespace for tenant in soak.quiet}
    assert [request for request in made if request.namespace in quiet] == []
    # Once a minute the controller looks whether its policies are still installed.
    looks = {"selfsubjectreviews", "validatingadmissionpolicies", "validatingadmissionpolicybindings"}
    others = [request for request in made if not request.namespace and request.resource not in looks]
    assert [request for request in others if request.verb != "watch"] == []
    assert len([request for request in made if request.resource == "selfsubjectreviews"]) <= 4
