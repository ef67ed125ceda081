"""A namespace needs a grant for each identity, and is asked about it before each mint."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import msgspec
import pytest

from controller.config import Granting, Limits, NamespaceLimits
from controller.core.conversion import Seconds
from controller.core.targetconfig import LabelSelector, NamespaceEntry, TargetSettings
from tests.unit.engine import NAME, Engine, asking, identity
from tests.unit.virtual_time import Clock

REVIEWS = "subjectaccessreviews"
EVERYONE = TargetSettings(
    name="everyone", identity=identity(1), secret_name=NAME, namespaces=(NamespaceEntry(names=("team-*",)),)
)


@pytest.fixture
def engine(clock: Clock, tmp_path: Path) -> Engine:
    return asking_namespaces(Engine(clock, tmp_path))


def asking_namespaces(engine: Engine, **settings: object) -> Engine:
    """With `check: both`, and a recheck time of a minute."""
    granting = Granting(check="both", **settings)  # type: ignore[arg-type]
    engine.config = msgspec.structs.replace(engine.config, grants=granting)
    return engine


def allow(engine: Engine, namespace: str, number: int = 1) -> None:
    engine.api.grants.add((namespace, identity(number)))


def revoke(engine: Engine, namespace: str, number: int = 1) -> None:
    engine.api.grants.discard((namespace, identity(number)))


def asked(engine: Engine) -> int:
    return len(engine.api.requests_of("create", REVIEWS))


async def test_a_namespace_with_a_grant_gets_a_token_at_once(engine: Engine) -> None:
    allow(engine, "team-a")
    engine.ask("team-a")
    async with engine.running():
        assert engine.password("team-a")
        assert asked(engine) == 1
        assert engine.metric("grant_checks_total", answer="granted") == 1


async def test_without_a_grant_there_is_no_mint_and_the_secret_says_so_once_a_no_was_said_twice(engine: Engine) -> None:
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(29)
        assert engine.annotation("team-a", "error") is None
        await asyncio.sleep(2)
        assert (engine.annotation("team-a", "error") or "").startswith("GrantRevoked: ")
        assert (engine.annotation("team-a", "error") or "").endswith(": group system:serviceaccounts:team-a")
        assert engine.told("team-a") == ["GrantRevoked"]
        assert engine.metric("claims", state="refused") == 1
        assert engine.metric("refused_claims", reason="GrantRevoked") == 1
        await asyncio.sleep(3600)
        assert engine.mints == 0
        assert engine.patches == 1
        assert engine.told("team-a") == ["GrantRevoked"]


async def test_a_role_binding_that_rbac_sees_a_moment_late_costs_half_a_minute_and_no_warning(engine: Engine) -> None:
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(1)
        allow(engine, "team-a")
        await asyncio.sleep(30)
        assert engine.password("team-a")
        assert engine.told("team-a") == []


async def test_a_grant_that_comes_is_noticed_within_the_recheck_time(engine: Engine) -> None:
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(300)
        allow(engine, "team-a")
        await asyncio.sleep(61)
        assert engine.password("team-a")
        assert engine.annotation("team-a", "error") is None


async def test_another_namespace_with_the_same_identity_needs_a_grant_of_its_own(engine: Engine) -> None:
    allow(engine, "team-a")
    engine.ask("team-a")
    engine.ask("team-b")
    async with engine.running():
        await asyncio.sleep(120)
        assert engine.password("team-a")
        assert engine.password("team-b") is None
        assert engine.mints == 1


async def test_the_name_is_the_one_that_admission_asks_for(engine: Engine) -> None:
    engine.api.grants |= {("team-a", f"chainguard:{identity(1)}"), ("team-b", f"chainguard:{identity(2)}")}
    engine.ask("team-a", provider="chainguard")
    engine.ask("team-b", identity__chainguard=identity(2), identity=identity(3), registries="cgr.dev")
    async with engine.running():
        assert engine.password("team-a")
        names = {one.json["spec"]["resourceAttributes"]["name"] for one in engine.api.requests_of("create", REVIEWS)}
        assert names >= {f"chainguard:{identity(1)}", identity(3)}


async def test_a_thousand_secrets_of_a_namespace_ask_once(engine: Engine) -> None:
    allow(engine, "team-a")
    engine.config = msgspec.structs.replace(engine.config, scope="cluster")
    for number in range(1000):
        engine.ask("team-a", name=f"secret-{number}")
    async with engine.running():
        await asyncio.sleep(5)
        assert engine.metric("claims", state="valid") == 1000
        assert asked(engine) == 1


async def test_once_revoked_there_is_no_mint_after_60_s_and_the_token_is_kept_until_its_end(
    engine: Engine, clock: Clock
) -> None:
    allow(engine, "team-a")
    engine.ask("team-a")
    async with engine.running():
        before = engine.password("team-a")
        await asyncio.sleep(60)
        revoke(engine, "team-a")
        for number in range(8):
            engine.annotate("team-a", refresh=str(number))
            await asyncio.sleep(1)
        assert engine.password("team-a") == before, "asked for, and refused"
        assert engine.mints == 1
        await asyncio.sleep(120)
        assert engine.told("team-a") == ["GrantRevoked"]
        assert engine.password("team-a") == before
        await asyncio.sleep(4000)
        assert engine.mints == 1
        assert engine.metric("claims", state="expired") == 1


async def test_a_mint_that_waits_for_its_turn_is_not_made_once_the_grant_is_gone(clock: Clock, tmp_path: Path) -> None:
    engine = asking_namespaces(Engine(clock, tmp_path))
    limits = Limits(per_namespace=NamespaceLimits(mints_per_minute=1))
    engine.config = msgspec.structs.replace(engine.config, limits=limits, scope="cluster")
    for number in range(20):
        allow(engine, "team-a", number)
        engine.ask("team-a", number, name=f"secret-{number:02}")
    async with engine.running():
        await asyncio.sleep(300)
        for number in range(20):
            revoke(engine, "team-a", number)
        await asyncio.sleep(60)
        before = engine.mints
        assert 5 <= before <= 7
        await asyncio.sleep(1800)
        assert engine.mints == before
        assert engine.metric("refused_claims", reason="GrantRevoked") >= 13


async def test_a_yes_is_good_for_the_recheck_time_and_no_longer(clock: Clock, tmp_path: Path) -> None:
    engine = asking_namespaces(Engine(clock, tmp_path), recheck=Seconds(300))
    allow(engine, "team-a")
    engine.ask("team-a")
    async with engine.running():
        revoke(engine, "team-a")
        await asyncio.sleep(299)
        engine.annotate("team-a", refresh="1")
        await engine.settle()
        assert engine.mints == 2
        await asyncio.sleep(2)
        engine.annotate("team-a", refresh="2")
        await asyncio.sleep(60)
        assert engine.mints == 2


async def test_where_asked_a_revoked_token_is_gone_within_120_s_and_everything_else_stays(
    clock: Clock, tmp_path: Path
) -> None:
    engine = asking_namespaces(Engine(clock, tmp_path), on_revoke="wipe")
    allow(engine, "team-a")
    allow(engine, "team-b")
    theirs = {"auth": "dTpw"}
    engine.ask("team-a", config={"auths": {"quay.io": theirs}, "credsStore": "x"})
    engine.ask("team-b")
    async with engine.running():
        await asyncio.sleep(1000)
        assert engine.password("team-a")
        revoke(engine, "team-a")
        await asyncio.sleep(120)
        assert engine.api.config("team-a", NAME) == {"auths": {"quay.io": theirs}, "credsStore": "x"}
        assert engine.annotation("team-a", "expires-at") is None
        assert engine.annotation("team-a", "identity") == identity(1)
        assert (engine.annotation("team-a", "error") or "").startswith("GrantRevoked: ")
        assert engine.told("team-a") == ["GrantRevoked"]
        assert engine.metric("claims", state="refused") == 1
        assert engine.password("team-b")
        allow(engine, "team-a")
        await asyncio.sleep(61)
        assert engine.password("team-a")
        assert engine.api.config("team-a", NAME)["auths"]["quay.io"] == theirs


async def test_a_secret_over_its_namespaces_limit_loses_a_revoked_token_too(clock: Clock, tmp_path: Path) -> None:
    engine = asking_namespaces(Engine(clock, tmp_path), on_revoke="wipe")
    limits = Limits(per_namespace=NamespaceLimits(secrets=1))
    engine.config = msgspec.structs.replace(engine.config, limits=limits, scope="cluster")
    allow(engine, "team-a")
    engine.api.put_secret("team-a", "older", annotations={}, config={})
    await asyncio.sleep(2)
    engine.ask("team-a")
    async with engine.running():
        before = engine.password("team-a")
        engine.api.annotate("team-a", "older", asking(identity=identity(1)))
        await asyncio.sleep(60)
        assert engine.password("team-a") == before, "it is over the limit now, and keeps what it has"
        revoke(engine, "team-a")
        await asyncio.sleep(120)
        assert engine.password("team-a", name="older") is None
        assert engine.password("team-a") is None


async def test_a_revoked_token_that_may_not_be_taken_away_is_told(clock: Clock, tmp_path: Path) -> None:
    engine = asking_namespaces(Engine(clock, tmp_path), on_revoke="wipe")
    allow(engine, "team-a")
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(60)
        revoke(engine, "team-a")
        engine.api.fail("patch", 403, resource="secrets", times=10_000)
        await asyncio.sleep(1200)
        assert engine.password("team-a")
        assert engine.told("team-a") == ["WriteRefused"]
        assert engine.metric("claims", state="refused") == 1
        engine.api.heal()
        await asyncio.sleep(910)
        assert engine.password("team-a") is None
        assert engine.told("team-a") == ["WriteRefused", "GrantRevoked"]


async def test_an_authorizer_that_fails_for_ten_minutes_takes_nothing_away(clock: Clock, tmp_path: Path) -> None:
    engine = asking_namespaces(Engine(clock, tmp_path), on_revoke="wipe")
    allow(engine, "team-a")
    engine.ask("team-a")
    async with engine.running():
        before = engine.password("team-a")
        await asyncio.sleep(10)
        engine.api.authorizer_fails = True
        await asyncio.sleep(300)
        engine.api.authorizer_fails = False
        engine.api.fail("create", 500, resource=REVIEWS, times=10_000)
        await asyncio.sleep(300)
        assert engine.password("team-a") == before
        engine.annotate("team-a", refresh="1")
        await engine.settle()
        assert engine.password("team-a") not in (None, before), "who was allowed before stays so"
        assert engine.told("team-a") == []
        assert engine.metric("grant_checks_total", answer="failed") > 10


async def test_without_an_answer_a_new_secret_waits_says_why_and_is_filled_within_ten_seconds_of_one(
    engine: Engine,
) -> None:
    allow(engine, "team-a")
    engine.api.fail("create", 403, resource=REVIEWS, times=10_000)
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(60)
        assert engine.mints == 0
        assert (engine.annotation("team-a", "error") or "").startswith("GrantUnclear: ")
        assert engine.told("team-a") == ["GrantUnclear"]
        engine.api.heal()
        await asyncio.sleep(11)
        assert engine.password("team-a")
        assert engine.annotation("team-a", "error") is None


async def test_an_authorizer_that_fails_is_asked_every_ten_seconds_however_many_secrets_wait(
    clock: Clock, tmp_path: Path
) -> None:
    engine = asking_namespaces(Engine(clock, tmp_path))
    engine.config = msgspec.structs.replace(engine.config, scope="cluster")
    allow(engine, "team-a")
    for number in range(200):
        engine.ask("team-a", name=f"secret-{number}")
    engine.api.fail("create", 500, resource=REVIEWS, times=10_000)
    async with engine.running():
        await asyncio.sleep(600)
        assert asked(engine) <= 62
        engine.api.heal()
        await asyncio.sleep(11)
        assert engine.metric("claims", state="valid") == 200


async def test_a_restart_neither_forgets_a_no_nor_acts_on_it_before_it_has_asked(clock: Clock, tmp_path: Path) -> None:
    engine = asking_namespaces(Engine(clock, tmp_path))
    allow(engine, "team-a")
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(60)
        revoke(engine, "team-a")
        engine.annotate("team-a", refresh="1")
        await asyncio.sleep(60)
        assert engine.annotation("team-a", "error")
    asking_namespaces(engine, on_revoke="wipe")
    engine.api.authorizer_fails = True
    async with engine.running():
        await asyncio.sleep(600)
        assert engine.password("team-a"), "nothing is taken away on the word of an annotation"
        assert engine.annotation("team-a", "error")
        assert engine.metric("claims", state="refused") == 1
        engine.api.authorizer_fails = False
        await asyncio.sleep(45)
        assert engine.password("team-a") is None
        allow(engine, "team-a")
        await asyncio.sleep(61)
        assert engine.password("team-a")


async def test_a_restart_after_the_grant_came_back_heals_at_once(engine: Engine) -> None:
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(60)
    allow(engine, "team-a")
    async with engine.running():
        await asyncio.sleep(1)
        assert engine.password("team-a")
        assert engine.annotation("team-a", "error") is None


async def test_a_service_account_that_proves_itself_needs_no_grant(engine: Engine) -> None:
    engine.api.service_accounts.add(("team-a", "robot"))
    engine.ask("team-a", service_account="robot")
    async with engine.running():
        assert engine.password("team-a")
        assert asked(engine) == 0


async def test_a_target_is_the_operators_own_grant(clock: Clock, tmp_path: Path) -> None:
    engine = asking_namespaces(Engine(clock, tmp_path, targets=(EVERYONE,)), on_revoke="wipe")
    engine.api.put_namespace("team-a")
    engine.api.put_namespace("other")
    async with engine.running():
        await asyncio.sleep(4000)
        assert engine.password("team-a")
        assert asked(engine) == 0


async def test_who_puts_a_targets_marks_on_a_secret_of_his_own_needs_a_grant_all_the_same(
    clock: Clock, tmp_path: Path
) -> None:
    engine = asking_namespaces(Engine(clock, tmp_path, targets=(EVERYONE,)))
    engine.api.put_namespace("other")
    async with engine.running():
        secret = engine.ask("other", target="everyone")
        mark = {"pull-secret-updater.chainguard.dev/created-by": "pull-secret-updater.controller"}
        engine.api.merge_patch("other", NAME, {"metadata": {"labels": mark}}, manager="thief")
        assert secret
        await asyncio.sleep(120)
        assert engine.password("other") is None
        assert engine.mints == 0


async def test_no_token_of_another_identity_is_minted_while_its_target_is_still_at_work_in_the_namespace(
    clock: Clock, tmp_path: Path
) -> None:
    entry = NamespaceEntry(names=("team-*",))
    targets = [
        TargetSettings(name=name, identity=identity(1), secret_name=secret_name, namespaces=(entry,))
        for name, secret_name in (("a", "other"), ("everyone", NAME))
    ]
    engine = asking_namespaces(Engine(clock, tmp_path, targets=tuple(targets), names=(NAME, "other")))
    engine.api.put_namespace("team-z")
    async with engine.running():
        engine.ask("team-a", 9, target="everyone")
        mark = {"pull-secret-updater.chainguard.dev/created-by": "pull-secret-updater.controller"}
        engine.api.merge_patch("team-a", NAME, {"metadata": {"labels": mark}}, manager="thief")
        await asyncio.sleep(28)
        engine.api.latency_seconds = 3.0
        await asyncio.sleep(4)
        engine.api.latency_seconds = 5.0
        engine.api.put_namespace("team-a")  # the other Secret takes 5 s, and the second no comes meanwhile
        await asyncio.sleep(60)
        assert engine.issuer.asked(identity(9)) == []
        assert engine.annotation("team-a", "identity") == identity(1)
        assert engine.password("team-a")


async def test_while_the_namespaces_are_not_known_nothing_of_a_target_is_taken_away(
    clock: Clock, tmp_path: Path
) -> None:
    engine = asking_namespaces(Engine(clock, tmp_path, targets=(EVERYONE,)), on_revoke="wipe")
    engine.api.put_namespace("team-a")
    async with engine.running():
        before = engine.password("team-a")
    engine.api.fail("list", 403, resource="namespaces", times=10_000)
    async with engine.running():
        await asyncio.sleep(1200)
        assert engine.password("team-a") == before
        engine.annotate("team-a", refresh="1")
        await asyncio.sleep(5)
        engine.api.heal()
        await asyncio.sleep(70)
        assert engine.password("team-a") not in (None, before)


async def test_namespaces_that_can_never_be_listed_are_told_before_a_targets_token_is_lost_to_them(
    clock: Clock, tmp_path: Path
) -> None:
    engine = asking_namespaces(Engine(clock, tmp_path, targets=(EVERYONE,)))
    engine.api.put_namespace("team-a")
    async with engine.running():
        pass
    engine.api.fail("list", 403, resource="namespaces", times=10_000)
    async with engine.running():
        await asyncio.sleep(3000)
        assert engine.told("team-a") == ["GrantUnclear"]
        assert (engine.annotation("team-a", "error") or "").endswith(": the namespaces can't be listed")
        engine.api.heal()
        await asyncio.sleep(90)
        assert engine.expiry("team-a") > clock() + 3000
        assert engine.annotation("team-a", "error") is None


async def test_what_a_target_has_let_go_loses_a_revoked_token_within_120_s(clock: Clock, tmp_path: Path) -> None:
    labelled = NamespaceEntry(selector=LabelSelector(match_labels={"tier": "prod"}))
    target = TargetSettings(name="everyone", identity=identity(1), namespaces=(labelled,), removal="leave")
    engine = asking_namespaces(Engine(clock, tmp_path, targets=(target,)), on_revoke="wipe")
    allow(engine, "team-a")
    engine.api.put_namespace("team-a", labels={"tier": "prod"})
    async with engine.running():
        await asyncio.sleep(1780)
        engine.api.put_namespace("team-a", labels={})
        await asyncio.sleep(610)
        assert engine.mints == 2, "once more in the grace time"
        assert engine.annotation("team-a", "target") is None
        revoke(engine, "team-a")
        await asyncio.sleep(120)
        assert engine.password("team-a") is None


async def test_a_restart_asks_nothing_about_what_targets_have_made(clock: Clock, tmp_path: Path) -> None:
    engine = asking_namespaces(Engine(clock, tmp_path, targets=(EVERYONE,)), on_revoke="wipe")
    for number in range(50):
        engine.api.put_namespace(f"team-{number}")
    async with engine.running():
        await asyncio.sleep(10)
    async with engine.running():
        await asyncio.sleep(3600)
        assert asked(engine) == 0
        assert engine.logged_with("a namespace may not, or may no longer, use") == []


async def test_secrets_without_a_token_to_take_away_are_not_asked_about(clock: Clock, tmp_path: Path) -> None:
    engine = asking_namespaces(Engine(clock, tmp_path), on_revoke="wipe")
    limits = Limits(per_namespace=NamespaceLimits(secrets=5))
    engine.config = msgspec.structs.replace(engine.config, limits=limits, scope="cluster")
    for number in range(300):
        engine.ask("team-a", number, name=f"secret-{number:03}")
    async with engine.running():
        await asyncio.sleep(600)
        assert asked(engine) < 80, "the five that are served, once a minute"


async def test_secrets_that_go_are_asked_about_no_more(clock: Clock, tmp_path: Path) -> None:
    engine = asking_namespaces(Engine(clock, tmp_path), on_revoke="wipe")
    allow(engine, "team-a")
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(300)
        engine.api.delete_secret("team-a", NAME)
        await engine.settle()
        before = asked(engine)
        assert 4 <= before <= 7
        await asyncio.sleep(600)
        assert asked(engine) == before


async def test_with_admission_alone_nobody_is_asked(clock: Clock, tmp_path: Path) -> None:
    engine = Engine(clock, tmp_path)
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(4000)
        assert asked(engine) == 0
        assert engine.metrics.registry.get_sample_value("pull_secret_updater_grant_checks_total", {}) is None


async def test_the_clock_may_be_set_back_between_two_noes(clock: Clock, tmp_path: Path) -> None:
    engine = asking_namespaces(Engine(clock, tmp_path))
    engine.ask("team-a")
    async with engine.running():
        clock.step(-3600)
        await asyncio.sleep(120)
        assert engine.told("team-a") == ["GrantRevoked"]
        assert asked(engine) < 20


@pytest.mark.parametrize("seed", range(10))
async def test_whatever_happens_to_grants_and_authorizer_the_end_is_what_rbac_says(
    clock: Clock, tmp_path: Path, seed: int
) -> None:
    """A random walk against RBAC itself: with `wipe`, two minutes later exactly those with a grant hold a token."""
    chance = random.Random(seed)  # noqa: S311
    engine = asking_namespaces(Engine(clock, tmp_path), on_revoke="wipe")
    namespaces = [f"team-{number}" for number in range(5)]
    for namespace in namespaces:
        engine.ask(namespace)
    for _ in range(3):
        async with engine.running():
            for _ in range(20):
                namespace = chance.choice(namespaces)
                chance.choice((allow, revoke))(engine, namespace)
                engine.api.authorizer_fails = chance.random() < 0.2
                if chance.random() < 0.2:
                    engine.ask(namespace)
                await asyncio.sleep(chance.choice((1, 10, 40, 100)))
            engine.api.authorizer_fails = False
            await asyncio.sleep(130)
            for namespace in namespaces:
                has_grant = (namespace, identity(1)) in engine.api.grants
                assert bool(engine.password(namespace)) == has_grant
            states = {state: engine.metric("claims", state=state) for state in ("valid", "refused", "contested")}
            assert sum(states.values()) == len(namespaces), "contested where it was written over again and again"


async def test_a_clock_set_forward_makes_no_second_no_of_a_first_one(clock: Clock, tmp_path: Path) -> None:
    engine = asking_namespaces(Engine(clock, tmp_path), on_revoke="wipe")
    allow(engine, "team-a")
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(50)
        revoke(engine, "team-a")
        await asyncio.sleep(11)
        clock.step(60)
        await asyncio.sleep(12)
        assert engine.password("team-a")
        await asyncio.sleep(30)
        assert engine.password("team-a") is None


def test_the_recheck_time_is_a_minute_unless_it_is_set() -> None:
    assert Granting().recheck == Seconds(60)
    assert not Granting().asks_namespaces
