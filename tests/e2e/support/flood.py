"""What an attacker inside the cluster does to a port: many connections, anew as soon as they are cut."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self

THREADS = 8


def endless_request(headers: int, size: int) -> bytes:
    """A request of so many headers of so many bytes each, whose end never comes."""
    line = b"X-%04d: " + b"x" * (size - 10) + b"\r\n"
    return b"GET /metrics HTTP/1.1\r\nHost: x\r\n" + b"".join(line % number for number in range(headers))


class Flood:
    """Opens `connections` and keeps sending on them, anew where they were cut, while its block runs."""

    def __init__(self, address: tuple[str, int], content: bytes, *, connections: int) -> None:
        self._address = address
        self._content = content
        self._share = connections // THREADS
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(THREADS)]
        self.opened = 0
        """Connections so far; more than are held, if they are cut."""

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(10)

    def _run(self) -> None:
        while not self._done.is_set():
            with contextlib.ExitStack() as stack:
                held = [stack.enter_context(contextlib.closing(one)) for one in self._connect()]
                for one in held:
                    with contextlib.suppress(OSError):
                        one.sendall(self._content)
                self._done.wait(1.0)

    def _connect(self) -> Iterator[socket.socket]:
        for _ in range(self._share):
            with contextlib.suppress(OSError):
                one = socket.create_connection(self._address, timeout=2)
                self.opened += 1
                yield one
