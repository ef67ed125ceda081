"""What the API server's answers mean; the one place where a failure becomes one of our errors.

A failure is told by its HTTP status and by the `Status` object in its body, and a watch delivers the same object in
an ERROR event (pkg/apis/meta/v1/types.go). Nothing but the machine-readable reason of it goes into an error's text:
messages quote what was sent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from controller.core.errors import (
    ApiError,
    Conflict,
    Forbidden,
    FutureVersion,
    Gone,
    Invalid,
    NotFound,
    Unauthorized,
    Unavailable,
)

T = TypeVar("T")

_REASON = re.compile(r"[A-Z][A-Za-z]{1,63}")


class _Cause(msgspec.Struct, frozen=True):
    reason: str = ""


class _Details(msgspec.Struct, frozen=True, rename="camel"):
    causes: list[_Cause] | None = None
    retry_after_seconds: float | None = None


class Status(msgspec.Struct, frozen=True):
    """The part of a Kubernetes `Status` that decides."""

    code: int = 0
    reason: str = ""
    details: _Details | None = None


@dataclass(frozen=True, slots=True)
class SecretPage:
    """A part of a list; `continue_token` gets the next, None after the last."""

    items: list[msgspec.Raw]
    resource_version: str
    continue_token: str | None


class _ListMeta(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str
    continue_: str = msgspec.field(name="continue", default="")


class _SecretList(msgspec.Struct, frozen=True):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class _UserInfo(msgspec.Struct, frozen=True):
    username: str


class _ReviewStatus(msgspec.Struct, frozen=True, rename="camel"):
    user_info: _UserInfo


class _SelfSubjectReview(msgspec.Struct, frozen=True):
    status: _ReviewStatus


_NO_STATUS = Status()
_status_decoder = msgspec.json.Decoder(Status)


def read_page(body: bytes) -> SecretPage:
    """A page of a list of Secrets. Raises Unavailable when it isn't one."""
    page = _decode(body, _SecretList, what="list secrets")
    return SecretPage(page.items or [], page.metadata.resource_version, page.metadata.continue_ or None)


def read_user_name(body: bytes) -> str:
    """Who a SelfSubjectReview says that we are. Raises Unavailable when it isn't one."""
    return _decode(body, _SelfSubjectReview, what="create selfsubjectreviews").status.user_info.username


def read_status(body: bytes | msgspec.Raw) -> Status:
    """The `Status` in a body; an empty one where there is none, as behind a proxy that speaks HTML."""
    try:
        return _status_decoder.decode(body)
    except (ValueError, RecursionError):
        return _NO_STATUS


def error_from(what: str, code: int, status: Status, *, retry_after_seconds: float | None = None) -> ApiError:
    """The error for a failed request. `what` is verb and resource; the header's `Retry-After` wins over the body's."""
    reason = status.reason if _REASON.fullmatch(status.reason) else ""
    text = f"{what}: {code} {reason}".rstrip()
    causes = (status.details and status.details.causes) or ()
    if any(cause.reason == "ResourceVersionTooLarge" for cause in causes):
        return FutureVersion(text)
    if code == 410 or reason in ("Expired", "Gone"):
        return Gone(text)
    match code:
        case 401:
            return Unauthorized(text)
        case 403:
            return Forbidden(text)
        case 404:
            return NotFound(text)
        case 409:
            return Conflict(text)
        case 408 | 429:
            pass
        case _ if 400 <= code < 500:
            return Invalid(text)
    if retry_after_seconds is None and status.details is not None:
        retry_after_seconds = status.details.retry_after_seconds
    return Unavailable(text, retry_after_seconds=retry_after_seconds)


def no_answer(what: str, error: Exception) -> Unavailable:
    """The error for a request that got no complete answer."""
    return Unavailable(f"{what}: {error}" if str(error) else f"{what}: no answer in time")


def _decode(body: bytes, kind: type[T], *, what: str) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (ValueError, RecursionError) as error:
        raise Unavailable(f"{what}: the answer is not what was asked for") from error
