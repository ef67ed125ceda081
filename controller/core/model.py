"""The vocabulary: keys, what is known of a Secret without its credential, the token, and what can be decided.

Nothing here but `Token` ever holds a credential, and `Token` can't print it.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from controller.core.errors import Rejection


class Ref(NamedTuple):
    """Which Secret."""

    namespace: str
    name: str


class Key(NamedTuple):
    """Which claim of which Secret; `claim` is "" for the annotation `identity`, else what follows in `identity.`."""

    namespace: str
    name: str
    claim: str

    @property
    def ref(self) -> Ref:
        """The Secret that the claim is in."""
        return Ref(self.namespace, self.name)


@dataclass(frozen=True, slots=True)
class Claim:
    """One identity that a Secret asks for, what we wrote for it, and what is there now."""

    name: str

    # What the user asks, as it stands in the annotations.
    identity: str
    provider: str | None
    registries: tuple[str, ...] | None
    service_account: str | None

    # What we wrote last; instants in seconds since the epoch, None where missing or unreadable.
    issued_at: int | None
    expires_at: int | None
    issued_for: str | None
    fingerprint: str | None
    managed_hosts: tuple[str, ...]
    refreshed_for: str | None
    error: str | None

    # What is there.
    present_fingerprint: str | None
    """Of the entries of `managed_hosts` as they are now; None where one is missing."""
    credential_exp: int | None
    """`exp` of the credential in place, where it is a JWT that can be read."""


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
    """The normalised registry hosts that have an entry, sorted; none where `plain` is false because of their number."""
    broken_hosts: tuple[str, ...]
    """Those of `hosts` whose entry is not a JSON object."""
    plain: bool
    """Nothing is in the JSON but `auths` with one canonical key per host, so it can be rendered from tokens alone."""
    paused: str | None
    refresh: str | None
    claims: tuple[Claim, ...]

    def view(self, claim_name: str) -> View | None:
        """The claim of that name; None where the Secret doesn't ask for it."""
        claim = next((claim for claim in self.claims if claim.name == claim_name), None)
        return None if claim is None else View(Key(*self.ref, claim_name), self, claim)

    def views(self) -> Iterator[View]:
        """Every claim."""
        return (View(Key(*self.ref, claim.name), self, claim) for claim in self.claims)


@dataclass(frozen=True, slots=True)
class View:
    """One claim as it is known at one look. Another look at the same version is the same `secret` object."""

    key: Key
    secret: ManagedSecret
    claim: Claim

    @property
    def inputs(self) -> tuple[object, ...]:
        """What the user asks for, in one comparable value; another Secret of the same name asks anew."""
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

    @property
    def lifetime_seconds(self) -> int:
        """The life it was given."""
        return self.expires_at - self.issued_at

    def __repr__(self) -> str:
        """Say which token it is without saying it."""
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
        """Nothing asked but time, so a new token has to outlive the present one."""
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
class Ignore:
    """Nothing to do until the Secret changes."""


@dataclass(frozen=True, slots=True)
class Keep:
    """The credential in place is right; look again at `until`."""

    until: float


@dataclass(frozen=True, slots=True)
class Refresh:
    """A token is due since `at`."""

    reason: Reason
    at: float


@dataclass(frozen=True, slots=True)
class Tell:
    """The `error` annotation isn't what it should be: `rejection`, or none. Look again at `until`."""

    rejection: Rejection | None
    until: float | None = None


Decision = Ignore | Keep | Refresh | Tell
