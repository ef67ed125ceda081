"""Complete lines from a stream of chunks that begin and end anywhere."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator

from controller.kube.answers import no_answer
from controller.net.transport import Stream, TooLarge, Unreachable

MAX_LINE_BYTES = 16 * 1024 * 1024
"""As the official Go client allows. An event holds at most one object, and etcd takes none above 1.5 MiB."""


class LineSplitter:
    """Yields each line once it is complete. Reads every byte once, however small the chunks are."""

    def __init__(self, *, max_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._rest = bytearray()
        """What came after the last line's end; holds no line end itself between two calls."""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The lines that `chunk` completes, without empty ones: those mean nothing between JSON values.

        Raises TooLarge for a line above `max_bytes`.
        """
        searched = len(self._rest)
        self._rest += chunk
        while (end := self._rest.find(b"\n", searched)) >= 0:
            self._refuse_above_limit(end)
            line = bytes(self._rest[:end]).strip()
            del self._rest[: end + 1]
            searched = 0
            if line:
                yield line
        self._refuse_above_limit(len(self._rest))

    def end(self) -> None:
        """Raises Unreachable if the stream ended within a line; its event comes again from the last version."""
        if self._rest.strip():
            raise Unreachable("the stream ended within a line")

    def _refuse_above_limit(self, length: int) -> None:
        if length > self._max_bytes:
            raise TooLarge(f"a line of more than {self._max_bytes} bytes")


async def complete_lines(stream: Stream, what: str) -> AsyncGenerator[bytes, None]:
    """The lines of an answer. Raises Unavailable, with `what` in its text, when it breaks off."""
    splitter, chunks = LineSplitter(), stream.chunks()
    try:
        async for chunk in chunks:
            for line in splitter.feed(chunk):
                yield line
        splitter.end()
    except Unreachable as error:
        raise no_answer(what, error) from error
    finally:
        if isinstance(chunks, AsyncGenerator):  # else the garbage collector closes it, in no task of ours
            await chunks.aclose()
