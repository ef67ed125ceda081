"""The annotations: the only place that knows their keys, and how their values are read and written.

Instants are RFC 3339, whole seconds, UTC. A value that can't be read is None, never an error: the credential is then
due once, and what we write is right again.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

PREFIX = "pull-secret-updater.chainguard.dev/"
IDENTITY = PREFIX + "identity"
MAX_HOSTS = 128
"""Of one list; what comes behind is passed over, so that an annotation of 256 KiB is not kept."""


@dataclass(frozen=True, slots=True)
class Written:
    """What the controller writes for one claim, beside the credential and in the same patch."""

    issued_at: int
    expires_at: int
    refresh_at: int
    issued_for: str
    fingerprint: str
    hosts: tuple[str, ...]
    refreshed_for: str | None


def only_ours(annotations: Mapping[str, str]) -> dict[str, str]:
    """Our annotations, by key without prefix. The rest is dropped: `last-applied-configuration` holds whole Secrets."""
    return {key.removeprefix(PREFIX): value for key, value in annotations.items() if key.startswith(PREFIX)}


def claim_names(ours: Mapping[str, str]) -> Iterator[str]:
    """The claims that are asked for, by name: "" for `identity`, `<provider>` for `identity.<provider>`."""
    for key in sorted(ours):
        if key == "identity":
            yield ""
        elif key.startswith("identity.") and key != "identity.":
            yield key.removeprefix("identity.")


def suffixed(key: str, claim: str) -> str:
    """The key of one claim's own annotation, without the prefix."""
    return f"{key}.{claim}" if claim else key


def read_instant(value: str | None) -> int | None:
    """Seconds since the epoch, None where missing or unreadable."""
    try:
        parsed = dt.datetime.fromisoformat(value or "")
        return int(parsed.timestamp()) if parsed.tzinfo else None
    except (ValueError, OverflowError):
        return None


def render_instant(instant: float) -> str:
    """RFC 3339 of whole seconds, UTC."""
    return dt.datetime.fromtimestamp(int(instant), dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_hosts(value: str | None) -> tuple[str, ...] | None:
    """The entries of a comma-separated list as they stand, MAX_HOSTS at most; None for none."""
    hosts = tuple(host.strip() for host in (value or "").split(",", MAX_HOSTS)[:MAX_HOSTS] if host.strip())
    return hosts or None


def render_written(claim: str, written: Written) -> dict[str, str | None]:
    """The merge patch of the annotations after a success; None removes a key."""
    values = {
        "issued-at": render_instant(written.issued_at),
        "expires-at": render_instant(written.expires_at),
        "refresh-at": render_instant(written.refresh_at),
        "issued-for": written.issued_for,
        "fingerprint": written.fingerprint,
        "registries-managed": ",".join(written.hosts),
        "refreshed-for": written.refreshed_for,
        "error": None,
    }
    return {PREFIX + suffixed(key, claim): value for key, value in values.items()}


def render_error(claim: str, text: str | None) -> dict[str, str | None]:
    """The merge patch of the annotations that sets or removes `error`."""
    return {PREFIX + suffixed("error", claim): text}
