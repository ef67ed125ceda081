"""How long the event loop is held: everything waits for whatever computes without awaiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NoReturn

_LOOK_SECONDS = 1.0


async def watch_event_loop(held: Callable[[float], None]) -> NoReturn:
    """Once a second, tell how late the loop was for a timer: in all of it the share of time for which it is held."""
    loop = asyncio.get_running_loop()
    while True:
        due_at = loop.time() + _LOOK_SECONDS
        await asyncio.sleep(_LOOK_SECONDS)
        held(max(0.0, loop.time() - due_at))
