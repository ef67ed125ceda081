"""What every provider promises, whichever vendor it speaks to. Each test runs for each row.

To add a provider: write tests/unit/contract_<type>.py with a `ROW` (see provider_world.Row) whose vendor is the
stand-in in testing/, an object with `async handle(Asked) -> Answer` (testing/wire.py), and name it in ROWS.
What only that vendor does, golden vectors among them, is tested in test_<type>.py with the same `World`.

A test that speaks of "each request" counts the requests of one good mint, and then spoils one after the other, each in
a world of its own.
"""

from __future__ import annotations

import asyncio
import email.utils
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import structlog
from prometheus_client import generate_latest
from structlog.testing import CapturingLogger

from controller import config
from controller.core.errors import MintError, Problem
from controller.core.model import Key
from controller.core.schedule import Coverage
from controller.engine.minter import Failed, Minter, MintKey
from controller.net.transport import AiohttpTransport
from controller.observe.metrics import Metrics
from controller.providers import TYPES
from testing import wire
from testing.wire import Answer, Hang, Reset, Scripted, Slow
from tests.unit import (
    contract_acr,
    contract_chainguard,
    contract_crusoe,
    contract_ecr,
    contract_github_app,
    contract_google,
    contract_quay,
    contract_token_exchange,
)
from tests.unit.provider_world import NAME, Row, World, configured, proof_for
from tests.unit.virtual_time import Clock

ROWS = (
    contract_chainguard.ROW,
    contract_ecr.ROW,
    contract_ecr.ROW_USER,
    contract_ecr.ROW_PUBLIC,
    *contract_google.ROWS,
    *contract_acr.ROWS,
    contract_crusoe.ROW,
    contract_token_exchange.ROW,
    contract_quay.ROW,
    contract_github_app.ROW,
)

NewWorld = Callable[[], World]


@pytest.fixture(params=ROWS, ids=lambda row: row.type)
def row(request: pytest.FixtureRequest) -> Row:
    chosen: Row = request.param
    return chosen


@pytest.fixture
def new_world(row: Row, clock: Clock, tmp_path: Path) -> NewWorld:
    return lambda: World(row, clock, tmp_path)


@pytest.fixture
def world(new_world: NewWorld) -> World:
    return new_world()


async def each_request(new_world: NewWorld) -> list[int]:
    """The numbers of the requests that one mint takes."""
    world = new_world()
    await world.mint()
    return list(range(len(world.wire.asked)))


def spoil(world: World, request: int, how: Scripted) -> None:
    """Let the request of that number fare so, and those before it well."""
    world.wire.script.extend([*[None] * request, how])


async def refused(world: World) -> MintError:
    with pytest.raises(MintError) as caught:
        await world.mint()
    return caught.value


def test_a_page_names_every_type_with_each_kind_of_its_credentials() -> None:
    text = (Path(__file__).parents[2] / "docs" / "providers.md").read_text()
    table = [line for line in text.splitlines() if line.startswith("| ")]
    for name, type_ in TYPES.items():
        assert any(f"`{name}`" in line for line in table), name
        for settings in get_args(type_.SETTINGS):
            tag = settings.__struct_config__.tag
            assert any(f"`{tag}`" in line for line in table), (name, tag)


# The token.


async def test_a_token_is_what_the_vendor_minted_for_the_identity(world: World) -> None:
    token = await world.mint()
    assert token.password == world.vendor.minted[-1]
    assert token.username == world.row.username
    assert token.provider == NAME


async def test_the_life_counts_from_before_the_request_so_latency_never_lengthens_it(new_world: NewWorld) -> None:
    *_, last = await each_request(new_world)
    world = new_world()
    world.vendor.lifetime_seconds = 3600
    life = world.tools.max_lifetime_seconds if world.row.asks_for_lifetime else 3600
    spoil(world, last, Slow(5.0))
    asked_at = world.clock()
    token = await world.mint()
    assert world.clock() == asked_at + 5
    assert token.lifetime_seconds <= life
    assert token.expires_at <= asked_at + life


@pytest.mark.parametrize("row", [row for row in ROWS if not row.asks_for_lifetime], ids=lambda row: row.type)
class TestALifeThatTheVendorChooses:
    """Whatever its page says, a life is as long as this token's is."""

    @pytest.mark.parametrize("minutes", [5, 15, 75])
    async def test_it_is_taken_from_the_answer_not_from_the_vendors_page(self, world: World, minutes: int) -> None:
        world.vendor.lifetime_seconds = minutes * 60
        token = await world.mint()
        assert token.lifetime_seconds == pytest.approx(minutes * 60, abs=1)

    async def test_a_cached_token_with_5_of_60_minutes_left_lives_5_minutes(self, world: World) -> None:
        world.vendor.lifetime_seconds = 3600
        await world.mint()
        world.vendor.again = True
        await asyncio.sleep(3300)
        token = await world.mint()
        assert token.lifetime_seconds == pytest.approx(300, abs=1)
        assert token.expires_at == pytest.approx(world.clock() + 300, abs=1)

    async def test_a_token_that_is_handed_back_keeps_its_end(self, world: World) -> None:
        first = await world.mint()
        world.vendor.again = True
        await asyncio.sleep(600)
        second = await world.mint()
        assert second.password == first.password
        assert second.expires_at == pytest.approx(first.expires_at, abs=1)
        assert second.issued_at == first.issued_at + 600

    async def test_a_token_that_is_over_is_refused(self, world: World) -> None:
        world.vendor.lifetime_seconds = -1
        assert (await refused(world)).problem is Problem.TOKEN_UNFIT


async def test_no_life_is_longer_than_the_operator_allows(world: World) -> None:
    world.vendor.lifetime_seconds = 100 * 24 * 3600
    assert (await world.mint()).lifetime_seconds <= world.tools.max_lifetime_seconds


# What the vendor answers in place of a token.


@pytest.mark.parametrize(
    ("row", "words"),
    [pytest.param(row, words, id=f"{row.type}-{words}") for row in ROWS for words in row.refusals],
)
async def test_a_refusal_is_told_by_the_vendors_own_words(world: World, words: str) -> None:
    answer, problem = world.row.refusals[words]
    spoil(world, world.row.minting_call, answer)
    assert (await refused(world)).problem is problem


def test_every_row_knows_the_vendors_words_for_each_class(row: Row) -> None:
    assert row.refusals.keys() >= {"refused", "malformed request", "throttled", "unavailable"}


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_a_failing_server_passes_by_itself_at_each_request(new_world: NewWorld, status: int) -> None:
    for request in await each_request(new_world):
        world = new_world()
        spoil(world, request, Answer(status, b"<h1>Bad Gateway</h1>"))
        assert (await refused(world)).problem is Problem.ISSUER_UNAVAILABLE


async def test_retry_after_is_honoured_in_seconds_and_as_a_date_at_each_request(new_world: NewWorld) -> None:
    for request in await each_request(new_world):
        for throttled in (429, 503):
            world = new_world()
            date = email.utils.formatdate(world.clock() + 120, usegmt=True)
            for value, seconds in (("17", 17), (date, 120)):
                spoil(world, request, Answer(throttled, headers={"Retry-After": value}))
                assert (await refused(world)).retry_after_seconds == pytest.approx(seconds, abs=1)


async def test_a_broken_connection_is_an_outage_at_each_request(new_world: NewWorld) -> None:
    for request in await each_request(new_world):
        world = new_world()
        spoil(world, request, Reset())
        assert (await refused(world)).problem is Problem.ISSUER_UNAVAILABLE


@pytest.mark.parametrize("body", [wire.HTML, wire.TRUNCATED, wire.EMPTY, Answer(200, b"[]"), Answer(200, b"\xff")])
async def test_a_body_that_is_no_answer_is_malformed_at_each_request(new_world: NewWorld, body: Answer) -> None:
    for request in await each_request(new_world):
        world = new_world()
        spoil(world, request, body)
        assert (await refused(world)).problem is Problem.ISSUER_MALFORMED


async def test_an_oversize_body_is_not_read_to_its_end_at_each_request(new_world: NewWorld) -> None:
    for request in await each_request(new_world):
        world = new_world()
        spoil(world, request, wire.OVERSIZE)
        error = await refused(world)
        assert error.problem is Problem.ISSUER_UNAVAILABLE
        assert "larger" in error.detail


async def test_a_redirect_is_refused_and_not_followed_at_each_request(new_world: NewWorld) -> None:
    for request in await each_request(new_world):
        world = new_world()
        spoil(world, request, wire.REDIRECT)
        assert (await refused(world)).problem in (Problem.REQUEST_REFUSED, Problem.ISSUER_MALFORMED)
        assert not any("followed" in asked.url for asked in world.wire.asked)
        assert len(world.wire.asked) == request + 1


async def test_a_refusal_says_when_the_clocks_are_apart(world: World) -> None:
    date = email.utils.formatdate(world.clock() - 600, usegmt=True)
    spoil(world, world.row.minting_call, Answer(403, headers={"Date": date}))
    assert "the clocks are 600 s apart" in (await refused(world)).detail


# Time.


async def test_an_answer_that_never_comes_is_given_up_after_the_timeout_at_each_request(new_world: NewWorld) -> None:
    for request in await each_request(new_world):
        world = new_world()
        spoil(world, request, Hang())
        began = world.clock()
        assert (await refused(world)).problem is Problem.ISSUER_UNAVAILABLE
        assert world.clock() - began == pytest.approx(10.0)


async def test_cancellation_passes_at_each_request(new_world: NewWorld) -> None:
    for request in await each_request(new_world):
        world = new_world()
        spoil(world, request, Hang())
        task = asyncio.create_task(world.mint())
        await asyncio.sleep(1)
        assert len(world.wire.asked) == request + 1, "the request hangs"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(world.wire.asked) == request + 1, "nothing is sent after a cancellation"


# The proof.


def test_a_configuration_without_a_proof_is_refused(row: Row, tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError):
        configured(row, tmp_path, row.proofless)


async def test_a_ca_file_that_is_missing_is_our_own_problem_and_no_outage(
    row: Row, clock: Clock, tmp_path: Path
) -> None:
    world = World(row, clock, tmp_path, transport=AiohttpTransport(ca_file=tmp_path / "missing.pem"))
    assert (await refused(world)).problem is Problem.CA_FILE_UNFIT


STALE_ROWS = pytest.mark.parametrize("row", [row for row in ROWS if row.stale is not None], ids=lambda row: row.type)


@STALE_ROWS
class TestAStaleProof:
    """The kubelet replaces a proof while we hold the one before."""

    async def test_it_is_read_again_and_another_is_tried_once(self, world: World) -> None:
        spoil(world, world.row.minting_call, lambda: meanwhile_renewed(world))
        assert (await world.mint()).password == world.vendor.minted[-1]

    async def test_cancellation_passes_while_another_is_tried(self, world: World) -> None:
        spoil(world, world.row.minting_call, lambda: meanwhile_renewed(world))
        world.wire.script.append(Hang())
        task = asyncio.create_task(world.mint())
        await asyncio.sleep(1)
        asked = len(world.wire.asked)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(world.wire.asked) == asked

    async def test_the_same_one_is_not_tried_again(self, world: World) -> None:
        assert world.row.stale is not None
        spoil(world, world.row.minting_call, world.row.stale)
        assert (await refused(world)).problem in (Problem.MINT_REFUSED, Problem.REQUEST_REFUSED)
        assert len(world.wire.asked) == world.row.minting_call + 1

    async def test_a_second_one_that_is_stale_too_is_the_last(self, world: World) -> None:
        await world.mint()
        requests = len(world.wire.asked)
        for _ in range(2):
            spoil(world, world.row.minting_call, lambda: meanwhile_renewed(world))
        await refused(world)
        assert len(world.wire.asked) <= 3 * requests


def meanwhile_renewed(world: World) -> Answer:
    """The vendor's answer to a stale proof; before it arrives, the proof is replaced."""
    assert world.row.stale is not None
    world.row.renew(world)
    return world.row.stale


async def test_a_proof_is_checked_without_a_request(world: World) -> None:
    await world.provider.check_proof()
    assert not world.wire.asked


async def test_a_check_finds_a_proof_that_cannot_be_read(world: World) -> None:
    world.row.lose(world)
    with pytest.raises(MintError) as caught:
        await world.provider.check_proof()
    assert caught.value.problem in (Problem.PROOF_MISSING, Problem.PROOF_UNFIT)
    assert not leaks(world, chain(caught.value))
    assert not world.wire.asked


async def test_a_proof_that_cannot_be_read_is_told_and_nothing_is_sent(world: World) -> None:
    world.row.lose(world)
    error = await refused(world)
    assert error.problem in (Problem.PROOF_MISSING, Problem.PROOF_UNFIT)
    assert not world.wire.asked


async def test_a_provider_handed_a_tenants_proof_presents_that_and_asks_for_no_other(
    row: Row, world: World, tmp_path: Path
) -> None:
    settings = configured(row, tmp_path)
    if settings.proof_by is None:
        with pytest.raises(config.ConfigError, match=r"proof: "):
            configured(row, tmp_path, {"proof": "serviceAccount"})
        return
    asked: list[str] = []

    async def tenants_proof(audience: str) -> str:
        asked.append(audience)
        return proof_for(audience, 7, int(world.clock()) + 600)

    provider = TYPES[row.type](settings, replace(world.tools, proof=tenants_proof))
    await provider.mint(row.identity, world.hosts)
    assert len(asked) == 1
    assert not world.proofs_read

    async def none(_audience: str) -> str:
        raise MintError(Problem.TOKEN_REQUEST_REFUSED, "403")

    world.wire.asked.clear()
    provider = TYPES[row.type](settings, replace(world.tools, proof=none))
    with pytest.raises(MintError) as caught:
        await provider.mint(row.identity, world.hosts)
    assert caught.value.problem is Problem.TOKEN_REQUEST_REFUSED
    assert not world.proofs_read
    assert not world.wire.asked, "nothing is sent in its place"


# Leaks.


async def mint_aloud(world: World) -> list[str]:
    """Mint through the minter; everything that is said about it: log, metrics, and the texts of what comes out."""
    said = CapturingLogger()
    log = structlog.wrap_logger(said, wrapper_class=structlog.make_filtering_bound_logger(0), processors=[_as_fields])
    metrics = Metrics(providers=[NAME], policies=[], relist_reasons=[])
    landed, asker = asyncio.Event(), Key("team-a", "pull-secret", "")
    key = MintKey(NAME, world.row.identity, None, world.hosts)
    async with asyncio.TaskGroup() as group:
        minter = Minter(
            NAME,
            world.provider,
            proven_by=lambda _tenant, _askers: world.provider,
            group=group,
            now=world.clock,
            wake=lambda _asker: landed.set(),
            mints_per_second=20,
            mint_seconds=30,
            concurrency=1,
            mints_per_minute=None,
            shares_token=False,
            metrics=metrics,
            log=log,
        )
        result = minter.ask(key, asker=asker, coverage=Coverage(None), due_at=world.clock())
        await landed.wait()
        result = minter.ask(key, asker=asker, coverage=Coverage(None), due_at=world.clock())
        minter.close()
    return [*map(repr, said.calls), generate_latest(metrics.registry).decode(), repr(result), str(result)]


def _as_fields(_logger: Any, _method: str, event: Any) -> Any:
    return (), dict(event)


async def test_nothing_is_said_of_a_token_but_its_hash(world: World) -> None:
    said = await mint_aloud(world)
    assert world.vendor.minted
    assert any("token minted" in text for text in said)
    assert not leaks(world, said)


@pytest.mark.parametrize("status", [200, 201, 302, 400, 401, 403, 404, 409, 429, 500])
async def test_an_answer_that_echoes_what_it_was_sent_is_not_quoted(new_world: NewWorld, status: int) -> None:
    for request in await each_request(new_world):
        world = new_world()
        await world.mint()
        sent = world.wire.asked[request]
        echo = f'{{"error": "{world.vendor.minted[-1]}", "message": "{dict(sent.headers)} {sent.body!r}"}}'
        headers = {"X-Echo": sent.headers.get("Authorization", ""), "Location": sent.url}
        spoil(world, request, Answer(status, echo.encode(), headers))
        said = await mint_aloud(world)
        spoil(world, request, Answer(status, echo.encode(), headers))
        error = await refused(world)
        assert not leaks(world, [*said, str(error), repr(error), error.detail])
        assert not leaks(world, chain(error))


async def test_a_failure_is_remembered_without_the_proof(world: World) -> None:
    world.wire.script.append(Reset())
    said = await mint_aloud(world)
    assert any(Failed.__name__ in text for text in said)
    assert not leaks(world, said)


def chain(error: BaseException | None) -> list[str]:
    """The texts of an exception and of everything that it was raised from."""
    texts: list[str] = []
    while error is not None:
        texts += [str(error), repr(error)]
        error = error.__cause__ or error.__context__
    return texts


def leaks(world: World, texts: list[str]) -> list[str]:
    """Those of the texts that hold a secret or a part of one."""
    return [text for text in texts if any(canary in text for canary in world.canaries())]
