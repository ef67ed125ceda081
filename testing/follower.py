"""Lists some objects, then watches them, and continues where it was whenever the watch ends.

So it passes on every state, once. It lists again only if the server no longer has the changes since the last state: a
list repeats known states, and misses deletions and the states in between.
"""

import contextlib
import threading
from types import TracebackType
from typing import Any, Protocol, Self

import urllib3

from testing.api import Api, ApiError, Watch

AGAIN_SECONDS = 0.1
LIST_SECONDS = 60


class Listener(Protocol):
    """Receives states, in the follower's thread."""

    def __call__(self, state: dict[str, Any], /, *, deleted: bool) -> None:
        """If `deleted`, `state` is the last one before the deletion."""


class Follower:
    """Follows the objects at `path`, which ends in a query, while the context is open.

    The context begins once the first list is there, so nothing that happens in it is missed. Raises TimeoutError if
    there is none in a minute.
    """

    def __init__(self, api: Api, path: str, tell: Listener) -> None:
        self._api = api
        self._path = path
        self._tell = tell
        self._stop = threading.Event()
        self._listed = threading.Event()
        self._watch: Watch | None = None
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._listed.wait(LIST_SECONDS):
            self._stop.set()
            raise TimeoutError(f"no list of {self._path} in {LIST_SECONDS} s")
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
            with contextlib.suppress(ApiError, urllib3.exceptions.HTTPError):
                self._list_and_watch()
            self._stop.wait(AGAIN_SECONDS)

    def _list_and_watch(self) -> None:
        listed = self._api.get(self._path)
        for state in listed["items"]:
            self._tell(state, deleted=False)
        since = listed["metadata"]["resourceVersion"]
        self._listed.set()
        while not self._stop.is_set():
            # The server ends every watch after a while, and an outage must not end the follower.
            with contextlib.suppress(urllib3.exceptions.HTTPError):
                for event in self._begin_watch(since):
                    if event["type"] == "ERROR" or self._stop.is_set():
                        return
                    self._tell(event["object"], deleted=event["type"] == "DELETED")
                    since = event["object"]["metadata"]["resourceVersion"]
            self._stop.wait(AGAIN_SECONDS)

    def _begin_watch(self, since: str) -> Watch:
        self._watch = self._api.watch(f"{self._path}&watch=true&resourceVersion={since}")
        if self._stop.is_set():  # since before there was a watch to end
            self._watch.end()
        return self._watch
