"""Parses one line of a watch: the event, and the version to go on from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from controller.core.projection import Observed
from controller.kube.answers import error_from, read_status
from controller.kube.errors import ApiError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Upserted(Generic[T]):
    """An object was added or modified."""

    observed: Observed[T]


@dataclass(frozen=True, slots=True)
class Deleted(Generic[T]):
    """An object was deleted, or left the selection."""

    observed: Observed[T]


@dataclass(frozen=True, slots=True)
class Bookmark:
    """Nothing happened up to this version."""

    resource_version: str


@dataclass(frozen=True, slots=True)
class Failure:
    """The server ends the watch with an error; the same error that a request would get."""

    error: ApiError


@dataclass(frozen=True, slots=True)
class Unknown:
    """An event of a type that we don't know, and so don't need."""


WatchEvent = Upserted[T] | Deleted[T] | Bookmark | Failure | Unknown


class _Event(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


class _Version(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str


class _Bookmark(msgspec.Struct, frozen=True):
    metadata: _Version


_event_decoder = msgspec.json.Decoder(_Event)
_bookmark_decoder = msgspec.json.Decoder(_Bookmark)


def read_event(line: bytes, project: Callable[[msgspec.Raw], Observed[T]], *, what: str) -> WatchEvent[T]:
    """The event of a line; `what` is verb and resource.

    Raises ValueError for anything else, RecursionError for what is nested too deeply.
    """
    event = _event_decoder.decode(line)
    match event.type:
        case "ADDED" | "MODIFIED":
            return Upserted(project(event.object))
        case "DELETED":
            return Deleted(project(event.object))
        case "BOOKMARK":
            return Bookmark(_bookmark_decoder.decode(event.object).metadata.resource_version)
        case "ERROR":
            status = read_status(event.object)
            return Failure(error_from(what, status.code, status))
    return Unknown()
