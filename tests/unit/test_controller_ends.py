"""How it ends: by SIGTERM in bounded time whatever hangs, and as a whole when a part of it dies (O1, O6)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from controller.kube.client import Selector
from controller.kube.errors import ApiError
from tests.unit.engine import NAME, Engine, identity
from tests.unit.virtual_time import Clock

DRAIN_SECONDS = 10.0
"""What SIGTERM leaves to runs that are under way."""

FLUSH_SECONDS = 1.0
"""What it leaves to Events after that."""


@pytest.fixture
def engine(clock: Clock, tmp_path: Path) -> Engine:
    return Engine(clock, tmp_path)


async def end_seconds(engine: Engine, *, after_seconds: float = 0.001) -> float:
    """Run a controller, tell it to stop, and see that it leaves no task behind."""
    others = asyncio.all_tasks()
    task = asyncio.create_task(engine.start().run(engine.stopping))
    await asyncio.sleep(after_seconds)
    assert not task.done()
    told_at = engine.clock()
    engine.stopping.set()
    await asyncio.wait_for(task, 300)
    assert asyncio.all_tasks() <= others
    return engine.clock() - told_at


async def test_at_rest_it_ends_at_once(engine: Engine) -> None:
    engine.ask("team-a")
    assert await end_seconds(engine) < 0.001
    assert engine.password("team-a")


async def test_what_is_under_way_is_finished_and_told(engine: Engine) -> None:
    engine.issuer.delay_seconds = 4
    engine.ask("team-a")
    assert await end_seconds(engine) == pytest.approx(4, abs=0.1)
    assert engine.password("team-a") == engine.issuer.minted[0]
    assert [event["reason"] for event in engine.api.events] == ["TokenWritten"]


async def test_an_issuer_that_hangs_holds_it_up_no_longer_than_the_drain(engine: Engine) -> None:
    engine.issuer.hang()
    for number in range(50):
        engine.ask(f"team-{number}", number)
    assert await end_seconds(engine, after_seconds=5) <= DRAIN_SECONDS


async def test_a_write_that_hangs_holds_it_up_no_longer_than_the_drain(engine: Engine) -> None:
    engine.api.fail("patch", 200, after_seconds=10_000, times=100)
    engine.ask("team-a")
    assert await end_seconds(engine) <= DRAIN_SECONDS + 0.001


async def test_an_api_server_that_hangs_altogether_holds_it_up_a_second_more(engine: Engine) -> None:
    engine.ask("bad", service_account="")
    engine.ask("team-a")
    engine.api.fail("create", 200, after_seconds=10_000, times=100)
    assert await end_seconds(engine) <= DRAIN_SECONDS + FLUSH_SECONDS + 0.001


async def test_a_list_that_hangs_holds_it_up_not_at_all(engine: Engine) -> None:
    engine.api.fail("list", 200, after_seconds=10_000)
    assert await end_seconds(engine) < 0.001


async def test_it_takes_no_more_work_once_it_was_told_to_stop(engine: Engine) -> None:
    engine.issuer.delay_seconds = 3
    engine.ask("team-a", 1)
    task = asyncio.create_task(engine.start().run(engine.stopping))
    await asyncio.sleep(1)
    engine.stopping.set()
    await asyncio.sleep(1)
    engine.ask("team-b", 2)
    await task
    assert engine.password("team-a")
    assert not engine.issuer.asked(identity(2))


async def test_events_that_wait_are_sent_before_it_ends(engine: Engine) -> None:
    engine.ask("team-a")
    engine.api.latency_seconds = 0.01
    await end_seconds(engine, after_seconds=0.045)
    assert [event["reason"] for event in engine.api.events] == ["TokenWritten"]


@pytest.mark.parametrize("steps", range(0, 40, 3))
async def test_told_to_stop_at_any_step_it_ends_and_leaves_no_task(engine: Engine, steps: int) -> None:
    others = asyncio.all_tasks()
    engine.ask("team-a", config={"auths": {"quay.io": {"auth": "YTpi"}}})
    task = asyncio.create_task(engine.start().run(engine.stopping))
    for _ in range(steps):
        await asyncio.sleep(0)
    engine.stopping.set()
    await asyncio.wait_for(task, DRAIN_SECONDS)
    assert asyncio.all_tasks() <= others
    assert engine.password("team-a") in (None, *engine.issuer.minted)


async def test_cancelled_it_ends_too(engine: Engine) -> None:
    others = asyncio.all_tasks()
    engine.issuer.hang()
    engine.ask("team-a")
    task = asyncio.create_task(engine.start().run(engine.stopping))
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert asyncio.all_tasks() <= others


async def test_an_error_nobody_thought_of_stops_no_other_claim_and_is_tried_again_after_5_minutes(
    engine: Engine,
) -> None:
    """Something between us and the API server answers a write with 200 and a page of HTML."""
    engine.api.fail("patch", 200, resource="secrets", body=b"<html>eyJhbGciOiJub25lIn0.secret.words</html>")
    engine.ask("team-a")
    async with engine.running():
        entries = engine.logged("a defect stopped the work on a claim; please report it")
        assert len(entries) == 1
        assert "secret" not in repr(entries[0]["error"])
        engine.ask("team-b")
        await engine.settle()
        assert engine.password("team-b")
        await asyncio.sleep(299)
        assert engine.password("team-a") is None
        await asyncio.sleep(2)
        assert engine.password("team-a")


async def test_an_error_nobody_thought_of_counts_as_a_failure(engine: Engine) -> None:
    engine.api.fail("patch", 200, resource="secrets", body=b"<html>")
    engine.ask("team-a")
    async with engine.running():
        assert engine.metric("refreshes_total", provider="chainguard", result="failed", reason="new") == 1


async def test_an_error_nobody_thought_of_is_over_when_the_secret_changes(engine: Engine) -> None:
    engine.api.fail("patch", 200, resource="secrets", body=b"<html>")
    engine.ask("team-a")
    async with engine.running():
        engine.api.merge_patch("team-a", NAME, {"metadata": {"labels": {"a": "b"}}})
        await engine.settle()
        assert engine.password("team-a")


async def test_the_death_of_the_reflector_ends_everything(engine: Engine) -> None:
    """kopf #1145: a dead watcher in a live process. The server answers with a list that is none of ours."""
    others = asyncio.all_tasks()
    engine.ask("team-a")

    class Broken(Exception):
        pass

    class BrokenClient(type(engine.api.client())):  # type: ignore[misc]
        async def list_page(self, selector: Selector, **_ignored: object) -> None:
            raise Broken

    controller = engine.start(client_type=BrokenClient)
    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(controller.run(engine.stopping), 5)
    assert caught.group_contains(Broken)
    assert not caught.group_contains(ApiError)
    assert asyncio.all_tasks() <= others
