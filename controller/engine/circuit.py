"""A provider that fails for everyone is probed now and then instead of asked."""

from __future__ import annotations

from collections.abc import Hashable

from controller.core.errors import Problem
from controller.core.schedule import fraction

_NOT_ASKED = frozenset(
    {
        *(Problem.PROOF_MISSING, Problem.PROOF_UNFIT, Problem.CA_FILE_UNFIT, Problem.UNEXPECTED),
        *(Problem.SERVICE_ACCOUNT_MISSING, Problem.TOKEN_REQUEST_REFUSED, Problem.TOKEN_REQUEST_FAILS),
    }
)
"""Problems on our side or the API server's, which say nothing about the provider."""
_FAILURES = 20
_KEYS = 3
_PROBE_SECONDS = (10.0, 30.0)
_URGENT_PROBE_SECONDS = (5.0, 10.0)


class Circuit:
    """Opens after 20 failures in a row that are the provider's fault, of at least three mint keys.

    While it is open, of the keys whose last request failed one probes the provider every 10 to 30 s; every 5 to 10 s if
    a claim without a valid token asks. Any answer closes it, even a refusal. Other keys are always asked for: those
    that fail must not hold them up, and in an outage each of them costs one request.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._failures = 0
        self._failing: set[Hashable] = set()
        """Up to three of the keys that failed since the last success."""
        self._probed_at: float | None = None
        """The last probe, or when the circuit opened; None while it is closed."""

    @property
    def is_open(self) -> bool:
        """Whether the provider is only probed."""
        return self._probed_at is not None

    def probe_at(self, *, urgent: bool) -> float:
        """When the next probe may start; for an `urgent` asker, one without a valid token, that is sooner."""
        probed_at = self._probed_at or 0.0
        low, high = _URGENT_PROBE_SECONDS if urgent else _PROBE_SECONDS
        return probed_at + low + (high - low) * fraction(self._name, int(probed_at))

    def admits(self, now: float, *, urgent: bool) -> bool:
        """Whether a request for a key that failed last time may start now; if the circuit is open, it is the probe."""
        if self._probed_at is None:
            return True
        if self._probed_at <= now < self.probe_at(urgent=urgent):  # a probe of the future: the clock was set back
            return False
        self._probed_at = now
        return True

    def note(self, key: Hashable, problem: Problem | None, now: float) -> bool:
        """Count an outcome; None is a success. Returns whether it closed the circuit."""
        if problem in _NOT_ASKED:
            return False
        if problem is None or not problem.providers_fault:
            closes, self._probed_at, self._failures = self.is_open, None, 0
            self._failing.clear()
            return closes
        self._failures += 1
        if len(self._failing) < _KEYS:
            self._failing.add(key)
        if self._failures >= _FAILURES and len(self._failing) >= _KEYS and self._probed_at is None:
            self._probed_at = now
        return False
