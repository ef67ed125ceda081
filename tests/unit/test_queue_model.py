"""The queue against a model that is too simple to be wrong: a dict of deadlines, searched from end to end.

    HYPOTHESIS_PROFILE=million pytest -s tests/unit/test_queue_model.py

performs more than a million operations, in a few minutes, and prints how many it were.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from controller.core.queue import Due, RefreshQueue
from tests.unit.queues import deadline, processing, waiting
from tests.unit.virtual_time import Clock, VirtualTimeLoop

Key = tuple[str, int]
T = TypeVar("T")

KEYS = [(turn, number) for turn in "abc" for number in range(4)]
keys = st.sampled_from(KEYS)
offsets = st.one_of(st.integers(-20, 20), st.sampled_from([-1e9, 0.5, 1e9]))


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that has nothing to wait for."""
    with pytest.raises(StopIteration) as stopped:
        coroutine.send(None)
    value: T = stopped.value.value
    return value


@dataclass
class Run:
    """A key that is being processed."""

    asked: float | None = None
    forgotten: bool = False


class QueueMachine(RuleBasedStateMachine):
    """Drives queue and model alike and compares all that can be seen."""

    operations: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.queue = RefreshQueue[Key](lambda: self.now, turn=lambda key: key[0])
        self.waiting: dict[Key, tuple[float, int]] = {}
        self.running: dict[Key, Run] = {}
        self.passed: dict[str, list[str]] = {}
        """By turn that has had a due key all the time: the turns that were served since it was."""
        self.seq = 0

    # The model.

    def due(self) -> dict[Key, tuple[float, int]]:
        return {key: held for key, held in self.waiting.items() if held[0] <= self.now}

    def arm(self, key: Key, at: float) -> None:
        self.seq += 1
        self.waiting[key] = at, self.seq

    def asks(self, key: Key, at: float) -> None:
        if key in self.running:
            self.running[key].asked = at
        elif key not in self.waiting:
            self.arm(key, at)
        else:
            held = self.waiting[key][0]
            if held != at and not (held <= self.now and at <= self.now):
                self.arm(key, at)

    # What can be done to a queue.

    @rule(key=keys, offset=offsets)
    def schedule(self, key: Key, offset: float) -> None:
        self.queue.schedule(key, self.now + offset)
        self.asks(key, self.now + offset)
        QueueMachine.operations += 1

    @rule(key=keys, times=st.integers(2, 90))
    def schedule_again_and_again(self, key: Key, times: int) -> None:
        for later in range(1, times):
            self.queue.schedule(key, self.now + later)
            self.asks(key, self.now + later)
            QueueMachine.operations += 1

    @rule(key=keys)
    def forget(self, key: Key) -> None:
        self.queue.forget(key)
        self.waiting.pop(key, None)
        if key in self.running:
            self.running[key] = Run(forgotten=True)
        QueueMachine.operations += 1

    @rule(times=st.integers(1, 4))
    def take(self, times: int) -> None:
        for _ in range(times):
            QueueMachine.operations += 1
            due = self.due()
            if not due:
                assert self.queue._take() is None
                return
            key, at = taken = finish(self.queue.get())
            assert isinstance(taken, Due)
            assert at == due[key][0]
            assert due[key] == min(held for other, held in due.items() if other[0] == key[0]), "longest overdue first"
            self.serve(key[0])
            del self.waiting[key]
            self.running[key] = Run()
            self.forget_turns_without_due_keys()

    def serve(self, turn: str) -> None:
        self.passed.pop(turn, None)
        for other in {key[0] for key in self.due()} - {turn}:
            before = self.passed.setdefault(other, [])
            assert turn not in before, f"{turn} was served twice while {other} had a due key"
            before.append(turn)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), offset=st.none() | offsets)
    def done(self, data: st.DataObject, offset: float | None) -> None:
        key = data.draw(st.sampled_from(sorted(self.running)))
        next_at = None if offset is None else self.now + offset
        self.queue.done(key, next_at)
        run = self.running.pop(key)
        wanted = [run.asked] if run.forgotten else [run.asked, next_at]
        if instants := [at for at in wanted if at is not None]:
            self.arm(key, min(instants))
        QueueMachine.operations += 1

    @rule(seconds=st.integers(0, 30))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule(seconds=st.integers(-60, 3600))
    def clock_is_stepped(self, seconds: int) -> None:
        self.now += seconds

    @rule(key=keys, at=st.sampled_from([float("nan"), float("inf"), -float("inf")]))
    def nonsense_is_refused_and_changes_nothing(self, key: Key, at: float) -> None:
        with pytest.raises(ValueError, match="finite"):
            self.queue.schedule(key, at)
        with pytest.raises(ValueError, match="finite"):
            self.queue.done(key, at)
        if key not in self.running:
            with pytest.raises(ValueError, match="not being processed"):
                self.queue.done(key, None)

    # What must hold after each.

    @invariant()
    def all_that_can_be_seen_agrees(self) -> None:
        for key in KEYS:
            run, held = self.running.get(key), self.waiting.get(key)
            assert self.queue.is_processing(key) == (run is not None)
            assert deadline(self.queue, key) == (run.asked if run else held[0] if held else None)
        assert waiting(self.queue) == len(self.waiting)
        assert processing(self.queue) == len(self.running)
        assert self.queue.depth() == len(self.due())

    @invariant()
    def heaps_hold_the_live_entries_once_and_few_stale_ones(self) -> None:
        entries = [entry for heap in (self.queue._timers, *self.queue._turns.values()) for entry in heap]
        live = [entry for entry in entries if self.queue._waiting.get(entry[2]) is entry]
        assert len(live) == len(self.waiting)
        assert len(entries) - len(live) == self.queue._stale <= len(live) + 64

    @invariant()
    def forget_turns_without_due_keys(self) -> None:
        turns = {key[0] for key in self.due()}
        self.passed = {turn: before for turn, before in self.passed.items() if turn in turns}


@pytest.mark.timeout(3600)
def test_the_queue_agrees_with_a_dictionary() -> None:
    QueueMachine.operations = 0
    run_state_machine_as_test(QueueMachine)
    print(f"{QueueMachine.operations:,} operations")  # noqa: T201 -- for who ran the large profile with -s
    assert QueueMachine.operations >= (1_000_000 if os.environ.get("HYPOTHESIS_PROFILE") == "million" else 1_000)


async def hand_out(actions: list[tuple[float, str, int, float]], *, workers: int) -> None:
    """Workers that are cancelled at any moment, beside a script of (pause, action, key, seconds)."""
    clock = Clock()
    queue = RefreshQueue[int](clock, turn=lambda key: key % 2)
    owed: dict[int, float] = {}
    busy: set[int] = set()

    async def work() -> None:
        while True:
            key, at = await queue.get()
            assert key not in busy, "a key is never processed twice at a time"
            assert at == owed.pop(key), "what comes out is what was asked"
            busy.add(key)
            try:
                await asyncio.sleep(0.25)
            finally:
                busy.remove(key)
                queue.done(key, None)

    tasks = [asyncio.create_task(work()) for _ in range(workers)]
    for pause, action, key, seconds in actions:
        await asyncio.sleep(pause)
        if action == "schedule" and key not in busy:
            queue.schedule(key, clock() + seconds)
            owed[key] = deadline(queue, key) or 0.0
        elif action == "forget":
            queue.forget(key)
            owed.pop(key, None)
        elif action == "cancel":
            tasks[key % workers].cancel()
            tasks[key % workers] = asyncio.create_task(work())
    # No cancellation swallowed a key or a wake-up: with one worker left, all that is owed comes out on time.
    await asyncio.sleep(max(0.0, max(owed.values(), default=0.0) - clock()) + 0.25 * (1 + len(owed)))
    assert not owed
    await asyncio.sleep(1)
    queue.close()
    endings = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(ending).__name__ for ending in endings] == ["QueueClosed"] * workers
    assert not busy


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.125, 1.0, 11.0]),
            st.sampled_from(["schedule", "schedule", "forget", "cancel"]),
            st.integers(0, 7),
            st.sampled_from([-5.0, 0.0, 0.125, 1.0, 25.0]),
        ),
        max_size=60,
    ),
    st.integers(1, 4),
)
def test_cancelled_workers_lose_nothing(actions: list[tuple[float, str, int, float]], workers: int) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(hand_out(actions, workers=workers))
