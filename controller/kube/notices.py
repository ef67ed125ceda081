"""What people read about a Secret beside its `error` annotation: Events, in the constant words of core/errors.py."""

from __future__ import annotations

from controller.core.errors import Rejection
from controller.core.model import ManagedSecret
from controller.kube.events import EventRecorder, Subject


class Notices:
    """Turns what the engine found into Events."""

    def __init__(self, events: EventRecorder) -> None:
        self._events = events

    def token_written(self, secret: ManagedSecret) -> None:
        """The Secret holds a token of an identity that it did not hold one of before."""
        self._events.record(
            secret, kind="Normal", reason="TokenWritten", message="the Secret holds a token for its identity"
        )

    def recovered(self, secret: ManagedSecret) -> None:
        """The Secret had an error, and has a valid token again."""
        self._events.record(
            secret, kind="Normal", reason="Recovered", message="the error is gone; the Secret holds a valid token"
        )

    def rejected(self, secret: Subject, rejection: Rejection) -> None:
        """The Secret isn't filled, or a target isn't served, and this is why."""
        message = rejection.text.removeprefix(f"{rejection.problem.reason}: ")
        self._events.record(secret, kind="Warning", reason=rejection.problem.reason, message=message)
