"""The annotations: the only place that knows their keys, and how their values are read and written.

Instants are RFC 3339, whole seconds, UTC. A value that can't be read is None, never an error: the credential is then
due once, and our write corrects it.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

PREFIX = "pull-secret-updater.chainguard.dev/"
IDENTITY = PREFIX + "identity"
TARGET = PREFIX + "target"
"""The target that has made the Secret."""
CREATED_BY = PREFIX + "created-by"
"""The label of a Secret that a target has made: the installation that did, as `<namespace>.<ServiceAccount>`."""
IGNORED_BY_RELOADER = {"reloader.stakater.com/ignore": "true"}
"""On a Secret that a target makes, so that Reloader restarts nothing at a refresh; never put back or taken away."""
TARGETS = PREFIX + "targets"
"""On a namespace: `none` keeps every target out of it."""
ATTACHED = PREFIX + "attached"
"""On a ServiceAccount: the imagePullSecrets that were added, each as `<name>@<installation>`, with commas between."""
MAX_HOSTS = 128
"""In one list, so that an annotation of 256 KiB is not kept in memory. No more are written, since no provider may have
more, and a longer list is not cut in silence."""


@dataclass(frozen=True, slots=True)
class Written:
    """The annotations that the controller writes for one claim, in the same patch as the credential."""

    issued_at: int
    expires_at: int
    refresh_at: int | None
    """None where it is not known yet; only people read it."""
    issued_for: str
    fingerprint: str
    hosts: tuple[str, ...]
    refreshed_for: str | None
    error: str | None = None
    """What is wrong although the token is valid."""


def only_ours(annotations: Mapping[str, str]) -> dict[str, str]:
    """Our annotations, by key without prefix. The rest is dropped: it can hold a whole Secret (last-applied)."""
    return {key.removeprefix(PREFIX): value for key, value in annotations.items() if key.startswith(PREFIX)}


def claim_names(ours: Mapping[str, str]) -> Iterator[str]:
    """The names of the claims: "" for `identity`, `<provider>` for `identity.<provider>`."""
    for key in sorted(ours):
        if key == "identity":
            yield ""
        elif key.startswith("identity.") and key != "identity.":
            yield key.removeprefix("identity.")


def suffixed(key: str, claim: str) -> str:
    """The key of one claim's own annotation, without the prefix."""
    return f"{key}.{claim}" if claim else key


def read_instant(value: str | None) -> int | None:
    """Seconds since the epoch; None if missing or unreadable."""
    try:
        parsed = parse_rfc3339(value or "")
        return int(parsed.timestamp()) if parsed.tzinfo else None
    except (ValueError, OverflowError):
        return None


def parse_rfc3339(value: str) -> dt.datetime:
    """A date and time by RFC 3339, whose letters may be lower case (5.6). Raises ValueError."""
    return dt.datetime.fromisoformat(value.upper())


def render_instant(instant: float) -> str:
    """RFC 3339 of whole seconds, UTC."""
    return dt.datetime.fromtimestamp(int(instant), dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_hosts(value: str | None) -> tuple[str, ...] | None:
    """The entries of a comma-separated list as they are written; None if it has none.

    Of more than MAX_HOSTS there is one more, by which one sees that there were too many.
    """
    hosts = (host.strip() for host in (value or "").split(","))
    return tuple(itertools.islice(filter(None, hosts), MAX_HOSTS + 1)) or None


def read_managed_hosts(value: str | None) -> tuple[str, ...]:
    """The hosts that we wrote. More than MAX_HOSTS are none of ours, like anything that can't be read."""
    hosts = read_hosts(value) or ()
    return hosts if len(hosts) <= MAX_HOSTS else ()


def render_written(claim: str, written: Written) -> dict[str, str | None]:
    """The merge patch of the annotations after a success; None removes a key."""
    values = {
        "issued-at": render_instant(written.issued_at),
        "expires-at": render_instant(written.expires_at),
        "refresh-at": None if written.refresh_at is None else render_instant(written.refresh_at),
        "issued-for": written.issued_for,
        "fingerprint": written.fingerprint,
        "registries-managed": ",".join(written.hosts),
        "refreshed-for": written.refreshed_for,
        "error": written.error,
    }
    return {PREFIX + suffixed(key, claim): value for key, value in values.items()}


def render_wiped(claim: str, error: str) -> dict[str, str | None]:
    """The merge patch of the annotations once the token has been taken away."""
    keys = ("issued-at", "expires-at", "refresh-at", "issued-for", "fingerprint", "registries-managed", "refreshed-for")
    return {**{PREFIX + suffixed(key, claim): None for key in keys}, **render_error(claim, error)}


def render_inputs(
    *,
    target: str | None,
    identity: str | None,
    provider: str | None,
    registries: tuple[str, ...] | None,
    service_account: str | None,
) -> dict[str, str | None]:
    """The annotations of a Secret that a target has made, as a merge patch; None removes a key."""
    return {
        TARGET: target,
        PREFIX + "identity": identity,
        PREFIX + "provider": provider,
        PREFIX + "registries": ",".join(registries) if registries else None,
        PREFIX + "service-account": service_account,
    }


def read_attached(value: str | None, installation: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of a ServiceAccount's annotation: the names that this installation has added, and the entries of others."""
    entries = tuple(entry for entry in (value or "").split(",") if entry)
    ours = tuple(entry.rpartition("@")[0] for entry in entries if entry.rpartition("@")[2] == installation)
    return ours, tuple(entry for entry in entries if entry.rpartition("@")[2] != installation)


def render_attached(ours: Sequence[str], others: Sequence[str], installation: str) -> str | None:
    """The annotation's value; None to remove it."""
    return ",".join((*others, *(f"{name}@{installation}" for name in ours))) or None


def render_error(claim: str, text: str | None) -> dict[str, str | None]:
    """The merge patch of the annotations that sets or removes `error`."""
    return {PREFIX + suffixed("error", claim): text}
