"""What only Crusoe does: signed requests, a life that is asked for, and the clean-up of old tokens."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from controller import config
from controller.core.errors import MintError, Problem
from controller.providers.crusoe import Crusoe, Key, canonical, sign
from testing import crusoe as standin
from testing import wire
from testing.crusoe import ApiKey
from testing.wire import Answer, Hang, Scripted, Slow
from tests.unit.contract_crusoe import ACCESS_KEY, ROW, SECRET_KEY, USER
from tests.unit.provider_world import World, configured
from tests.unit.virtual_time import Clock

ALIAS = "psu-test-cluster"
HOUR = 3600.0


@pytest.fixture
def world(clock: Clock, tmp_path: Path) -> World:
    """A controller that has run for 100 days, so that it has made whatever tokens of its alias there are."""
    world = World(ROW, clock, tmp_path, {"alias": ALIAS})
    clock.step(100 * 24 * HOUR)
    return world


def api(world: World) -> standin.Crusoe:
    assert isinstance(world.vendor, standin.Crusoe)
    return world.vendor


# Requests.


@pytest.mark.parametrize(
    ("method", "path", "query", "timestamp", "signature"),
    [
        (
            *("POST", "/v1/ccr/tokens", {}, "2026-01-02T03:04:05Z"),
            "Nmiwee2XGmI0DY-X_E2HwXaOPQ3sF9Edw8N4eTiWfco",
        ),
        (
            *("POST", "/v1alpha5/ccr/tokens", {}, "2026-01-02T03:04:05+00:00"),
            "TUwDNMbHRasm_3qhhrcaKHkjgYV8kI9ePhe6koN_41A",
        ),
        (
            *("GET", "/v1/users/limited-usage-api-key", {}, "2026-01-02T03:04:05Z"),
            "HkVj3bhEGroZww7ZnfsZo2CcxkqcAdhJ1c0fAG48PHU",
        ),
        (
            *("DELETE", "/v1/users/limited-usage-api-key", {"key_id": "Hm11C1coQZm2+Aihn9ofYg"}),
            *("2026-01-02T03:04:05Z", "WimJ9i3T-Is4bhuVRivAIJ_z2f03qV1a3GgsgYXTSDM"),
        ),
    ],
)
def test_signatures_are_those_of_the_official_clients(
    method: str, path: str, query: dict[str, str], timestamp: str, signature: str
) -> None:
    signed = sign(SECRET_KEY, method=method, path=path, canonical_query=canonical(query), timestamp=timestamp)
    assert signed == signature


def test_a_secret_key_may_come_with_its_padding() -> None:
    facts = {"method": "GET", "path": "/v1/x", "canonical_query": "", "timestamp": "2026-01-02T03:04:05Z"}
    assert sign(SECRET_KEY + "=", **facts) == sign(SECRET_KEY, **facts)


def test_a_query_is_escaped_as_go_does() -> None:
    assert canonical({"b": "a b/c+~", "a": "ä"}) == "a=%C3%A4&b=a+b%2Fc%2B~"


async def test_an_expiry_is_always_sent_since_the_vendors_default_is_months(world: World) -> None:
    token = await world.mint()
    assert api(world).wanted == [{"expires_at": "2026-04-12T15:04:05Z", "alias": ALIAS}]
    assert token.lifetime_seconds == 12 * HOUR


async def test_a_shorter_life_is_asked_for_where_it_is_configured(clock: Clock, tmp_path: Path) -> None:
    world = World(ROW, clock, tmp_path, {"lifetime": "1h"})
    assert (await world.mint()).lifetime_seconds == HOUR
    assert api(world).wanted == [{"expires_at": "2026-01-02T04:04:05Z"}]


async def test_no_life_is_longer_than_what_was_asked_for_even_if_the_issuers_clock_is_behind(
    clock: Clock, tmp_path: Path
) -> None:
    world = World(ROW, clock, tmp_path, {"lifetime": "1h"})
    world.wire.script.append(wire.in_json(200, {"token": "opaque"}, Date="Fri, 02 Jan 2026 02:04:05 GMT"))
    assert (await world.mint()).lifetime_seconds == HOUR


async def test_where_the_issuers_clock_is_ahead_the_token_ends_earlier_by_ours(clock: Clock, tmp_path: Path) -> None:
    world = World(ROW, clock, tmp_path, {"lifetime": "1h"})
    world.wire.script.append(wire.in_json(200, {"token": "opaque"}, Date="Fri, 02 Jan 2026 03:34:05 GMT"))
    assert (await world.mint()).lifetime_seconds == HOUR / 2


async def test_only_the_user_whose_key_it_is_can_be_an_identity(world: World) -> None:
    with pytest.raises(MintError) as caught:
        await world.provider.mint("somebody-else@acme.example", world.hosts)
    assert caught.value.problem is Problem.IDENTITY_UNKNOWN
    assert not world.wire.asked


async def test_the_key_comes_from_the_environment_where_the_operator_says_so(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = {"accessKey": {"env": "CRUSOE_ACCESS_KEY"}, "secretKey": {"env": "CRUSOE_SECRET_KEY"}}
    world = World(ROW, clock, tmp_path, named)
    monkeypatch.delenv("CRUSOE_ACCESS_KEY", raising=False)
    with pytest.raises(MintError) as caught:
        await world.mint()
    assert caught.value.problem is Problem.PROOF_MISSING
    monkeypatch.setenv("CRUSOE_ACCESS_KEY", ACCESS_KEY)
    monkeypatch.setenv("CRUSOE_SECRET_KEY", SECRET_KEY)
    assert (await world.mint()).username == USER


async def test_the_environment_is_not_read_unless_the_operator_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRUSOE_ACCESS_KEY", ACCESS_KEY)
    monkeypatch.setenv("CRUSOE_SECRET_KEY", SECRET_KEY)
    ROW.lose(world)
    with pytest.raises(MintError) as caught:
        await world.mint()
    assert caught.value.problem is Problem.PROOF_MISSING


@pytest.mark.parametrize(("name", "content"), [("CRUSOE_SECRET_KEY", "no base64!"), ("CRUSOE_ACCESS_KEY", "a\nb")])
async def test_a_file_that_holds_no_key_is_told_and_nothing_is_sent(world: World, name: str, content: str) -> None:
    (world.directory / name).write_text(content)
    with pytest.raises(MintError) as caught:
        await world.mint()
    assert caught.value.problem is Problem.PROOF_UNFIT
    assert not world.wire.asked


def test_a_key_is_never_printed() -> None:
    assert repr(Key(ACCESS_KEY, SECRET_KEY)) == "Key(...)"


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ({"user": ""}, "user"),
        ({"user": "nobody"}, "user"),
        ({"user": "a:b@acme.example"}, "user"),
        ({"lifetime": 0}, "lifetime"),
        ({"alias": ""}, "alias"),
        ({"tokenFile": "/x"}, "tokenFile"),
        ({"defaultLifetime": "1h"}, "defaultLifetime"),
        ({"accessKey": {}}, "accessKey"),
        ({"secretKey": {"file": "/k", "env": "K"}}, "secretKey"),
        ({"apiUrl": "http://a"}, "apiUrl"),
    ],
)
def test_what_is_missing_or_wrong_is_told_with_its_path(wrong: dict[str, object], path: str, tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError) as caught:
        configured(ROW, tmp_path, wrong)
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [f"providers.under-test.{path}"]


# The clean-up.


def listed(clock: Clock, *, age: float, life: float = 12 * HOUR, key_id: str = "x", alias: str = ALIAS) -> ApiKey:
    return ApiKey(key_id, alias, clock() - age, clock() - age + life)


async def test_expired_tokens_of_our_alias_are_deleted(world: World) -> None:
    api(world).api_keys = [listed(world.clock, age=13 * HOUR, key_id="over+/="), listed(world.clock, age=HOUR)]
    await world.mint()
    assert [key.key_id for key in api(world).api_keys[:-1]] == ["x"]
    assert world.cleaned == [None]


@pytest.mark.parametrize("life", [HOUR, 3 * HOUR, 12 * HOUR, 90 * 24 * HOUR])
async def test_a_token_is_deleted_an_hour_after_the_last_secret_replaced_it_and_not_before(
    world: World, life: float
) -> None:
    due = min(0.65 * life + HOUR, life)
    api(world).api_keys = [
        listed(world.clock, age=due - 1, life=life, key_id="younger"),
        listed(world.clock, age=due + 1, life=life, key_id="older"),
    ]
    await world.mint()
    assert [key.key_id for key in api(world).api_keys[:-1]] == ["younger"]


async def test_where_refreshes_may_come_later_tokens_are_deleted_later(world: World) -> None:
    tools = dataclasses.replace(world.tools, refreshed_by_share=0.8)
    provider = Crusoe(configured(ROW, world.directory, {"alias": ALIAS}), tools)
    api(world).api_keys = [listed(world.clock, age=0)]
    world.clock.step(0.8 * 12 * HOUR + HOUR - 1)
    await provider.mint(USER, ())
    assert len(api(world).api_keys) == 2
    assert world.cleaned == [None]


async def test_after_a_start_no_token_is_deleted_for_an_hour(clock: Clock, tmp_path: Path) -> None:
    """Secrets may still hold what was minted before the controller was down; each gets another first."""
    world = World(ROW, clock, tmp_path, {"alias": ALIAS})
    api(world).api_keys = [listed(clock, age=9 * HOUR), listed(clock, age=13 * HOUR)]
    await world.mint()
    clock.step(HOUR - 1)
    await world.mint()
    assert world.cleaned == []
    assert len(api(world).api_keys) == 4


async def test_a_token_from_before_the_start_is_deleted_only_when_it_has_expired(clock: Clock, tmp_path: Path) -> None:
    """Whether every Secret has had another since can't be told of a time when the controller didn't run."""
    world = World(ROW, clock, tmp_path, {"alias": ALIAS})
    api(world).api_keys = [listed(clock, age=9 * HOUR)]
    clock.step(2 * HOUR)
    await world.mint()
    assert len(api(world).api_keys) == 2
    clock.step(HOUR)
    await world.mint()
    assert len(api(world).api_keys) == 2
    assert world.cleaned == [None, None]


async def test_what_is_not_surely_ours_and_old_is_left_alone(world: World) -> None:
    theirs = [
        listed(world.clock, age=13 * HOUR, alias=f"{ALIAS}-2"),
        listed(world.clock, age=13 * HOUR, alias=""),
        dataclasses.replace(listed(world.clock, age=13 * HOUR), usage="inference"),
    ]
    api(world).api_keys = list(theirs)
    await world.mint()
    assert api(world).api_keys[:-1] == theirs


@pytest.mark.parametrize("times", [{}, {"created_at": "yesterday", "expires_at": "tomorrow"}, {"expires_at": None}])
async def test_a_token_without_readable_times_is_left_alone_and_others_are_not(
    world: World, times: dict[str, object]
) -> None:
    unreadable = {"key_id": "unreadable", "alias": ALIAS, "usage": "registry", **times}
    over = {"created_at": "2026-01-01T01:00:00Z", "expires_at": "2026-01-01T02:00:00Z"}
    items = [unreadable, {"key_id": "over", "alias": ALIAS, "usage": "registry", **over}]
    world.wire.script.extend([None, wire.in_json(200, {"items": items})])
    await world.mint()
    assert [asked.query for asked in world.wire.asked if asked.method == "DELETE"] == ["key_id=over"]


async def test_the_token_just_made_survives_its_own_clean_up(world: World) -> None:
    await world.mint()
    assert len(api(world).api_keys) == 1


async def test_a_long_list_is_read_to_its_end(world: World) -> None:
    """It has no pages and holds what expired long ago, of everybody."""
    others = [listed(world.clock, age=HOUR, alias="somebody else's", key_id=f"k{n}") for n in range(10_000)]
    api(world).api_keys = [*others, listed(world.clock, age=13 * HOUR, key_id="over")]
    await world.mint()
    assert world.cleaned == [None]
    assert "over" not in [key.key_id for key in api(world).api_keys]


async def test_without_an_alias_nothing_is_listed_or_deleted(clock: Clock, tmp_path: Path) -> None:
    world = World(ROW, clock, tmp_path)
    await world.mint()
    assert [asked.method for asked in world.wire.asked] == ["POST"]
    assert world.cleaned == []


async def test_it_is_done_once_an_hour_at_most(world: World) -> None:
    for _ in range(3):
        await world.mint()
    assert len(world.cleaned) == 1
    world.clock.step(HOUR)
    await world.mint()
    assert len(world.cleaned) == 2


async def test_one_clean_up_deletes_20_tokens_at_most_and_the_next_goes_on(world: World) -> None:
    over = [listed(world.clock, age=13 * HOUR, key_id=f"k{number}") for number in range(25)]
    api(world).api_keys = list(over)
    await world.mint()
    assert len(api(world).api_keys) == 5 + 1
    world.clock.step(HOUR)
    await world.mint()
    assert len(api(world).api_keys) == 2


@pytest.mark.parametrize(
    "fault", [standin.refusal(403), standin.refusal(500), wire.HTML, wire.OVERSIZE, wire.REDIRECT, Hang()]
)
@pytest.mark.parametrize("request_number", [1, 2])
async def test_a_clean_up_that_fails_keeps_no_token_back_and_is_told(
    world: World, fault: Scripted, request_number: int
) -> None:
    api(world).api_keys = [listed(world.clock, age=13 * HOUR)]
    world.wire.script.extend([*[None] * request_number, fault])
    began = world.clock()
    token = await world.mint()
    assert token.password == world.vendor.minted[-1]
    assert world.clock() - began <= 5
    [error] = world.cleaned
    deleted_anyway = request_number == 2 and fault is wire.HTML  # a deletion's answer has no body to judge
    assert (error is None) == deleted_anyway


async def test_a_token_that_somebody_else_deleted_first_is_no_failure(world: World) -> None:
    api(world).api_keys = [listed(world.clock, age=13 * HOUR)]
    world.wire.script.extend([None, None, standin.refusal(404)])
    await world.mint()
    assert world.cleaned == [None]


async def test_old_is_what_the_issuers_clock_calls_old(world: World) -> None:
    """Ours is a day ahead; by the issuer's the token is young."""
    items = [{"key_id": "k", "alias": ALIAS, "usage": "registry", "created_at": "2026-04-12T03:00:00Z"}]
    items[0]["expires_at"] = "2026-04-12T15:00:00Z"
    answer = wire.in_json(200, {"items": items}, Date="Sun, 12 Apr 2026 03:04:05 GMT")
    world.clock.step(24 * HOUR)
    world.wire.script.extend([None, answer])
    await world.mint()
    assert [asked.method for asked in world.wire.asked] == ["POST", "GET"]


async def test_a_slow_clean_up_ends_after_five_seconds(world: World) -> None:
    world.wire.script.extend([None, Slow(6)])
    began = world.clock()
    await world.mint()
    assert world.clock() - began == 5
    [error] = world.cleaned
    assert error is not None
    assert error.problem is Problem.ISSUER_UNAVAILABLE


async def test_an_empty_answer_to_a_deletion_is_a_success(world: World) -> None:
    api(world).api_keys = [listed(world.clock, age=13 * HOUR)]
    world.wire.script.extend([None, None, Answer(200)])
    await world.mint()
    assert world.cleaned == [None]


async def test_cancellation_passes_through_a_clean_up(world: World) -> None:
    world.wire.script.extend([None, Hang()])
    task = asyncio.create_task(world.mint())
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.cleaned == []
