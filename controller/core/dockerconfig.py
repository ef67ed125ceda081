"""Read .dockerconfigjson as the kubelet does, and put our hosts into it without touching what isn't ours.

The kubelet's rules: pkg/credentialprovider/config.go and keyring.go of Kubernetes. Foreign entries and top-level keys
keep their bytes and their order.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import msgspec

MAX_BYTES = 1024 * 1024
"""Kubernetes allows 1 MiB for the values of a Secret together (core/v1 MaxSecretSize)."""

_YEAR_10000 = 253_402_300_800
"""Seconds since the epoch; instants from here on can't be rendered."""

_DOCKER_HUB = "index.docker.io"
_DOCKER_HUB_KEY = "https://index.docker.io/v1/"
_ALIASES = {"docker.io": _DOCKER_HUB, "registry-1.docker.io": _DOCKER_HUB}


class Unreadable(ValueError):
    """Not a docker config. Holds nothing of it."""


class _Entry(msgspec.Struct, frozen=True):
    username: str = ""
    password: str = ""
    auth: str = ""


@dataclass(frozen=True, slots=True)
class DockerConfig:
    """A .dockerconfigjson, split no further than needed."""

    top: dict[str, msgspec.Raw]
    auths: dict[str, msgspec.Raw]
    entries: dict[str, msgspec.Raw]
    """Of `auths`, by normalised host."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """The normalised hosts that have an entry, sorted."""
        return tuple(sorted(self.entries))

    @property
    def plain(self) -> bool:
        """Nothing is in it but `auths`, with one canonical key per host."""
        return self.top.keys() <= {"auths"} and self.auths.keys() == set(map(canonical_key, self.entries))


EMPTY = DockerConfig({}, {}, {})


def parse(content: bytes) -> DockerConfig:
    """Split a .dockerconfigjson. Empty, `null` and `auths: null` mean empty. Raises Unreadable."""
    top = _object(content)
    auths = _object(bytes(top["auths"])) if "auths" in top else {}
    return DockerConfig(top, auths, {normalise(key): raw for key, raw in auths.items()})


def normalise(key: str) -> str:
    """The registry that the kubelet takes a key for: no scheme, lower-case host, no /v1/ or /v2/, no trailing slash."""
    rest = key.strip()
    for scheme in ("https://", "http://"):
        if rest.lower().startswith(scheme):
            rest = rest[len(scheme) :]
    host, _, path = rest.partition("/")
    host = host.lower()
    path = "/" + path
    for version in ("/v1/", "/v2/"):
        if (path + "/").startswith(version):
            path = path[len(version) - 1 :]
            break
    return _ALIASES.get(host, host) + path.rstrip("/")


def canonical_key(host: str) -> str:
    """The key that every reader of docker configs understands for a normalised host."""
    return _DOCKER_HUB_KEY if host == _DOCKER_HUB else host


def broken_hosts(config: DockerConfig) -> tuple[str, ...]:
    """The normalised hosts whose entry is not a JSON object, sorted. `null` means empty."""
    broken = {key for key, raw in config.auths.items() if bytes(raw)[:1] != b"{" and bytes(raw) != b"null"}
    return tuple(sorted({normalise(key) for key in broken}))


def credentials(config: DockerConfig, hosts: Collection[str]) -> dict[str, tuple[str, str]]:
    """(user, password) of those of `hosts` that have an entry, as the kubelet decodes them: `auth` wins.

    One that the kubelet could not decode counts as ("", "").
    """
    return {host: _credential(config.entries[host]) for host in hosts if host in config.entries}


def fingerprint(entries: Mapping[str, tuple[str, str]]) -> str:
    """16 hex that change when a user or password does, and don't when the JSON is only formatted anew."""
    compact = json.dumps({host: list(pair) for host, pair in entries.items()}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(compact.encode()).hexdigest()[:16]


def merge(
    config: DockerConfig, *, hosts: Collection[str], username: str, password: str, remove: Collection[str] = ()
) -> bytes:
    """The config with this credential for each of `hosts`, and without `remove`; compact, entries in their old order.

    Several keys that mean the same host of ours become one.
    """
    entry = _render_entry(username, password)
    auths: dict[str, msgspec.Raw] = {}
    for key, raw in config.auths.items():
        host = normalise(key)
        if host in hosts:
            auths[canonical_key(host)] = entry
        elif host not in remove:
            auths[key] = raw
    auths.update({canonical_key(host): entry for host in sorted(hosts)})
    return msgspec.json.encode({**config.top, "auths": auths})


def jwt_claim(token: str, name: str) -> object:
    """A claim of a JWT, read without checking its signature; None where there is no such thing."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        payload = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return None
    return payload.get(name) if isinstance(payload, dict) else None


def jwt_instant(token: str, name: str) -> int | None:
    """A NumericDate claim (RFC 7519 2) in whole seconds since the epoch, None where there is no such thing."""
    value = jwt_claim(token, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _YEAR_10000:
        return None
    return int(value)


def _object(content: bytes) -> dict[str, msgspec.Raw]:
    try:
        return msgspec.json.decode(content or b"{}", type=dict[str, msgspec.Raw] | None) or {}
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise Unreadable("not a JSON object") from None


def _credential(raw: msgspec.Raw) -> tuple[str, str]:
    try:
        entry = msgspec.json.decode(raw, type=_Entry | None) or _Entry()
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return "", ""
    if not entry.auth:
        return entry.username, entry.password
    # The kubelet takes padded and unpadded, the standard alphabet only.
    padded = entry.auth if "=" in entry.auth else entry.auth + "=" * (-len(entry.auth) % 4)
    if len(padded) % 4:
        return "", ""
    try:
        decoded = binascii.a2b_base64(padded, strict_mode=True)
        username, separator, password = decoded.decode().partition(":")
    except ValueError:
        return "", ""
    return (username, password) if separator else ("", "")


def _render_entry(username: str, password: str) -> msgspec.Raw:
    # All three fields, like kubectl: some readers know only `auth`, others only the pair.
    auth = base64.b64encode(f"{username}:{password}".encode()).decode()
    return msgspec.Raw(msgspec.json.encode({"auth": auth, "password": password, "username": username}))
