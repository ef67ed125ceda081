"""Everything around one provider, in memory and on virtual time: its vendor, its proof, its tools.

How a provider joins the contract suite: a module contract_<type>.py with a `ROW`, named in ROWS of
test_provider_contract.py. The vendor is the stand-in of testing that the end-to-end tests serve over HTTP.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from multidict import CIMultiDict

from controller import config
from controller.core.errors import MintError, Problem
from controller.core.model import Token
from controller.net.transport import Stream, Transport, Unreachable
from controller.providers import TYPES
from controller.providers.contract import Tools
from testing.tokens import KeyTrust, SigningKey, Trust
from testing.wire import Answer, Asked, ConnectionBroken, Vendor, Wire
from tests.unit.virtual_time import Clock

NAME = "under-test"
SUBJECT = "system:serviceaccount:pull-secret-updater:controller"
MAX_LIFETIME_SECONDS = 12 * 3600.0


class Issues(Vendor, Protocol):
    """A vendor that the contract suite can steer."""

    lifetime_seconds: float
    """Of the tokens that it mints from now on, in whichever way it says so."""
    again: bool
    """Hand out the newest token again, with what is left of its life."""
    minted: list[str]
    """The password of every token."""


def _renew_proof(world: World) -> None:
    world.proof_serial += 1


def _lose_proof(world: World) -> None:
    world.proof_error = MintError(Problem.PROOF_MISSING, "FileNotFoundError")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One provider type in the contract suite."""

    type: str
    identity: str
    username: str
    vendor: Callable[[Clock, Callable[[str], Trust]], Issues]
    """vendor(clock, trust): `trust(audience)` verifies the ServiceAccount tokens that the provider is handed."""
    settings: Callable[[Path], Mapping[str, Any]]
    """What the operator configures beside `type`, in the words of the file; may write key files into the directory."""
    refusals: Mapping[str, tuple[Answer, Problem]]
    """The vendor's own words for each class of error, sent in place of the answer to the request that mints."""
    stale: Answer | None
    """Its words for a proof that has expired, to that request; None where it has no such thing."""
    proofless: Mapping[str, Any]
    """Settings put over the others, with which nothing proves who asks."""
    at: Callable[[str], Mapping[str, Any]] | None = None
    """Settings put over the others, with which the vendor is found at that URL; for the tests over real sockets."""
    minting_call: int = 0
    """Which request of a mint is the one that mints, counted from 0."""
    renew: Callable[[World], None] = _renew_proof
    """Put another proof in place: a new ServiceAccount token, unless the proof is a file."""
    lose: Callable[[World], None] = _lose_proof
    """Take the proof away."""
    secrets: tuple[str, ...] = ()
    """What the provider's own key files hold."""
    asks_for_lifetime: bool = False
    """The life is what the provider asks for, so the vendor has none of its own, and no cache."""


@functools.cache
def vendors_key() -> SigningKey:
    """What the vendors of the suite sign with."""
    return SigningKey()


@functools.cache
def service_accounts() -> SigningKey:
    """The key of the cluster; made once, since making one takes a tenth of a second."""
    return SigningKey()


@dataclass(slots=True)
class World:
    """A provider of the row's type, and what it has to do with."""

    row: Row
    clock: Clock
    directory: Path
    overrides: Mapping[str, Any] = field(default_factory=dict)
    transport: Transport | None = None
    """In place of the one in memory."""
    proof_serial: int = 0
    proofs_read: list[str] = field(default_factory=list)
    """Every proof that was handed out."""
    proof_error: MintError | None = None
    cleaned: list[MintError | None] = field(default_factory=list)
    vendor: Issues = field(init=False)
    wire: Wire = field(init=False)
    tools: Tools = field(init=False)
    provider: Any = field(init=False)
    hosts: tuple[str, ...] = field(init=False)
    """Those that the provider is configured for."""

    def __post_init__(self) -> None:
        self.vendor = self.row.vendor(self.clock, self.trust)
        self.wire = Wire(self.vendor, clock=self.clock)
        settings = configured(self.row, self.directory, self.overrides)
        self.hosts = settings.registries
        self.tools = Tools(
            name=NAME,
            timeout_seconds=settings.timeout_seconds,
            default_lifetime_seconds=getattr(settings, "default_lifetime", None),
            transport=self.transport or WireTransport(self.wire),
            proof=self.proof,
            now=self.clock,
            max_lifetime_seconds=MAX_LIFETIME_SECONDS,
            refreshed_by_share=0.65,
            cleaned=self.cleaned.append,
        )
        self.provider = TYPES[self.row.type](settings, self.tools)

    async def mint(self) -> Token:
        """A token of the row's identity."""
        token: Token = await self.provider.mint(self.row.identity, self.hosts)
        return token

    async def proof(self, audience: str) -> str:
        """A ServiceAccount token for that audience; the same until it is renewed."""
        if self.proof_error is not None:
            raise self.proof_error
        proof = proof_for(audience, self.proof_serial, int(self.clock()) // 3600 * 3600 + 7200)
        self.proofs_read.append(proof)
        return proof

    def trust(self, audience: str) -> Trust:
        """What a vendor verifies our ServiceAccount tokens with."""
        return KeyTrust(service_accounts(), audience=audience, clock=self.clock)

    def canaries(self) -> set[str]:
        """Whatever must never be seen: minted tokens, proofs and keys, whole and in parts."""
        secrets = [*self.vendor.minted, *self.proofs_read, *self.row.secrets, service_accounts().canary]
        parts = {part for secret in secrets for part in (secret, *secret.split("."))}
        return {part for part in parts if len(part) >= 8}


@functools.cache
def proof_for(audience: str, serial: int, expires_at: int) -> str:
    """A ServiceAccount token of the cluster."""
    return service_accounts().sign(
        {"iss": "https://cluster.example", "sub": SUBJECT, "aud": [audience], "exp": expires_at, "serial": serial}
    )


def configured(row: Row, directory: Path, overrides: Mapping[str, Any] | None = None) -> Any:
    """The row's settings, read and checked as the controller does at its start. Raises config.ConfigError."""
    content = {"type": row.type, **row.settings(directory), **(overrides or {})}
    return config.load(None, {"providers": {NAME: content}}).providers[NAME]


class WireTransport:
    """A Transport that carries requests to a stand-in in memory."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    @asynccontextmanager
    async def open(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None = None
    ) -> AsyncIterator[Stream]:
        """See controller.net.transport.Transport."""
        try:
            answer = await self._wire.answer(Asked(method, url, CIMultiDict(headers), body or b""))
        except ConnectionBroken as error:
            raise Unreachable("ConnectionResetError") from error
        yield _Stream(answer.status, CIMultiDict(answer.headers), answer.body)


@dataclass(frozen=True, slots=True)
class _Stream:
    status: int
    headers: CIMultiDict[str]
    body: bytes

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        for start in range(0, len(self.body), 1000):
            yield self.body[start : start + 1000]
