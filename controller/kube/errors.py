"""Failures of the API server, as the few classes that decide what happens next."""

from __future__ import annotations


class StartError(Exception):
    """The controller can't start; the text tells a person why."""


class ApiError(Exception):
    """The API server answered with a failure, or not at all.

    The text is made of the verb, the resource, the status reason (an enumeration of Kubernetes) and names: the policy
    or webhook that refused, what RBAC doesn't allow, the fields that are invalid. It quotes nothing else of a body.
    """

    retry_after_seconds: float | None = None
    why: str = ""
    """Of a refusal: by which policy or webhook, what RBAC doesn't allow, or which fields are invalid."""


class Unavailable(ApiError):
    """No answer, 429 or 5xx: try again, not before `retry_after_seconds` if the server gave that."""

    def __init__(self, detail: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class TooLarge(Unavailable):
    """The answer has more bytes than we hold in memory."""


class Unauthorized(ApiError):
    """401, with the newest credentials there are."""


class Forbidden(ApiError):
    """403: RBAC or an admission policy."""


class NotFound(ApiError):
    """404: deleted meanwhile, or not installed."""


class Conflict(ApiError):
    """409: somebody wrote since the version that we decided on. Ordinary life."""


class Invalid(ApiError):
    """400, 413 or 422: the request itself will never pass."""


class Gone(ApiError):
    """410, or reason Expired: the resource version is too old to go on from."""


class FutureVersion(ApiError):
    """504 "Too large resource version": the server hasn't seen that version, so it may have been restored."""
