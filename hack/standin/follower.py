"""Lists some objects, then watches them, and does so anew whenever the watch ends.

Each state that a watch tells of is passed on. Of what happens between two watches only the state that it led to is, and
a deletion not at all.
"""

import contextlib
import threading
from types import TracebackType
from typing import Any, Protocol, Self

import urllib3

from hack.standin.api import Api, ApiError, Watch

AGAIN_SECONDS = 0.1


class Listener(Protocol):
    """Is told of states, in the thread of the follower. A new list repeats what is known."""

    def __call__(self, state: dict[str, Any], /, *, deleted: bool) -> None:
        """`state` is the last one before the deletion where `deleted`."""


class Follower:
    """Follows the objects of `path`, which ends in a query, from the beginning of the context to its end."""

    def __init__(self, api: Api, path: str, tell: Listener) -> None:
        self._api = api
        self._path = path
        self._tell = tell
        self._stop = threading.Event()
        self._watch: Watch | None = None
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._watch is not None:
            self._watch.end()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stop.is_set():
            # The server ends every watch after a while, and an outage must not end ours.
            with contextlib.suppress(ApiError, urllib3.exceptions.HTTPError):
                self._list_and_watch()
            self._stop.wait(AGAIN_SECONDS)

    def _list_and_watch(self) -> None:
        listed = self._api.get(self._path)
        for state in listed["items"]:
            self._tell(state, deleted=False)
        since = listed["metadata"]["resourceVersion"]
        self._watch = self._api.watch(f"{self._path}&watch=true&resourceVersion={since}")
        if self._stop.is_set():  # since before there was a watch to end
            self._watch.end()
        for event in self._watch:
            if event["type"] == "ERROR" or self._stop.is_set():
                return
            self._tell(event["object"], deleted=event["type"] == "DELETED")
