"""One look, and the finding that it becomes: what can't be looked at is no error and never good."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from controller.cli.cluster import cure_of
from controller.cli.exits import Level
from controller.cli.findings import Finding
from controller.cli.installation import NotInstalled
from controller.kube.errors import ApiError
from controller.observe.logs import where


class CantTell(Exception):
    """It could not be looked at; the text says why."""


class Seen(NamedTuple):
    """What a look has found."""

    level: Level
    message: str
    cure: str | None = None
    """Better than what is usually done about it."""


async def look(function: Callable[[], Awaitable[Seen]], *, topic: str, title: str, cure: str | None = None) -> Finding:
    """What came of a look; `title` is what is true if all is good, and `cure` what to do if not."""
    own: str | None = None
    try:
        level, message, own = await function()
    except NotInstalled:
        level, message = Level.UNKNOWN, f"can't tell whether {title}: no installation was found, see PSU-201"
    except CantTell as error:
        level, message = Level.UNKNOWN, f"can't tell whether {title}: {error}"
    except ApiError as error:
        level, message, own = Level.UNKNOWN, f"can't tell whether {title}: {error}", cure_of(error)
    except Exception as error:  # one defect must not hide what the other looks find
        level, message = Level.UNKNOWN, f"can't tell whether {title}: a defect, please report it: {where(error)}"
    is_wrong = level in (Level.ERROR, Level.WARNING)
    return Finding(topic=topic, level=level, message=message, cure=own or (cure if is_wrong else None))
