"""The log, and how credentials are kept out of it.

An exception or a stranger's text gets into the log only through `where` and `redact`.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal

import structlog

# A token in a stranger's text: a JWT or its start, or any long run of its alphabets. Identities made of hexadecimal
# segments or GUIDs stay readable, since people need to see them.
_CREDENTIAL = re.compile(r"eyJ[\w.-]{8,}|[A-Za-z0-9+/_-]{60,}={0,2}")
_IDENTITY = re.compile(r"[0-9a-f]{40}(/[0-9a-f]{16})+|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(/[0-9a-f-]{36})?")


def redact(text: str) -> str:
    """The text without anything that may be a credential."""
    return _CREDENTIAL.sub(lambda found: found[0] if _IDENTITY.fullmatch(found[0]) else "[redacted]", text)


def where(error: BaseException) -> list[str]:
    """An exception's classes and places, outermost cause last; without its text, which may quote the input."""
    if isinstance(error, BaseExceptionGroup):
        return [place for member in error.exceptions for place in where(member)]
    places: list[str] = []
    current: BaseException | None = error
    while current is not None and len(places) < 5:
        frames = traceback.extract_tb(current.__traceback__)
        place = f" at {frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else ""
        places.append(f"{type(current).__name__}{place}")
        current = current.__cause__ or current.__context__
    return places


def configure_logging(*, log_format: Literal["json", "console"], level: str) -> structlog.typing.FilteringBoundLogger:
    """Send our log and the libraries' warnings to standard error, one line an entry, redacted. Returns our logger."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _drop_exception_text,
        _redact_values,
        _event_first,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if log_format == "json" else structlog.dev.ConsoleRenderer(colors=False)
    )
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_first_line, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger


def _first_line(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Only the first line of a library's entry: asyncio puts an exception's text into those below."""
    event["event"] = str(event["event"]).partition("\n")[0]
    return event


def _drop_exception_text(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A traceback's last line is the exception's text; keep the places only."""
    information = event.pop("exc_info", None)
    if information is True:
        information = sys.exc_info()
    error = information[1] if isinstance(information, tuple) else information
    if isinstance(error, BaseException):
        event["error"] = where(error)
    return event


def _redact_values(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {key: value if key.startswith("_") else _redacted(value) for key, value in event.items()}


def _redacted(value: Any) -> Any:
    match value:
        case bool() | int() | float() | None:
            return value
        case BaseException():
            return where(value)
        case Mapping():
            return {redact(str(key)): _redacted(inner) for key, inner in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_redacted(inner) for inner in value]
        case _:
            return redact(str(value))


def _event_first(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {key: event.pop(key) for key in ("timestamp", "level", "event") if key in event} | dict(event)
