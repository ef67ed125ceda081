"""Token exchange in the contract suite, configured for a server that keeps to the RFC."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from controller.core.errors import Problem
from testing.oauth import TokenExchange, refusal
from testing.tokens import Trust
from tests.unit.provider_world import Row, vendors_key
from tests.unit.virtual_time import Clock

AUDIENCE = "sts.example"
IDENTITY = "team-a"


def settings(_directory: Path) -> dict[str, Any]:
    """What RFC 8693 alone needs."""
    return {
        "registries": ["registry.example"],
        "tokenUrl": "https://sts.example/token",
        "audience": AUDIENCE,
        "tokenFile": "/var/run/sts/token",
        "username": "oauth2",
    }


def vendor(clock: Clock, trust: Callable[[str], Trust]) -> TokenExchange:
    """A server that knows one audience."""
    return TokenExchange(clock, trust(AUDIENCE), identity=IDENTITY, key=vendors_key())


ROW = Row(
    type="token-exchange",
    identity=IDENTITY,
    username="oauth2",
    vendor=vendor,
    settings=settings,
    refusals={
        "refused": (refusal("unauthorized_client"), Problem.MINT_REFUSED),
        "refused client": (refusal("invalid_client", status=401), Problem.MINT_REFUSED),
        "refused proof": (refusal("invalid_grant"), Problem.MINT_REFUSED),
        "unknown": (refusal("invalid_target"), Problem.IDENTITY_UNKNOWN),
        "malformed request": (refusal("invalid_request"), Problem.REQUEST_REFUSED),
        "malformed scope": (refusal("invalid_scope"), Problem.REQUEST_REFUSED),
        "throttled": (refusal("slow_down", status=429), Problem.ISSUER_THROTTLES),
        "throttled with the status of another class": (refusal("slow_down"), Problem.ISSUER_THROTTLES),
        "unavailable": (refusal("temporarily_unavailable", status=503), Problem.ISSUER_UNAVAILABLE),
        "failing with the status of another class": (refusal("server_error"), Problem.ISSUER_UNAVAILABLE),
    },
    stale=refusal("invalid_grant"),
    at=lambda url: {"tokenUrl": f"{url}/token"},
    proofless={"tokenFile": None},
)
