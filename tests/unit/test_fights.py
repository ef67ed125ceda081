"""Who keeps reverting our write is backed off from, in growing calm and without touching anybody else."""

from __future__ import annotations

import pytest

from controller.core.model import View
from controller.fights import Fights
from tests.unit.fakes import NOW, OTHER_IDENTITY, annotated, filled, view

MINUTE = 60


@pytest.fixture
def fights() -> Fights:
    return Fights()


@pytest.fixture
def claim() -> View:
    return view(**filled())


@pytest.mark.parametrize("reverts", [0, 1, 2])
def test_two_reverts_are_no_fight(fights: Fights, claim: View, reverts: int) -> None:
    for number in range(reverts):
        fights.reverted(claim, NOW + number)
    assert fights.held_until(claim, NOW + reverts) is None


def test_the_third_revert_within_ten_minutes_holds_for_fifteen(fights: Fights, claim: View) -> None:
    for at in (NOW, NOW + 1, NOW + 9 * MINUTE):
        fights.reverted(claim, at)
    assert fights.held_until(claim, NOW + 9 * MINUTE) == NOW + 24 * MINUTE
    assert fights.held_until(claim, NOW + 24 * MINUTE - 1) == NOW + 24 * MINUTE
    assert fights.held_until(claim, NOW + 24 * MINUTE) is None


@pytest.mark.parametrize("gap", [5 * MINUTE, 5 * MINUTE + 1, 10 * MINUTE, 60 * MINUTE])
def test_reverts_that_are_far_apart_are_no_fight(fights: Fights, claim: View, gap: float) -> None:
    for number in range(50):
        fights.reverted(claim, NOW + number * gap)
        assert fights.held_until(claim, NOW + number * gap) is None


def test_a_fight_that_goes_on_makes_four_writes_an_hour(fights: Fights, claim: View) -> None:
    writes, now = 0, float(NOW)
    while now < NOW + 10 * 3600:
        held_until = fights.held_until(claim, now)
        if held_until is not None:
            now = held_until
            continue
        writes += 1
        now += 1
        fights.reverted(claim, now)
    assert writes <= 3 + 4 * 10


def test_when_the_other_gives_up_the_next_revert_is_the_first(fights: Fights, claim: View) -> None:
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
def test_a_change_of_the_inputs_ends_the_matter_at_once(fights: Fights, claim: View, changed: View) -> None:
    for number in range(3):
        fights.reverted(claim, NOW + number)
    assert fights.held_until(claim, NOW + 3) is not None
    assert fights.held_until(changed, NOW + 3) is None


def test_what_the_other_reverts_to_doesnt_matter(fights: Fights) -> None:
    for number in range(3):
        fights.reverted(view(**filled(resource_version=str(number), password=str(number))), NOW + number)
    assert fights.held_until(view(**{**filled(), "config": b"{}"}), NOW + 3) is not None


def test_a_fight_about_one_claim_holds_no_other(fights: Fights, claim: View) -> None:
    for number in range(3):
        fights.reverted(claim, NOW + number)
    assert fights.held_until(view(**filled(namespace="another")), NOW + 3) is None
    assert fights.held_until(view(annotated(identity_other=OTHER_IDENTITY), claim="other"), NOW + 3) is None


def test_twenty_thousand_fights_keep_the_memory_small(fights: Fights) -> None:
    template = view(**filled())
    for number in range(20_000):
        key = template.key._replace(name=str(number))
        fights.reverted(View(key, template.secret, template.claim), NOW)
    assert len(fights._fights) == 10_000
