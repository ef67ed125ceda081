"""What the API server's answers mean; the one place where a failure becomes one of our errors.

The HTTP status and the `Status` object in the body say what failed; a watch delivers the same object in an ERROR event
(pkg/apis/meta/v1/types.go). Into an error's text go its machine-readable reason and the fields that are invalid, and of
its message only names, where it has the very form of Kubernetes: who refused the request, or what RBAC doesn't allow.
The rest of a message can quote the request.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from controller.kube.errors import (
    ApiError,
    Conflict,
    Forbidden,
    FutureVersion,
    Gone,
    Invalid,
    NotFound,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from controller.net import transport

T = TypeVar("T")

_REASON = re.compile(r"[A-Z][A-Za-z]{1,63}")
_FIELD = re.compile(r"[a-z][A-Za-z]{0,63}(\.[a-z][A-Za-z]{0,63}|\[[A-Za-z0-9._-]{1,253}\]){0,8}")
_NAME = r"[a-z0-9][a-z0-9.-]{0,252}"
_FORBIDDEN = rf'[a-z0-9.]+(?: "{_NAME}")? is forbidden: '
_CANNOT = rf'{_FORBIDDEN}User "[^"]*" cannot ([a-z]{{1,32}}) resource "([a-z/]{{1,64}})" in API group "[a-z0-9.]*"'
_EXPLANATIONS = tuple(
    (re.compile(pattern), sentence)
    for pattern, sentence in (
        # apiserver/pkg/endpoints/handlers/responsewriters/errors.go
        (rf'{_CANNOT} in the namespace "({_NAME})"', "cannot {} {} in the namespace {}"),
        (rf"{_CANNOT} at the cluster scope", "cannot {} {} at the cluster scope"),
        # apiserver/pkg/admission/plugin/policy/validating/dispatcher.go
        (
            rf"{_FORBIDDEN}ValidatingAdmissionPolicy '({_NAME})'(?: with binding '{_NAME}')? denied request",
            "denied by ValidatingAdmissionPolicy {}",
        ),
        # apiserver/pkg/admission/plugin/webhook/errors/statuserror.go, and webhook/errors.go beside it
        (rf'admission webhook "({_NAME})" denied the request', "denied by admission webhook {}"),
        (rf'Internal error occurred: failed calling webhook "({_NAME})"', "admission webhook {} can't be called"),
    )
)
"""How messages of Kubernetes begin that say more than the reason, each with what we say of it."""

_FIELDS_TOLD = 3


class _Cause(msgspec.Struct, frozen=True):
    reason: str = ""
    field: str = ""


class _Details(msgspec.Struct, frozen=True, rename="camel"):
    causes: list[_Cause] | None = None
    retry_after_seconds: float | None = None


class Status(msgspec.Struct, frozen=True):
    """The part of a Kubernetes `Status` that we need."""

    code: int = 0
    reason: str = ""
    message: str = ""
    details: _Details | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list; `continue_token` gets the next, None after the last."""

    items: list[msgspec.Raw]
    resource_version: str
    continue_token: str | None
    size: int
    """Bytes."""


class _ListMeta(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str
    continue_: str = msgspec.field(name="continue", default="")


class _List(msgspec.Struct, frozen=True):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class _UserInfo(msgspec.Struct, frozen=True):
    username: str


class _ReviewStatus(msgspec.Struct, frozen=True, rename="camel"):
    user_info: _UserInfo


class _SelfSubjectReview(msgspec.Struct, frozen=True):
    status: _ReviewStatus


class _IssuedToken(msgspec.Struct, frozen=True):
    token: str

    def __repr__(self) -> str:
        return "_IssuedToken(...)"


class _TokenRequest(msgspec.Struct, frozen=True):
    status: _IssuedToken


class _AccessStatus(msgspec.Struct, frozen=True, rename="camel"):
    allowed: bool
    evaluation_error: str = ""


class _SubjectAccessReview(msgspec.Struct, frozen=True):
    status: _AccessStatus


class _ManagedFields(msgspec.Struct, frozen=True, rename="camel"):
    manager: str = ""
    time: str = ""


class _Managed(msgspec.Struct, frozen=True, rename="camel"):
    managed_fields: list[_ManagedFields] = []


class _MetadataOnly(msgspec.Struct, frozen=True):
    metadata: _Managed


_NO_STATUS = Status()
_status_decoder = msgspec.json.Decoder(Status)


def read_page(body: bytes, what: str) -> Page:
    """A page of a list; `what` is verb and resource. Raises Unavailable when it isn't one."""
    page = _decode(body, _List, what=what)
    return Page(page.items or [], page.metadata.resource_version, page.metadata.continue_ or None, len(body))


def read_last_manager(body: bytes, *, other_than: str) -> str:
    """The field manager that wrote an object last, other than this one; "" if its metadata names none.

    A name is up to 128 printable characters that a client chose (metav1.ManagedFieldsEntry).
    """
    managed = _decode(body, _MetadataOnly, what="get secret").metadata.managed_fields
    others = [entry for entry in managed if entry.manager not in ("", other_than) and entry.manager.isprintable()]
    return max(others, key=lambda entry: entry.time).manager[:128] if others else ""


def read_user_name(body: bytes) -> str:
    """Our user name, from a SelfSubjectReview. Raises Unavailable when it isn't one."""
    return _decode(body, _SelfSubjectReview, what="create selfsubjectreviews").status.user_info.username


def read_token(body: bytes, what: str) -> str:
    """The token in the answer to a TokenRequest. Raises Unavailable when there is none."""
    return _decode(body, _TokenRequest, what=what).status.token


def read_access(body: bytes, what: str) -> bool:
    """Whether a SubjectAccessReview allows it. Raises Unavailable when an authorizer has failed and none says yes."""
    status = _decode(body, _SubjectAccessReview, what=what).status
    if status.evaluation_error and not status.allowed:
        raise Unavailable(f"{what}: an authorizer of the cluster failed")
    return status.allowed


def read_status(body: bytes | msgspec.Raw) -> Status:
    """The `Status` in a body; an empty one if there is none, as behind a proxy that answers in HTML."""
    try:
        return _status_decoder.decode(body)
    except (ValueError, RecursionError):
        return _NO_STATUS


def error_from(what: str, code: int, status: Status, *, retry_after_seconds: float | None = None) -> ApiError:
    """The error for a failed request. `what` is verb and resource; the header's `Retry-After` wins over the body's."""
    reason = status.reason if _REASON.fullmatch(status.reason) else ""
    why = _explanation(status)
    error = _error_of(f"{what}: {code} {reason}".rstrip() + (why and f", {why}"), code, reason, status)
    error.why = why
    if isinstance(error, Unavailable):
        in_body = status.details.retry_after_seconds if status.details is not None else None
        error.retry_after_seconds = in_body if retry_after_seconds is None else retry_after_seconds
    return error


def _error_of(text: str, code: int, reason: str, status: Status) -> ApiError:
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
    return Unavailable(text)


def no_answer(what: str, error: Exception) -> Unavailable:
    """The error for a request that got no complete answer."""
    kind = TooLarge if isinstance(error, transport.TooLarge) else Unavailable
    return kind(f"{what}: {error}" if str(error) else f"{what}: no answer in time")


def _explanation(status: Status) -> str:
    """Who refused the request, what isn't allowed, or which fields are invalid; empty where that can't be told."""
    for pattern, sentence in _EXPLANATIONS:
        if match := pattern.match(status.message):
            return sentence.format(*match.groups())
    causes = (status.details and status.details.causes) or ()
    fields = [cause.field for cause in causes if _FIELD.fullmatch(cause.field)]
    return f"invalid: {', '.join(fields[:_FIELDS_TOLD])}" if fields else ""


def _decode(body: bytes, kind: type[T], *, what: str) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (ValueError, RecursionError) as error:
        raise Unavailable(f"{what}: the answer is not what was asked for") from error
