"""The ground that the other unit tests stand on."""

from __future__ import annotations

import asyncio
import socket
import time

import aiohttp
import pytest

from tests.unit.virtual_time import EPOCH_SECONDS, Clock, Stuck, VirtualTimeLoop


async def test_an_hour_passes_in_no_real_time(clock: Clock) -> None:
    before = time.monotonic()
    await asyncio.sleep(3600)
    assert clock() == EPOCH_SECONDS + 3600
    assert time.monotonic() - before < 1


async def test_a_timeout_expires_although_nothing_sleeps() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(60):
            await asyncio.Event().wait()


async def test_work_in_a_thread_takes_no_virtual_time(clock: Clock) -> None:
    async with asyncio.timeout(0.001):
        assert await asyncio.to_thread(sum, range(1_000_000)) == 499_999_500_000
    assert clock() == EPOCH_SECONDS


async def test_an_error_in_a_thread_reaches_who_awaits_it() -> None:
    with pytest.raises(FileNotFoundError):
        await asyncio.to_thread(open, "/nowhere/to/be/found")


async def test_stepping_the_wall_clock_fires_no_timer(clock: Clock) -> None:
    sleeper = asyncio.ensure_future(asyncio.sleep(10))
    await asyncio.sleep(1)
    clock.step(3600)
    await asyncio.sleep(1)
    assert not sleeper.done()
    assert clock() == EPOCH_SECONDS + 3602
    await sleeper


def test_without_a_loop_time_stands_still(clock: Clock) -> None:
    assert clock() == clock() == EPOCH_SECONDS


def test_a_deadlock_fails_at_once() -> None:
    with pytest.raises(Stuck), asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(asyncio.Event().wait())


def test_a_real_socket_is_refused(network_attempts: list[object]) -> None:
    for family, address in ((socket.AF_INET, ("127.0.0.1", 9)), (socket.AF_INET6, ("::1", 9))):
        with socket.socket(family) as real:
            with pytest.raises(AssertionError, match="must not reach the network"):
                real.connect(address)
            with pytest.raises(AssertionError, match="must not reach the network"):
                real.connect_ex(address)
    assert len(network_attempts) == 4
    network_attempts.clear()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "http://issuer.example/"])
async def test_aiohttp_cannot_get_out_by_address_or_name(url: str, network_attempts: list[object]) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(AssertionError, match="must not reach the network"):
            await session.get(url)
    assert network_attempts
    network_attempts.clear()
