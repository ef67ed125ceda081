"""Crusoe in the contract suite; its clean-up is in test_crusoe.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from controller.core.errors import Problem
from testing.crusoe import Crusoe, refusal
from testing.tokens import Trust
from tests.unit.provider_world import Row, World
from tests.unit.virtual_time import Clock

USER = "puller@acme.example"
ACCESS_KEY = "AK-of-the-puller"
SECRET_KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
NEXT_SECRET_KEY = "AAAAAAAAAAAAAAAADA0ODxAREhMUFRYXGBkaGxwdHh8"


def settings(directory: Path) -> dict[str, Any]:
    """The key is mounted."""
    (directory / "CRUSOE_ACCESS_KEY").write_text(f"{ACCESS_KEY}\n")
    (directory / "CRUSOE_SECRET_KEY").write_text(f"{SECRET_KEY}\n")
    return {
        "registries": ["registry.us-east1-a.ccr.crusoecloudcompute.com"],
        "user": USER,
        "accessKey": {"file": str(directory / "CRUSOE_ACCESS_KEY")},
        "secretKey": {"file": str(directory / "CRUSOE_SECRET_KEY")},
    }


def vendor(clock: Clock, _trust: Callable[[str], Trust]) -> Crusoe:
    """An organisation with that key."""
    return Crusoe(clock, access_key=ACCESS_KEY, secret_key=SECRET_KEY)


def renew(world: World) -> None:
    """Replace the secret key: at Crusoe, and in the mounted Secret."""
    assert isinstance(world.vendor, Crusoe)
    world.vendor.secret_key = NEXT_SECRET_KEY
    (world.directory / "CRUSOE_SECRET_KEY").write_text(NEXT_SECRET_KEY)


ROW = Row(
    type="crusoe",
    identity=USER,
    username=USER,
    vendor=vendor,
    settings=settings,
    refusals={
        "refused": (refusal(403), Problem.MINT_REFUSED),
        "refused proof": (refusal(401), Problem.MINT_REFUSED),
        "malformed request": (refusal(400), Problem.REQUEST_REFUSED),
        "a wrong address": (refusal(404), Problem.REQUEST_REFUSED),
        "throttled": (refusal(429), Problem.ISSUER_THROTTLES),
        "unavailable": (refusal(500), Problem.ISSUER_UNAVAILABLE),
    },
    stale=refusal(401),
    at=lambda url: {"apiUrl": f"{url}/v1"},
    proofless={"secretKey": {}},
    renew=renew,
    lose=lambda world: (world.directory / "CRUSOE_SECRET_KEY").unlink(),
    secrets=(ACCESS_KEY, SECRET_KEY, NEXT_SECRET_KEY),
    asks_for_lifetime=True,
)
