"""One line of a watch, read: what happened, and the version to go on from."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from controller.core.errors import ApiError
from controller.core.projection import Observed, project
from controller.kube.answers import error_from, read_status


@dataclass(frozen=True, slots=True)
class Changed:
    """A Secret was added or modified."""

    observed: Observed


@dataclass(frozen=True, slots=True)
class Deleted:
    """A Secret was deleted, or left the selection."""

    observed: Observed


@dataclass(frozen=True, slots=True)
class Bookmark:
    """Nothing happened up to this version."""

    resource_version: str


@dataclass(frozen=True, slots=True)
class Failure:
    """The server ends the watch, with what a request would have been answered."""

    error: ApiError


@dataclass(frozen=True, slots=True)
class Unknown:
    """An event of a type that we don't know, and so can do without."""


WatchEvent = Changed | Deleted | Bookmark | Failure | Unknown


class _Event(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


class _Version(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str


class _Bookmark(msgspec.Struct, frozen=True):
    metadata: _Version


_event_decoder = msgspec.json.Decoder(_Event)
_bookmark_decoder = msgspec.json.Decoder(_Bookmark)


def read_event(line: bytes) -> WatchEvent:
    """The event of a line. Raises ValueError for anything else, RecursionError for what is nested too deeply."""
    event = _event_decoder.decode(line)
    match event.type:
        case "ADDED" | "MODIFIED":
            return Changed(project(event.object))
        case "DELETED":
            return Deleted(project(event.object))
        case "BOOKMARK":
            return Bookmark(_bookmark_decoder.decode(event.object).metadata.resource_version)
        case "ERROR":
            status = read_status(event.object)
            return Failure(error_from("watch secrets", status.code, status))
    return Unknown()
