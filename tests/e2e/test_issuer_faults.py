"""Everything an issuer can answer but a token, and what the Secret sees of it: nothing."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import pytest

from testing.behaviour import Behaviour, Fault
from testing.exchange import Issuer
from tests.e2e.support.tenant import AT_ONCE_SECONDS, FILL_SECONDS, Tenant, annotation, token

pytestmark = pytest.mark.usefixtures("shared_controller")
GOOD = Behaviour(lifetime_seconds=600)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A behaviour, what the user is told, and how many requests it may cost until the user has been told."""

    behaviour: Behaviour
    reason: str
    requests: int = 1


CASES = {
    "400": Case(behaviour=Behaviour(status=400), reason="RequestRefused"),
    # A proof that the issuer calls unverifiable is read again once: it may have been replaced meanwhile.
    "401": Case(behaviour=Behaviour(status=401), reason="MintRefused", requests=2),
    "403": Case(behaviour=Behaviour(status=403), reason="MintRefused"),
    "404": Case(behaviour=Behaviour(status=404), reason="IdentityUnknown"),
    "429 with Retry-After": Case(behaviour=Behaviour(status=429, retry_after_seconds=60), reason="IssuerThrottles"),
    "500": Case(behaviour=Behaviour(status=500), reason="IssuerUnavailable", requests=2),
    "503": Case(behaviour=Behaviour(status=503), reason="IssuerUnavailable", requests=2),
    "HTML with status 200": Case(behaviour=Behaviour(fault=Fault.HTML), reason="IssuerMalformed", requests=2),
    "an empty token": Case(behaviour=Behaviour(fault=Fault.EMPTY_TOKEN), reason="IssuerMalformed", requests=2),
    "1 MiB": Case(behaviour=Behaviour(fault=Fault.OVERSIZE), reason="IssuerUnavailable", requests=2),
    "a redirect": Case(behaviour=Behaviour(fault=Fault.REDIRECT), reason="RequestRefused"),
    "a reset connection": Case(behaviour=Behaviour(fault=Fault.RESET), reason="IssuerUnavailable", requests=3),
    "an expired token": Case(behaviour=Behaviour(lifetime_seconds=-60), reason="TokenUnfit"),
    "another audience": Case(behaviour=Behaviour(audience="quay.io"), reason="TokenUnfit"),
    "another subject": Case(behaviour=Behaviour(subject="f" * 40), reason="TokenUnfit"),
    "no answer": Case(behaviour=Behaviour(fault=Fault.HANG), reason="IssuerUnavailable", requests=2),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_fault_of_the_issuer_is_told_once_writes_nothing_and_ends_with_a_new_refresh_value(
    case: Case, tenant: Tenant, issuer: Issuer
) -> None:
    issuer.behave(tenant.identity, case.behaviour)
    tenant.create()
    told = tenant.wait(lambda secret: bool(annotation(secret, "error")), timeout=FILL_SECONDS).secret
    assert (annotation(told, "error") or "").startswith(case.reason)
    assert tenant.config() == {}
    assert len(issuer.exchanges(tenant.identity)) <= case.requests
    assert issuer.exchanges("") == [], "nobody followed a redirect"

    issuer.behave(tenant.identity, GOOD)
    began = time.time()
    tenant.annotate(refresh="now")
    filled = tenant.filled()
    # A request that hangs still has the rest of its time; every other fault is over at once.
    grace = 2 if case.behaviour.fault is Fault.HANG else 0
    assert filled.at - began < AT_ONCE_SECONDS + grace
    assert annotation(filled.secret, "error") is None
    tenant.warned(case.reason)
    assert [event["reason"] for event in tenant.events() if event["type"] == "Warning"] == [case.reason]


@pytest.mark.parametrize("status", [403, 500])
def test_a_failed_mint_never_touches_the_credential(status: int, tenants: Callable[[], Tenant], issuer: Issuer) -> None:
    tenant, fence = tenants(), tenants()
    issuer.behave(tenant.identity, GOOD)
    tenant.create()
    before = tenant.filled().secret
    issuer.behave(tenant.identity, Behaviour(status=status))
    tenant.annotate(refresh="now")
    issuer.wait_for(tenant.identity, 2, timeout=FILL_SECONDS)
    fence.create()
    fence.filled()
    assert tenant.secret()["data"] == before["data"]
    issuer.behave(tenant.identity, GOOD)
    tenant.annotate(refresh="again")
    tenant.replaced(token(before))


@pytest.mark.parametrize(
    ("behaviour", "life"),
    [
        (Behaviour(lifetime_seconds=600, expiry_seconds=60), 60),
        (Behaviour(lifetime_seconds=60, expiry_seconds=600), 60),
        # The issuer's clock is its own affair: ten minutes off either way, and the life is what it is.
        (Behaviour(lifetime_seconds=120, clock_shift_seconds=-600), 120),
        (Behaviour(lifetime_seconds=120, clock_shift_seconds=600), 120),
    ],
    ids=["a shorter expiry wins", "a shorter exp wins", "a clock behind", "a clock ahead"],
)
def test_the_life_of_a_token_is_the_least_of_what_the_issuer_says(
    behaviour: Behaviour, life: int, tenant: Tenant, issuer: Issuer
) -> None:
    issuer.behave(tenant.identity, behaviour)
    tenant.create()
    filled = tenant.wait(lambda secret: bool(annotation(secret, "expires-at")), timeout=FILL_SECONDS).secret
    # `issued-at` is when the request was sent, and the header Date has whole seconds: one second more at the most.
    assert life - 3 <= seconds(filled, "expires-at") - seconds(filled, "issued-at") <= life + 1
    assert abs(seconds(filled, "issued-at") - time.time()) < 10


def seconds(secret: dict[str, object], key: str) -> float:
    """An instant of our annotations, as seconds since the epoch."""
    return datetime.fromisoformat(annotation(secret, key) or "").timestamp()
