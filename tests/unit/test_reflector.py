"""List and watch, whatever the API server does (reliability.md W1 to W8, W11 to W13), in virtual time."""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.model import ManagedSecret, Ref
from controller.core.projection import ObservedSecret, project
from controller.kube.client import Selector
from controller.kube.reflector import RELIST_REASONS, Reflector
from tests.unit.fake_api import Backup, FakeApi, Verb, event_line
from tests.unit.virtual_time import Clock, VirtualTimeLoop

IDENTITY = {"pull-secret-updater.chainguard.dev/identity": "abc/def"}
REF = Ref("team-a", "pull-secret")


@dataclass
class RecordingSink:
    """Remembers what it was told, in order, and what is there after it."""

    told: list[tuple[str, Any]] = field(default_factory=list)
    there: dict[Ref, str] = field(default_factory=dict)
    rolled_back: list[bool] = field(default_factory=list)

    def replaced(
        self,
        secrets: Sequence[ManagedSecret],
        *,
        covers: Callable[[Ref], bool],
        resource_version: str,
        rolled_back: bool,
    ) -> None:
        self.told.append(("replaced", sorted(secret.ref for secret in secrets)))
        self.rolled_back.append(rolled_back)
        self.there = {ref: version for ref, version in self.there.items() if not covers(ref)}
        self.there |= {secret.ref: secret.resource_version for secret in secrets}

    def upserted(self, observed: ObservedSecret) -> None:
        self.told.append(("upserted", observed.ref))
        if observed.item is None:
            self.there.pop(observed.ref, None)
        else:
            self.there[observed.ref] = observed.resource_version

    def deleted(self, ref: Ref, resource_version: str) -> None:
        self.told.append(("deleted", ref))
        self.there.pop(ref, None)


@dataclass
class Rig:
    """A reflector that runs against a fake API server."""

    api: FakeApi
    clock: Clock
    sink: RecordingSink = field(default_factory=RecordingSink)
    relists: list[str] = field(default_factory=list)
    recoveries: list[float] = field(default_factory=list)
    draw: Callable[[], float] = lambda: 0.0
    selector: Selector = Selector(namespace=None, name="pull-secret")  # noqa: RUF009 -- it is frozen
    paging: asyncio.Lock = field(default_factory=asyncio.Lock)

    def make(self) -> Reflector[ManagedSecret]:
        return Reflector(
            client=self.api.client(),
            selector=self.selector,
            project=project,
            sink=self.sink,
            paging=self.paging,
            now=self.clock,
            random=self.draw,
            on_relist=self.relists.append,
            on_recovery=lambda: self.recoveries.append(self.clock()),
            log=structlog.get_logger(),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Reflector[ManagedSecret]]:
        reflector = self.make()
        task = asyncio.create_task(reflector.run())
        try:
            await asyncio.sleep(0.001)
            yield reflector
            assert not task.done(), "the reflector ended by itself"
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def verbs(self, since: int = 0) -> list[str]:
        return [request.verb for request in self.api.requests[since:]]

    def gaps(self) -> list[float]:
        pairs = itertools.pairwise(self.api.requests)
        return [round(later.at - earlier.at, 6) for earlier, later in pairs]


@pytest.fixture
def rig(clock: Clock) -> Rig:
    rig = Rig(FakeApi(clock), clock)
    rig.api.put_secret(*REF, annotations=IDENTITY, config={})
    return rig


async def test_list_then_watch_tells_everything_in_order(rig: Rig) -> None:
    """W4: the watch begins at the list's version; what happens in between is not lost."""
    async with rig.running() as reflector:
        rig.api.put_secret("team-b", "pull-secret", annotations=IDENTITY)
        rig.api.annotate("team-b", "pull-secret", {"pull-secret-updater.chainguard.dev/identity": None})
        rig.api.delete_secret("team-b", "pull-secret")
        await asyncio.sleep(0.01)
        assert reflector.listed
    other = Ref("team-b", "pull-secret")
    assert rig.sink.told == [("replaced", [REF]), ("upserted", other), ("upserted", other), ("deleted", other)]
    assert rig.api.requests[1].query["resourceVersion"] == "1001"
    assert rig.relists == ["start"]


async def test_the_name_is_the_only_selector_and_else_the_type_is(rig: Rig) -> None:
    """W10: what RBAC with resourceNames allows."""
    rig.api.put_secret("team-a", "other", annotations=IDENTITY)
    rig.api.put_secret("team-a", "opaque", annotations=IDENTITY, type="Opaque")
    async with rig.running():
        pass
    assert {request.query["fieldSelector"] for request in rig.api.requests} == {"metadata.name=pull-secret"}
    assert rig.sink.told == [("replaced", [REF])]
    wide = Rig(rig.api, rig.clock, selector=Selector(namespace="team-a", name=None))
    async with wide.running():
        pass
    assert wide.sink.told == [("replaced", [Ref("team-a", "other"), REF])]
    assert rig.api.requests[-1].path == "/api/v1/namespaces/team-a/secrets"


async def test_nothing_is_told_before_the_end_of_the_list(rig: Rig) -> None:
    """W3: three pages, one of which fails: the sink sees one whole list."""
    for number in range(1200):
        rig.api.put_secret(f"team-{number}", "pull-secret", annotations=IDENTITY)
    rig.api.latency_seconds = 1.0
    async with rig.running() as reflector:
        await asyncio.sleep(1.5)
        rig.api.fail("list", 500)
        await asyncio.sleep(1.5)
        assert not rig.sink.told
        assert not reflector.listed
        await asyncio.sleep(6)
    assert [kind for kind, _ in rig.sink.told] == ["replaced"]
    assert len(rig.sink.there) == 1201
    assert rig.verbs() == ["list"] * 6 + ["watch"]


async def test_an_expired_continue_token_starts_the_list_over(rig: Rig) -> None:
    """F11: the pages of a compacted version are gone; the next list is for the latest."""
    for number in range(600):
        rig.api.put_secret(f"team-{number}", "pull-secret", annotations=IDENTITY)
    rig.api.latency_seconds = 1.0
    async with rig.running():
        await asyncio.sleep(1.5)
        rig.api.compact()
        await asyncio.sleep(6)
    assert rig.verbs()[:5] == ["list"] * 4 + ["watch"]
    assert "resourceVersion" not in rig.api.requests[2].query
    assert len(rig.sink.there) == 601


async def test_large_secrets_of_one_namespace_hold_up_no_other(rig: Rig) -> None:
    """18 Secrets of 1.4 MB beside ours: the list is read in as many pages as it takes."""
    for number in range(18):
        rig.api.put_secret("large", f"pull-secret-{number}", data={"blob": "x" * 1_400_000})
    rig.selector = Selector(namespace=None, name=None)
    async with rig.running() as reflector:
        await asyncio.sleep(1)
        assert reflector.listed
        assert rig.sink.told == [("replaced", [REF])]
    limits = [int(request.query["limit"]) for request in rig.api.requests_of("list")]
    assert limits == [500, 125, 31, 7, 7, 7]
    assert not {request.query.get("continue") for request in rig.api.requests_of("list")[:4]} - {None}


async def test_after_large_secrets_the_pages_grow_again(rig: Rig) -> None:
    for number in range(14):
        rig.api.put_secret("a-large", f"pull-secret-{number}", data={"blob": "x" * 1_400_000})
    for number in range(600):
        rig.api.put_secret("small", f"pull-secret-{number}", annotations=IDENTITY)
    rig.selector = Selector(namespace=None, name=None)
    async with rig.running():
        await asyncio.sleep(1)
    limits = [int(request.query["limit"]) for request in rig.api.requests_of("list")]
    assert limits == [500, 125, 31, 7, 7, 7, 14, 28, 56, 112, 224, 448]
    assert len(rig.sink.there) == 601


async def test_a_secret_that_is_too_large_to_be_read_is_passed_over_and_told(rig: Rig) -> None:
    """It is the second of three; nobody else's token depends on it."""
    rig.api.put_secret("team-b", "pull-secret", annotations=IDENTITY, data={"blob": "x" * (16 << 20)})
    rig.api.put_secret("team-c", "pull-secret", annotations=IDENTITY)
    with structlog.testing.capture_logs() as logs:
        async with rig.running() as reflector:
            await asyncio.sleep(1)
            assert reflector.listed
            assert rig.sink.there.keys() == {REF, Ref("team-c", "pull-secret")}
    [told] = [entry for entry in logs if entry["log_level"] == "error"]
    assert told["event"] == "an object is too large to be read and is left out"
    assert (told["namespace"], told["name"]) == ("team-b", "pull-secret")


async def test_an_event_that_is_too_large_is_asked_for_once_more_and_then_listed(rig: Rig) -> None:
    """The list passes it over, and the watch goes on after it."""
    async with rig.running():
        rig.api.put_secret("team-b", "pull-secret", annotations=IDENTITY, data={"blob": "x" * (17 << 20)})
        rig.api.put_secret("team-c", "pull-secret", annotations=IDENTITY)
        await asyncio.sleep(10)
        assert rig.sink.there.keys() == {REF, Ref("team-c", "pull-secret")}
        assert len(rig.api.watches) == 1
    assert rig.relists == ["start", "unreadable"]


async def test_a_page_that_expires_while_pages_shrink_starts_the_list_over(rig: Rig) -> None:
    """F11, with pages of seven."""
    for number in range(14):
        rig.api.put_secret("large", f"pull-secret-{number}", data={"blob": "x" * 1_400_000})
    rig.selector = Selector(namespace=None, name=None)
    rig.api.latency_seconds = 1.0
    async with rig.running() as reflector:
        await asyncio.sleep(4.5)
        rig.api.compact()
        assert not reflector.listed
        await asyncio.sleep(10)
        assert reflector.listed
    assert rig.sink.there.keys() == {REF}


async def test_one_page_at_a_time_is_in_memory_however_many_watches_there_are(rig: Rig, clock: Clock) -> None:
    """And a watch that waits for its turn is alive."""
    paging = asyncio.Lock()
    rigs = [Rig(rig.api, clock, paging=paging) for _ in range(3)]
    rig.api.latency_seconds = 40.0
    async with rigs[0].running(), rigs[1].running(), rigs[2].running() as last:
        await asyncio.sleep(110)
        assert clock() - last.last_attempt == 0
        await asyncio.sleep(11)
        assert all(each.sink.told for each in rigs)
    first, *later = (request.at for request in rig.api.requests_of("list"))
    assert [at - first for at in later] == [40.0, 80.0]


async def test_a_relist_removes_what_is_gone(rig: Rig) -> None:
    """W3: a relist replaces."""
    async with rig.running():
        rig.api.mute_watches()
        rig.api.delete_secret(*REF)
        rig.api.compact()
        rig.api.break_off_watches()
        rig.api.end_watches()
        for watch in rig.api.watches:
            watch.muted = False
        await asyncio.sleep(5)
        assert not rig.sink.there
    assert rig.relists == ["start", "expired"]


@pytest.mark.parametrize("as_status", [False, True], ids=["gone_as_event_relists", "gone_as_http_status_relists"])
async def test_gone_relists_exactly_once(rig: Rig, as_status: bool) -> None:
    """W2: one relist, not older than the last version, after a pause; never the same version again."""
    rig.api.gone_as_status = as_status
    async with rig.running():
        rig.api.resource_version += 50
        rig.api.compact()
        rig.api.break_off_watches()
        await asyncio.sleep(60)
    assert rig.verbs() == ["list", "watch", "watch", "list", "watch"]
    assert rig.api.requests[3].query["resourceVersion"] == "1001"
    assert rig.api.requests[3].query["resourceVersionMatch"] == "NotOlderThan"
    assert rig.api.requests[4].query["resourceVersion"] == "1051"
    assert rig.relists == ["start", "expired"]
    assert rig.sink.rolled_back == [False, False]


async def test_a_relist_that_is_gone_too_asks_for_the_latest(rig: Rig) -> None:
    """W2: the second failure drops the version."""
    async with rig.running():
        rig.api.send_error_event(410)
        rig.api.fail("list", 410, reason="Expired")
        await asyncio.sleep(10)
    assert rig.verbs() == ["list", "watch", "list", "list", "watch"]
    assert "resourceVersion" not in rig.api.requests[3].query
    assert rig.sink.rolled_back == [False, True]
    assert rig.relists == ["start", "expired"]


async def test_a_server_that_always_says_gone_is_not_asked_in_a_loop(rig: Rig) -> None:
    """W2, W6: lists that succeed don't reset the back-off."""
    rig.api.fail("watch", 410, times=1000)
    async with rig.running():
        await asyncio.sleep(600)
    assert len(rig.api.requests_of("list")) < 50


async def test_a_cluster_restored_from_a_backup_is_read_anew(rig: Rig) -> None:
    """F12: a watch from the future is silent, the list from there 504; then versions may be lower than before."""
    async with rig.running():
        await asyncio.sleep(61)  # a bookmark
        rig.api.restore(Backup(900, {}))
        rig.api.put_secret("team-b", "pull-secret", annotations=IDENTITY)
        await asyncio.sleep(180)
        assert rig.sink.there == {Ref("team-b", "pull-secret"): "901"}
        rig.api.annotate("team-b", "pull-secret", {"x": "y"})
        await asyncio.sleep(0.01)
        assert rig.sink.there == {Ref("team-b", "pull-secret"): "902"}
    assert rig.sink.rolled_back == [False, True]
    assert rig.relists == ["start", "silent"]


async def test_a_restored_server_that_rejects_the_version_of_the_watch_is_believed_though_its_versions_are_lower(
    rig: Rig,
) -> None:
    rig.api.fail("watch", 400, times=1)
    backup = rig.api.backup()
    rig.api.annotate(*REF, {"x": "y"})
    async with rig.running():
        rig.api.restore(backup)
        await asyncio.sleep(5)
        assert rig.sink.there == {REF: "1001"}
    assert rig.sink.rolled_back == [False, True]
    assert rig.relists == ["start", "rejected"]


async def test_a_rollback_that_a_read_has_shown_is_not_waited_for(rig: Rig) -> None:
    """The watch is silent: the list is read at once, and is the truth."""
    backup = rig.api.backup()
    rig.api.put_secret("team-b", "pull-secret", annotations=IDENTITY)
    async with rig.running() as reflector:
        rig.api.annotate(*REF, {"x": "y"})
        rig.api.restore(backup)
        await asyncio.sleep(2)
        assert rig.sink.there == {REF: "1003", Ref("team-b", "pull-secret"): "1002"}
        reflector.roll_back()
        await asyncio.sleep(0.001)
        assert rig.sink.there == {REF: "1001"}
        rig.api.annotate(*REF, {"x": "z"})
        await asyncio.sleep(0.001)
        assert rig.sink.there == {REF: "1002"}
    assert rig.sink.rolled_back == [False, True]
    assert rig.relists == ["start", "rolled_back"]


async def test_a_rollback_ends_the_wait_after_a_failure(rig: Rig) -> None:
    backup = rig.api.backup()
    async with rig.running() as reflector:
        rig.api.annotate(*REF, {"x": "y"})
        rig.api.fail("watch", 503, times=6)
        rig.api.restore(backup)
        await asyncio.sleep(20)
        assert rig.verbs()[-1] == "watch"
        reflector.roll_back()
        await asyncio.sleep(0.001)
        assert rig.sink.there == {REF: "1001"}
        assert rig.verbs()[-2:] == ["list", "watch"]


async def test_a_list_from_before_the_rollback_is_not_taken(rig: Rig) -> None:
    """Of an API server that wasn't restarted after etcd was restored: its watch cache knows nothing of it."""
    backup = rig.api.backup()
    async with rig.running() as reflector:
        rig.api.annotate(*REF, {"x": "y"})
        await asyncio.sleep(0.001)
        rig.api.restore(backup, restart=False)
        reflector.roll_back()
        await asyncio.sleep(0.001)
        assert rig.relists == ["start", "rolled_back"]
        assert rig.sink.told == [("replaced", [REF]), ("upserted", REF)]
        rig.api.cached = None
        await asyncio.sleep(10)
        reflector.roll_back()
        await asyncio.sleep(0.001)
        assert rig.sink.there == {REF: "1001"}


async def test_a_rollback_is_read_no_more_than_once_in_ten_seconds(rig: Rig) -> None:
    async with rig.running() as reflector:
        for _ in range(295):
            reflector.roll_back()
            await asyncio.sleep(0.1)
    assert rig.relists == ["start", *["rolled_back"] * 3]


@pytest.mark.parametrize("failing", ["list", "watch"])
async def test_an_api_server_that_responds_again_is_told_once(rig: Rig, failing: Verb) -> None:
    rig.api.fail(failing, 503, times=4)
    async with rig.running():
        await asyncio.sleep(30)
        rig.api.end_watches()
        await asyncio.sleep(30)
    assert len(rig.recoveries) == 1
    assert rig.recoveries[0] == rig.api.requests_of(failing)[4].at


@pytest.mark.parametrize("in_stream", [False, True])
async def test_a_future_version_asks_for_the_latest(rig: Rig, in_stream: bool) -> None:
    """W1: the one way for a version to become lower is told as such."""
    if not in_stream:
        rig.api.fail("watch", 504, cause="ResourceVersionTooLarge")
    async with rig.running():
        if in_stream:
            rig.api.send_error_event(504, cause="ResourceVersionTooLarge")
        await asyncio.sleep(3)
    assert rig.verbs() == ["list", "watch", "list", "watch"]
    assert "resourceVersion" not in rig.api.requests[2].query
    assert rig.relists == ["start", "future_version"]
    assert rig.sink.rolled_back == [False, True]


async def test_a_version_that_the_server_refuses_is_given_up(rig: Rig) -> None:
    """400 to a watch would be 400 for ever."""
    rig.api.fail("watch", 400)
    async with rig.running():
        await asyncio.sleep(3)
    assert rig.verbs() == ["list", "watch", "list", "watch"]
    assert rig.relists == ["start", "rejected"]


@pytest.mark.parametrize("ends", ["ended", "timed out"])
async def test_a_watch_that_ends_goes_on_from_the_last_version(rig: Rig, ends: str) -> None:
    """W5: no relist, no pause."""
    async with rig.running():
        rig.api.put_secret("team-b", "pull-secret", annotations=IDENTITY)
        await asyncio.sleep(30)
        if ends == "ended":
            rig.api.end_watches()
            await asyncio.sleep(0.01)
        else:
            await asyncio.sleep(275)
    assert rig.verbs() == ["list", "watch", "watch"]
    assert rig.api.requests[2].query["resourceVersion"] == "1002"
    assert rig.relists == ["start"]
    if ends == "ended":
        assert rig.gaps()[1] == pytest.approx(30.001, abs=0.01)


async def test_a_bookmark_moves_the_version(rig: Rig) -> None:
    """W4: also where nothing of ours happens."""
    async with rig.running():
        rig.api.resource_version = 5000
        await asyncio.sleep(61)
        rig.api.end_watches()
        await asyncio.sleep(1)
    assert rig.api.requests[-1].query["resourceVersion"] == "5000"


async def test_the_version_never_goes_back(rig: Rig) -> None:
    """W1: old events, late bookmarks and repeats are handed on, and change nothing about where to go on."""
    async with rig.running():
        rig.api.annotate(*REF, {"x": "y"})
        secret = rig.api.secret(*REF)
        old = {**secret, "metadata": {**secret["metadata"], "resourceVersion": "999"}}
        rig.api.send_to_watches(event_line("MODIFIED", old))
        rig.api.send_to_watches(event_line("MODIFIED", secret))
        rig.api.send_to_watches(event_line("BOOKMARK", {"metadata": {"resourceVersion": "7"}}))
        await asyncio.sleep(2)
        rig.api.end_watches()
        await asyncio.sleep(1)
    assert rig.api.requests[-1].query["resourceVersion"] == "1002"
    assert len(rig.sink.told) == 4


async def test_a_list_older_than_was_asked_for_is_not_taken(rig: Rig) -> None:
    """W1: a stale server's list can't bring old versions back."""
    async with rig.running():
        rig.api.send_error_event(410)
        body = b'{"metadata":{"resourceVersion":"12"},"items":[]}'
        rig.api.fail("list", 200, body=body)
        await asyncio.sleep(5)
        assert REF in rig.sink.there
    assert [told for told, _ in rig.sink.told] == ["replaced", "replaced"]


async def test_a_watch_that_ends_at_once_backs_off(rig: Rig) -> None:
    """W5, W6: under a second without an event is a failure."""
    rig.api.fail("watch", 200, body=b"", times=1000)
    async with rig.running():
        await asyncio.sleep(300)
    assert rig.gaps()[1:7] == pytest.approx([0.8, 1.6, 3.2, 6.4, 12.8, 15.0])
    assert rig.verbs()[:2] == ["list", "watch"]
    assert set(rig.verbs()[1:]) == {"watch"}


async def test_a_watch_that_ends_at_once_with_an_event_each_time_is_no_hot_loop(rig: Rig) -> None:
    """W6: events are told without growing delay, but never in a loop."""
    line = event_line("MODIFIED", rig.api.secret(*REF))
    rig.api.fail("watch", 200, body=line, times=1000)
    async with rig.running():
        await asyncio.sleep(60)
    assert rig.gaps()[1:] == pytest.approx([0.8] * (len(rig.gaps()) - 1))


@pytest.mark.parametrize("status", [None, 401, 403, 429, 500, 503])
async def test_429_500_and_refused_connections_are_survived(rig: Rig, status: int | None) -> None:
    """W6: the same version again after a pause that grows; no relist. At most 0.25 requests a second in the end."""
    async with rig.running() as reflector:
        await asyncio.sleep(130)
        before = len(rig.api.requests)
        rig.api.fail(None, status, times=10_000)
        rig.api.break_off_watches()
        started = rig.clock()
        await asyncio.sleep(600)
        assert rig.clock() - reflector.last_attempt < 1.0
        rig.api.heal()
        rig.api.put_secret("team-b", "pull-secret", annotations=IDENTITY)
        await asyncio.sleep(31)
        assert Ref("team-b", "pull-secret") in rig.sink.there
    down = rig.api.requests[before:]
    assert {request.verb for request in down} == {"watch"}
    assert rig.relists == ["start"]
    if status != 401:  # which is asked twice, the second time with a fresh token
        assert min(later.at - earlier.at for earlier, later in itertools.pairwise(down)) >= 0.8
    late = [request for request in down if 120 <= request.at - started < 600]
    assert len(late) <= 0.25 * 480


@pytest.mark.parametrize("code", [429, 500, 403])
async def test_an_error_event_is_treated_like_its_status(rig: Rig, code: int) -> None:
    """F10: never fatal, no relist."""
    async with rig.running():
        rig.api.send_error_event(code)
        await asyncio.sleep(5)
    assert rig.verbs() == ["list", "watch", "watch"]
    assert rig.gaps()[1] >= 0.8


async def test_retry_after_is_obeyed_up_to_five_minutes(rig: Rig) -> None:
    """F4, F34: what the server asks for is the least wait; an absurd wish is cut."""
    rig.api.fail("watch", 429, retry_after=17)
    rig.api.fail("watch", 429, retry_after=86_400)
    async with rig.running() as reflector:
        await asyncio.sleep(250)
        assert rig.clock() - reflector.last_attempt < 1.0
        await asyncio.sleep(100)
    assert rig.gaps() == pytest.approx([0.0, 17.0, 300.0])


async def test_backoff_at_the_cap_is_still_spread_and_starts_over_after_calm(rig: Rig) -> None:
    """W6: a wait never exceeds 30 s; two minutes of health make the next failure the first."""
    draws = iter([0.0, *[number / 20 for number in range(1000)]])
    rig.draw = lambda: next(draws) % 1.0
    rig.api.fail("list", 500, times=12)
    async with rig.running():
        await asyncio.sleep(400)
        rig.api.break_off_watches()
        broken_at = rig.clock()
        await asyncio.sleep(3)
    assert 0.8 <= rig.api.requests[-1].at - broken_at <= 1.6
    at_cap = rig.gaps()[5:11]
    assert len(set(at_cap)) == len(at_cap)
    assert all(15.0 <= gap <= 30.0 for gap in at_cap)


async def test_a_silent_connection_is_abandoned(rig: Rig) -> None:
    """W7, F5: 70 s after the last sign of life, once bookmarks are known to come."""
    async with rig.running():
        await asyncio.sleep(61)
        rig.api.mute_watches()
        rig.api.put_secret("team-b", "pull-secret", annotations=IDENTITY)
        await asyncio.sleep(72)
        assert Ref("team-b", "pull-secret") in rig.sink.there
    assert rig.verbs() == ["list", "watch", "watch"]
    assert rig.gaps()[1] == pytest.approx(60 + 70 + 0.8)


async def test_without_bookmarks_only_the_deadline_counts(rig: Rig) -> None:
    """W7, F15: a server that sends none is not taken for dead; its watch is, 30 s after it should have ended."""
    rig.api.bookmarks = False
    async with rig.running() as reflector:
        await asyncio.sleep(299)
        assert rig.verbs() == ["list", "watch"]
        assert rig.clock() - reflector.last_attempt < 1.0
        await asyncio.sleep(2)
        assert rig.verbs() == ["list", "watch", "watch"]
        rig.api.mute_watches()
        await asyncio.sleep(331)
    assert rig.gaps()[1:] == pytest.approx([300.0, 330.8])


async def test_an_answer_that_never_begins_is_abandoned(rig: Rig) -> None:
    """W7: a watch is answered at once, or is not answered."""
    rig.api.fail("list", 200, after_seconds=1e6)
    rig.api.fail("watch", 200, after_seconds=1e6)
    async with rig.running():
        await asyncio.sleep(100)
    assert rig.verbs() == ["list", "list", "watch", "watch"]
    assert rig.gaps() == pytest.approx([60.8, 0.0, 31.6])


async def test_every_watch_asks_for_five_to_ten_minutes(rig: Rig) -> None:
    """W7: uniformly, both ends included."""
    asked = set()
    for draw in (0.0, 0.5, 0.999999):
        rig.draw = functools.partial(float, draw)
        async with rig.running():
            pass
        asked.add(rig.api.requests[-1].query["timeoutSeconds"])
    assert asked == {"300", "450", "600"}
    assert rig.api.requests[-1].query["allowWatchBookmarks"] == "true"


async def test_an_event_line_of_one_mebibyte_is_read(rig: Rig) -> None:
    """W12: also when it comes a byte, or a few, at a time."""
    rig.api.slice_bytes = 997
    async with rig.running():
        rig.api.put_secret("team-b", "pull-secret", annotations={**IDENTITY, "padding": "x" * 1024 * 1024})
        await asyncio.sleep(1)
        assert Ref("team-b", "pull-secret") in rig.sink.there


async def test_a_line_broken_off_in_the_middle_is_read_again(rig: Rig) -> None:
    """F6: the half is dropped, nothing is missed."""
    async with rig.running():
        rig.api.mute_watches()
        rig.api.put_secret("team-b", "pull-secret", annotations=IDENTITY)
        for watch in rig.api.watches:
            watch.muted = False
        rig.api.break_off_watches(after=event_line("ADDED", rig.api.secret("team-b", "pull-secret"))[:40])
        await asyncio.sleep(3)
        assert Ref("team-b", "pull-secret") in rig.sink.there
    assert rig.verbs() == ["list", "watch", "watch"]


@pytest.mark.parametrize(
    "line",
    [
        b"{]\n",
        b'"a string"\n',
        b'{"type":"ADDED"}\n',
        b'{"type":"ADDED","object":{"kind":"Table"}}\n',
        b'{"type":"BOOKMARK","object":{}}\n',
        b"\xff\xfe\n",
        b'{"type":"MODIFIED","object":' + b"[" * 10_000 + b"]" * 10_000 + b"}\n",
    ],
)
async def test_an_unreadable_line_is_never_skipped(rig: Rig, line: bytes) -> None:
    """W12: back off, go on from the last version; if it comes again there, read the list."""
    async with rig.running():
        rig.api.send_to_watches(line)
        await asyncio.sleep(1.5)
        assert rig.verbs() == ["list", "watch", "watch"]
        rig.api.send_to_watches(line)
        await asyncio.sleep(3)
        assert rig.verbs() == ["list", "watch", "watch", "list", "watch"]
    assert rig.relists == ["start", "unreadable"]
    assert rig.gaps()[1] >= 0.8


async def test_unknown_event_types_are_survived(rig: Rig) -> None:
    """W12: what we don't know we can do without."""
    async with rig.running():
        rig.api.send_to_watches(event_line("PARTY", {"metadata": {"resourceVersion": "99999"}}))
        rig.api.annotate(*REF, {"x": "y"})
        await asyncio.sleep(2)
        rig.api.end_watches()
        await asyncio.sleep(1)
    assert rig.api.requests[-1].query["resourceVersion"] == "1002"


async def test_one_odd_item_does_not_spoil_the_list(rig: Rig) -> None:
    """F37: it is left out, with an error in the log."""
    good = rig.api.secret(*REF)
    body = b'{"metadata":{"resourceVersion":"1001"},"items":[{"metadata":{}},%s]}'
    encoded = event_line("", good).partition(b'"object":')[2][:-2]
    rig.api.fail("list", 200, body=body % encoded)
    with structlog.testing.capture_logs() as logs:
        async with rig.running():
            pass
    assert rig.sink.told == [("replaced", [REF])]
    assert [entry["log_level"] for entry in logs if "item" in entry["event"]] == ["error"]


async def test_a_list_that_is_no_list_is_tried_again(rig: Rig) -> None:
    """An HTML page with status 200, as proxies have them."""
    rig.api.fail("list", 200, body=b"<html>")
    async with rig.running() as reflector:
        assert not reflector.listed
        await asyncio.sleep(2)
        assert reflector.listed


async def test_a_refused_list_counts_as_listed_and_is_tried_again(rig: Rig) -> None:
    """F17: in spite of it others are served, and it recovers by itself within 30 s."""
    rig.api.fail("list", 403, times=10_000)
    async with rig.running() as reflector:
        assert reflector.listed
        assert reflector.refusal == "list secrets: 403 Forbidden; asked for Secrets named pull-secret in all namespaces"
        await asyncio.sleep(300)
        rig.api.heal()
        await asyncio.sleep(30)
        assert reflector.refusal is None
        assert REF in rig.sink.there
    assert max(rig.gaps()) <= 30.0


async def test_a_credential_that_is_not_accepted_is_a_refusal(rig: Rig) -> None:
    rig.api.fail("list", 401, times=10_000)
    async with rig.running() as reflector:
        assert (reflector.refusal or "").startswith("list secrets: 401 Unauthorized;")
        rig.api.heal()
        await asyncio.sleep(30)
        assert reflector.refusal is None


async def test_a_watch_that_is_refused_later_is_seen(rig: Rig) -> None:
    """F17: a binding was removed; when it is back, so are we, without a relist."""
    async with rig.running() as reflector:
        rig.api.fail("watch", 403, times=3)
        rig.api.break_off_watches()
        await asyncio.sleep(1)
        assert (reflector.refusal or "").startswith("watch secrets: 403 Forbidden;")
        await asyncio.sleep(30)
        assert reflector.refusal is None
    assert rig.relists == ["start"]


async def test_an_api_server_that_goes_away_has_taken_no_refusal_back(rig: Rig) -> None:
    """Or a Pod without rights would be ready for as long as the API server is away."""
    rig.api.fail("list", 403)
    async with rig.running() as reflector:
        rig.api.fail(None, None, times=10_000)
        await asyncio.sleep(60)
        assert reflector.refusal is not None


async def test_progress_is_the_stream_and_attempts_are_the_loop(rig: Rig) -> None:
    """W8: an API server that is down stops progress, not liveness."""
    async with rig.running() as reflector:
        await asyncio.sleep(61)
        assert rig.clock() - reflector.last_progress < 2
        rig.api.fail(None, None, times=10_000)
        rig.api.break_off_watches()
        await asyncio.sleep(600)
        assert rig.clock() - reflector.last_progress > 590
        assert rig.clock() - reflector.last_attempt < 1


async def test_a_dead_watch_turns_liveness_red(rig: Rig) -> None:
    """W8: a loop that has ended ages from then on."""
    reflector = rig.make()
    task = asyncio.create_task(reflector.run())
    await asyncio.sleep(10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.sleep(91)
    assert rig.clock() - reflector.last_attempt == pytest.approx(91)


async def test_a_step_of_the_clock_is_no_stall(rig: Rig) -> None:
    """W8: setting the clock must not kill the Pod."""
    async with rig.running() as reflector:
        rig.clock.step(3600)
        assert rig.clock() - reflector.last_attempt < 1
        rig.clock.step(-7200)
        assert rig.clock() - reflector.last_attempt < 1


@pytest.mark.parametrize("moment", [0.0005, 0.5, 1.5, 2.5, 100.0])
async def test_cancellation_always_passes(rig: Rig, moment: float) -> None:
    """12.3: in every state."""
    rig.api.latency_seconds = 1.0
    rig.api.fail("watch", 500, times=2)
    task = asyncio.create_task(rig.make().run())
    await asyncio.sleep(moment)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not rig.api.watches
    assert asyncio.all_tasks() == {asyncio.current_task()}


def compact_and_break_off(api: FakeApi) -> None:
    """The next watch is Gone."""
    api.compact()
    api.break_off_watches()


FAULTS: dict[str, Callable[[FakeApi], None]] = {
    "end": FakeApi.end_watches,
    "break off": FakeApi.break_off_watches,
    "break off within a line": lambda api: api.break_off_watches(after=b'{"type":"ADD'),
    "silence": FakeApi.mute_watches,
    "garbage": lambda api: api.send_to_watches(b"garbage\n"),
    "compaction": compact_and_break_off,
    "500 in the stream": lambda api: api.send_error_event(500),
    "410 in the stream": lambda api: api.send_error_event(410),
    "refused connections": lambda api: api.fail(None, None, times=3),
    "429": lambda api: api.fail(None, 429, retry_after=5),
    "403": lambda api: api.fail(None, 403, times=2),
    "an empty answer": lambda api: api.fail("watch", 200, body=b""),
}
steps = st.one_of(
    st.tuples(st.sampled_from(sorted(FAULTS)), st.just("")),
    st.tuples(st.sampled_from(["put", "delete", "forget"]), st.sampled_from(["team-a", "team-b", "team-c"])),
    st.tuples(st.just("wait"), st.sampled_from(["0.1", "1", "61", "400"])),
)


@settings(max_examples=300)
@given(story=st.lists(steps, max_size=15), draws=st.randoms(use_true_random=False))
def test_after_any_story_the_sink_knows_what_is_there(story: list[tuple[str, str]], draws: Random) -> None:
    """W1 to W6, F40: whatever went wrong, two minutes after it stopped nothing is missed; and no version went back."""

    async def live() -> None:
        clock = Clock()
        rig = Rig(FakeApi(clock), clock, draw=draws.random)
        versions = []
        async with rig.running() as reflector:
            await asyncio.sleep(61)  # until a bookmark, so that silence is known for what it is
            for what, detail in story:
                await tell(rig.api, what, detail)
                await asyncio.sleep(0.001)
                versions.append(int(reflector._version or 0))
            rig.api.heal()
            await asyncio.sleep(120)
            assert rig.sink.there == rig.api.versions(having=next(iter(IDENTITY)))
        assert versions == sorted(versions)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner, structlog.testing.capture_logs():
        runner.run(live())


async def tell(api: FakeApi, what: str, detail: str) -> None:
    """One step of a story."""
    there = (detail, "pull-secret") in api.secrets
    match what:
        case "put":
            api.put_secret(detail, "pull-secret", annotations={**IDENTITY, "version": str(api.resource_version)})
        case "delete" if there:
            api.delete_secret(detail, "pull-secret")
        case "forget" if there:
            api.annotate(detail, "pull-secret", dict.fromkeys(IDENTITY))
        case "wait":
            await asyncio.sleep(float(detail))
        case _ if what in FAULTS:
            FAULTS[what](api)


async def test_relist_reasons_are_a_fixed_set() -> None:
    """They are the values of a metric's label."""
    assert RELIST_REASONS == ("start", "expired", "future_version", "rejected", "silent", "unreadable", "rolled_back")


@pytest.mark.parametrize("verb", ["list", "watch"])
async def test_a_refusal_is_a_sign_of_life_of_the_server(rig: Rig, verb: Verb) -> None:
    """F17: other watches go on, so that it must not look like a server that is gone."""
    rig.api.fail(verb, 403, times=10_000)
    async with rig.running() as reflector:
        for _ in range(10):
            await asyncio.sleep(60)
            assert rig.clock() - reflector.last_progress <= 30


async def test_events_that_cannot_be_read_are_no_reason_to_hurry(rig: Rig) -> None:
    """Each watch brings a line, and that line ends it."""
    async with rig.running():
        for _ in range(240):
            await asyncio.sleep(0.5)
            rig.api.send_to_watches(b"<html>\n")
    assert len(rig.api.requests) <= 40, "two minutes, in growing steps"


async def test_a_server_that_went_back_in_time_is_believed_also_after_a_list_that_failed(rig: Rig) -> None:
    rig.api.fail("watch", 504, cause="ResourceVersionTooLarge")
    async with rig.running():
        rig.api.fail("list", 503, times=2)
        await asyncio.sleep(10)
    assert rig.verbs() == ["list", "watch", "list", "list", "list", "watch"]
    assert rig.sink.rolled_back == [False, True]


async def test_a_watch_that_waits_for_its_answer_is_within_its_bounds(rig: Rig) -> None:
    """After a wait, the bounds of the step before have passed."""
    rig.api.fail("watch", None)
    rig.api.fail("watch", 200, after_seconds=1e9)
    async with rig.running() as reflector:
        await asyncio.sleep(29)
        assert rig.verbs() == ["list", "watch", "watch"]
        assert reflector.last_attempt == rig.clock()


async def test_a_watch_goes_on_after_the_deletion_that_it_saw(rig: Rig) -> None:
    """W4. From before it, the version could be compacted away although nothing was missed."""
    async with rig.running():
        rig.api.delete_secret(*REF)
        await asyncio.sleep(2)
        rig.api.end_watches()
        await asyncio.sleep(2)
    assert rig.api.requests[-1].query["resourceVersion"] == str(rig.api.resource_version)


async def test_a_clock_that_runs_ahead_makes_no_failure_the_first_again(rig: Rig) -> None:
    rig.api.fail(None, None, times=10_000)
    async with rig.running():
        for _ in range(60):
            await asyncio.sleep(1)
            rig.clock.step(1000)
    assert len(rig.api.requests) <= 10
