"""How the stand-in issuer treats one identity: well, unless a script says otherwise.

A `Behaviour` is a value. A test, or `POST /control`, puts another one in place while the issuer runs, and the next
exchange goes by it. All times are seconds.
"""

from enum import StrEnum

import msgspec


class Fault(StrEnum):
    """What can go wrong beyond an honest status code."""

    HANG = "hang"  # accepts the request and never answers
    RESET = "reset"  # a TCP reset in place of an answer
    HTML = "html"  # status 200 and a page, as a captive portal sends it
    OVERSIZE = "oversize"  # a well-formed answer of 1 MiB
    REDIRECT = "redirect"  # 307 to a path of our own that tells on who follows
    EMPTY_TOKEN = "empty-token"  # noqa: S105 - the name of a fault


class Behaviour(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """One identity's treatment. The default is a token of 30 seconds, at once."""

    lifetime_seconds: float = 30
    """From `iat` to `exp`; negative for a token that is over before it is sent."""
    expiry_seconds: float | None = None
    """What the field `expiry` of the answer says, from now; None sends null, as Chainguard does."""
    status: int = 200
    retry_after_seconds: int | None = None
    fault: Fault | None = None
    audience: str | None = None
    """Put in the token in place of the audience that was asked for."""
    subject: str | None = None
    """Put in the token in place of the identity that was asked for."""
    delay_seconds: float = 0
    cache_seconds: float = 0
    """For so long the same token is handed out again."""
    clock_shift_seconds: float = 0
    """Added to the issuer's clock: `iat`, `exp`, `expiry` and the header `Date` move together."""


class Exchange(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One request to the exchange endpoint, as it was answered. Times are seconds since the epoch."""

    asked_at: float
    answered_at: float
    """For a request that hung: when the caller gave up."""
    identity: str
    subject: str
    """Of the ServiceAccount token that came with it; empty if that could not be verified."""
    status: int
    """0 where no answer was sent."""
    result: str
    """`minted`, `cached`, or why there was no token."""
