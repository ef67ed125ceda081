"""What is read from annotations, whatever stands there, and that what is written is read back as the same."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.annotations import (
    IDENTITY,
    PREFIX,
    Written,
    claim_names,
    only_ours,
    read_hosts,
    read_instant,
    render_error,
    render_instant,
    render_written,
    suffixed,
)

WRITTEN = Written(
    issued_at=1767323045,
    expires_at=1767326645,
    refresh_at=1767324999,
    issued_for="0123456789abcdef",
    fingerprint="fedcba9876543210",
    hosts=("a.example", "cgr.dev"),
    refreshed_for="now",
)
LAST_INSTANT = int(dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC).timestamp())


def test_the_identity_annotation_is_the_one_of_the_go_controller() -> None:
    assert IDENTITY == "pull-secret-updater.chainguard.dev/identity"


def test_others_annotations_are_dropped_and_ours_lose_their_prefix() -> None:
    foreign = {"kubectl.kubernetes.io/last-applied-configuration": "{secret}", "pull-secret-updater.example/x": "y"}
    assert only_ours({**foreign, f"{PREFIX}identity": "me", f"{PREFIX}refresh": "1"}) == {
        "identity": "me",
        "refresh": "1",
    }


def test_claims_are_found_by_their_identity_and_sorted_by_name() -> None:
    keys = ["identity.b", "identity", "identity.a", "registries.c", "identityx", "identity.", "provider"]
    assert list(claim_names(dict.fromkeys(keys, "x"))) == ["", "a", "b"]


def test_without_an_identity_there_is_no_claim() -> None:
    assert list(claim_names({"registries": "cgr.dev", "refresh": "1"})) == []


def test_the_unsuffixed_claim_has_plain_keys_and_others_carry_their_name() -> None:
    assert suffixed("issued-at", "") == "issued-at"
    assert suffixed("issued-at", "team-ecr") == "issued-at.team-ecr"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-01-02T03:04:05Z", 1767323045),
        ("2026-01-02T03:04:05.999999Z", 1767323045),
        ("2026-01-02T04:04:05+01:00", 1767323045),
        ("2026-01-02t03:04:05z", 1767323045),
        ("1970-01-01T00:00:00Z", 0),
        (None, None),
        ("", None),
        ("soon", None),
        ("1767323045", None),
        ("2026-01-02T03:04:05", None),
        ("2026-01-02", None),
        ("2026-13-02T03:04:05Z", None),
        ("9" * 10_000, None),
    ],
)
def test_an_instant_is_read_or_is_none(value: str | None, expected: int | None) -> None:
    assert read_instant(value) == expected


@pytest.mark.parametrize("year", ["0001", "9999"])
@pytest.mark.parametrize("offset", ["Z", "+23:59", "-23:59"])
def test_the_first_and_the_last_year_are_read_without_an_error(year: str, offset: str) -> None:
    read_instant(f"{year}-01-01T00:00:00{offset}")
    read_instant(f"{year}-12-31T23:59:59{offset}")


@given(st.text())
def test_no_value_of_an_annotation_is_an_error(value: str) -> None:
    read_instant(value)
    read_hosts(value)


@given(st.integers(0, LAST_INSTANT))
def test_an_instant_survives_the_round_trip(instant: int) -> None:
    assert read_instant(render_instant(instant)) == instant


def test_an_instant_is_cut_to_whole_seconds_and_written_in_utc() -> None:
    assert render_instant(1767323045.999) == "2026-01-02T03:04:05Z"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("", None),
        (" , ,", None),
        ("cgr.dev", ("cgr.dev",)),
        (" cgr.dev ,b.example,", ("cgr.dev", "b.example")),
    ],
)
def test_hosts_are_a_comma_separated_list_with_room_for_blanks(
    value: str | None, expected: tuple[str, ...] | None
) -> None:
    assert read_hosts(value) == expected


@pytest.mark.parametrize(("claim", "suffix"), [("", ""), ("team-ecr", ".team-ecr")])
def test_a_success_writes_every_annotation_of_its_claim_and_removes_the_error(claim: str, suffix: str) -> None:
    assert render_written(claim, WRITTEN) == {
        f"{PREFIX}issued-at{suffix}": "2026-01-02T03:04:05Z",
        f"{PREFIX}expires-at{suffix}": "2026-01-02T04:04:05Z",
        f"{PREFIX}refresh-at{suffix}": "2026-01-02T03:36:39Z",
        f"{PREFIX}issued-for{suffix}": "0123456789abcdef",
        f"{PREFIX}fingerprint{suffix}": "fedcba9876543210",
        f"{PREFIX}registries-managed{suffix}": "a.example,cgr.dev",
        f"{PREFIX}refreshed-for{suffix}": "now",
        f"{PREFIX}error{suffix}": None,
    }


def test_an_error_is_one_annotation_that_is_set_or_removed() -> None:
    assert render_error("", "Fight: stop") == {f"{PREFIX}error": "Fight: stop"}
    assert render_error("x", None) == {f"{PREFIX}error.x": None}


@pytest.mark.parametrize("claim", ["", "team-ecr"])
def test_the_controller_never_writes_an_input(claim: str) -> None:
    inputs = {"identity", "provider", "registries", "service-account", "refresh", "paused"}
    keys = render_written(claim, WRITTEN).keys() | render_error(claim, "x").keys()
    assert not {key.removeprefix(PREFIX).partition(".")[0] for key in keys} & inputs
