"""Lines out of a stream, however it is cut (reliability.md W12)."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncGenerator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.kube.errors import Unavailable
from controller.kube.lines import LineSplitter, complete_lines
from controller.net.transport import Unreachable

texts = st.text(st.characters(blacklist_categories=["Cs"]), max_size=30)
events = st.lists(st.dictionaries(texts, texts, max_size=3).map(lambda value: json.dumps(value).encode()), max_size=8)


class Chunks:
    """A stream that is cut as it is told."""

    status = 200
    headers: Mapping[str, str] = {}

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = chunks
        self.closed = False

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        try:
            for chunk in self._chunks:
                yield chunk
        finally:
            self.closed = True


@given(lines=events, cuts=st.lists(st.integers(0, 2000)), ends=st.sampled_from([b"\n", b"\r\n", b"\n\n"]))
def test_a_stream_says_the_same_however_it_is_cut(lines: list[bytes], cuts: list[int], ends: bytes) -> None:
    """W12: split and merged at any byte."""
    whole = b"".join(line + ends for line in lines)
    bounds = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    splitter = LineSplitter()
    found = [line for start, end in itertools.pairwise(bounds) for line in splitter.feed(whole[start:end])]
    splitter.end()
    assert found == lines


def test_a_byte_at_a_time_is_linear() -> None:
    """W12: 1 MiB in single bytes; a search from the start at each would take a quarter of a minute."""
    splitter = LineSplitter()
    line = b"x" * 1024 * 1024
    found = [whole for byte in line + b"\n" for whole in splitter.feed(bytes([byte]))]
    assert found == [line]


@pytest.mark.parametrize("length", [0, 1, 9, 10])
def test_lines_up_to_the_limit_pass(length: int) -> None:
    line = b"x" * length
    assert list(LineSplitter(max_bytes=10).feed(line + b"\n")) == [line] * (length > 0)


@pytest.mark.parametrize("data", [b"x" * 11, b"x" * 11 + b"\n"])
def test_a_line_above_the_limit_is_refused(data: bytes) -> None:
    with pytest.raises(Unreachable):
        list(LineSplitter(max_bytes=10).feed(data))


async def test_lines_before_the_break_are_given_out() -> None:
    lines = complete_lines(Chunks(b"a\nb", b"\nc"), "watch secrets")
    assert [await anext(lines), await anext(lines)] == [b"a", b"b"]
    with pytest.raises(Unavailable, match=r"^watch secrets: the stream ended within a line$"):
        await anext(lines)


async def test_closing_the_lines_closes_the_stream() -> None:
    """12.3: no generator is left to the garbage collector."""
    stream = Chunks(b"a\nb\n")
    lines = complete_lines(stream, "watch secrets")
    assert await anext(lines) == b"a"
    await lines.aclose()
    assert stream.closed
