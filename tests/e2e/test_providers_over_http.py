"""The providers and their stand-ins over real sockets: what virtual time can't show is the HTTP client between them."""

from __future__ import annotations

import dataclasses
import urllib.parse
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from controller.core.errors import MintError, Problem
from controller.net.transport import AiohttpTransport
from testing import wire
from testing.crusoe import ApiKey, Crusoe
from testing.wire import Hang, Reset, Scripted
from tests.unit import contract_crusoe, contract_token_exchange
from tests.unit.provider_world import Row, World
from tests.unit.test_provider_contract import ROWS
from tests.unit.virtual_time import Clock

SERVED = [row for row in ROWS if row.at is not None]


@asynccontextmanager
async def reaching(
    url: str, row: Row, directory: Path, overrides: Mapping[str, Any] | None = None
) -> AsyncIterator[World]:
    """A provider that looks for its vendor at that URL."""
    assert row.at is not None
    transport = AiohttpTransport()
    try:
        yield World(row, Clock(), directory, {**row.at(url), "timeoutSeconds": 1, **(overrides or {})}, transport)
    finally:
        await transport.close()


@asynccontextmanager
async def served(row: Row, directory: Path, overrides: Mapping[str, Any] | None = None) -> AsyncIterator[World]:
    """A provider that finds its vendor."""
    with wire.listen() as listener:
        async with (
            reaching(wire.url_of(listener), row, directory, overrides) as world,
            wire.serving(world.wire, listener),
        ):
            yield world


@pytest.mark.parametrize("row", SERVED, ids=lambda row: row.type)
async def test_a_token_is_minted(row: Row, tmp_path: Path) -> None:
    async with served(row, tmp_path) as world:
        token = await world.mint()
        assert (token.username, token.password) == (row.username, world.vendor.minted[-1])


@pytest.mark.parametrize("row", SERVED, ids=lambda row: row.type)
@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (Hang(), Problem.ISSUER_UNAVAILABLE),
        (Reset(), Problem.ISSUER_UNAVAILABLE),
        (wire.OVERSIZE, Problem.ISSUER_UNAVAILABLE),
        (wire.HTML, Problem.ISSUER_MALFORMED),
        (wire.REDIRECT, Problem.REQUEST_REFUSED),
    ],
    ids=["hang", "reset", "oversize", "html", "redirect"],
)
async def test_a_fault_is_what_it_is_in_memory(row: Row, tmp_path: Path, fault: Scripted, problem: Problem) -> None:
    async with served(row, tmp_path) as world:
        world.wire.script.extend([*[None] * row.minting_call, fault, fault])
        with pytest.raises(MintError) as caught:
            await world.mint()
        assert caught.value.problem is problem
        # aiohttp itself sends a GET that was cut off once more; never what may have made a token.
        again = isinstance(fault, Reset) and world.wire.asked[-1].method == "GET"
        assert len(world.wire.asked) == row.minting_call + (2 if again else 1)


@pytest.mark.parametrize("row", SERVED, ids=lambda row: row.type)
async def test_a_server_that_is_not_there_is_an_outage(row: Row, tmp_path: Path) -> None:
    with wire.listen() as listener:
        url = wire.url_of(listener)
    async with reaching(url, row, tmp_path) as world:
        with pytest.raises(MintError) as caught:
            await world.mint()
    assert caught.value.problem is Problem.ISSUER_UNAVAILABLE


@pytest.mark.parametrize("key_id", ["Hm11C1coQZm2+Aihn9ofYg", "a/b+c==", "a b&c=d;e", "%2B", "ä"])
async def test_a_signed_query_arrives_as_it_was_signed(tmp_path: Path, key_id: str) -> None:
    async with served(contract_crusoe.ROW, tmp_path, {"alias": "mine"}) as world:
        assert isinstance(world.vendor, Crusoe)
        world.clock.step(3600)  # after a start there is none for an hour
        world.vendor.api_keys = [ApiKey(key_id, "mine", world.clock() - 7200, world.clock() - 3600)]
        await world.mint()
        assert world.cleaned == [None]
        assert key_id not in [key.key_id for key in world.vendor.api_keys]


@pytest.mark.parametrize("identity", ["a b", "%2e%2e", "ä?b#c", "org+robot", "...x", "a;b=c"])
async def test_an_identity_in_a_path_stays_one_segment(tmp_path: Path, identity: str) -> None:
    """The client normalises addresses; what it makes of one must still be the identity and nothing else."""
    by_path = dataclasses.replace(contract_token_exchange.ROW, at=lambda url: {"tokenUrl": f"{url}/x/{{identity}}/y"})
    async with served(by_path, tmp_path) as world:
        with pytest.raises(MintError):
            await world.provider.mint(identity, world.hosts)
        [asked] = world.wire.asked
        assert [urllib.parse.unquote(part) for part in asked.path.split("/")] == ["", "x", identity, "y"]
