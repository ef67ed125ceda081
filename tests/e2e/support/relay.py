"""A second way to a server that is on 127.0.0.1: by [::1], and with another certificate."""

import asyncio
import contextlib
import ssl
import threading
from types import TracebackType
from typing import Self


class Relay:
    """Takes connections on [::1] and hands on what comes, both ways, while its block runs.

    With contexts for TLS it ends the client's TLS by the first, and begins one of its own by the second.
    """

    def __init__(self, host: str, port: int, *, tls: tuple[ssl.SSLContext, ssl.SSLContext] | None = None) -> None:
        self._target = (host, port)
        self._ours = tls[0] if tls else None
        self._targets = tls[1] if tls else None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        listening = asyncio.start_server(self._hand_on, "::1", 0, ssl=self._ours)
        self._server = asyncio.run_coroutine_threadsafe(listening, self._loop).result(10)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _hand_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            onward_reader, onward_writer = await asyncio.open_connection(*self._target, ssl=self._targets)
            there, back = _copy(reader, onward_writer), _copy(onward_reader, writer)
            try:
                await asyncio.gather(there, back)
            finally:
                onward_writer.transport.abort()
        writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while content := await reader.read(1 << 16):
        writer.write(content)
        await writer.drain()
    raise ConnectionResetError  # ends the other direction too
