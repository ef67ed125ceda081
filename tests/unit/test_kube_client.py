"""What the client asks, and what it makes of the answers."""

from __future__ import annotations

import asyncio
import json

import pytest

from controller.core.model import Ref
from controller.kube.client import KubeClient, Selector
from controller.kube.errors import (
    ApiError,
    Conflict,
    Forbidden,
    FutureVersion,
    Gone,
    Invalid,
    NotFound,
    Unauthorized,
    Unavailable,
)
from tests.unit.fake_api import FakeApi
from tests.unit.fakes import Answer, FakeTransport
from tests.unit.virtual_time import Clock

REF = Ref("team-a", "pull-secret")
NAMED = Selector(namespace=None, name="pull-secret")
CANARY = "canary-3f9c"


@pytest.fixture
def api(clock: Clock) -> FakeApi:
    api = FakeApi(clock)
    api.put_secret(*REF, config={}, annotations={"a": "b"})
    return api


@pytest.mark.parametrize(
    ("status", "reason", "error"),
    [
        (400, None, Invalid),
        (401, None, Unauthorized),
        (403, None, Forbidden),
        (404, None, NotFound),
        (405, "MethodNotAllowed", Invalid),
        (408, "", Unavailable),
        (409, None, Conflict),
        (410, None, Gone),
        (410, "Gone", Gone),
        (400, "Expired", Gone),
        (413, None, Invalid),
        (422, None, Invalid),
        (429, None, Unavailable),
        (500, None, Unavailable),
        (503, None, Unavailable),
        (504, None, Unavailable),
        (302, "", Unavailable),
    ],
)
async def test_a_status_is_one_error(api: FakeApi, status: int, reason: str | None, error: type[ApiError]) -> None:
    for verb, call in (
        ("get", api.client().get_secret(REF)),
        ("patch", api.client().patch_secret(REF, b"{}")),
        ("list", api.client().list_page(NAMED)),
    ):
        api.fail(verb, status, reason=reason, times=2)  # type: ignore[arg-type]
        with pytest.raises(ApiError) as raised:
            await call
        assert type(raised.value) is error
        assert str(raised.value).startswith(f"{verb} secret")
        api.heal()


async def test_a_version_from_the_future_is_told_by_its_cause(api: FakeApi) -> None:
    """W2: the server says 504 and Timeout; only the cause tells it from an overloaded one."""
    with pytest.raises(FutureVersion):
        await api.client().list_page(NAMED, resource_version="999999")


@pytest.mark.parametrize("verb", ["get", "watch"])
async def test_a_401_is_asked_again_once_with_a_fresh_token(api: FakeApi, verb: str) -> None:
    """F16: a rotated token costs one failed request."""
    client = api.client()
    await client.get_secret(REF)
    api.accepted_token = "token-2"
    if verb == "get":
        await client.get_secret(REF)
    else:
        async with client.watch(NAMED, resource_version="1001", timeout_seconds=300):
            assert len(api.watches) == 1
            assert api.answers_open == 1, "the refused answer keeps its connection"
    assert [request.headers["Authorization"] for request in api.requests] == [
        "Bearer token-1",
        "Bearer token-1",
        "Bearer token-2",
    ]
    assert api.access.reads == 2


async def test_a_401_with_the_newest_token_is_final(api: FakeApi) -> None:
    api.fail("get", 401, times=10)
    with pytest.raises(Unauthorized):
        await api.client().get_secret(REF)
    assert len(api.requests) == 2


async def test_a_patch_is_answered_without_the_secret(api: FakeApi) -> None:
    """TH6: the server is asked for metadata only."""
    reply = await api.client().patch_secret(REF, b'{"data":{"k":"dg=="},"metadata":{"resourceVersion":"1001"}}')
    assert json.loads(reply)["metadata"]["resourceVersion"] == "1002"
    assert "data" not in json.loads(reply)
    request = api.requests[0]
    assert request.query == {"fieldManager": "pull-secret-updater"}
    assert request.headers["Content-Type"] == "application/merge-patch+json"


async def test_a_stale_patch_is_a_conflict(api: FakeApi) -> None:
    """K3: nothing is written."""
    before = api.secret(*REF)
    with pytest.raises(Conflict):
        await api.client().patch_secret(REF, b'{"data":{"k":"dg=="},"metadata":{"resourceVersion":"1000"}}')
    assert api.secret(*REF) == before


async def test_an_error_repeats_nothing_that_was_sent_or_answered(api: FakeApi) -> None:
    """X2: not the body, not the query, not a header, not even a reason that isn't one of Kubernetes."""
    status = {"kind": "Status", "code": 422, "message": CANARY, "reason": f"{CANARY} {CANARY}"}
    for code, body in ((422, json.dumps(status).encode()), (500, CANARY.encode()), (200, CANARY.encode())):
        api.fail("list", code, body=body)
        with pytest.raises(ApiError) as raised:
            await api.client().list_page(Selector(None, CANARY))
        assert CANARY not in str(raised.value)


async def test_retry_after_comes_from_the_header_or_the_status(api: FakeApi) -> None:
    api.fail("get", 429, retry_after=12)
    api.fail("get", 503, body=b'{"details":{"retryAfterSeconds":7}}')
    for seconds in (12.0, 7.0):
        with pytest.raises(Unavailable) as raised:
            await api.client().get_secret(REF)
        assert raised.value.retry_after_seconds == seconds


async def test_no_answer_is_unavailable_in_bounded_time(api: FakeApi, clock: Clock) -> None:
    """F8: 30 s, a page of a list 60 s, the head of a watch 30 s."""

    async def watch(client: KubeClient) -> None:
        async with client.watch(NAMED, resource_version="1001", timeout_seconds=300):
            pass

    for verb, seconds in (("get", 30), ("list", 60), ("watch", 30)):
        api.fail(verb, 200, after_seconds=1e9)  # type: ignore[arg-type]
        client, before = api.client(), clock()
        call = {"get": client.get_secret(REF), "list": client.list_page(NAMED), "watch": watch(client)}
        for name, coroutine in call.items():
            if name != verb:
                coroutine.close()
        with pytest.raises(Unavailable):
            await call[verb]
        assert clock() - before == pytest.approx(seconds)
    api.fail("get", None)
    with pytest.raises(Unavailable, match=r"^get secret: ClientConnectorError$"):
        await api.client().get_secret(REF)


async def test_a_watch_that_breaks_off_is_unavailable_and_leaves_nothing_open(api: FakeApi) -> None:
    async with api.client().watch(NAMED, resource_version="1000", timeout_seconds=300) as lines:
        assert b'"ADDED"' in await anext(lines)
        api.break_off_watches()
        with pytest.raises(Unavailable):
            await anext(lines)
    assert not api.watches
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_failure_of_a_watch_is_read_up_to_four_mebibytes(api: FakeApi, clock: Clock) -> None:
    """A proxy that answers with a body without end must not fill the memory."""
    endless = FakeTransport(lambda _: Answer(500, b"x" * (16 << 20), chunk_bytes=1 << 16))
    client = KubeClient(access=api.access, requests=api.transport, watches=endless, now=clock)
    with pytest.raises(Unavailable, match=r"^watch secrets: 500$"):
        async with client.watch(NAMED, resource_version="1000", timeout_seconds=300):
            pass
    assert (4 << 20) < endless.bytes_read < (5 << 20)


async def test_a_secret_may_take_four_mebibytes(api: FakeApi, clock: Clock) -> None:
    """More than etcd takes."""
    large = FakeTransport(lambda sent: Answer(200, b"x" * ((4 << 20) + sent.url.count("larger")), chunk_bytes=1 << 20))
    client = KubeClient(access=api.access, requests=large, watches=large, now=clock)
    assert len(await client.get_secret(REF)) == 4 << 20
    with pytest.raises(Unavailable, match="larger than"):
        await client.get_secret(Ref("team-a", "larger"))


@pytest.mark.parametrize(("more", "told"), [(0, "not what was asked for"), (1, "larger than")])
async def test_a_page_may_take_sixteen_mebibytes(api: FakeApi, clock: Clock, more: int, told: str) -> None:
    """As an event may, so what can be watched can be listed."""
    large = FakeTransport(lambda _: Answer(200, b"x" * ((16 << 20) + more), chunk_bytes=1 << 20))
    client = KubeClient(access=api.access, requests=large, watches=large, now=clock)
    with pytest.raises(Unavailable, match=told):
        await client.list_page(NAMED)


async def test_watches_have_connections_of_their_own(api: FakeApi, clock: Clock) -> None:
    refusing = FakeTransport(lambda _: Answer(None))
    client = KubeClient(access=api.access, requests=refusing, watches=api.transport, now=clock)
    async with client.watch(NAMED, resource_version="1000", timeout_seconds=300):
        assert refusing.sent == []
    with pytest.raises(Unavailable):
        await client.get_secret(REF)
    assert [request.verb for request in api.requests] == ["watch"]


async def test_names_cannot_leave_their_place_in_a_path(api: FakeApi) -> None:
    """TH16: a slash or a question mark in a name is part of the name."""
    with pytest.raises(NotFound):
        await api.client().get_secret(Ref("team-a/../team-b", "x?watch=true"))
    assert api.requests[0].path == "/api/v1/namespaces/team-a%2F..%2Fteam-b/secrets/x%3Fwatch%3Dtrue"
    assert not api.requests[0].query


async def test_pages_are_asked_for_by_continue_alone(api: FakeApi) -> None:
    """A version beside a continue token is a 400."""
    api.put_secret("team-b", "pull-secret")
    first = await api.client().list_page(NAMED, limit=1, resource_version="1001")
    last = await api.client().list_page(NAMED, limit=1, resource_version="1001", continue_token=first.continue_token)
    assert (len(first.items), len(last.items), last.continue_token) == (1, 1, None)
    assert api.requests[0].query["resourceVersionMatch"] == "NotOlderThan"
    assert "resourceVersion" not in api.requests[1].query


async def test_whether_a_group_may_use_an_identity_is_what_an_authorizer_says_and_a_failure_is_no_answer(
    api: FakeApi,
) -> None:
    client, group = api.client(), "system:serviceaccounts:team-a"
    assert not await client.may_use("acme/pull", "team-a", group=group)
    api.grants.add(("team-a", "acme/pull"))
    assert await client.may_use("acme/pull", "team-a", group=group)
    api.authorizer_fails = True
    with pytest.raises(Unavailable, match="create subjectaccessreviews: an authorizer of the cluster failed"):
        await client.may_use("acme/pull", "team-a", group=group)
    api.authorizer_fails = False
    for body in (b"{}", b"<html>", b'{"status": {"allowed": "true"}}'):
        api.fail("create", 201, resource="subjectaccessreviews", body=body)
        with pytest.raises(Unavailable, match="not what was asked for"):
            await client.may_use("acme/pull", "team-a", group=group)


async def test_who_am_i_is_what_the_server_says(api: FakeApi) -> None:
    assert await api.client().who_am_i() == "system:serviceaccount:pull-secret-updater:controller"


@pytest.mark.parametrize(
    ("selector", "covered", "other"),
    [
        (Selector(None, None), REF, None),
        (Selector("team-a", None), REF, Ref("team-b", "pull-secret")),
        (Selector(None, "pull-secret"), REF, Ref("team-a", "other")),
        (Selector("team-a", "pull-secret"), REF, Ref("team-b", "pull-secret")),
    ],
)
def test_a_selector_covers_what_it_lists(selector: Selector, covered: Ref, other: Ref | None) -> None:
    assert selector.covers(covered)
    assert other is None or not selector.covers(other)


async def test_going_round_the_transport_is_found_out(clock: Clock, network_attempts: list[object]) -> None:
    """A seam is proved used: the real transport does try the network here, and the guard sees it."""
    from controller.net.transport import AiohttpTransport  # noqa: PLC0415 -- for this proof alone

    real = AiohttpTransport(verify=False)
    api = FakeApi(clock)
    client = KubeClient(access=api.access, requests=real, watches=real, now=clock)
    with pytest.raises((ApiError, AssertionError)):
        await client.get_secret(REF)
    await real.close()
    assert network_attempts
    assert not api.requests
    network_attempts.clear()
