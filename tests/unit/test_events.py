"""Kubernetes Events: once, counted, bounded, and never in the way."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import structlog

from controller.core.model import ManagedSecret, Ref
from controller.core.projection import project
from controller.kube.events import EventRecorder, Result
from tests.unit.fake_api import FakeApi
from tests.unit.virtual_time import Clock

IDENTITY = {"pull-secret-updater.chainguard.dev/identity": "abc/def"}


@pytest.fixture
def api(clock: Clock) -> FakeApi:
    return FakeApi(clock)


@pytest.fixture
async def secret(api: FakeApi) -> ManagedSecret:
    api.put_secret("team-a", "pull-secret", annotations=IDENTITY)
    found = project(await api.client().get_secret(Ref("team-a", "pull-secret"))).item
    assert found is not None
    api.requests.clear()
    return found


@pytest.fixture
def counts() -> Counter[Result]:
    return Counter()


@pytest.fixture
def recorder(api: FakeApi, clock: Clock, counts: Counter[Result]) -> EventRecorder:
    def count(result: Result) -> None:
        counts[result] += 1

    return EventRecorder(client=api.client(), now=clock, count=count, log=structlog.get_logger())


@asynccontextmanager
async def sending(recorder: EventRecorder) -> AsyncIterator[None]:
    task = asyncio.create_task(recorder.run())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def say(recorder: EventRecorder, secret: ManagedSecret, message: str = "a token was written") -> None:
    recorder.record(secret, kind="Normal", reason="Written", message=message)


def warn(recorder: EventRecorder, secret: ManagedSecret, message: str) -> None:
    recorder.record(secret, kind="Warning", reason="Refused", message=message)


def another(secret: ManagedSecret, number: int, namespace: str = "team-a") -> ManagedSecret:
    return replace(secret, uid=f"uid-{namespace}-{number}", ref=Ref(namespace, f"secret-{number}"))


async def test_an_event_names_the_secret_as_kubectl_looks_for_it(
    api: FakeApi, recorder: EventRecorder, secret: ManagedSecret
) -> None:
    """`kubectl events --for secret/pull-secret` matches involvedObject."""
    async with sending(recorder):
        say(recorder, secret)
        await asyncio.sleep(0.01)
    (event,) = api.events
    assert event["involvedObject"] == {
        "apiVersion": "v1",
        "kind": "Secret",
        "namespace": "team-a",
        "name": "pull-secret",
        "uid": secret.uid,
        "resourceVersion": secret.resource_version,
    }
    assert event["metadata"]["name"].startswith("pull-secret.")
    assert (event["type"], event["reason"], event["message"]) == ("Normal", "Written", "a token was written")
    assert event["reportingComponent"] == event["source"]["component"] == "pull-secret-updater"
    assert event["firstTimestamp"] == event["lastTimestamp"] == "2026-01-02T03:04:05Z"
    assert event["count"] == 1


async def test_repeats_are_counted_and_written_once_a_minute(
    api: FakeApi, recorder: EventRecorder, secret: ManagedSecret
) -> None:
    async with sending(recorder):
        for _ in range(180):
            say(recorder, secret)
            await asyncio.sleep(1)
        await asyncio.sleep(60)
    (event,) = api.events
    assert event["count"] == 180
    assert event["lastTimestamp"] == "2026-01-02T03:07:04Z"
    assert [request.verb for request in api.requests] == ["create", "patch", "patch", "patch"]
    at = [request.at - api.requests[0].at for request in api.requests]
    assert at == pytest.approx([0, 60, 120, 180])


async def test_other_words_or_another_secret_are_another_event(
    api: FakeApi, recorder: EventRecorder, secret: ManagedSecret
) -> None:
    """A Secret that was deleted and created again has another UID."""
    async with sending(recorder):
        say(recorder, secret)
        say(recorder, secret, "something else")
        say(recorder, replace(secret, uid="another"))
        await asyncio.sleep(0.01)
    assert len({event["metadata"]["name"] for event in api.events}) == 3


async def test_a_flood_of_warnings_is_50_events_at_once_and_then_one_a_second(
    api: FakeApi, recorder: EventRecorder, secret: ManagedSecret, counts: Counter[Result]
) -> None:
    async with sending(recorder):
        for number in range(10_000):
            warn(recorder, another(secret, number), "the identity is refused")
        await asyncio.sleep(0.01)
        assert len(api.events) == 50
        await asyncio.sleep(60)
        assert len(api.events) == 50 + 60
        await asyncio.sleep(840)
        assert len(api.events) == 50 + 900
    assert [event["involvedObject"]["name"] for event in api.events] == [f"secret-{number}" for number in range(950)]
    assert counts == {"written": 950, "dropped": 10_000 - 1024}


async def test_a_namespace_with_thousands_of_warnings_takes_turns_with_the_others(
    api: FakeApi, recorder: EventRecorder, secret: ManagedSecret
) -> None:
    async with sending(recorder):
        for number in range(10_000):
            warn(recorder, another(secret, number), "the identity is refused")
        await asyncio.sleep(10)
        for number in range(3):
            warn(recorder, another(secret, number, f"team-{number}"), "the issuer is down")
        await asyncio.sleep(4.5)
    found = [event["metadata"]["namespace"] for event in api.events[60:]]
    assert sorted(found) == ["team-0", "team-1", "team-2", "team-a"]


async def test_ten_thousand_fills_of_one_namespace_are_a_handful_of_events_that_count_the_others(
    api: FakeApi, recorder: EventRecorder, secret: ManagedSecret, counts: Counter[Result]
) -> None:
    async with sending(recorder):
        for number in range(10_000):
            say(recorder, another(secret, number))
        await asyncio.sleep(900)
    assert len(api.events) == 50
    assert counts == {"written": 50, "merged": 9950}
    assert api.events[0]["message"] == "a token was written"
    assert api.events[-1]["message"] == (
        "a token was written (the same is true of 9950 more Secrets in this namespace)"
    )


async def test_ten_thousand_fills_of_ten_thousand_namespaces_are_110_events(
    api: FakeApi, recorder: EventRecorder, secret: ManagedSecret, counts: Counter[Result]
) -> None:
    """News that had to wait for a minute is none any more."""
    async with sending(recorder):
        for number in range(10_000):
            say(recorder, another(secret, number, f"team-{number}"))
        await asyncio.sleep(900)
    assert len(api.events) == 50 + 60
    assert counts == {"written": 110, "dropped": 9890}
    assert not recorder._waiting_news


async def test_warnings_come_before_news_that_waits(
    api: FakeApi, recorder: EventRecorder, secret: ManagedSecret
) -> None:
    async with sending(recorder):
        for number in range(300):
            say(recorder, another(secret, number, f"team-{number}"))
        await asyncio.sleep(5.5)
        warn(recorder, secret, "the identity is refused")
        await asyncio.sleep(1)
        assert [event["type"] for event in api.events] == ["Normal"] * 55 + ["Warning"]


async def test_those_that_were_counted_are_not_counted_again_when_the_event_is_repeated(
    api: FakeApi, recorder: EventRecorder, secret: ManagedSecret
) -> None:
    async with sending(recorder):
        for number in range(60):
            say(recorder, another(secret, number))
        await asyncio.sleep(7200)
        api.forget_events()
        say(recorder, another(secret, 49))
        await asyncio.sleep(1)
    assert api.events[-1]["message"] == "a token was written"


async def test_news_that_is_counted_with_others_is_news_of_its_own_the_next_time(
    api: FakeApi, recorder: EventRecorder, secret: ManagedSecret
) -> None:
    async with sending(recorder):
        for number in range(60):
            say(recorder, another(secret, number))
        await asyncio.sleep(200)
        say(recorder, another(secret, 59))
        await asyncio.sleep(1)
    assert len(api.events) == 51
    assert api.events[-1]["message"] == "a token was written"


async def test_memory_is_bounded(recorder: EventRecorder, secret: ManagedSecret, counts: Counter[Result]) -> None:
    """Nothing is sent here: what comes after the first 4096, or 1024 of one namespace, is dropped."""
    for number in range(10_000):
        warn(recorder, secret, f"message {number}")
        say(recorder, another(secret, number, f"team-{number}"))
    assert len(recorder._waiting["Warning"]) == 1024
    assert len(recorder._waiting["Normal"]) == 4096
    assert len(recorder._waiting_news) <= 4096
    assert len(recorder._series) <= 4096
    assert counts == {"dropped": 10_000 - 1024 + 10_000 - 4096}


async def test_the_same_words_take_one_place(recorder: EventRecorder, secret: ManagedSecret) -> None:
    for _ in range(100):
        say(recorder, secret)
    assert len(recorder._waiting["Normal"]) == 1


async def test_an_event_that_the_server_forgot_is_created_again(
    api: FakeApi, recorder: EventRecorder, secret: ManagedSecret
) -> None:
    """Events live for an hour."""
    async with sending(recorder):
        say(recorder, secret)
        await asyncio.sleep(7200)
        api.forget_events()
        say(recorder, secret)
        await asyncio.sleep(0.01)
    assert [request.verb for request in api.requests] == ["create", "patch", "create"]
    assert {request.query["fieldManager"] for request in api.requests} == {"pull-secret-updater"}
    assert api.events[0]["count"] == 2


async def test_an_event_whose_answer_got_lost_is_patched_next_time(
    api: FakeApi, recorder: EventRecorder, secret: ManagedSecret
) -> None:
    api.fail("create", 409, reason="AlreadyExists")
    async with sending(recorder):
        say(recorder, secret)
        await asyncio.sleep(61)
        say(recorder, secret)
        await asyncio.sleep(0.01)
    assert [request.verb for request in api.requests][:2] == ["create", "patch"]


@pytest.mark.parametrize("status", [None, 401, 403, 404, 422, 429, 500])
async def test_a_refused_event_is_logged_dropped_and_stops_no_other(
    api: FakeApi, recorder: EventRecorder, secret: ManagedSecret, status: int | None
) -> None:
    api.fail("create", status, times=2 if status == 401 else 1)
    with structlog.testing.capture_logs() as logs:
        async with sending(recorder):
            say(recorder, secret)
            say(recorder, secret, "another")
            await asyncio.sleep(0.01)
            assert [event["message"] for event in api.events] == ["another"]
            say(recorder, secret)
            await asyncio.sleep(61)
    assert {event["message"] for event in api.events} == {"another", "a token was written"}
    assert [entry["log_level"] for entry in logs] == ["info"]
    assert logs[0]["reason"] == "Written"


async def test_flush_sends_what_waits_in_bounded_time(
    api: FakeApi, recorder: EventRecorder, secret: ManagedSecret, clock: Clock
) -> None:
    """At the end, beside or without run()."""
    for number in range(60):
        warn(recorder, secret, f"message {number}")
    before = clock()
    with structlog.testing.capture_logs() as logs:
        await recorder.flush(1.5)
    assert clock() - before == pytest.approx(1.5)
    assert len(api.events) == 51
    assert logs[0]["left"] == 9
    async with sending(recorder):
        await recorder.flush(60.0)
    assert len(api.events) == 60


async def test_flush_of_nothing_returns_at_once(recorder: EventRecorder, clock: Clock) -> None:
    before = clock()
    await recorder.flush(5.0)
    assert clock() == before


async def test_a_hanging_server_holds_up_only_the_events(
    api: FakeApi, recorder: EventRecorder, secret: ManagedSecret
) -> None:
    """30 s for one request, then the next."""
    api.fail("create", 200, after_seconds=1e6)
    async with sending(recorder):
        say(recorder, secret)
        say(recorder, secret, "another")
        await asyncio.sleep(31)
    assert [event["message"] for event in api.events] == ["another"]


async def test_names_fit_and_messages_are_cut(api: FakeApi, recorder: EventRecorder, secret: ManagedSecret) -> None:
    """253 characters for a name, 1024 for a message."""
    long = replace(secret, ref=Ref("team-a", "x" * 235 + "." + "y" * 17))
    async with sending(recorder):
        say(recorder, long, "z" * 5000)
        await asyncio.sleep(0.01)
    (event,) = api.events
    assert len(event["metadata"]["name"]) <= 253
    assert ".." not in event["metadata"]["name"]
    assert len(event["message"]) == 1024
