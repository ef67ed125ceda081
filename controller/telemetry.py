"""Every metric name and log key, and what keeps credentials out of both.

Label values come from fixed sets, and every series exists from the start, so that an alert never waits for a first
event. `where` and `redact` are the only way that an exception or a stranger's text gets into the log.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from controller.core.errors import Problem
from controller.core.model import Reason, Ref

Result = Literal["written", "unchanged", "conflict", "failed", "refused"]

RESULTS: tuple[Result, ...] = ("written", "unchanged", "conflict", "failed", "refused")
MINT_PROBLEMS = (
    Problem.MINT_REFUSED,
    Problem.IDENTITY_UNKNOWN,
    Problem.REQUEST_REFUSED,
    Problem.PROOF_MISSING,
    Problem.PROOF_UNFIT,
    Problem.CA_FILE_UNFIT,
    Problem.TOKEN_UNFIT,
    Problem.ISSUER_THROTTLES,
    Problem.ISSUER_UNAVAILABLE,
    Problem.ISSUER_MALFORMED,
    Problem.UNEXPECTED,
)
MINTED = "Minted"
CLEANUP_RESULTS = ("done", "failed")

_PREFIX = "pull_secret_updater_"
_MINT_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LATENESS_BUCKETS = (0.01, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0)


@dataclass(frozen=True, slots=True)
class Census:
    """The state of all claims at one instant; paused Secrets are in none of the expiry figures."""

    managed: int
    expired: int
    expired_seconds: float
    earliest_expiry: float | None
    expiries: Mapping[Ref, float]
    """The earliest expiry per Secret; empty unless series per Secret are wanted."""


class HasDepth(Protocol):
    """A queue."""

    @property
    def depth(self) -> int:
        """How many claims are due and wait for a worker."""
        ...


class HasOpen(Protocol):
    """A circuit."""

    @property
    def is_open(self) -> bool:
        """The provider is only probed."""
        ...


class Telemetry:
    """The metrics of one process, in a registry of its own."""

    def __init__(
        self,
        *,
        providers: Collection[str],
        policies: Collection[str],
        relist_reasons: Collection[str],
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # untyped upstream
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._refreshes = self._counter(
            "refreshes", "Refreshes by what came of them and why they were due.", ("provider", "result", "reason")
        )
        self._mints = self._counter("mints", "Requests for a token, by outcome.", ("provider", "result"))
        self._cleanups = self._counter(
            "cleanups", "Clean-ups of old tokens at an issuer, by outcome.", ("provider", "result")
        )
        self._relists = self._counter("relists", "Lists of all Secrets, by what made them necessary.", ("reason",))
        self._mint_duration = self._histogram("mint_duration_seconds", "How long issuers took.", _MINT_BUCKETS)
        self._lateness = self._histogram(
            "refresh_lateness_seconds", "How long after its deadline a refresh began.", _LATENESS_BUCKETS
        )
        self._queue_depth = self._gauge("queue_depth", "Claims that are due and wait for a worker.", ("provider",))
        self._circuit_open = self._gauge("circuit_open", "1 while a failing issuer is only probed.", ("provider",))
        self._policy_installed = self._gauge(
            "policy_installed", "1 if the admission policy and its binding are there.", ("policy",)
        )
        self._watch_refused = self._gauge("watch_refused", "Watches that the API server refuses: RBAC is missing.")
        self._watch_age = self._gauge("watch_age_seconds", "Since the API server was last heard, longest of all.")
        for provider in providers:
            for result in RESULTS:
                for reason in Reason:
                    self._refreshes.labels(provider, result, reason.value)
            for outcome in (MINTED, *(problem.reason for problem in MINT_PROBLEMS)):
                self._mints.labels(provider, outcome)
            for cleanup_result in CLEANUP_RESULTS:
                self._cleanups.labels(provider, cleanup_result)
        for policy in policies:
            self._policy_installed.labels(policy)
        for relist_reason in relist_reasons:
            self._relists.labels(relist_reason)

    def minted(self, provider: str, problem: Problem | None, seconds: float) -> None:
        """Count one request for a token; `problem` None is a success."""
        self._mints.labels(provider, problem.reason if problem else MINTED).inc()
        self._mint_duration.observe(seconds)

    def cleaned(self, provider: str, *, succeeded: bool) -> None:
        """Count one clean-up of old tokens."""
        self._cleanups.labels(provider, CLEANUP_RESULTS[0 if succeeded else 1]).inc()

    def refreshed(self, provider: str, result: Result, reason: Reason) -> None:
        """Count what came of a refresh."""
        self._refreshes.labels(provider, result, reason.value).inc()

    def begun(self, lateness_seconds: float) -> None:
        """A claim was taken from its queue so long after its deadline."""
        self._lateness.observe(max(0.0, lateness_seconds))

    def relisted(self, reason: str) -> None:
        """Count a list of all Secrets."""
        self._relists.labels(reason).inc()

    def policy_installed(self, policy: str, installed: bool) -> None:
        """Say whether an admission policy was found."""
        self._policy_installed.labels(policy).set(installed)

    def watch_provider(self, provider: str, queue: HasDepth, circuit: HasOpen) -> None:
        """Read both at every scrape."""
        self._queue_depth.labels(provider).set_function(lambda: queue.depth)
        self._circuit_open.labels(provider).set_function(lambda: circuit.is_open)

    def watch_state(self, *, age_seconds: Callable[[], float], refused: Callable[[], int]) -> None:
        """Read these at every scrape."""
        self._watch_age.set_function(age_seconds)
        self._watch_refused.set_function(refused)

    def watch_census(self, census: Callable[[], Census]) -> None:
        """Take a census of the claims at every scrape."""
        self.registry.register(_CensusCollector(census))

    def _counter(self, name: str, text: str, labels: Iterable[str] = ()) -> Counter:
        return Counter(_PREFIX + name, text, tuple(labels), registry=self.registry)

    def _gauge(self, name: str, text: str, labels: Iterable[str] = ()) -> Gauge:
        return Gauge(_PREFIX + name, text, tuple(labels), registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(_PREFIX + name, text, buckets=buckets, registry=self.registry)


class _CensusCollector(Collector):
    def __init__(self, census: Callable[[], Census]) -> None:
        self._census = census

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        census = self._census()
        earliest = float("nan") if census.earliest_expiry is None else census.earliest_expiry
        yield GaugeMetricFamily(_PREFIX + "managed_claims", "Identities that Secrets ask for.", value=census.managed)
        yield GaugeMetricFamily(
            _PREFIX + "secret_expires_timestamp_seconds_min", "The earliest expiry; NaN with none.", value=earliest
        )
        yield GaugeMetricFamily(_PREFIX + "expired_claims", "Claims whose token has expired.", value=census.expired)
        yield CounterMetricFamily(
            _PREFIX + "expired_seconds",
            "Seconds that claims were without a valid token after having had one.",
            value=census.expired_seconds,
        )
        if census.expiries:
            per_secret = GaugeMetricFamily(
                _PREFIX + "secret_expires_timestamp_seconds", "Expiry per Secret.", labels=("namespace", "name")
            )
            for ref, expiry in census.expiries.items():
                per_secret.add_metric(ref, expiry)
            yield per_secret


# What a token can look like in a stranger's text: a JWT or its start, or any long run of its alphabets; but for what
# people need to see, identities of hexadecimal segments and of GUIDs.
_CREDENTIAL = re.compile(r"eyJ[\w.-]{8,}|[A-Za-z0-9+/_-]{60,}={0,2}")
_IDENTITY = re.compile(r"[0-9a-f]{40}(/[0-9a-f]{16})+|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(/[0-9a-f-]{36})?")


def redact(text: str) -> str:
    """The text without anything that may be a credential."""
    return _CREDENTIAL.sub(lambda found: found[0] if _IDENTITY.fullmatch(found[0]) else "[redacted]", text)


def where(error: BaseException) -> list[str]:
    """An exception's classes and places, outermost cause last, without its words: those may quote what it choked on."""
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
        _what_happened_first,
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
    """Of a library's entry: asyncio puts an exception's text into the lines below."""
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


def _what_happened_first(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {key: event.pop(key) for key in ("timestamp", "level", "event") if key in event} | dict(event)
