"""A target makes its Secret in each namespace that it selects, filled; and takes it away when it doesn't any more."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from controller.config import Removal
from controller.core.jwt import jwt_claim
from controller.core.targetconfig import Expression, LabelSelector, NamespaceEntry, TargetSettings
from tests.unit.engine import NAME, PREFIX, Engine, asking, identity
from tests.unit.virtual_time import Clock

INSTALLATION = "pull-secret-updater.controller"
EMPTY = {".dockerconfigjson": base64.b64encode(b"{}").decode()}
Make = Callable[..., Engine]


def target(name: str = "everyone", *names: str, number: int = 1, **more: Any) -> TargetSettings:
    """A target that selects namespaces by name; `team-*` if none is given."""
    entries = more.pop("namespaces", (NamespaceEntry(names=names or ("team-*",)),))
    return TargetSettings(name=name, identity=identity(number), namespaces=entries, **more)


@pytest.fixture
def make(clock: Clock, tmp_path: Path) -> Make:
    """An engine with these targets, or with the usual one."""

    def engine(*targets: TargetSettings, **more: Any) -> Engine:
        return Engine(clock, tmp_path, targets=targets or (target(),), **more)

    return engine


def places(engine: Engine) -> list[str]:
    """The namespaces that have the Secret."""
    return [namespace for namespace, name in engine.api.secrets if name == NAME]


def state(engine: Engine, name: str, target_name: str = "everyone") -> float:
    """In how many namespaces a target is in that state."""
    return engine.metric("target_namespaces", target=target_name, state=name)


def writes(engine: Engine) -> int:
    """How many requests have changed something, Events aside."""
    changing = [request for request in engine.api.requests if request.verb in ("patch", "delete", "create")]
    return len([request for request in changing if request.resource != "events"])


# Creation.


async def test_a_thousand_namespaces_cost_one_mint_and_a_write_each(make: Make) -> None:
    engine = make()
    for number in range(1000):
        engine.api.put_namespace(f"team-{number}")
    engine.api.put_namespace("other")
    async with engine.running():
        await asyncio.sleep(5)
        assert len(places(engine)) == 1000
        assert "other" not in places(engine)
        assert {engine.password(namespace) for namespace in places(engine)} == {engine.issuer.minted[0]}
        assert (engine.mints, writes(engine)) == (1, 1000)
        assert state(engine, "ready") == 1000
        assert engine.metric("claims", state="valid") == 1000
        assert not engine.api.events


async def test_the_secret_is_filled_and_marked_from_its_first_moment(make: Make) -> None:
    engine = make(target(registries=("cgr.dev",), provider="chainguard"))
    engine.api.put_namespace("team-a")
    async with engine.running():
        first = engine.api.secret("team-a", NAME)
        assert first["type"] == "kubernetes.io/dockerconfigjson"
        assert first["metadata"]["labels"] == {PREFIX + "created-by": INSTALLATION}
        wanted = asking(identity=identity(1), provider="chainguard", registries="cgr.dev", target="everyone")
        assert wanted.items() <= first["metadata"]["annotations"].items()
        assert engine.password("team-a") == engine.issuer.minted[0]
        assert [request.verb for request in engine.api.requests if request.resource == "secrets"].count("patch") == 1


RELOADER = "reloader.stakater.com/ignore"
"""https://github.com/stakater/Reloader restarts no Deployment for a Secret that says true here."""


async def test_a_refresh_restarts_no_deployment_unless_somebody_wants_it(make: Make) -> None:
    engine = make()
    for namespace in ("team-a", "team-b"):
        engine.api.put_namespace(namespace)
    async with engine.running():
        assert engine.api.secret("team-a", NAME)["metadata"]["annotations"][RELOADER] == "true"
        engine.api.merge_patch("team-a", NAME, {"metadata": {"annotations": {RELOADER: "false"}}})
        engine.api.merge_patch("team-b", NAME, {"metadata": {"annotations": {RELOADER: None}}})
        await asyncio.sleep(5)
        before = writes(engine)
        await asyncio.sleep(60)
        assert writes(engine) == before, "nobody's choice is put back"
        await asyncio.sleep(3600)
        assert writes(engine) > before, "the token was refreshed"
        assert engine.api.secret("team-a", NAME)["metadata"]["annotations"][RELOADER] == "false"
        assert RELOADER not in engine.api.secret("team-b", NAME)["metadata"]["annotations"]


async def test_from_then_on_it_is_refreshed_like_any_other(make: Make, clock: Clock) -> None:
    engine = make()
    engine.api.put_namespace("team-a")
    async with engine.running():
        for _ in range(100):
            await asyncio.sleep(360)
            assert engine.expiry("team-a") > clock()
        assert engine.api.secret("team-a", NAME)["metadata"]["annotations"][PREFIX + "refresh-at"]


async def test_a_new_namespace_and_a_new_label_are_served_at_once(make: Make) -> None:
    labelled = NamespaceEntry(selector=LabelSelector(match_labels={"tier": "prod"}))
    engine = make(target(namespaces=(NamespaceEntry(names=("team-*",)), labelled)))
    engine.api.put_namespace("other")
    async with engine.running():
        await asyncio.sleep(60)
        engine.api.put_namespace("team-new")
        engine.api.put_namespace("other", labels={"tier": "prod"})
        await engine.settle()
        assert places(engine) == ["other", "team-new"]


async def test_without_a_token_there_is_no_secret_and_the_issuers_return_makes_it(make: Make) -> None:
    engine = make()
    engine.api.put_namespace("team-a")
    engine.issuer.fail(403, times=5)
    async with engine.running():
        await asyncio.sleep(1)
        assert places(engine) == []
        assert state(engine, "failed") == 1
        assert engine.told("team-a") == ["MintRefused"]
        await asyncio.sleep(300)
        assert engine.password("team-a") == engine.issuer.minted[-1]
        assert state(engine, "ready") == 1


async def test_an_identity_that_no_provider_takes_is_told_and_nothing_is_made(make: Make) -> None:
    engine = make(TargetSettings(name="everyone", identity="nobody's", namespaces=(NamespaceEntry(names=("team-a",)),)))
    engine.api.put_namespace("team-a")
    async with engine.running():
        assert places(engine) == []
        assert engine.told("team-a") == ["IdentityUnrecognised"]
        assert state(engine, "denied") == 1


async def test_system_namespaces_and_our_own_are_left_out_unless_they_are_named(make: Make) -> None:
    engine = make(target("everyone", "*", "kube-public"))
    for name in ("kube-system", "kube-public", "kube-node-lease", "pull-secret-updater", "default"):
        engine.api.put_namespace(name)
    async with engine.running():
        assert places(engine) == ["default", "kube-public"]


async def test_a_namespace_that_is_excluded_opted_out_or_ending_gets_none(make: Make) -> None:
    engine = make(target("everyone", "*", exclude=(NamespaceEntry(names=("team-b",)),)))
    engine.api.put_namespace("team-a")
    engine.api.put_namespace("team-b")
    engine.api.put_namespace("team-c", targets="none")
    engine.api.put_namespace("team-d", ending=True)
    async with engine.running():
        assert places(engine) == ["team-a"]


async def test_a_label_selector_means_what_it_means_in_kubernetes(make: Make) -> None:
    expressions = (
        Expression(key="tier", operator="In", values=("prod", "stage")),
        Expression(key="env", operator="NotIn", values=("sandbox",)),
        Expression(key="team", operator="Exists"),
        Expression(key="legacy", operator="DoesNotExist"),
    )
    engine = make(target(namespaces=(NamespaceEntry(selector=LabelSelector(match_expressions=expressions)),)))
    engine.api.put_namespace("good", labels={"tier": "prod", "team": "a"})
    engine.api.put_namespace("sandbox", labels={"tier": "prod", "team": "a", "env": "sandbox"})
    engine.api.put_namespace("no-team", labels={"tier": "prod"})
    engine.api.put_namespace("no-tier", labels={"team": "a"})
    engine.api.put_namespace("legacy", labels={"tier": "stage", "team": "a", "legacy": ""})
    async with engine.running():
        assert places(engine) == ["good"]


async def test_exact_names_need_no_watch_on_namespaces_and_a_missing_one_is_asked_for_every_30_s(make: Make) -> None:
    engine = make(target("everyone", "team-a", "team-b"))
    engine.api.missing_namespaces = {"team-b"}
    async with engine.running():
        assert places(engine) == ["team-a"]
        assert (state(engine, "ready"), state(engine, "pending")) == (1, 1)
        await asyncio.sleep(29)
        assert len(engine.api.requests_of("patch")) == 2
        engine.api.missing_namespaces = set()
        await asyncio.sleep(2)
        assert places(engine) == ["team-a", "team-b"]
        assert not engine.api.requests_of("list", "namespaces")


async def test_a_restart_makes_and_writes_nothing(make: Make) -> None:
    engine = make(target(service_accounts=("default",)))
    for number in range(20):
        engine.api.put_namespace(f"team-{number}")
        engine.api.put_account(f"team-{number}")
    async with engine.running():
        await asyncio.sleep(1)
    before = writes(engine)
    async with engine.running():
        await asyncio.sleep(60)
        assert state(engine, "ready") == 20
    assert (writes(engine), engine.mints) == (before, 1)


# Strangers.

STRANGERS: dict[str, dict[str, Any]] = {
    "another type": {"type": "Opaque", "data": {"password": "eA=="}},
    "a credential": {"config": {"auths": {"quay.io": {"auth": "YTpi"}}}},
    "empty": {"config": {}},
    "immutable": {"config": {}, "immutable": True},
    "of Helm": {"config": {}, "labels": {"app.kubernetes.io/managed-by": "Helm"}},
    "another installation's": {"config": {}, "labels": {PREFIX + "created-by": "elsewhere.controller"}},
    "one that asks": {"config": {}, "annotations": asking(identity=identity(7))},
    "with our annotation": {"config": {}, "annotations": {PREFIX + "target": "everyone"}},
    "paused": {"config": {}, "annotations": asking(identity=identity(7), paused="true")},
}


@pytest.mark.parametrize("kind", STRANGERS)
async def test_a_stranger_stays_as_it_is_and_once_it_goes_the_secret_is_made(make: Make, kind: str) -> None:
    engine = make()
    engine.api.put_namespace("team-a")
    before = engine.api.put_secret("team-a", NAME, **STRANGERS[kind])
    async with engine.running():
        await asyncio.sleep(400)
        if kind != "one that asks":  # which is served for its own sake
            assert engine.api.secret("team-a", NAME) == before
        assert state(engine, "conflict") == 1
        assert engine.told("team-a") == ["TargetConflict"]
        engine.api.delete_secret("team-a", NAME)
        await asyncio.sleep(1)
        assert engine.password("team-a") == engine.issuer.minted[-1]
        assert engine.api.secret("team-a", NAME)["metadata"]["labels"] == {PREFIX + "created-by": INSTALLATION}
        assert state(engine, "ready") == 1


async def test_a_stranger_that_is_changed_all_the_time_costs_a_look_a_second(make: Make) -> None:
    engine = make()
    engine.api.put_namespace("team-a")
    engine.api.put_secret("team-a", NAME, config={})
    async with engine.running():
        for number in range(100):
            engine.api.merge_patch("team-a", NAME, {"metadata": {"labels": {"x": str(number)}}})
            await asyncio.sleep(0.1)
        assert len(engine.api.requests_of("patch")) <= 12
        assert len(engine.told("team-a")) == 1


@pytest.mark.parametrize("kind", STRANGERS)
async def test_only_an_empty_secret_of_nobody_is_taken_over(make: Make, kind: str) -> None:
    engine = make(target(existing="adoptEmpty"))
    engine.api.put_namespace("team-a")
    before = engine.api.put_secret("team-a", NAME, **STRANGERS[kind])
    async with engine.running():
        await asyncio.sleep(10)
        after = engine.api.secret("team-a", NAME)
        assert after["metadata"]["uid"] == before["metadata"]["uid"]
        if kind == "empty":
            assert engine.password("team-a") == engine.issuer.minted[0]
            assert after["metadata"]["labels"] == {PREFIX + "created-by": INSTALLATION}
            assert RELOADER not in after["metadata"]["annotations"], "the policy own-writes wouldn't let it"
            assert state(engine, "ready") == 1
        else:
            assert PREFIX + "created-by" not in after["metadata"].get("labels", {}) or after == before
            assert state(engine, "conflict") == 1


async def test_of_two_targets_for_one_secret_the_first_by_name_has_it(make: Make) -> None:
    engine = make(target("b-second", "*", number=2), target("a-first", number=1))
    engine.api.put_namespace("team-a")
    async with engine.running():
        assert engine.annotation("team-a", "identity") == identity(1)
        assert state(engine, "ready", "a-first") == 1
        assert state(engine, "conflict", "b-second") == 1


async def test_two_targets_with_two_names_each_have_their_secret(make: Make) -> None:
    engine = make(target("a"), target("b", number=2, secret_name="other"), names=(NAME, "other"))
    engine.api.put_namespace("team-a")
    async with engine.running():
        assert engine.api.secrets == [("team-a", "other"), ("team-a", NAME)]
        assert engine.password("team-a") != engine.password("team-a", name="other")


@pytest.mark.parametrize("stolen", ["identity", None])
async def test_who_puts_the_marks_on_a_secret_where_no_target_has_one_gets_no_token(
    make: Make, stolen: str | None
) -> None:
    engine = make()
    engine.api.put_namespace("stranger")
    ours = asking(target="everyone", **({} if stolen is None else {stolen: ""}))
    labels = {PREFIX + "created-by": INSTALLATION}
    engine.api.put_secret("stranger", NAME, annotations=ours, config={}, labels=labels)
    async with engine.running():
        await asyncio.sleep(300)
        assert engine.password("stranger") is None
        assert engine.mints == 0


async def test_a_stop_before_the_first_list_waits_for_nothing(make: Make, clock: Clock) -> None:
    engine = make()
    engine.api.fail("list", 503, times=100_000)
    began = clock()
    async with engine.running():
        await asyncio.sleep(1)
    assert clock() - began < 3


# What others do to it.


async def test_a_deleted_secret_is_back_at_once_three_times_and_then_at_the_pace_of_a_fight(make: Make) -> None:
    engine = make()
    engine.api.put_namespace("team-a")
    async with engine.running():
        for _ in range(3):
            await asyncio.sleep(1)
            engine.api.delete_secret("team-a", NAME)
            await engine.settle()
            assert engine.password("team-a")
        engine.api.delete_secret("team-a", NAME)
        await asyncio.sleep(9)
        assert places(engine) == []
        assert state(engine, "conflict") == 1
        assert "TargetContested" in engine.told("team-a")
        await asyncio.sleep(2)
        assert engine.password("team-a")
        assert engine.mints == 1


async def test_inputs_that_somebody_changes_are_put_right_without_a_mint(make: Make) -> None:
    engine = make()
    engine.api.put_namespace("team-a")
    async with engine.running():
        engine.annotate("team-a", identity=identity(9), registries="quay.io")
        await asyncio.sleep(1)
        assert engine.annotation("team-a", "identity") == identity(1)
        assert engine.annotation("team-a", "registries") is None
        engine.annotate("team-a", identity=None)
        await asyncio.sleep(1)
        assert engine.annotation("team-a", "identity") == identity(1)
        assert engine.mints == 1


async def test_an_emptied_secret_is_filled_again_without_a_mint(make: Make) -> None:
    engine = make()
    engine.api.put_namespace("team-a")
    async with engine.running():
        engine.set_config("team-a", {})
        await engine.settle()
        assert engine.password("team-a") == engine.issuer.minted[0]


async def test_a_target_with_another_identity_changes_each_secret_in_one_write(make: Make, clock: Clock) -> None:
    engine = make()
    engine.api.put_namespace("team-a")
    async with engine.running():
        pass
    engine.config = Engine(clock, engine.directory, targets=(target(number=2),)).config
    before = engine.patches
    async with engine.running():
        assert engine.annotation("team-a", "identity") == identity(2)
        assert engine.password("team-a") == engine.issuer.minted[-1]
        assert engine.patches == before + 1
        assert engine.mints == 2


async def test_a_label_that_moves_a_namespace_to_another_target_changes_its_secret_in_one_write(make: Make) -> None:
    gold = NamespaceEntry(selector=LabelSelector(match_labels={"tier": "gold"}))
    engine = make(target("a-gold", number=2, namespaces=(gold,)), target("b-all"))
    engine.api.put_namespace("team-a")
    async with engine.running():
        assert engine.annotation("team-a", "identity") == identity(1)
        uid = engine.api.secret("team-a", NAME)["metadata"]["uid"]
        engine.api.put_namespace("team-a", labels={"tier": "gold"})
        await engine.settle()
        assert engine.annotation("team-a", "identity") == identity(2)
        assert engine.annotation("team-a", "target") == "a-gold"
        assert engine.api.secret("team-a", NAME)["metadata"]["uid"] == uid
        assert (state(engine, "ready", "a-gold"), state(engine, "conflict", "b-all")) == (1, 1)


# Removal.


def everywhere(engine: Engine, count: int) -> list[str]:
    """Namespaces that the usual target selects."""
    names = [f"team-{number:03}" for number in range(count)]
    for name in names:
        engine.api.put_namespace(name)
    return names


IN = {"in": "yes"}
LABELLED = NamespaceEntry(selector=LabelSelector(match_labels={"in": "yes"}))


async def test_a_namespace_that_leaves_loses_the_secret_after_ten_minutes(make: Make) -> None:
    engine = make(target(namespaces=(LABELLED,)))
    engine.api.put_namespace("a", labels=IN)
    async with engine.running():
        engine.api.put_namespace("a")
        await asyncio.sleep(599)
        assert places(engine) == ["a"]
        assert state(engine, "leaving") == 1
        await asyncio.sleep(2)
        assert places(engine) == []
        assert state(engine, "leaving") == 0
        (request,) = engine.api.requests_of("delete")
        assert request.json["preconditions"].keys() == {"uid", "resourceVersion"}


async def test_a_label_that_flaps_removes_nothing(make: Make) -> None:
    engine = make(target(namespaces=(LABELLED,)))
    engine.api.put_namespace("a", labels=IN)
    async with engine.running():
        for _ in range(20):
            engine.api.put_namespace("a")
            await asyncio.sleep(300)
            engine.api.put_namespace("a", labels=IN)
            await asyncio.sleep(10)
        assert places(engine) == ["a"]
        assert not engine.api.requests_of("delete")


async def test_the_brake_holds_back_100_of_500_and_a_higher_limit_confirms_them(make: Make, clock: Clock) -> None:
    engine = make(target(namespaces=(LABELLED,)))
    names = everywhere(engine, 500)
    for name in names:
        engine.api.put_namespace(name, labels=IN)
    async with engine.running():
        await asyncio.sleep(5)
        for name in names[:100]:
            engine.api.put_namespace(name)
        await asyncio.sleep(3600)
        assert len(places(engine)) == 500
        assert state(engine, "held") == 100
        assert len(engine.logged_with("too many Secrets of a target")) == 1
    engine.config = engine.with_removal(Removal(most=100))
    async with engine.running():
        await asyncio.sleep(700)
        assert places(engine) == names[100:]


async def test_a_target_that_is_gone_from_the_configuration_loses_its_secrets(make: Make, clock: Clock) -> None:
    engine = make(target("everyone"), target("other", "b"))
    everywhere(engine, 3)
    async with engine.running():
        assert len(places(engine)) == 3
    engine.config = Engine(clock, engine.directory, targets=(target("other", "b"),)).config
    async with engine.running():
        await asyncio.sleep(60)
        assert state(engine, "leaving", "(removed)") == 3
        await asyncio.sleep(600)
        assert places(engine) == ["b"]


async def test_what_is_not_marked_as_ours_is_never_removed(make: Make, clock: Clock) -> None:
    engine = make(target("everyone", "nothing-*"))
    for namespace, labels in (("a", {PREFIX + "created-by": "elsewhere.controller"}), ("b", {})):
        engine.api.put_namespace(namespace)
        engine.api.put_secret(
            namespace, NAME, annotations=asking(identity=identity(1), target="everyone"), config={}, labels=labels
        )
    async with engine.running():
        await asyncio.sleep(3600)
        assert places(engine) == ["a", "b"]


async def test_a_target_that_leaves_its_secrets_takes_the_marks_off_and_they_are_served_on(
    make: Make, clock: Clock
) -> None:
    engine = make(target(namespaces=(LABELLED,), removal="leave"))
    engine.api.put_namespace("a", labels=IN)
    async with engine.running():
        engine.api.put_namespace("a")
        await asyncio.sleep(7200)
        metadata = engine.api.secret("a", NAME)["metadata"]
        assert PREFIX + "created-by" not in metadata["labels"]
        assert PREFIX + "target" not in metadata["annotations"]
        assert engine.expiry("a") > clock()


async def test_a_secret_with_somebodys_entry_is_let_go_and_not_deleted(make: Make) -> None:
    engine = make(target(namespaces=(LABELLED,)))
    engine.api.put_namespace("a", labels=IN)
    async with engine.running():
        config = engine.api.config("a", NAME)
        engine.set_config("a", {"auths": {**config["auths"], "quay.io": {"auth": "YTpi"}}})
        await asyncio.sleep(1)
        engine.api.put_namespace("a")
        await asyncio.sleep(601)
        assert engine.api.config("a", NAME)["auths"]["quay.io"] == {"auth": "YTpi"}
        assert engine.annotation("a", "identity") is None
        assert engine.told("a") == ["TargetKept"]


async def test_a_secret_with_somebodys_data_under_another_key_is_let_go_and_not_deleted(make: Make) -> None:
    engine = make(target(namespaces=(LABELLED,)))
    engine.api.put_namespace("a", labels=IN)
    async with engine.running():
        engine.api.merge_patch("a", NAME, {"data": {"theirs": "YTpi"}}, manager="kubectl-edit")
        await asyncio.sleep(1)
        engine.api.put_namespace("a")
        await asyncio.sleep(601)
        assert engine.api.secret("a", NAME)["data"]["theirs"] == "YTpi"
        assert engine.annotation("a", "identity") is None
        assert engine.told("a") == ["TargetKept"]


async def test_a_namespace_that_opts_out_loses_the_secret_at_once(make: Make) -> None:
    engine = make()
    everywhere(engine, 2)
    async with engine.running():
        engine.api.put_namespace("team-000", targets="none")
        await engine.settle()
        assert places(engine) == ["team-001"]
        engine.api.put_namespace("team-000")
        await engine.settle()
        assert places(engine) == ["team-000", "team-001"]


async def test_a_secret_that_changes_just_before_it_is_removed_is_removed_in_its_new_version(make: Make) -> None:
    engine = make(target(namespaces=(LABELLED,)))
    engine.api.put_namespace("a", labels=IN)
    async with engine.running():
        engine.api.put_namespace("a")
        await asyncio.sleep(599)
        engine.api.fail("delete", 409)
        await asyncio.sleep(5)
        assert places(engine) == []


async def test_a_deleted_namespace_is_dropped_and_served_again_when_it_is_back(make: Make) -> None:
    engine = make(target(service_accounts=("default",)))
    everywhere(engine, 1)
    engine.api.put_account("team-000")
    async with engine.running():
        engine.api.put_namespace("team-000", ending=True)
        await asyncio.sleep(1)
        engine.api.delete_namespace("team-000")
        before = len(engine.api.requests)
        await asyncio.sleep(60)
        assert len(engine.api.requests) == before
        assert state(engine, "ready") == 0
        engine.api.put_namespace("team-000")
        engine.api.put_account("team-000")
        await engine.settle()
        assert engine.api.pull_secrets("team-000") == [NAME]
        assert not engine.api.events


async def test_before_the_namespaces_are_known_nothing_is_removed(make: Make) -> None:
    engine = make()
    everywhere(engine, 3)
    async with engine.running():
        pass
    engine.api.fail("list", 403, resource="namespaces", times=1000)
    async with engine.running():
        await asyncio.sleep(3600)
        assert len(places(engine)) == 3
        assert engine.metric("watch_refused") == 1
        assert engine.metric("claims", state="valid") == 3


# ServiceAccounts.


async def test_a_service_account_gets_the_secret_at_the_end_of_its_list(make: Make) -> None:
    engine = make(target(service_accounts=("default",)))
    everywhere(engine, 1)
    engine.api.put_account("team-000", secrets=("first", "second"))
    async with engine.running():
        assert engine.api.pull_secrets("team-000") == ["first", "second", NAME]
        engine.api.put_namespace("late-team")
    assert engine.mints == 1


async def test_a_service_account_that_comes_later_gets_it_at_once(make: Make) -> None:
    engine = make(target(service_accounts=("default", "builder")))
    everywhere(engine, 1)
    async with engine.running():
        await asyncio.sleep(5)
        engine.api.put_account("team-000", "builder")
        await engine.settle()
        assert engine.api.pull_secrets("team-000", "builder") == [NAME]


async def test_one_that_has_it_already_is_left_alone(make: Make) -> None:
    engine = make(target(service_accounts=("default",), namespaces=(LABELLED,)))
    engine.api.put_namespace("a", labels=IN)
    engine.api.put_account("a", secrets=(NAME, "other"))
    async with engine.running():
        assert not engine.api.requests_of("patch", "serviceaccounts")
        engine.api.put_namespace("a")
        await asyncio.sleep(700)
        assert engine.api.pull_secrets("a") == [NAME, "other"], "it wasn't ours, so it isn't taken away"


async def test_it_is_detached_before_the_secret_goes_and_the_others_entries_stay(make: Make) -> None:
    engine = make(target(service_accounts=("default",), namespaces=(LABELLED,)))
    engine.api.put_namespace("a", labels=IN)
    engine.api.put_account("a", secrets=("first",))
    async with engine.running():
        engine.api.put_account("a", secrets=("first", NAME, "last"))
        engine.api.put_namespace("a")
        await asyncio.sleep(500)
        assert engine.api.pull_secrets("a") == ["first", NAME, "last"]
        await asyncio.sleep(101)
        assert engine.api.pull_secrets("a") == ["first", "last"]
        order = [(one.verb, one.resource) for one in engine.api.requests if one.verb in ("patch", "delete")]
        assert order[-2:] == [("patch", "serviceaccounts"), ("delete", "secrets")]


async def test_who_takes_it_away_three_times_is_named_and_left_alone(make: Make) -> None:
    engine = make(target(service_accounts=("default",)))
    everywhere(engine, 1)
    engine.api.put_account("team-000")
    async with engine.running():
        for _ in range(3):
            assert engine.api.pull_secrets("team-000")[-1] == NAME
            engine.api.put_account("team-000", secrets=("theirs",), attached=f"{NAME}@{INSTALLATION}")
            await asyncio.sleep(1)
        assert engine.api.pull_secrets("team-000") == ["theirs"]
        assert engine.told("team-000") == ["TargetContested"]
        (event,) = engine.api.events
        assert event["involvedObject"]["kind"] == "ServiceAccount"
        await asyncio.sleep(700)
        assert engine.api.pull_secrets("team-000") == ["theirs", NAME]


async def test_an_account_with_100_entries_keeps_them_in_their_order(make: Make) -> None:
    engine = make(target(service_accounts=("default",)))
    everywhere(engine, 1)
    entries = [f"secret-{number}" for number in range(100)]
    engine.api.put_account("team-000", secrets=entries)
    async with engine.running():
        assert engine.api.pull_secrets("team-000") == [*entries, NAME]


async def test_an_account_that_changes_meanwhile_is_read_again(make: Make) -> None:
    engine = make(target(service_accounts=("default",)))
    everywhere(engine, 1)
    engine.api.put_account("team-000")
    engine.api.fail("patch", 409, resource="serviceaccounts", times=3)
    async with engine.running():
        assert engine.api.pull_secrets("team-000") == [NAME]


# Proof by a ServiceAccount of each namespace.


async def test_a_targets_service_account_proves_in_each_namespace_for_itself(make: Make) -> None:
    engine = make(target(service_account="builder"))
    for name in everywhere(engine, 2):
        engine.api.put_account(name, "builder")
    async with engine.running():
        await asyncio.sleep(3000)
        proven = [jwt_claim(request.proof, "sub") for request in engine.issuer.requests]
        assert {str(sub) for sub in proven} == {f"system:serviceaccount:team-00{n}:builder" for n in (0, 1)}
        assert engine.password("team-000") != engine.password("team-001")
        asked = [request.json["spec"] for request in engine.api.requests_of("create", "serviceaccounts/token")]
        uids = {engine.api.secret(name, NAME)["metadata"]["uid"] for name in places(engine)}
        assert ["boundObjectRef" in spec for spec in asked] == [False, False, True, True]
        assert {spec["boundObjectRef"]["uid"] for spec in asked[2:]} == uids


async def test_a_service_account_that_is_missing_is_told_and_its_creation_makes_the_secret(make: Make) -> None:
    engine = make(target(service_account="builder"))
    everywhere(engine, 1)
    async with engine.running():
        await asyncio.sleep(130)
        assert places(engine) == []
        assert engine.told("team-000") == ["ServiceAccountMissing"]
        engine.api.put_account("team-000", "builder")
        await asyncio.sleep(61)
        assert places(engine) == ["team-000"]


# What the API server refuses.


async def test_without_the_right_to_create_it_says_so_and_goes_on_once_it_has_it(make: Make) -> None:
    engine = make()
    everywhere(engine, 1)
    engine.api.fail("patch", 403, resource="secrets", times=3)
    async with engine.running():
        assert engine.told("team-000") == ["WriteRefused"]
        assert state(engine, "denied") == 1
        await asyncio.sleep(300)
        assert engine.password("team-000")
        assert state(engine, "ready") == 1


async def test_one_namespace_that_fails_holds_up_no_other(make: Make) -> None:
    engine = make()
    everywhere(engine, 100)
    engine.api.fail("patch", 500, resource="secrets", times=10_000, namespace="team-050")
    async with engine.running():
        await asyncio.sleep(1)
        assert len(places(engine)) == 99
        assert state(engine, "failed") == 1
        assert engine.told("team-050") == []


@pytest.mark.parametrize("first", range(0, 90, 10))
async def test_killed_at_any_step_the_next_process_finishes(clock: Clock, tmp_path: Path, first: int) -> None:
    for steps in range(first, first + 10):
        engine = Engine(clock, tmp_path, targets=(target(service_accounts=("default",), existing="adoptEmpty"),))
        everywhere(engine, 2)
        engine.api.put_account("team-000", secrets=("theirs",))
        engine.api.put_secret("team-001", NAME, config={})
        stranger = engine.api.put_secret("team-x", NAME, config={"auths": {"quay.io": {"auth": "YTpi"}}})
        engine.api.put_namespace("team-x")
        await run_for(engine, steps)
        async with engine.running():
            await asyncio.sleep(6)
            for namespace in ("team-000", "team-001"):
                assert engine.password(namespace) in engine.issuer.minted, steps
            assert engine.api.pull_secrets("team-000") == ["theirs", NAME], steps
            assert engine.api.secret("team-x", NAME) == stranger
        assert engine.mints <= 2, steps


@pytest.mark.parametrize("first", range(0, 90, 10))
async def test_killed_at_any_step_of_a_removal_the_next_process_finishes(
    clock: Clock, tmp_path: Path, first: int
) -> None:
    for steps in range(first, first + 10):
        engine = Engine(clock, tmp_path, targets=(target(service_accounts=("default",)),))
        everywhere(engine, 1)
        engine.api.put_account("team-000", secrets=("theirs",))
        async with engine.running():
            pass
        engine.api.put_namespace("team-000", targets="none")
        await run_for(engine, steps)
        async with engine.running():
            await asyncio.sleep(6)
            assert places(engine) == [], steps
            assert engine.api.pull_secrets("team-000") == ["theirs"], steps


async def run_for(engine: Engine, steps: int) -> None:
    """Start a controller and kill it after so many steps of the loop."""
    task = asyncio.create_task(engine.start().run(engine.stopping, user=engine.api.user))
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


# Off.


async def test_without_targets_nothing_else_is_watched_and_marks_mean_nothing(make: Make, clock: Clock) -> None:
    engine = make()
    everywhere(engine, 1)
    async with engine.running():
        pass
    engine.config = Engine(clock, engine.directory).config
    engine.api.requests.clear()
    async with engine.running():
        await asyncio.sleep(3600)
        assert {request.resource for request in engine.api.requests} == {"secrets"}
        assert engine.expiry("team-000") > clock(), "it is served as any Secret that asks"
    assert "target_namespaces" not in json.dumps([family.name for family in engine.metrics.registry.collect()])
