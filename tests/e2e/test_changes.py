"""What users and their tools do to a Secret that is filled."""

import time
from collections.abc import Callable

import pytest

from testing.behaviour import Behaviour
from testing.exchange import Issuer
from tests.e2e.support.tenant import AT_ONCE_SECONDS, FILL_SECONDS, Tenant, filled_for, new_identity, token

pytestmark = pytest.mark.usefixtures("shared_controller")
LONG = Behaviour(lifetime_seconds=600)  # a fifth of it is longer than any test here


@pytest.fixture
def filled(tenant: Tenant, issuer: Issuer) -> Tenant:
    """A tenant whose Secret holds a token of ten minutes."""
    issuer.behave(tenant.identity, LONG)
    tenant.create()
    tenant.filled()
    return tenant


@pytest.fixture
def fence(tenants: Callable[[], Tenant]) -> Callable[[], None]:
    """Returns when the controller has acted on everything before: events come in order, and this one took a mint."""

    def pass_it() -> None:
        later = tenants()
        later.create()
        later.filled()

    return pass_it


def test_an_emptied_secret_is_refilled_at_once_and_without_a_mint(filled: Tenant, issuer: Issuer) -> None:
    old = token(filled.secret())
    began = time.time()
    filled.set_config({})
    refilled = filled.filled()
    assert refilled.at - began < AT_ONCE_SECONDS
    assert token(refilled.secret) == old
    assert issuer.minted(filled.identity) == 1


def test_another_identity_gets_its_token_at_once(filled: Tenant, issuer: Issuer) -> None:
    other = new_identity()
    began = time.time()
    filled.annotate(identity=other)
    assert filled.filled(other).at - began < AT_ONCE_SECONDS
    assert issuer.minted(other) == 1


def test_a_secret_that_no_longer_asks_is_left_alone(filled: Tenant, fence: Callable[[], None]) -> None:
    filled.annotate(identity=None)
    assert token(filled.secret()), "what was written stays"
    filled.set_config({})
    fence()
    assert filled.config() == {}


def test_a_new_refresh_value_mints_at_once(filled: Tenant, issuer: Issuer) -> None:
    old = token(filled.secret())
    began = time.time()
    filled.annotate(refresh="please")
    assert filled.replaced(old).at - began < AT_ONCE_SECONDS
    assert issuer.minted(filled.identity) == 2


def test_a_paused_secret_is_left_alone_until_it_no_longer_is(filled: Tenant, fence: Callable[[], None]) -> None:
    filled.annotate(paused="true")
    filled.set_config({})
    fence()
    assert filled.config() == {}
    filled.annotate(paused=None)
    filled.filled()


def test_an_edit_while_the_token_is_on_its_way_survives(tenant: Tenant, issuer: Issuer) -> None:
    issuer.behave(tenant.identity, Behaviour(delay_seconds=0.5))
    tenant.create()
    tenant.set_config({"auths": {"quay.io": {"auth": "dXNlcjpwYXNz"}}})
    tenant.patch({"metadata": {"labels": {"team": "a"}}})
    after = tenant.filled().secret
    assert tenant.config()["auths"]["quay.io"] == {"auth": "dXNlcjpwYXNz"}
    assert after["metadata"]["labels"] == {"team": "a"}
    assert issuer.minted(tenant.identity) == 1


def test_many_edits_of_others_at_once_all_survive(filled: Tenant) -> None:
    old = token(filled.secret())
    filled.annotate(refresh="now")
    for number in range(20):
        filled.patch({"metadata": {"labels": {f"label-{number}": "x"}}})
    after = filled.replaced(old)
    assert (
        len(
            filled.wait(lambda secret: len(secret["metadata"].get("labels", {})) == 20, timeout=FILL_SECONDS).secret[
                "data"
            ]
        )
        == 1
    )
    assert token(filled.secret()) == token(after.secret)


def test_a_secret_that_is_deleted_and_created_again_is_new(filled: Tenant) -> None:
    before = filled.secret()
    filled.delete()
    created = filled.create()
    valid = filled_for(filled.identity)
    filled.wait(lambda one: one["metadata"]["uid"] == created["metadata"]["uid"] and valid(one), timeout=FILL_SECONDS)
    assert created["metadata"]["uid"] != before["metadata"]["uid"]


def test_a_label_that_others_set_costs_nothing(filled: Tenant, issuer: Issuer, fence: Callable[[], None]) -> None:
    filled.patch({"metadata": {"labels": {"team": "a"}}})
    fence()
    assert issuer.minted(filled.identity) == 1
    assert len(filled.history()) == 3, "created, filled, labelled"
