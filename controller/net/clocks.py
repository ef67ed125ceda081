"""How far a server's clock is from ours, by the Date of its answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from controller.net.transport import Stream, Transport, http_date


class ClockedTransport:
    """The transport that it is given, whose every answer with a Date also tells `report` the server's skew."""

    def __init__(self, transport: Transport, *, now: Callable[[], float], report: Callable[[float], None]) -> None:
        self._transport = transport
        self._now = now
        self._report = report

    @asynccontextmanager
    async def open(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None = None
    ) -> AsyncIterator[Stream]:
        """See Transport."""
        asked_at = self._now()
        async with self._transport.open(method, url, headers=headers, body=body) as stream:
            date = http_date(stream.headers.get("Date"))
            if date is not None:
                self._report(skew_seconds(date, asked_at=asked_at, answered_at=self._now()))
            yield stream


def skew_seconds(date: float, *, asked_at: float, answered_at: float) -> float:
    """How far a clock is ahead of ours at the least; 0 where it may well be right.

    It showed the second that began at `date` at some instant between the request and its answer.
    """
    if date > answered_at:
        return date - answered_at
    return min(0.0, date + 1.0 - asked_at)
