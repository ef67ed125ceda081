"""Read .dockerconfigjson as the kubelet does, and put our hosts into it without touching anything else.

Whatever the bytes are, they are read or Unreadable, and `DockerConfig.unreadable` names what makes the kubelet read
nothing at all. Foreign entries and top-level keys keep their bytes and their order.

The kubelet's rules are Go's encoding/json and pkg/credentialprovider/{config,keyring}.go of Kubernetes 1.37:

    bytes that are no UTF-8, half a surrogate pair   each counts as U+FFFD
    names of fields                                  in any case; U+017F counts as an s
    `null`                                           empty, wherever it is
    a key that is given twice                        the later counts, but the earlier must be readable too
    `auths` that is given twice                      the entries of both; `null` drops those before it
    username, password, email, auth                  text; a number, say, makes the entry unreadable
    any other field                                  anything
    `auth`, if not empty, wins                       base64 of user:password, standard alphabet, padded or not at all;
                                                     line breaks don't count
    `HttpHeaders`                                    an object of texts
    one unreadable entry                             nothing of the whole Secret is read
"""

from __future__ import annotations

import binascii
import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn

MAX_BYTES = 1024 * 1024
"""Kubernetes allows 1 MiB for the values of a Secret together (core/v1 MaxSecretSize)."""

MAX_ENTRIES = 10_000
"""Members of any object that is split, and entries in all. More fit into 1 MiB only without credentials, and to read
80,000 would stop everybody else for half a second."""

_DOCKER_HUB = "index.docker.io"
_DOCKER_HUB_KEY = "https://index.docker.io/v1/"
_ALIASES = {"docker.io": _DOCKER_HUB, "registry-1.docker.io": _DOCKER_HUB}


class Unreadable(ValueError):
    """The content is not a docker config. The error quotes nothing of it."""


class Member(NamedTuple):
    """A member of a JSON object: as it is read, and as it is written."""

    key: str
    value: object
    """A tuple of pairs stands for an object."""
    key_text: str
    value_text: str


class Entry(NamedTuple):
    """A member of `auths`."""

    host: str
    """Normalised."""
    member: Member
    credential: tuple[str, str] | None
    """(user, password) as the kubelet decodes them; None if it can't."""


@dataclass(frozen=True, slots=True)
class DockerConfig:
    """A .dockerconfigjson, parsed only as far as needed."""

    top: tuple[Member, ...] = field(repr=False)
    auths: tuple[Entry, ...] = field(repr=False)
    unreadable: tuple[str, ...]
    """What the kubelet can't decode, sorted: normalised hosts, and `HttpHeaders`."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """The normalised hosts that have an entry, sorted."""
        return tuple(sorted({entry.host for entry in self.auths}))

    @property
    def plain(self) -> bool:
        """Whether it holds nothing but `auths`, with one canonical key per host."""
        keys = [entry.member.key for entry in self.auths]
        canonical = {canonical_key(entry.host) for entry in self.auths}
        return all(map(_is_auths, self.top)) and len(keys) == len(canonical) and canonical == set(keys)


EMPTY = DockerConfig((), (), ())


def parse(content: bytes) -> DockerConfig:
    """Split a .dockerconfigjson. Empty, `null` and `auths: null` mean empty. Raises Unreadable."""
    text = content.decode("utf-8", _BYTE_FOR_BYTE) or "{}"
    try:
        return _config(_members(text, _JSON.decode(text)))
    except (ValueError, RecursionError):
        raise Unreadable("not a JSON object") from None


def normalise(key: str) -> str:
    """The registry that a key means to the kubelet: no scheme, lower-case host, no /v1/ or /v2/, no trailing slash."""
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
    return tuple(sorted({entry.host for entry in config.auths if not isinstance(entry.member.value, tuple | None)}))


def credentials(config: DockerConfig, hosts: Collection[str]) -> dict[str, tuple[str, str]]:
    """(user, password) of those of `hosts` that have an entry, as the kubelet decodes them.

    Where it can't decode one of several entries of a host, ("", "").
    """
    found = {entry.host: entry.credential or ("", "") for entry in config.auths if entry.host in hosts}
    return {**found, **{host: ("", "") for host in config.unreadable if host in found}}


def fingerprint(entries: Mapping[str, tuple[str, str]]) -> str:
    """16 hex digits that change with a user or password, but not with the formatting of the JSON."""
    compact = json.dumps({host: list(pair) for host, pair in entries.items()}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(compact.encode()).hexdigest()[:16]


def merge(config: DockerConfig, *, entries: Mapping[str, tuple[str, str]], remove: Collection[str] = ()) -> bytes:
    """The config with these users and passwords by host, and without the hosts of `remove`, in compact JSON.

    Entries keep their order. Several keys that mean the same host of ours become one, and several `auths` too.
    """
    ours = {host: f"{json.dumps(canonical_key(host))}:{_entry_text(*entries[host])}" for host in sorted(entries)}
    texts: list[str] = []
    for entry in config.auths:
        if entry.host not in entries and entry.host not in remove:
            texts.append(f"{entry.member.key_text}:{entry.member.value_text}")
        elif entry.host in ours:
            texts.append(ours.pop(entry.host))
    auths = f'"auths":{{{",".join([*texts, *ours.values()])}}}'
    top = [auths if _is_auths(member) else f"{member.key_text}:{member.value_text}" for member in config.top]
    if not any(map(_is_auths, config.top)):
        top.append(auths)
    return f"{{{','.join(top)}}}".encode("utf-8", _BYTE_FOR_BYTE)


def _config(members: Iterable[Member]) -> DockerConfig:
    top: list[Member] = []
    auths: list[Entry] = []
    unreadable: set[str] = set()
    count = 0
    for member in members:
        if not _is_auths(member):
            top.append(member)
            if _folded(member.key) == "httpheaders" and not _are_texts(member.value):
                unreadable.add("HttpHeaders")
            continue
        if not any(map(_is_auths, top)):
            top.append(member)
        entries = [
            Entry(normalise(each.key), each, _credential(each.value))
            for each in _members(member.value_text, member.value)
        ]
        count += len(entries)
        if count > MAX_ENTRIES:
            raise ValueError("too many entries")
        auths = [*auths, *entries] if member.value is not None else []
        unreadable.update(entry.host for entry in entries if entry.credential is None)
    return DockerConfig(tuple(top), tuple(auths), tuple(sorted(unreadable)))


def _members(text: str, value: object) -> list[Member]:
    """What a JSON object consists of, in order, a key as often as it is given; `null` is empty. Raises ValueError."""
    if value is not None and not isinstance(value, tuple):
        raise ValueError("not an object")
    if len(value or ()) > MAX_ENTRIES:
        raise ValueError("too many members")
    members: list[Member] = []
    at = _next(text, text.find("{") + 1)
    for key, part in value or ():
        key_end = _JSON.raw_decode(text, at)[1]
        start = _next(text, key_end)
        end = _JSON.raw_decode(text, start)[1]
        members.append(Member(_as_read(key), part, text[at:key_end], text[start:end]))
        at = _next(text, end)
    return members


def _next(text: str, at: int) -> int:
    """Where the next key, value or bracket of valid JSON begins."""
    found = _BETWEEN.match(text, at)
    return found.end() if found else at


def _is_auths(member: Member) -> bool:
    return _folded(member.key) == "auths"


def _folded(key: str) -> str:
    """By this Go tells whether a key names a field; of the letters in our names, only `s` has a third form."""
    return key.replace("\u017f", "s").lower()


def _as_read(text: str) -> str:
    return text if text.isascii() else _HALF_A_PAIR.sub("\ufffd", text)


def _are_texts(value: object) -> bool:
    return value is None or (isinstance(value, tuple) and all(isinstance(text, str | None) for _, text in value))


def _credential(value: object) -> tuple[str, str] | None:
    """What the kubelet decodes from an entry; None if it can't."""
    fields = {"username": "", "password": "", "email": "", "auth": ""}
    if not isinstance(value, tuple | None):
        return None
    for key, text in value or ():
        name = _folded(key)
        if name not in fields or text is None:
            continue
        if not isinstance(text, str):
            return None
        fields[name] = _as_read(text)
    return _decoded(fields["auth"]) if fields["auth"] else (fields["username"], fields["password"])


def _decoded(auth: str) -> tuple[str, str] | None:
    encoded = auth.replace("\r", "").replace("\n", "")
    if not _BASE64.fullmatch(encoded):
        return None
    decoded = binascii.a2b_base64(encoded.rstrip("=") + "=" * (-len(encoded.rstrip("=")) % 4))
    username, colon, password = decoded.decode("utf-8", _BYTE_FOR_BYTE).partition(":")
    return (username, password) if colon else None


def _entry_text(username: str, password: str) -> str:
    # All three fields, like kubectl: some readers know only `auth`, others only the pair.
    auth = b64encode(f"{username}:{password}".encode()).decode()
    return json.dumps({"auth": auth, "password": password, "username": username}, separators=(",", ":"))


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_BYTE_FOR_BYTE = "surrogateescape"
"""Bytes that are no UTF-8 become halves of surrogate pairs, and these become the same bytes again."""

_HALF_A_PAIR = re.compile("[\ud800-\udfff]")
_BETWEEN = re.compile(r"[ \t\n\r,:]*")
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}(?:==)?|[A-Za-z0-9+/]{3}=?)?")

# Of a number nothing counts but that it is one, and an integer of thousands of digits takes long or is an error.
_JSON = json.JSONDecoder(object_pairs_hook=tuple, parse_int=float, parse_constant=_no_constant)
