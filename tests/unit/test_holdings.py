"""Which Secrets targets have made, and whether too many would go at once."""

from __future__ import annotations

from collections import defaultdict

import hypothesis.strategies as st
from hypothesis import given

from controller.core.holdings import Holdings
from controller.core.model import Ref
from controller.core.targets import Brake


def test_a_tenant_who_marks_a_thousand_secrets_in_one_namespace_counts_once() -> None:
    holdings = Holdings(Brake(most=10, share=0.2))
    for number in range(30):
        holdings.put(Ref(f"team-{number}", "pull-secret"), "everyone")
    for number in range(1000):
        holdings.put(forged := Ref("thief", f"secret-{number}"), "everyone")
        holdings.unwanted_since(forged, "everyone", 0.0)
    assert (holdings.leaving("everyone"), holdings.made("everyone")) == (1, 31)
    assert not holdings.brakes("everyone")
    for number in range(10):
        holdings.unwanted_since(Ref(f"team-{number}", "pull-secret"), "everyone", 1.0)
    assert holdings.brakes("everyone")


def test_since_when_it_is_unwanted_is_forgotten_once_it_is_wanted_again() -> None:
    holdings, ref = Holdings(Brake()), Ref("team-a", "pull-secret")
    holdings.put(ref, "everyone")
    assert holdings.unwanted_since(ref, "everyone", 1.0) == 1.0
    assert holdings.unwanted_since(ref, "everyone", 2.0) == 1.0
    holdings.wanted(ref, "everyone")
    assert holdings.leaving("everyone") == 0
    assert holdings.unwanted_since(ref, "everyone", 3.0) == 3.0


steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "drop", "wanted", "unwanted"]),
        st.sampled_from("ab"),
        st.sampled_from("xy"),
        st.sampled_from("ST"),
    ),
    max_size=60,
)


@given(steps)
def test_what_is_counted_is_what_an_oracle_counts(steps: list[tuple[str, str, str, str]]) -> None:
    holdings = Holdings(Brake())
    made: dict[Ref, str] = {}
    leaving: set[Ref] = set()
    for step, namespace, name, target in steps:
        ref = Ref(namespace, name)
        match step:
            case "put":
                holdings.put(ref, target)
                made[ref] = target
                leaving.discard(ref)
            case "drop":
                holdings.put(ref, None)
                made.pop(ref, None)
                leaving.discard(ref)
            case "wanted" if ref in made:
                holdings.wanted(ref, made[ref])
                leaving.discard(ref)
            case "unwanted" if ref in made:
                holdings.unwanted_since(ref, made[ref], 0.0)
                leaving.add(ref)
        by_namespace: defaultdict[str, dict[Ref, str]] = defaultdict(dict)
        for one, owner in made.items():
            by_namespace[one.namespace][one] = owner
        assert {each: dict(holdings.of(each)) for each in holdings.namespaces()} == by_namespace
        for owner in "ST":
            assert holdings.made(owner) == len({one.namespace for one in made if made[one] == owner})
            assert holdings.leaving(owner) == len({one.namespace for one in leaving if made[one] == owner})
