"""The vocabulary: keys, Secrets without their credentials, tokens and decisions.

Only `Token` holds a credential, and it can't be printed.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from controller.core.errors import Rejection


class Ref(NamedTuple):
    """Identifies a Secret; or another object in a namespace, where its kind is clear."""

    namespace: str
    name: str


class Key(NamedTuple):
    """Identifies a claim; `claim` is "" for the annotation `identity`, `<provider>` for `identity.<provider>`."""

    namespace: str
    name: str
    claim: str

    @property
    def ref(self) -> Ref:
        """The Secret that the claim is in."""
        return Ref(self.namespace, self.name)


@dataclass(frozen=True, slots=True)
class Claim:
    """One identity that a Secret asks for, the annotations that we wrote for it, and the credential in place."""

    name: str

    # The user's annotations as they are.
    identity: str
    provider: str | None
    registries: tuple[str, ...] | None
    service_account: str | None

    # Our own annotations; instants in seconds since the epoch, None if missing or unreadable.
    issued_at: int | None
    expires_at: int | None
    issued_for: str | None
    fingerprint: str | None
    managed_hosts: tuple[str, ...]
    refreshed_for: str | None
    error: str | None

    # The credential in place.
    present_fingerprint: str | None
    """Of the entries of `managed_hosts` as they are now; None if one is missing."""
    credential_exp: int | None
    """`exp` of the credential in place, if it is a readable JWT."""

    @property
    def is_filled(self) -> bool:
        """Whether the Secret says that we have written something into it for this claim."""
        return self.fingerprint is not None or bool(self.managed_hosts)


@dataclass(frozen=True, slots=True)
class ManagedSecret:
    """The projection of a Secret that asks for at least one identity."""

    ref: Ref
    uid: str
    resource_version: str
    right_type: bool
    immutable: bool
    readable: bool
    """.dockerconfigjson is absent or empty, or a JSON object, and so are its `auths`."""
    hosts: tuple[str, ...]
    """The normalised registry hosts that have an entry, sorted; empty if too many to keep (`plain` is false)."""
    broken_hosts: tuple[str, ...]
    """Those of `hosts` whose entry is not a JSON object."""
    unreadable: tuple[str, ...]
    """What the kubelet can't decode, so that it reads nothing of the Secret: normalised hosts, and `HttpHeaders`."""
    plain: bool
    """The JSON holds nothing but `auths` with one canonical key per host, so it can be rendered from tokens alone."""
    paused: str | None
    refresh: str | None
    claims: tuple[Claim, ...]
    created_at: str = ""
    """As Kubernetes writes it, so that it sorts by time."""
    target: str | None = None
    """The target that it was made for; only with the mark of this installation."""
    owed: tuple[tuple[str, str | None], ...] = ()
    """Annotations, with their prefix, that say something else than its target's inputs, and the value each gets."""

    def view(self, claim_name: str) -> View | None:
        """The claim of that name; None if the Secret has none."""
        claim = next((claim for claim in self.claims if claim.name == claim_name), None)
        return None if claim is None else View(Key(*self.ref, claim_name), self, claim)

    def views(self) -> Iterator[View]:
        """Every claim."""
        return (View(Key(*self.ref, claim.name), self, claim) for claim in self.claims)


@dataclass(frozen=True, slots=True)
class View:
    """One claim of one version of its Secret. Two views of the same version have the same `secret` object."""

    key: Key
    secret: ManagedSecret
    claim: Claim

    @property
    def inputs(self) -> tuple[object, ...]:
        """Everything the user asks for, as one comparable value; another UID is another request."""
        claim = self.claim
        return (
            self.secret.uid,
            claim.identity,
            claim.provider,
            claim.registries,
            claim.service_account,
            self.secret.refresh,
        )


@dataclass(frozen=True, slots=True)
class Token:
    """A registry credential, good for any host of the claim that it was minted for.

    Instants are whole seconds since the epoch, so that memory and annotation give one deadline. `issued_at` is from
    before the request was sent, so that the latency of an issuer never lengthens a life.
    """

    provider: str
    username: str = field(repr=False)
    password: str = field(repr=False)
    issued_at: int
    expires_at: int
    passwords: Mapping[str, str] | None = field(default=None, repr=False)
    """By host, from issuers whose credentials are for one registry each; `password` is then one of them."""

    @property
    def lifetime_seconds(self) -> int:
        """From `issued_at` to `expires_at`."""
        return self.expires_at - self.issued_at

    def credential(self, host: str) -> tuple[str, str]:
        """User and password for one of the hosts that it was minted for."""
        return self.username, self.password if self.passwords is None else self.passwords[host]

    def entries(self, hosts: Iterable[str]) -> dict[str, tuple[str, str]]:
        """User and password for each of these hosts."""
        return {host: self.credential(host) for host in hosts}

    def __repr__(self) -> str:
        """Identify the token without showing it."""
        digest = hashlib.sha256(self.password.encode()).hexdigest()[:8]
        return f"Token(provider={self.provider!r}, expires_at={self.expires_at}, sha256={digest})"


class Reason(enum.Enum):
    """Why a token is due; the same word in log, Event and metric."""

    NEW = "new"
    IDENTITY = "identity"
    EDITED = "edited"
    REQUESTED = "requested"
    SCHEDULED = "scheduled"
    EXPIRED = "expired"

    @property
    def by_the_clock(self) -> bool:
        """Only time has passed, so a new token must outlive the present one."""
        return self in (Reason.SCHEDULED, Reason.EXPIRED)


@dataclass(frozen=True, slots=True)
class Resolved:
    """Which configured provider serves a claim, and for which hosts."""

    provider: str
    identity: str
    hosts: tuple[str, ...]
    """Sorted and normalised."""
    service_account: str | None


@dataclass(frozen=True, slots=True)
class Standing:
    """Something to report although the token is valid, until it ends by itself."""

    rejection: Rejection
    until: float


@dataclass(frozen=True, slots=True)
class Ignore:
    """Nothing to do until the Secret changes."""


@dataclass(frozen=True, slots=True)
class Keep:
    """The credential in place is valid; look again at `until`."""

    until: float


@dataclass(frozen=True, slots=True)
class Refresh:
    """A token has been due since `at`."""

    reason: Reason
    at: float


@dataclass(frozen=True, slots=True)
class Report:
    """The `error` annotation should be `rejection`, or absent for None, and isn't. Look again at `until`."""

    rejection: Rejection | None
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Wipe:
    """Our entries and annotations should go, and the `error` annotation should say why."""

    rejection: Rejection


Decision = Ignore | Keep | Refresh | Report | Wipe
