"""How the stand-in issuer treats one identity: well, unless a script says otherwise.

A `Behaviour` is a value. A test, or `POST /control`, can replace it while the issuer runs; it applies to the next
exchange. All times are in seconds.
"""

from enum import StrEnum

import msgspec


class Fault(StrEnum):
    """What can go wrong beyond an honest status code."""

    HANG = "hang"  # accepts the request and never responds
    RESET = "reset"  # a TCP reset instead of a response
    HTML = "html"  # status 200 and an HTML page, like a captive portal
    OVERSIZE = "oversize"  # a well-formed response of 1 MiB
    REDIRECT = "redirect"  # 307 to one of our paths, which records clients that follow
    EMPTY_TOKEN = "empty-token"  # noqa: S105 - the name of a fault


class Behaviour(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """How one identity is treated. By default it gets a token of 30 seconds, at once."""

    lifetime_seconds: float = 30
    """From `iat` to `exp`; negative for a token that has expired before it is sent."""
    expiry_seconds: float | None = None
    """The response's field `expiry`, from now; None sends null, as Chainguard does."""
    status: int = 200
    retry_after_seconds: int | None = None
    fault: Fault | None = None
    audience: str | None = None
    """Put in the token instead of the requested audience."""
    subject: str | None = None
    """Put in the token instead of the requested identity."""
    delay_seconds: float = 0
    cache_seconds: float = 0
    """For how long the same token is returned again."""
    clock_shift_seconds: float = 0
    """Added to the issuer's clock: `iat`, `exp`, `expiry` and the header `Date` move together."""


class Exchange(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One request to the exchange endpoint, with the outcome. Times are seconds since the epoch."""

    asked_at: float
    answered_at: float
    """If the request hung: when the caller gave up."""
    identity: str
    subject: str
    """The subject of the ServiceAccount token that came with it; empty if the token could not be verified."""
    status: int
    """0 if no response was sent."""
    result: str
    """`minted`, `cached`, or why there was no token."""
