"""The store keeps the newest version of every Secret, whatever the order in which versions arrive."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.model import ManagedSecret, Ref
from controller.core.store import Store, newer, older

A, B, ELSEWHERE = Ref("a", "pull-secret"), Ref("b", "pull-secret"), Ref("elsewhere", "pull-secret")


def secret(version: object, ref: Ref = A, *, uid: str = "u1", refresh: str | None = None) -> ManagedSecret:
    """A projection of which only the identity and version matter here."""
    return ManagedSecret(
        ref=ref,
        uid=uid,
        resource_version=str(version),
        right_type=True,
        immutable=False,
        readable=True,
        hosts=(),
        broken_hosts=(),
        unreadable=(),
        plain=True,
        paused=None,
        refresh=refresh,
        claims=(),
    )


def here(ref: Ref) -> bool:
    """What the reflector of these tests covers."""
    return ref != ELSEWHERE


def held(store: Store) -> dict[Ref, str]:
    return {secret.ref: secret.resource_version for secret in store}


# Which version is newer.


@pytest.mark.parametrize(
    ("incoming", "present"),
    [
        ("2", "1"),
        ("10", "9"),
        ("100", "99"),
        ("18446744073709551616", "18446744073709551615"),
        ("1" + "0" * 40, "9" * 40),
    ],
)
def test_versions_compare_as_numbers_of_any_size(incoming: str, present: str) -> None:
    assert newer(incoming, present)
    assert not newer(present, incoming)
    assert not newer(incoming, incoming)


@given(st.integers(1), st.integers(1))
def test_the_order_of_versions_is_that_of_integers(incoming: int, present: int) -> None:
    assert newer(str(incoming), str(present)) == (incoming > present)


@pytest.mark.parametrize("odd", ["", "0", "01", "-1", "+1", " 1", "1 ", "1.0", "1e3", "abc", "1_0", "\u0661", "\u00b2"])
def test_a_version_that_is_no_number_is_newer_unless_it_is_the_same(odd: str) -> None:
    assert newer(odd, "5")
    assert newer("5", odd)
    assert not newer(odd, odd)


# The watch.


def test_a_newer_version_takes_the_place_of_an_older_one() -> None:
    store = Store()
    assert store.put(secret(9))
    assert store.put(secret(10))
    assert held(store) == {A: "10"}


@pytest.mark.parametrize("version", [10, 9, 1])
def test_a_version_as_old_or_older_changes_nothing(version: int) -> None:
    store = Store()
    store.put(secret(10, refresh="held"))
    assert not store.put(secret(version, refresh="late"))
    assert store.get(A) == secret(10, refresh="held")


def test_a_secret_created_again_takes_the_place_of_the_deleted_one() -> None:
    store = Store()
    store.put(secret(10, uid="u1"))
    assert store.put(secret(12, uid="u2"))
    assert store.get(A) == secret(12, uid="u2")
    assert store.drop(A, "11") is None, "the deletion of the first comes late"
    assert not store.put_reply(secret(10, uid="u1"), assumed=True)
    assert store.get(A) == secret(12, uid="u2")


@pytest.mark.parametrize("version", ["10", "11", "odd"])
def test_a_deleted_secret_is_gone(version: str) -> None:
    store = Store()
    store.put(secret(10))
    assert store.drop(A, version) == secret(10)
    assert (store.get(A), list(store)) == (None, [])


def test_a_deletion_older_than_what_is_held_is_ignored() -> None:
    store = Store()
    store.put(secret(10))
    assert store.drop(A, "9") is None
    assert held(store) == {A: "10"}


def test_dropping_what_is_not_held_does_nothing() -> None:
    assert Store().drop(A, "9") is None


def test_secrets_of_the_same_name_in_two_namespaces_are_two() -> None:
    store = Store()
    store.put(secret(10, A))
    store.put(secret(5, B))
    assert held(store) == {A: "10", B: "5"}


def test_the_store_may_change_while_it_is_read() -> None:
    store = Store()
    store.put(secret(10, A))
    store.put(secret(11, B))
    for each in store:
        store.drop(each.ref, each.resource_version)
    assert not list(store)


# Answers to our own requests.


def test_after_our_write_nothing_older_than_its_answer_is_held() -> None:
    store = Store()
    store.put(secret(10))
    assert store.put_reply(secret(11), assumed=True)
    assert not store.put(secret(11)), "our own write, seen by the watch, is no news"
    assert not store.put(secret(10))
    assert held(store) == {A: "11"}


def test_an_answer_that_comes_after_the_deletion_brings_nothing_back() -> None:
    store = Store()
    store.put(secret(10))
    store.drop(A, "12")
    assert not store.put_reply(secret(11), assumed=True)
    assert store.get(A) is None


def test_an_answer_that_comes_after_the_annotation_was_removed_and_set_again_is_too_old() -> None:
    store = Store()
    store.put(secret(10))
    store.drop(A, "12")
    store.put(secret(13))
    assert not store.put_reply(secret(11), assumed=True)
    assert held(store) == {A: "13"}


@given(st.permutations(["watch 10", "reply 11", "watch 11", "deleted 12"]))
def test_a_deleted_secret_stays_gone_however_late_our_answer_is(order: list[str]) -> None:
    watch = sorted(event for event in order if event.startswith(("watch", "deleted")))
    in_order = iter(sorted(watch, key=lambda event: event.split()[1]))
    store = Store()
    store.put(secret(9))
    for event in order:
        if event.startswith("reply"):
            store.put_reply(secret(11), assumed=True)
            continue
        kind, version = next(in_order).split()
        if kind == "watch":
            store.put(secret(version))
        else:
            store.drop(A, version)
    assert store.get(A) is None


# A relist.


def test_a_relist_adds_changes_and_removes() -> None:
    store = Store()
    added, removed, same, newest = (Ref(name, "pull-secret") for name in ("added", "removed", "same", "newest"))
    for version, ref in ((10, removed), (11, same), (12, newest)):
        store.put(secret(version, ref))
    listed = [secret(20, added), secret(11, same), secret(21, newest)]
    changed, gone = store.replace(iter(listed), covers=here, resource_version="30", rolled_back=False)
    assert changed == [secret(20, added), secret(21, newest)]
    assert gone == [secret(10, removed)]
    assert held(store) == {added: "20", same: "11", newest: "21"}


def test_a_relist_leaves_alone_what_it_does_not_cover() -> None:
    store = Store()
    store.put(secret(10, ELSEWHERE))
    for rolled_back in (False, True):
        assert store.replace([], covers=here, resource_version="30", rolled_back=rolled_back) == ([], [])
    assert held(store) == {ELSEWHERE: "10"}


@pytest.mark.parametrize(("version", "stays"), [(29, False), (30, False), (31, True)])
def test_what_is_missing_from_a_relist_stays_only_if_it_is_newer_than_the_list(version: int, stays: bool) -> None:
    store = Store()
    store.put(secret(version))
    _, gone = store.replace([], covers=here, resource_version="30", rolled_back=False)
    assert (store.get(A) is not None) == stays
    assert gone == ([] if stays else [secret(version)])


def test_a_relist_that_our_own_write_overtook_brings_back_no_older_version() -> None:
    store = Store()
    store.put(secret(10))
    store.put_reply(secret(31), assumed=True)
    assert store.replace([secret(10)], covers=here, resource_version="30", rolled_back=False) == ([], [])
    assert held(store) == {A: "31"}


def test_after_a_restore_from_backup_the_list_is_the_truth_whatever_the_versions() -> None:
    store = Store()
    same = Ref("same", "pull-secret")
    for each in (secret(1000, A), secret(1001, B), secret(500, same)):
        store.put(each)
    listed = [secret(400, A), secret(500, same)]
    changed, gone = store.replace(listed, covers=here, resource_version="600", rolled_back=True)
    assert (changed, gone) == ([secret(400, A)], [secret(1001, B)])
    assert held(store) == {A: "400", same: "500"}


def test_after_a_restore_the_same_version_with_other_content_counts_as_changed() -> None:
    store = Store()
    store.put(secret(500, refresh="before"))
    listed = [secret(500, refresh="after")]
    changed, _ = store.replace(listed, covers=here, resource_version="600", rolled_back=True)
    assert changed == listed
    assert store.get(A) == listed[0]


def test_a_read_that_shows_an_older_version_after_a_restore_is_the_truth() -> None:
    store = Store()
    store.put(secret(1000))
    assert store.roll_back(secret(400))
    assert held(store) == {A: "400"}
    assert store.put_reply(secret(401), assumed=False), "what we write from there on is newer"


def test_a_read_after_a_restore_brings_back_nothing_that_is_not_held() -> None:
    store = Store()
    assert not store.roll_back(secret(400))
    assert held(store) == {}


@pytest.mark.parametrize(
    ("incoming", "than", "expected"), [("9", "10", True), ("10", "9", False), ("9", "9", False), ("x", "9", False)]
)
def test_only_a_smaller_number_is_certainly_older(incoming: str, than: str, expected: bool) -> None:
    assert older(incoming, than=than) is expected


def test_versions_that_are_no_numbers_still_come_and_go() -> None:
    store = Store()
    store.put(secret("x1"))
    assert store.put(secret("x2"))
    assert store.replace([], covers=here, resource_version="x3", rolled_back=False) == ([], [secret("x2")])


# Whatever happens.

versions = st.integers(1, 30)
refs = st.sampled_from([A, B, ELSEWHERE])
steps = st.one_of(
    st.tuples(st.sampled_from(["put", "put_reply"]), refs, versions),
    st.tuples(st.just("replace"), st.dictionaries(st.sampled_from([A, B]), versions), versions),
)


def apply(store: Store, step: tuple[str, object, int]) -> None:
    match step:
        case ("put", Ref() as ref, version):
            store.put(secret(version, ref))
        case ("put_reply", Ref() as ref, version):
            store.put_reply(secret(version, ref), assumed=True)
        case ("replace", dict() as listed, version):
            secrets = [secret(each, ref) for ref, each in listed.items()]
            store.replace(secrets, covers=here, resource_version=str(version), rolled_back=False)
        case _:
            raise AssertionError(step)


@given(st.lists(steps, max_size=40))
def test_the_version_held_of_a_secret_never_goes_back(history: list[tuple[str, object, int]]) -> None:
    store = Store()
    seen = [held(store)]
    for step in history:
        apply(store, step)
        seen.append(held(store))
    for before, after in itertools.pairwise(seen):
        assert all(int(after[ref]) >= int(before[ref]) for ref in before.keys() & after.keys())
