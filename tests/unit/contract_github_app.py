"""GitHub Apps in the contract suite."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from controller.core.errors import Problem
from testing.github import Github, refusal
from testing.tokens import Trust
from tests.unit.provider_world import Row, World
from tests.unit.virtual_time import Clock

APP = "Iv23liExample"
INSTALLATION = "12345678"
KEY_FILE = "app.pem"


@functools.cache
def key_pair(serial: int) -> tuple[str, str]:
    """(private, public) key of the App in PEM; made once each."""
    del serial
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    return private.decode(), key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def settings(directory: Path) -> dict[str, Any]:
    """The App's first key is in place."""
    (directory / KEY_FILE).write_text(key_pair(0)[0])
    return {"experimental": True, "appId": APP, "privateKeyFile": str(directory / KEY_FILE)}


def vendor(clock: Clock, _trust: Callable[[str], Trust]) -> Github:
    """GitHub knows the App's first key."""
    return Github(clock, app_id=APP, public_key=key_pair(0)[1], installation=INSTALLATION)


def renew(world: World) -> None:
    """Give the App another key: at GitHub, and in the mounted Secret."""
    assert isinstance(world.vendor, Github)
    world.vendor.public_key = key_pair(1)[1]
    (world.directory / KEY_FILE).write_text(key_pair(1)[0])


ROW = Row(
    type="github-app",
    identity=INSTALLATION,
    username="x-access-token",
    vendor=vendor,
    settings=settings,
    refusals={
        "refused": (refusal(403, "Resource not accessible by integration"), Problem.MINT_REFUSED),
        "refused proof": (refusal(401, "A JSON web token could not be decoded"), Problem.MINT_REFUSED),
        "unknown": (refusal(404, "Not Found"), Problem.IDENTITY_UNKNOWN),
        "malformed request": (refusal(422, "The permissions requested are not granted"), Problem.REQUEST_REFUSED),
        "throttled": (refusal(403, "rate limit", x_ratelimit_remaining="0"), Problem.ISSUER_THROTTLES),
        "throttled for a while": (refusal(403, "secondary rate limit", Retry_After="60"), Problem.ISSUER_THROTTLES),
        "throttled by status": (refusal(429, "rate limit"), Problem.ISSUER_THROTTLES),
        "unavailable": (refusal(503, "Unicorn"), Problem.ISSUER_UNAVAILABLE),
    },
    stale=refusal(401, "A JSON web token could not be decoded"),
    at=lambda url: {"apiUrl": url},
    proofless={"privateKeyFile": ""},
    renew=renew,
    lose=lambda world: (world.directory / KEY_FILE).unlink(),
    secrets=tuple(line for line in key_pair(0)[0].splitlines() if "KEY" not in line),
)
