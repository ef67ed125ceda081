"""What the queue promises, one sentence a test. test_queue_model.py looks for what these forgot."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from controller.core.queue import Due, QueueClosed, RefreshQueue
from tests.unit.queues import deadline, processing, waiting
from tests.unit.virtual_time import EPOCH_SECONDS, Clock

NOW = EPOCH_SECONDS
Key = tuple[str, str]
Queue = RefreshQueue[Key]

A1, A2, A3, B1, B2, C1 = ("a", "1"), ("a", "2"), ("a", "3"), ("b", "1"), ("b", "2"), ("c", "1")


@pytest.fixture
def queue(clock: Clock) -> Queue:
    return RefreshQueue(clock, turn=lambda key: key[0])


@pytest.fixture
async def spawn() -> AsyncIterator[Callable[[Any], asyncio.Task[Any]]]:
    """Start a task that is cancelled when the test ends."""
    tasks: list[asyncio.Task[Any]] = []

    def start(coroutine: Any) -> asyncio.Task[Any]:
        tasks.append(asyncio.create_task(coroutine))
        return tasks[-1]

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


Spawn = Callable[[Any], asyncio.Task[Any]]


async def take_all(queue: Queue) -> list[Key]:
    """Take, process and finish all keys that are due now."""
    taken = []
    while queue.depth():
        key, _ = await queue.get()
        queue.done(key, None)
        taken.append(key)
    return taken


# When a key comes out.


async def test_a_key_comes_out_at_its_deadline(queue: Queue, clock: Clock) -> None:
    queue.schedule(A1, NOW + 3600)
    assert await queue.get() == Due(A1, NOW + 3600)
    assert clock() == NOW + 3600


@pytest.mark.parametrize("at", [NOW, NOW - 1, 1.0, 0.0, -1.0, -1e300])
async def test_a_past_deadline_means_now_not_never(queue: Queue, clock: Clock, at: float) -> None:
    queue.schedule(A1, at)
    assert queue.depth() == 1
    assert await queue.get() == Due(A1, at)
    queue.done(A1, at)
    assert await queue.get() == Due(A1, at)
    assert clock() == NOW


async def test_a_late_worker_learns_since_when_the_key_is_due(queue: Queue, clock: Clock) -> None:
    queue.schedule(A1, NOW + 5)
    await asyncio.sleep(12)
    due = await queue.get()
    assert clock() - due.at == 7


@pytest.mark.parametrize("at", [math.nan, math.inf, -math.inf])
async def test_a_deadline_that_is_no_instant_is_refused_and_changes_nothing(queue: Queue, at: float) -> None:
    queue.schedule(A1, NOW)
    with pytest.raises(ValueError, match="finite"):
        queue.schedule(A1, at)
    await queue.get()
    with pytest.raises(ValueError, match="finite"):
        queue.done(A1, at)
    assert queue.is_processing(A1)
    queue.done(A1, NOW + 1)
    assert deadline(queue, A1) == NOW + 1


async def test_a_key_without_a_next_instant_waits_for_a_change(queue: Queue) -> None:
    queue.schedule(A1, NOW)
    await queue.get()
    queue.done(A1, None)
    assert (deadline(queue, A1), waiting(queue), processing(queue)) == (None, 0, 0)


# One deadline.


async def test_an_early_refresh_moves_the_deadline_later(queue: Queue, clock: Clock) -> None:
    queue.schedule(A1, NOW + 10)
    queue.schedule(A1, NOW + 500)
    assert waiting(queue) == 1
    await queue.get()
    assert clock() == NOW + 500
    queue.done(A1, None)
    assert waiting(queue) == 0


async def test_a_deadline_moved_earlier_wakes_a_worker_that_waits(queue: Queue, clock: Clock, spawn: Spawn) -> None:
    queue.schedule(A1, NOW + 500)
    worker = spawn(queue.get())
    await asyncio.sleep(1)
    queue.schedule(A1, NOW + 2)
    assert await worker == Due(A1, NOW + 2)
    assert clock() == NOW + 2


@pytest.mark.parametrize("updates", [0, 1, 2, 1000])
async def test_constant_updates_do_not_postpone_a_refresh(queue: Queue, clock: Clock, updates: int) -> None:
    queue.schedule(A1, NOW)
    queue.schedule(A2, NOW + 1)
    for _ in range(updates):
        await asyncio.sleep(1)
        queue.schedule(A1, clock())
    await asyncio.sleep(1)
    assert await queue.get() == Due(A1, NOW)
    assert await queue.get() == Due(A2, NOW + 1)


async def test_a_due_key_that_got_its_token_elsewhere_is_due_no_more(queue: Queue, clock: Clock) -> None:
    queue.schedule(A1, NOW)
    queue.schedule(A1, NOW + 60)
    assert queue.depth() == 0
    await queue.get()
    assert clock() == NOW + 60


@pytest.mark.parametrize("adds", [1, 2, 100])
async def test_many_changes_of_a_waiting_key_cost_one_run(queue: Queue, adds: int) -> None:
    for _ in range(adds):
        queue.schedule(A1, NOW)
    assert await take_all(queue) == [A1]


async def test_our_own_write_seen_by_the_watch_costs_a_key_neither_deadline_nor_place(queue: Queue) -> None:
    for key in (A1, A2, A1):
        queue.schedule(key, NOW + 5)
    assert [(await queue.get()).key, (await queue.get()).key] == [A1, A2]


# While a key is being processed.


async def test_a_key_is_never_processed_twice_at_a_time(queue: Queue, clock: Clock, spawn: Spawn) -> None:
    queue.schedule(A1, NOW)
    await queue.get()
    second = spawn(queue.get())
    queue.schedule(A1, NOW)
    await asyncio.sleep(60)
    assert not second.done()
    queue.done(A1, None)
    assert await second == Due(A1, NOW)
    assert clock() == NOW + 60


@pytest.mark.parametrize("adds", [1, 2, 100])
async def test_many_changes_during_a_run_cost_exactly_one_more(queue: Queue, adds: int) -> None:
    queue.schedule(A1, NOW)
    await queue.get()
    for _ in range(adds):
        queue.schedule(A1, NOW)
    queue.done(A1, None)
    assert await take_all(queue) == [A1]


async def test_of_several_deadlines_asked_during_a_run_the_last_counts(queue: Queue) -> None:
    queue.schedule(A1, NOW)
    await queue.get()
    for at in (NOW + 7, NOW + 3, NOW + 5):
        queue.schedule(A1, at)
    assert deadline(queue, A1) == NOW + 5
    queue.done(A1, NOW + 60)
    assert deadline(queue, A1) == NOW + 5


@pytest.mark.parametrize(
    ("asked", "next_at", "expected"),
    [(5, 60, 5), (60, 5, 5), (5, None, 5), (None, 60, 60), (None, None, None), (0, 60, 0)],
)
async def test_finishing_a_key_never_drops_a_deadline_set_meanwhile(
    queue: Queue, asked: int | None, next_at: int | None, expected: int | None
) -> None:
    queue.schedule(A1, NOW)
    await queue.get()
    if asked is not None:
        queue.schedule(A1, NOW + asked)
    queue.done(A1, None if next_at is None else NOW + next_at)
    assert deadline(queue, A1) == (None if expected is None else NOW + expected)


async def test_only_a_key_that_is_being_processed_can_be_done(queue: Queue) -> None:
    with pytest.raises(ValueError, match="not being processed"):
        queue.done(A1, None)
    queue.schedule(A1, NOW + 60)
    with pytest.raises(ValueError, match="not being processed"):
        queue.done(A1, None)
    assert deadline(queue, A1) == NOW + 60


# Forgetting.


async def test_a_forgotten_key_never_comes_out(queue: Queue, spawn: Spawn) -> None:
    queue.schedule(A1, NOW + 5)
    queue.schedule(A2, NOW)
    queue.forget(A1)
    queue.forget(A2)
    worker = spawn(queue.get())
    await asyncio.sleep(3600)
    assert not worker.done()
    assert (deadline(queue, A1), waiting(queue)) == (None, 0)


async def test_forgetting_a_key_that_is_not_there_does_nothing(queue: Queue) -> None:
    queue.forget(A1)
    assert (waiting(queue), processing(queue)) == (0, 0)


async def test_a_key_forgotten_during_its_run_is_gone_when_the_run_ends(queue: Queue) -> None:
    queue.schedule(A1, NOW)
    await queue.get()
    queue.schedule(A1, NOW + 1)
    queue.forget(A1)
    assert queue.is_processing(A1)
    queue.done(A1, NOW + 2)
    assert (deadline(queue, A1), waiting(queue), processing(queue)) == (None, 0, 0)


async def test_a_key_recreated_during_its_run_gets_the_deadline_of_the_new_one(queue: Queue) -> None:
    queue.schedule(A1, NOW)
    await queue.get()
    queue.forget(A1)
    queue.schedule(A1, NOW + 30)
    queue.done(A1, NOW + 2)
    assert deadline(queue, A1) == NOW + 30


# Who is first.


async def test_overdue_keys_of_a_namespace_come_out_longest_overdue_first(queue: Queue) -> None:
    for key, at in ((A2, NOW - 20), (A3, NOW - 10), (A1, NOW - 30)):
        queue.schedule(key, at)
    assert await take_all(queue) == [A1, A2, A3]


async def test_namespaces_take_turns_however_many_keys_one_has(queue: Queue) -> None:
    crowd = [("crowd", str(number)) for number in range(1000)]
    for key in crowd:
        queue.schedule(key, NOW - 100)
    for key in (B1, B2, C1):
        queue.schedule(key, NOW)
    order = await take_all(queue)
    assert order[:6] == [crowd[0], B1, C1, crowd[1], B2, crowd[2]]
    assert len(order) == 1003


async def test_a_namespace_that_is_always_due_does_not_delay_another(queue: Queue) -> None:
    for key in (A1, A2, A3, B1):
        queue.schedule(key, NOW)
    order = []
    for _ in range(4):
        key, _ = await queue.get()
        order.append(key[0])
        queue.done(key, NOW)
    assert order == ["a", "b", "a", "b"]


async def test_keys_due_at_the_same_instant_keep_their_order_and_need_none_of_their_own(clock: Clock) -> None:
    class Unordered:
        pass

    queue = RefreshQueue[Unordered](clock, turn=lambda _: None)
    keys = [Unordered() for _ in range(10)]
    for key in keys:
        queue.schedule(key, NOW)
    assert [(await queue.get()).key for _ in keys] == keys


# The clock.


@pytest.mark.parametrize("seconds", [60.0, 1e9])
async def test_a_clock_set_forward_is_seen_within_ten_seconds(
    queue: Queue, clock: Clock, spawn: Spawn, seconds: float
) -> None:
    loop = asyncio.get_running_loop()
    queue.schedule(A1, NOW + 60)
    worker = spawn(queue.get())
    await asyncio.sleep(1)
    clock.step(seconds)
    await worker
    assert loop.time() <= 1 + 10


async def test_a_clock_set_back_makes_nothing_due_early_and_delays_nothing_more(
    queue: Queue, clock: Clock, spawn: Spawn
) -> None:
    queue.schedule(A1, NOW)
    queue.schedule(A2, NOW + 1)
    await asyncio.sleep(2)
    await queue.get()
    clock.step(-100)
    assert queue.depth() == 0
    worker = spawn(queue.get())
    queue.schedule(A3, NOW - 50)
    assert await worker == Due(A3, NOW - 50)
    assert clock() == NOW - 50
    assert await queue.get() == Due(A2, NOW + 1)
    assert clock() == NOW + 1


async def test_a_key_that_a_clock_set_back_made_wait_again_goes_before_later_ones(queue: Queue, clock: Clock) -> None:
    queue.schedule(A1, NOW)
    queue.schedule(A2, NOW + 1)
    queue.schedule(B1, NOW + 500)
    await asyncio.sleep(2)
    await queue.get()
    clock.step(-100)
    assert await queue.get() == Due(A2, NOW + 1)
    assert clock() == NOW + 1


@pytest.mark.parametrize("workers", [1, 2, 32])
async def test_at_rest_one_worker_alone_looks_at_the_clock_every_ten_seconds(
    clock: Clock, spawn: Spawn, workers: int
) -> None:
    looks: list[float] = []

    def now() -> float:
        looks.append(clock())
        return clock()

    queue = RefreshQueue[Key](now, turn=lambda key: key[0])
    queue.schedule(A1, NOW + 86400)
    for _ in range(workers):
        spawn(queue.get())
    await asyncio.sleep(0)
    looks.clear()
    await asyncio.sleep(3600 - 1)
    assert sorted({later - sooner for sooner, later in itertools.pairwise(sorted(set(looks)))}) == [10.0]
    assert len(looks) == 2 * 359, "each time once to see what is due, and once to know how long to sleep"


async def test_an_empty_queue_sets_no_timer(queue: Queue, spawn: Spawn) -> None:
    spawn(queue.get())
    started = asyncio.get_running_loop().time()
    await asyncio.sleep(0)
    assert not [handle for handle in asyncio.get_running_loop()._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
    queue.schedule(A1, NOW)
    await asyncio.sleep(0)
    assert asyncio.get_running_loop().time() == started


# Many workers.


async def test_thirty_two_workers_take_each_key_once(queue: Queue, clock: Clock, spawn: Spawn) -> None:
    taken: list[Key] = []

    async def work() -> None:
        while True:
            key, _ = await queue.get()
            taken.append(key)
            await asyncio.sleep(1)
            queue.done(key, None)

    for _ in range(32):
        spawn(work())
    keys = [(turn, str(number)) for turn in "abcd" for number in range(16)]
    for key in keys:
        queue.schedule(key, NOW + 30)
    await asyncio.sleep(30.5)
    assert len(taken) == processing(queue) == 32
    await asyncio.sleep(1)
    assert sorted(taken) == sorted(keys)


async def test_a_cancelled_worker_takes_no_key_with_it(queue: Queue, spawn: Spawn) -> None:
    first, second = spawn(queue.get()), spawn(queue.get())
    await asyncio.sleep(0)
    queue.schedule(A1, NOW)
    first.cancel()  # It has been woken for the key, and not run yet.
    assert await second == Due(A1, NOW)


async def test_a_worker_cancelled_when_the_timer_fires_leaves_the_key_to_the_next(
    queue: Queue, clock: Clock, spawn: Spawn
) -> None:
    queue.schedule(A1, NOW + 5)
    first, second = spawn(queue.get()), spawn(queue.get())
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_at(5, first.cancel)
    assert await second == Due(A1, NOW + 5)
    assert clock() == NOW + 5


async def test_a_worker_cancelled_in_line_leaves_the_others_in_it(queue: Queue, spawn: Spawn) -> None:
    workers = [spawn(queue.get()) for _ in range(4)]
    await asyncio.sleep(0)
    workers[1].cancel()
    workers[2].cancel()
    queue.schedule(A1, NOW)
    queue.schedule(B1, NOW)
    assert {(await workers[0]).key, (await workers[3]).key} == {A1, B1}


# Closing.


@pytest.mark.parametrize("workers", [0, 1, 2, 32])
async def test_closing_ends_every_waiting_worker_at_once(
    queue: Queue, clock: Clock, spawn: Spawn, workers: int
) -> None:
    queue.schedule(A1, NOW + 60)
    tasks = [spawn(queue.get()) for _ in range(workers)]
    await asyncio.sleep(1)
    queue.close()
    for task in tasks:
        with pytest.raises(QueueClosed):
            await task
    assert clock() == NOW + 1


async def test_a_closed_queue_hands_out_nothing_but_lets_runs_end(queue: Queue) -> None:
    queue.schedule(A1, NOW)
    queue.schedule(A2, NOW)
    await queue.get()
    queue.close()
    queue.close()
    with pytest.raises(QueueClosed):
        await queue.get()
    queue.done(A1, NOW + 5)
    queue.schedule(B1, NOW)
    with pytest.raises(QueueClosed):
        await queue.get()


async def test_a_key_that_falls_due_as_the_queue_closes_stays(queue: Queue, spawn: Spawn) -> None:
    workers = [spawn(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    queue.schedule(A1, NOW)
    queue.close()
    for worker in workers:
        with pytest.raises(QueueClosed):
            await worker
    assert deadline(queue, A1) == NOW


# Figures.


async def test_depth_counts_due_keys_and_waiting_all_with_a_deadline(queue: Queue) -> None:
    for key, at in ((A1, NOW - 1), (A2, NOW), (A3, NOW + 1), (B1, NOW - 5)):
        queue.schedule(key, at)
    assert (queue.depth(), waiting(queue), processing(queue)) == (3, 4, 0)
    await queue.get()
    assert (queue.depth(), waiting(queue), processing(queue)) == (2, 3, 1)
    await asyncio.sleep(1)
    assert queue.depth() == 3


def heap_entries(queue: Queue) -> int:
    return len(queue._timers) + sum(map(len, queue._turns.values()))


async def test_ten_thousand_reschedules_keep_the_heap_small(queue: Queue) -> None:
    for number in range(10_000):
        queue.schedule(A1, NOW + 10_000 - number)
        queue.schedule(B1, NOW + number + 1)
    assert waiting(queue) == 2
    assert heap_entries(queue) <= 2 * waiting(queue) + 64


async def test_due_keys_that_are_put_off_again_and_again_keep_the_heaps_small(queue: Queue, clock: Clock) -> None:
    keys = [(turn, str(number)) for turn in "abcdef" for number in range(20)]
    for _ in range(100):
        for key in keys:
            queue.schedule(key, clock() + 1)
        await asyncio.sleep(1)
        key, _ = await queue.get()
        queue.done(key, None)
    assert heap_entries(queue) <= 2 * waiting(queue) + 64


async def test_taking_every_due_key_keeps_the_heaps_small(queue: Queue) -> None:
    keys = [("a", str(number)) for number in range(1000)]
    queue.schedule(B1, NOW + 30)
    for at in (NOW + 60, NOW):
        for key in keys:
            queue.schedule(key, at)
    assert await take_all(queue) == keys
    assert heap_entries(queue) <= 2 * waiting(queue) + 64


async def test_forgetting_everything_leaves_next_to_nothing(queue: Queue) -> None:
    keys = [(str(number % 100), str(number)) for number in range(10_000)]
    for key in keys:
        queue.schedule(key, NOW + 60)
    for key in keys:
        queue.forget(key)
    assert (waiting(queue), queue.depth()) == (0, 0)
    assert heap_entries(queue) <= 64
