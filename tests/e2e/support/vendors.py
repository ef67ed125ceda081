"""Every vendor on loopback, each with a registry of its kind, and the configuration of one controller for all of them.

Their tokens live for a few seconds, so that a test can see one end; the registries ask the vendor at every login.
"""

import asyncio
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from testing.exchange import Issuer
from testing.oauth import TokenExchange
from testing.wire import Answer, Asked, Servers, Vendor
from tests.e2e.support import vendor_cases
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.observer import Secret
from tests.e2e.support.tenant import annotation
from tests.e2e.support.vendor_cases import Ground

TIMEOUT_SECONDS = 4
"""Of a request, and so what one that is never answered could cost the others."""
MAKERS = (
    vendor_cases.ecr,
    vendor_cases.ecr_keys,
    vendor_cases.ecr_public,
    vendor_cases.google,
    vendor_cases.acr,
    vendor_cases.acr_two,
    vendor_cases.crusoe,
    vendor_cases.token_exchange,
    vendor_cases.quay,
    vendor_cases.github_app,
)


class Vendors:
    """All of them."""

    def __init__(self, cluster: Cluster, issuer: Issuer, servers: Servers, directory: Path) -> None:
        ground = Ground(cluster, servers, directory)
        cases = (vendor_cases.chainguard(ground, issuer), *(make(ground) for make in MAKERS))
        self.cases = {case.name: case for case in cases}
        """One of each type by its type; `ecr-keys`, a second account whose tokens live for 12 hours; and `acr-two`,
        which has two registries."""
        unfit = {"misconfigured": _misconfigured(ground), "silent": _silent(ground)}
        common = {"timeoutSeconds": TIMEOUT_SECONDS}
        self.config: Mapping[str, Any] = {
            "providers": {
                **{case.name: {**common, "probe": True, "registries": [case.host], **case.settings} for case in cases},
                **{name: {**common, **settings} for name, settings in unfit.items()},
            }
        }
        """Of all, each token tried at the registry before it is written; and of two that mint nothing: `misconfigured`
        is refused, `silent` never answered."""

    def minted(self) -> list[str]:
        """Every token that any of them handed out."""
        return [token for case in self.cases.values() for token in case.minted]


def expires_at(secret: Secret, claim: str = "") -> float:
    """When the credential of a claim ends, by its annotation; seconds since the epoch."""
    value = annotation(secret, f"expires-at.{claim}" if claim else "expires-at")
    assert value is not None
    return datetime.fromisoformat(value).timestamp()


def _unfit(ground: Ground, name: str, vendor: Vendor) -> Mapping[str, Any]:
    audience = f"{name}.example"
    settings = {"tokenUrl": f"{ground.serve(vendor)}/token", "audience": audience, "username": "oauth2"}
    return {
        "type": "token-exchange",
        **settings,
        "tokenFile": ground.token_file(audience),
        "registries": [f"registry.{name}.example"],
    }


def _misconfigured(ground: Ground) -> Mapping[str, Any]:
    """A server that wants another audience than the one that is configured."""
    return _unfit(ground, "misconfigured", TokenExchange(time.time, ground.trust("right.example"), identity="team-a"))


class _Silence:
    async def handle(self, asked: Asked) -> Answer:
        """Never answer."""
        del asked
        await asyncio.Event().wait()
        raise AssertionError


def _silent(ground: Ground) -> Mapping[str, Any]:
    return _unfit(ground, "silent", _Silence())
