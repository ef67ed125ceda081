"""Who keeps reverting our write is backed off from, in growing calm and without touching anybody else."""

from __future__ import annotations

import pytest

from controller.core.fights import ContestedClaims
from controller.core.model import View
from tests.unit.fakes import NOW, OTHER_IDENTITY, annotated, filled, view

MINUTE = 60


@pytest.fixture
def fights() -> ContestedClaims:
    return ContestedClaims()


@pytest.fixture
def claim() -> View:
    return view(**filled())


@pytest.mark.parametrize(("reverts", "contested"), [(0, False), (1, False), (2, False), (3, True), (4, True)])
def test_a_claim_is_contested_from_the_third_revert_on(
    fights: ContestedClaims, claim: View, reverts: int, contested: bool
) -> None:
    for number in range(reverts):
        fights.reverted(claim, NOW + number)
    assert (fights.standing(claim, NOW + reverts) is not None) is contested


@pytest.mark.parametrize(
    ("reverts", "seconds"), [(1, 0), (2, 0), (3, 0), (4, 10), (5, 20), (6, 30), (7, 30), (100, 30)]
)
def test_three_reverts_are_healed_at_once_and_then_every_10_s_doubling_to_30_s(
    fights: ContestedClaims, claim: View, reverts: int, seconds: int
) -> None:
    for number in range(reverts):
        fights.reverted(claim, NOW + number)
    last = NOW + reverts - 1
    assert fights.held_until(claim, last) == (last + seconds if seconds else None)
    assert fights.held_until(claim, last + seconds) is None


@pytest.mark.parametrize("gap", [5 * MINUTE, 5 * MINUTE + 1, 10 * MINUTE, 60 * MINUTE])
def test_reverts_that_are_far_apart_are_no_fight(fights: ContestedClaims, claim: View, gap: float) -> None:
    for number in range(50):
        fights.reverted(claim, NOW + number * gap)
        assert fights.held_until(claim, NOW + number * gap) is None


def test_a_fight_that_goes_on_makes_two_writes_a_minute(fights: ContestedClaims, claim: View) -> None:
    writes, now = 0, float(NOW)
    while now < NOW + 3600:
        held_until = fights.held_until(claim, now)
        if held_until is not None:
            now = held_until
            continue
        writes += 1
        now += 1
        fights.reverted(claim, now)
    assert writes <= 6 + 2 * 60


def test_ten_minutes_after_the_last_revert_the_fight_is_over(fights: ContestedClaims, claim: View) -> None:
    for number in range(3):
        fights.reverted(claim, NOW + number)
    assert (standing := fights.standing(claim, NOW + 2)) is not None
    assert standing.until == NOW + 2 + 10 * MINUTE
    assert fights.standing(claim, NOW + 1 + 10 * MINUTE) is not None
    assert fights.standing(claim, NOW + 2 + 10 * MINUTE) is None


def test_the_manager_is_asked_for_once_and_named(fights: ContestedClaims, claim: View) -> None:
    for number in range(2):
        fights.reverted(claim, NOW + number)
        assert not fights.wants_manager(claim, NOW + number)
    fights.reverted(claim, NOW + 2)
    assert fights.wants_manager(claim, NOW + 2)
    fights.name_manager(claim, "argocd-controller", NOW + 2)
    fights.reverted(claim, NOW + 3)
    assert not fights.wants_manager(claim, NOW + 3)
    assert (standing := fights.standing(claim, NOW + 3)) is not None
    assert standing.rejection.text.endswith(": argocd-controller")


def test_when_the_other_gives_up_the_next_revert_is_the_first(fights: ContestedClaims, claim: View) -> None:
    for number in range(3):
        fights.reverted(claim, NOW + number)
    later = NOW + 60 * MINUTE
    fights.reverted(claim, later)
    assert fights.held_until(claim, later) is None
    fights.reverted(claim, later + 1)
    assert fights.held_until(claim, later + 1) is None


@pytest.mark.parametrize(
    "changed",
    [
        view(**filled(uid="another")),
        view(**filled(overrides={"identity": OTHER_IDENTITY})),
        view(**filled(overrides={"refresh": "1"})),
        view(**filled(overrides={"registries": "cgr.dev"})),
        view(**filled(overrides={"provider": "chainguard"})),
    ],
    ids=["created again", "another identity", "a refresh asked for", "other registries", "another provider"],
)
def test_a_change_of_the_inputs_ends_the_matter_at_once(fights: ContestedClaims, claim: View, changed: View) -> None:
    for number in range(5):
        fights.reverted(claim, NOW + number)
    assert fights.held_until(claim, NOW + 5) is not None
    assert fights.held_until(changed, NOW + 5) is None


def test_what_the_other_reverts_to_doesnt_matter(fights: ContestedClaims) -> None:
    for number in range(5):
        fights.reverted(view(**filled(resource_version=str(number), password=str(number))), NOW + number)
    assert fights.held_until(view(**{**filled(), "config": b"{}"}), NOW + 5) is not None


def test_a_fight_about_one_claim_holds_no_other(fights: ContestedClaims, claim: View) -> None:
    for number in range(5):
        fights.reverted(claim, NOW + number)
    assert fights.held_until(view(**filled(namespace="another")), NOW + 3) is None
    assert fights.held_until(view(annotated(identity_other=OTHER_IDENTITY), claim="other"), NOW + 3) is None


def test_twenty_thousand_fights_keep_the_memory_small(fights: ContestedClaims) -> None:
    template = view(**filled())
    for number in range(20_000):
        key = template.key._replace(name=str(number))
        fights.reverted(View(key, template.secret, template.claim), NOW)
    assert len(fights._fights) == 10_000


def test_a_clock_that_was_set_back_holds_nobody_for_longer(fights: ContestedClaims, claim: View) -> None:
    for number in range(3):
        fights.reverted(claim, NOW + number)
    assert fights.held_until(claim, NOW - 60 * MINUTE) is None


def test_a_fight_of_a_thousand_rounds_takes_no_more_memory_than_one_of_six(
    fights: ContestedClaims, claim: View
) -> None:
    for number in range(1000):
        fights.reverted(claim, NOW + number / 10)
    assert len(fights._fights[claim.key].reverts) == 6
