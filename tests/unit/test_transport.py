"""One exchange, bounded in time and size; in virtual time, over a transport in memory."""

from __future__ import annotations

import asyncio
import email.utils
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from controller.net.clocks import ClockedTransport, skew_seconds
from controller.net.transport import (
    AiohttpTransport,
    Reply,
    TlsFilesUnfit,
    Unreachable,
    fetch,
    http_date,
    retry_after_seconds,
)
from controller.net.urls import host_and_port
from hack.pki import make_authority
from tests.unit.fakes import NOW, Answer, FakeTransport, Sent
from tests.unit.virtual_time import Clock


async def get(
    answer: Answer, *, total_seconds: float = 10.0, max_bytes: int = 1000, transport: FakeTransport | None = None
) -> Reply:
    return await fetch(
        transport or FakeTransport(lambda _: answer),
        "GET",
        "https://issuer.invalid/the-path",
        headers={"Authorization": "Bearer the-credential"},
        total_seconds=total_seconds,
        max_bytes=max_bytes,
    )


async def test_a_request_goes_out_as_it_is_and_the_whole_answer_comes_back() -> None:
    transport = FakeTransport(lambda _: Answer(201, b"x" * 10_000, {"A": "b"}))
    reply = await fetch(
        transport, "POST", "https://h.invalid/p", headers={"H": "v"}, body=b"body", total_seconds=1, max_bytes=10_000
    )
    assert (reply.status, reply.body, reply.headers["a"]) == (201, b"x" * 10_000, "b")
    assert transport.sent == [Sent("POST", "https://h.invalid/p", {"H": "v"}, b"body")]
    assert transport.open_now == 0


@pytest.mark.parametrize(
    "answer",
    [
        Answer(after_seconds=3600),
        Answer(hangs_before_body=True),
    ],
    ids=["no status", "no body"],
)
async def test_a_silent_connection_is_abandoned(answer: Answer, clock: Clock) -> None:
    transport = FakeTransport(lambda _: answer)
    with pytest.raises(Unreachable, match=r"^issuer\.invalid:443: no answer within 10 s$"):
        await get(answer, transport=transport)
    assert clock() == NOW + 10
    assert transport.open_now == 0


async def test_an_answer_just_in_time_is_taken(clock: Clock) -> None:
    assert (await get(Answer(after_seconds=9.99))).status == 200
    assert clock() == NOW + 9.99


async def test_who_is_cancelled_is_cancelled_and_not_told_of_a_timeout() -> None:
    transport = FakeTransport(lambda _: Answer(hangs_before_body=True))
    task = asyncio.create_task(get(Answer(), transport=transport))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert transport.open_now == 0


@pytest.mark.parametrize(("size", "fits"), [(0, True), (1, True), (1000, True), (1001, False), (10**6, False)])
async def test_an_answer_may_have_so_many_bytes_and_no_more(size: int, fits: bool) -> None:
    answer = Answer(body=b"x" * size, chunk_bytes=1000)
    transport = FakeTransport(lambda _: answer)
    if fits:
        assert len((await get(answer, transport=transport)).body) == size
    else:
        with pytest.raises(Unreachable, match=r"^issuer\.invalid:443: answer larger than 1000 bytes$"):
            await get(answer, transport=transport)
        assert transport.bytes_read <= 2000, "the rest is not even read"
    assert transport.open_now == 0


@pytest.mark.parametrize("answer", [Answer(None), Answer(body=b"half", breaks_after_body=True)])
async def test_a_connection_that_breaks_is_unreachable(answer: Answer) -> None:
    with pytest.raises(Unreachable):
        await get(answer)


@pytest.mark.parametrize("answer", [Answer(None), Answer(hangs_before_body=True), Answer(body=b"the-body" * 1000)])
async def test_an_error_holds_no_path_header_or_body(answer: Answer) -> None:
    with pytest.raises(Unreachable) as caught:
        await get(answer)
    error: BaseException | None = caught.value
    while error is not None:
        assert not any(word in str(error) for word in ("the-path", "the-credential", "the-body"))
        error = error.__cause__


# Headers.


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", 0.0),
        ("7", 7.0),
        (" 120 ", 120.0),
        (email.utils.formatdate(NOW + 30, usegmt=True), 30.0),
        (email.utils.formatdate(NOW - 30, usegmt=True), 0.0),
        ("", None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("٣", None),
        ("²", None),
        ("Fri, 99 Foo 2026 99:99:99 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, expected: float | None) -> None:
    assert retry_after_seconds(CIMultiDict({"retry-after": value}), NOW) == expected


def test_without_retry_after_there_is_none() -> None:
    assert retry_after_seconds({}, NOW) is None


def test_a_retry_after_of_any_length_is_a_number() -> None:
    assert retry_after_seconds({"Retry-After": "9" * 5000}, NOW) == float("inf")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Fri, 02 Jan 2026 03:04:05 GMT", NOW),
        ("Friday, 02-Jan-26 03:04:05 GMT", NOW),
        ("Fri Jan  2 03:04:05 2026", NOW),
        ("Fri, 02 Jan 2026 04:04:05 +0100", NOW),
        ("Fri, 02 Jan 2026 03:04:05 -0000", NOW),
        ("Fri, 02 Jan 2026 03:04:05", NOW),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        (None, None),
        ("", None),
        (" ", None),
        ("2026-01-02T03:04:05Z", None),
        ("Fri, 02 Jan 2026 25:04:05 GMT", None),
        ("Fri, 02 Jan 99999999999999 03:04:05 GMT", None),
        ("Fri, 02 Jan 2026 03:04:05 +9999999999999", None),
    ],
)
def test_a_date_is_read_in_all_three_forms_of_the_standard_or_is_none(
    value: str | None, expected: float | None
) -> None:
    assert http_date(value) == expected


words = st.sampled_from(
    ["Fri,", "02", "Jan", "2026", "03:04:05", "GMT", "+0100", "-0000", "-", ":", "0", "99999999999", "1e9", ",", "ä"]
)


@given(st.one_of(st.text(), st.lists(words, max_size=8).map(" ".join)))
def test_no_header_is_an_error(value: str) -> None:
    http_date(value)
    retry_after_seconds({"Retry-After": value}, NOW)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("https://issuer.example/sts/exchange?hush=1#hush", "issuer.example:443"),
        ("http://localhost/hush", "localhost:80"),
        ("https://[2001:db8::1]:6443", "[2001:db8::1]:6443"),
        ("https://hush:hush@proxy.example:3128", "proxy.example:3128"),
        ("https://hush:99999", "an address that can't be read"),
        ("https://[hush", "an address that can't be read"),
    ],
)
def test_of_an_address_only_host_and_port_are_told(url: str, place: str) -> None:
    assert host_and_port(url) == place


# The real transport, as far as it goes without a network.


async def test_the_real_transport_reads_no_proxy_and_no_credential_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.invalid")
    transport = AiohttpTransport()
    session = transport._current_session()
    assert session.trust_env is False
    assert isinstance(session.cookie_jar, aiohttp.DummyCookieJar)
    await transport.close()


async def test_a_watch_may_last_for_ever_and_connecting_for_three_seconds() -> None:
    """aiohttp's own default of 300 s in all would cut every healthy watch."""
    transport = AiohttpTransport()
    timeout = transport._current_session().timeout
    assert (timeout.total, timeout.sock_read, timeout.sock_connect) == (None, None, 3.0)
    await transport.close()


async def test_the_real_transport_follows_no_redirect(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    async def refuse(_self: aiohttp.ClientSession, _method: str, _url: str, **options: object) -> None:
        asked.update(options)
        raise aiohttp.ClientConnectionError("the-url is in here")

    monkeypatch.setattr(aiohttp.ClientSession, "_request", refuse)
    transport = AiohttpTransport(proxy="http://127.0.0.1:3128")
    with pytest.raises(Unreachable, match=r"^issuer\.invalid:443 through 127\.0\.0\.1:3128: ClientConnectionError$"):
        async with transport.open("GET", "https://issuer.invalid", headers={}):
            pass
    assert asked["allow_redirects"] is False
    assert asked["proxy"] == "http://127.0.0.1:3128"
    await transport.close()


@pytest.mark.parametrize(
    ("url", "proxied"),
    [
        *(("http://localhost:9/sts", False), ("http://127.0.0.1:9", False), ("http://[::1]:9", False)),
        *(("http://[::ffff:127.0.0.1]", False), ("https://127.0.0.1", False), ("http://169.254.169.254", False)),
        *(("http://[fd00:ec2::254]/latest", False), ("http://[fd00:ec3::254]", True)),
        *(("https://issuer.example", True), ("https://127.0.0.1.evil.example", True)),
    ],
)
def test_a_proof_for_loopback_never_leaves_the_machine_through_a_proxy(url: str, proxied: bool) -> None:
    proxy = "http://proxy.example:3128"
    assert AiohttpTransport(proxy=proxy)._proxy_for(url) == (proxy if proxied else None)


@pytest.mark.parametrize(
    ("url", "proxied"),
    [
        *(
            ("https://login.example", False),
            ("https://login.example:8443/x", False),
            ("https://a.login.example", False),
        ),
        *(("https://sub.internal.example", False), ("https://internal.example", True)),
        *(("https://[fd00::1]:443/", False), ("https://10.0.0.1", False), ("https://10.0.0.11", True)),
        *(("https://notlogin.example", True), ("https://login.example.evil", True)),
    ],
)
def test_the_exceptions_of_a_proxy_are_asked_directly(url: str, proxied: bool) -> None:
    proxy, no_proxy = "http://proxy.example:3128", ["login.example", ".internal.example", "[fd00::1]", "10.0.0.1"]
    transport = AiohttpTransport(proxy=proxy, no_proxy=no_proxy)
    assert transport._proxy_for(url) == (proxy if proxied else None)


@pytest.mark.parametrize("content", [None, "not a certificate", ""])
async def test_a_ca_bundle_that_is_missing_or_no_pem_is_our_fault_and_not_an_outage(
    tmp_path: Path, content: str | None
) -> None:
    bundle = tmp_path / "ca.pem"
    if content is not None:
        bundle.write_text(content)
    transport = AiohttpTransport(ca_file=bundle)
    with pytest.raises(TlsFilesUnfit):
        async with transport.open("GET", "https://issuer.invalid", headers={}):
            pass
    await transport.close()


def rewrite(file: Path, content: bytes) -> None:
    """As a kubelet does: a new file, moved over the old one."""
    new = file.with_suffix(".new")
    new.write_bytes(content)
    new.replace(file)


async def test_a_bundle_that_is_written_anew_with_what_was_in_it_changes_nothing(tmp_path: Path) -> None:
    bundle, authority = tmp_path / "ca.pem", make_authority().certificate
    bundle.write_bytes(authority)
    transport = AiohttpTransport(ca_file=bundle)
    async with transport._session_in_use() as first:
        rewrite(bundle, authority)
        async with transport._session_in_use() as second:
            assert second is first
    rewrite(bundle, authority)
    async with transport._session_in_use() as third:
        assert third is first
        assert not first.closed
    await transport.close()


async def test_a_bundle_that_broke_is_told_until_it_is_right_again(tmp_path: Path) -> None:
    bundle, authority = tmp_path / "ca.pem", make_authority().certificate
    bundle.write_bytes(authority)
    transport = AiohttpTransport(ca_file=bundle)
    async with transport._session_in_use() as first:
        rewrite(bundle, b"not a certificate")
        for _ in range(2):
            with pytest.raises(TlsFilesUnfit):
                async with transport._session_in_use():
                    pass
        rewrite(bundle, authority)
        async with transport._session_in_use() as second:
            assert second is first
    await transport.close()


async def test_closing_ends_what_is_under_way_also_on_a_bundle_that_was_replaced(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(make_authority().certificate)
    transport = AiohttpTransport(ca_file=bundle)
    async with transport._session_in_use() as old:
        rewrite(bundle, make_authority().certificate)
        async with transport._session_in_use() as new:
            await transport.close()
            assert old.closed
            assert new.closed


async def test_a_bundle_that_is_rotated_cuts_no_request_that_is_under_way(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(make_authority().certificate)
    transport = AiohttpTransport(ca_file=bundle)
    async with transport._session_in_use() as old:
        rewrite(bundle, make_authority().certificate)
        async with transport._session_in_use() as new:
            assert new is not old
        assert not old.closed
    assert old.closed
    assert not new.closed
    await transport.close()
    assert new.closed


async def test_closing_a_transport_that_was_never_used_is_nothing() -> None:
    await AiohttpTransport().close()


def test_an_answer_is_never_printed() -> None:
    assert repr(Reply(200, {"Set-Cookie": "hush"}, b"hush")) == "Reply(status=200)"


def test_headers_are_found_in_any_case() -> None:
    headers: Mapping[str, str] = CIMultiDict({"RETRY-AFTER": "5"})
    assert retry_after_seconds(headers, NOW) == 5


@pytest.mark.parametrize(
    ("date", "skew"),
    [
        (99, 0.0),  # its second ends as the request is sent
        (98, -1.0),
        (100, 0.0),
        (103, 0.0),
        (104, 0.5),
        (163.5, 60.0),
    ],
)
def test_a_clock_is_only_off_by_what_neither_the_second_nor_the_time_of_the_exchange_explains(
    date: float, skew: float
) -> None:
    assert skew_seconds(date, asked_at=100.0, answered_at=103.5) == skew


async def test_the_skew_of_every_answer_with_a_date_is_told_and_the_answer_is_left_as_it_is(clock: Clock) -> None:
    told: list[float] = []
    answers = [
        Answer(200, b"x", {"Date": email.utils.formatdate(NOW + 62, usegmt=True)}),
        Answer(503, b"", {"Date": "nonsense"}),
        Answer(200),
    ]
    inner = FakeTransport(lambda _: answers.pop(0))
    transport = ClockedTransport(inner, now=clock, report=told.append)
    for status, body in ((200, b"x"), (503, b""), (200, b"")):
        reply = await fetch(transport, "GET", "https://h.invalid/", headers={}, total_seconds=1, max_bytes=10)
        assert (reply.status, reply.body) == (status, body)
    assert told == [62.0]
    assert inner.open_now == 0
