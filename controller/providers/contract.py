"""What a provider is to the rest of the controller: how it is built, what it is handed, and what it promises."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import UnionType
from typing import Any, Protocol

from controller.core.errors import MintError
from controller.core.model import Token
from controller.net.transport import Transport
from controller.providers.settings import ProviderSettings

SettingsType = type[ProviderSettings] | UnionType
"""A struct; or the union of a type's kinds of credentials, tagged by the key `credentials`, the default first."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What a provider is handed. It never reads the API server and has no other way out."""

    name: str
    """The provider's, in the configuration."""
    transport: Transport
    timeout_seconds: float
    """For one request."""
    proof: Callable[[str], Awaitable[str]]
    """proof(audience): the token that proves who asks. Raises MintError."""
    now: Callable[[], float]
    max_lifetime_seconds: float
    default_lifetime_seconds: float | None
    """Counts if the issuer gives no expiry."""
    refreshed_by_share: float
    """Share of a token's life by which every Secret that holds it gets another."""
    cleaned: Callable[[MintError | None], None]
    """Report the end of a clean-up at the issuer, with its error if it failed: for a metric and the log."""


class Provider(Protocol):
    """One configured token issuer."""

    async def mint(self, identity: str, hosts: tuple[str, ...]) -> Token:
        """Get a new token, checked: well-formed, for this identity and these hosts, not expired. Raises MintError."""
        ...

    async def check_proof(self) -> None:
        """Read what proves who we are, a token or a key, and ask nobody. Raises MintError if it is missing or unfit."""
        ...


class ProviderType(Protocol):
    """What the table of provider types holds: a class."""

    SETTINGS: SettingsType
    SHARES_TOKEN: bool
    """One credential of an identity serves all its hosts."""

    def __call__(self, settings: Any, tools: Tools) -> Provider:
        """Build a provider from its settings, an instance of SETTINGS."""
        ...


class MissingExtra(Exception):
    """A provider needs an optional package that isn't installed."""

    def __init__(self, extra: str) -> None:
        super().__init__(f"needs packages that are not installed: pip install pull-secret-updater[{extra}]")


@contextmanager
def needs_extra(name: str) -> Iterator[None]:
    """Around the import of a vendor's package; raises MissingExtra in place of ImportError."""
    try:
        yield
    except ImportError as error:
        raise MissingExtra(name) from error
