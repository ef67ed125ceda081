"""Which namespaces a target selects, against an oracle; and that nothing but what is marked as ours is ever removed."""

from __future__ import annotations

import re

import hypothesis.strategies as st
import pytest
from hypothesis import given

from controller.core.model import ManagedSecret, Ref
from controller.core.projection import project
from controller.core.targets import (
    Account,
    Brake,
    Namespace,
    Requirement,
    Selection,
    Target,
    Targets,
    installation_of,
    is_removable,
)
from tests.unit.fakes import secret_json

KEYS, VALUES = ("tier", "env"), ("prod", "test")
NAMES = ("team-a", "team-b", "kube-system", "ours", "x")
GLOBS = ("*", "team-*", "team-?", "x", "kube-system", "ours", "kube-*")


def target(name: str = "everyone", *names: str, **more: object) -> Target:
    fields: dict[str, object] = {
        "secret_name": "pull-secret",
        "identity": "me",
        "provider": None,
        "registries": None,
        "service_account": None,
        "selections": (Selection(names or ("*",)),),
        **more,
    }
    return Target(name=name, **fields)  # type: ignore[arg-type]


requirements = st.builds(
    Requirement,
    st.sampled_from(KEYS),
    st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist"]),
    st.frozensets(st.sampled_from(VALUES), min_size=1),
)
selections = st.builds(
    Selection,
    st.lists(st.sampled_from(GLOBS), max_size=2).map(tuple),
    st.lists(requirements, max_size=2).map(tuple),
)
namespaces = st.builds(
    Namespace,
    st.sampled_from(NAMES),
    st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES)),
    opted_out=st.booleans(),
    is_ending=st.booleans(),
)
targets = st.builds(
    lambda name, chosen, excluded, secret: target(name, selections=chosen, exclude=excluded, secret_name=secret),
    st.sampled_from(["a", "b", "c"]),
    st.lists(selections, min_size=1, max_size=2).map(tuple),
    st.lists(selections, max_size=1).map(tuple),
    st.sampled_from(["pull-secret", "other"]),
)


def holds(requirement: Requirement, labels: dict[str, str]) -> bool:
    """The words of the Kubernetes documentation, one by one."""
    value = labels.get(requirement.key)
    return {
        "In": value is not None and value in requirement.values,
        "NotIn": value is None or value not in requirement.values,
        "Exists": value is not None,
        "DoesNotExist": value is None,
    }[requirement.operator]


def matches(selection: Selection, namespace: Namespace) -> bool:
    patterns = [name.replace("*", ".*").replace("?", ".") for name in selection.names]
    named = not patterns or any(re.fullmatch(pattern, namespace.name) for pattern in patterns)
    return named and all(holds(one, dict(namespace.labels)) for one in selection.requirements)


def selects(one: Target, namespace: Namespace) -> bool:
    if namespace.opted_out or namespace.is_ending:
        return False
    reserved = namespace.name in ("kube-system", "ours")
    chosen = any(matches(each, namespace) and (not reserved or namespace.name in each.names) for each in one.selections)
    return chosen and not any(matches(each, namespace) for each in one.exclude)


@given(st.lists(targets, max_size=3, unique_by=lambda one: one.name), namespaces)
def test_the_selection_is_that_of_an_oracle(some: list[Target], namespace: Namespace) -> None:
    found = Targets(some, own_namespace="ours")
    wanted: dict[str, str] = {}
    outdone: list[str] = []
    for one in sorted(some, key=lambda each: each.name):
        if selects(one, namespace):
            if one.secret_name in wanted:
                outdone.append(one.name)
            else:
                wanted[one.secret_name] = one.name
    assert {name: one.name for name, one in found.chosen(namespace).items()} == wanted
    assert [one.name for one in found.outdone(namespace)] == outdone


@given(st.lists(targets, max_size=3, unique_by=lambda one: one.name), namespaces)
def test_exact_names_are_all_that_may_be_selected(some: list[Target], namespace: Namespace) -> None:
    found = Targets(some, own_namespace="ours")
    if found.exact_namespaces is not None and found.chosen(namespace):
        assert namespace.name in found.exact_namespaces


inputs = st.fixed_dictionaries(
    {},
    optional={
        "identity": st.sampled_from(["me", "you"]),
        "provider": st.sampled_from(["p", "q"]),
        "registries": st.sampled_from(["r.test", "r.test,s.test"]),
        "target": st.sampled_from(["everyone", "other"]),
        "service-account": st.just("builder"),
    },
)


def secret(annotations: dict[str, str], *, marked: bool = True) -> ManagedSecret:
    prefix = "pull-secret-updater.chainguard.dev/"
    labels = {prefix + "created-by": "ours.controller"} if marked else {}
    raw = secret_json({prefix + key: value for key, value in annotations.items()}, labels=labels)
    found = project(raw, installation="ours.controller").item
    assert found is not None
    return found


@given(inputs, st.sampled_from([None, "p"]), st.sampled_from([None, ("r.test",)]))
def test_assigning_is_idempotent_and_owes_exactly_what_the_annotations_lack(
    annotations: dict[str, str], provider: str | None, registries: tuple[str, ...] | None
) -> None:
    one = target(provider=provider, registries=registries)
    assigned = one.assign(secret(annotations))
    assert one.assign(assigned) == assigned
    claim = assigned.claims[0]
    assert (claim.identity, claim.provider, claim.registries) == ("me", provider, registries)
    prefix = "pull-secret-updater.chainguard.dev/"
    written = dict(annotations)
    for key, value in assigned.owed:
        written.pop(key.removeprefix(prefix), None)
        if value is not None:
            written[key.removeprefix(prefix)] = value
    assert one.assign(secret(written)).owed == ()
    assert {key: value for key, value in one.inputs.items() if value is not None} == {
        prefix + key: value for key, value in written.items()
    }


@given(inputs)
def test_of_another_target_everything_that_was_owed_stays_owed(annotations: dict[str, str]) -> None:
    first, second = target(), target("zz", provider="q")
    moved = second.assign(first.assign(secret(annotations)))
    assert moved.claims == second.assign(secret(annotations)).claims
    assert {key for key, _ in second.assign(secret(annotations)).owed} <= {key for key, _ in moved.owed}
    assert all(second.inputs[key] == value for key, value in moved.owed)


def test_a_secret_without_our_mark_is_of_no_target() -> None:
    assert secret({"identity": "me", "target": "everyone"}, marked=False).target is None
    assert project(secret_json({}, labels={"pull-secret-updater.chainguard.dev/created-by": "x.y"})).item is None


@pytest.mark.parametrize(
    ("content", "annotations", "removable"),
    [
        ({"auths": {"r.test": {"auth": "YTpi"}}}, {"registries-managed": "r.test"}, True),
        ({}, {}, True),
        ({"auths": {"r.test": {"auth": "YTpi"}, "q.test": {"auth": "YTpi"}}}, {"registries-managed": "r.test"}, False),
        ({"credHelpers": {"x": "y"}}, {}, False),
        ({}, {"identity.other": "x"}, False),
    ],
)
def test_only_what_holds_nothing_else_is_removable(
    content: object, annotations: dict[str, str], *, removable: bool
) -> None:
    prefix = "pull-secret-updater.chainguard.dev/"
    ours = {prefix + key: value for key, value in {"identity": "me", **annotations}.items()}
    raw = secret_json(ours, config=content, labels={prefix + "created-by": "ours.controller"})
    found = project(raw, installation="ours.controller").item
    assert found is not None
    assert is_removable(found) is removable


@pytest.mark.parametrize(
    ("leaving", "of", "holds"),
    [(10, 10, False), (11, 11, True), (11, 55, True), (11, 56, False), (100, 500, True), (99, 500, False)],
)
def test_the_brake_holds_more_than_ten_if_they_are_a_fifth_or_more(leaving: int, of: int, *, holds: bool) -> None:
    assert Brake().holds(leaving=leaving, of=of) is holds


names = st.sampled_from(["a", "b", "c", "d"])


@given(st.lists(names, unique=True), st.lists(names, unique=True), st.sets(names))
def test_attaching_ends_with_what_is_wanted_and_keeps_what_others_added_in_order(
    others: list[str], attached: list[str], wanted: set[str]
) -> None:
    account = Account(Ref("n", "default"), "u", "1", tuple(others), tuple(attached))
    theirs = [name for name in others if name not in attached]
    steps = 0
    while (changed := account.with_attached(wanted)) != account:
        assert len(set(changed.pull_secrets) - set(account.pull_secrets)) <= 1
        account, steps = changed, steps + 1
        assert steps <= 6
    assert [name for name in account.pull_secrets if name in theirs] == theirs
    assert set(account.pull_secrets) == set(theirs) | wanted
    assert set(account.attached) <= wanted
    assert not set(account.attached) & set(theirs)
    assert len(account.pull_secrets) == len(set(account.pull_secrets))


@pytest.mark.parametrize(
    ("user", "installation"),
    [("system:serviceaccount:ns:sa", "ns.sa"), ("admin", "admin"), ("system:admin", "system.admin")],
)
def test_an_installation_is_named_by_who_it_is_to_the_api_server(user: str, installation: str) -> None:
    assert installation_of(user) == installation


@pytest.mark.parametrize("user", [None, "system:serviceaccount:" + "n" * 40 + ":" + "s" * 40, "a b"])
def test_a_name_that_no_label_can_hold_is_an_error(user: str | None) -> None:
    with pytest.raises(ValueError, match=r"label|say"):
        installation_of(user)
