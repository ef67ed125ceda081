"""What people are told, as Events on the Secret, in the constant words of core/errors.py."""

from __future__ import annotations

from controller.core.errors import Rejection
from controller.core.model import ManagedSecret
from controller.kube.events import EventRecorder


class Notices:
    """Tells by Events; see reconciler.Tells."""

    def __init__(self, events: EventRecorder) -> None:
        self._events = events

    def token_written(self, secret: ManagedSecret) -> None:
        """See Tells."""
        self._events.record(
            secret, kind="Normal", reason="TokenWritten", message="the Secret holds a token for its identity"
        )

    def rejected(self, secret: ManagedSecret, rejection: Rejection) -> None:
        """See Tells."""
        message = rejection.text.removeprefix(f"{rejection.problem.reason}: ")
        self._events.record(secret, kind="Warning", reason=rejection.problem.reason, message=message)
