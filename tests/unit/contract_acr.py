"""Azure in the contract suite, by what refuses: Entra or the registry. Managed identities are in test_acr.py."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from controller.core.errors import Problem
from testing.azure import AUDIENCE, CLIENT, REGISTRY, TENANT, Azure, entra_error, registry_error
from testing.tokens import SigningKey, Trust
from testing.wire import Answer
from tests.unit.provider_world import Row, World
from tests.unit.virtual_time import Clock

SECRET = "8Q~a-client-secret-of-the-puller"
NEXT_SECRET = "8Q~the-client-secret-after-that"
IDENTITY = f"{TENANT}/{CLIENT}"

ENTRA_REFUSALS: Mapping[str, tuple[Answer, Problem]] = {
    "refused": (entra_error("unauthorized_client"), Problem.MINT_REFUSED),
    "no federated credential": (entra_error("invalid_request", 70021), Problem.MINT_REFUSED),
    "no federated credential of that subject": (
        entra_error("invalid_client", 700213, status=401),
        Problem.MINT_REFUSED,
    ),
    "unknown application": (entra_error("unauthorized_client", 700016), Problem.IDENTITY_UNKNOWN),
    "unknown tenant": (entra_error("invalid_request", 90002), Problem.IDENTITY_UNKNOWN),
    "unknown resource": (entra_error("invalid_resource", 500011), Problem.REQUEST_REFUSED),
    "malformed request": (entra_error("invalid_request", 900144), Problem.REQUEST_REFUSED),
    "an unknown word": (entra_error("something_new", 1234567, status=403), Problem.MINT_REFUSED),
    "throttled": (entra_error("temporarily_unavailable", 90055, status=429), Problem.ISSUER_THROTTLES),
    "throttled for a loop": (entra_error("invalid_grant", 50196), Problem.ISSUER_THROTTLES),
    "the cluster's issuer is throttled": (entra_error("invalid_request", 50166), Problem.CLUSTER_ISSUER_UNREACHABLE),
    "the cluster's issuer fails": (entra_error("invalid_request", 501661), Problem.CLUSTER_ISSUER_UNREACHABLE),
    "the cluster's issuer doesn't answer": (entra_error("invalid_request", 90061), Problem.CLUSTER_ISSUER_UNREACHABLE),
    "unavailable": (entra_error("temporarily_unavailable", 90033), Problem.ISSUER_UNAVAILABLE),
    "unavailable in another word": (entra_error("invalid_client", 700024, status=503), Problem.ISSUER_UNAVAILABLE),
}
REGISTRY_REFUSALS: Mapping[str, tuple[Answer, Problem]] = {
    "refused": (registry_error(401, "UNAUTHORIZED"), Problem.MINT_REFUSED),
    "refused by the firewall": (registry_error(403, "DENIED"), Problem.MINT_REFUSED),
    "no such registry": (registry_error(404, "NOT_FOUND"), Problem.REQUEST_REFUSED),
    "malformed request": (registry_error(400, "BAD_REQUEST"), Problem.REQUEST_REFUSED),
    "throttled": (registry_error(429, "TOOMANYREQUESTS"), Problem.ISSUER_THROTTLES),
    "unavailable": (registry_error(503, "UNAVAILABLE"), Problem.ISSUER_UNAVAILABLE),
}


@functools.cache
def signing_key() -> SigningKey:
    """Of Entra and the registry; made once, since making one takes a tenth of a second."""
    return SigningKey()


def vendor(clock: Clock, trust: Callable[[str], Trust]) -> Azure:
    """A tenant where CLIENT trusts the controller and has a secret too."""
    azure = Azure(clock, trust(AUDIENCE), key=signing_key())
    azure.secrets[CLIENT] = SECRET
    return azure


def row(settings: Callable[[Path], Mapping[str, Any]], **more: Any) -> Row:
    """A row of the suite for one kind of credentials."""
    return Row(
        type="acr",
        username="00000000-0000-0000-0000-000000000000",
        vendor=vendor,
        settings=lambda directory: {"registries": [REGISTRY], **settings(directory)},
        at=lambda url: dict.fromkeys(("authority", "registryEndpoint"), url),
        **{"identity": IDENTITY, **more},
    )


def with_secret(directory: Path) -> Mapping[str, Any]:
    """The secret is mounted."""
    (directory / "secret").write_text(f"{SECRET}\n")
    return {
        "credentials": "clientSecret",
        "tenant": TENANT,
        "clientId": CLIENT,
        "clientSecretFile": str(directory / "secret"),
    }


def renew_secret(world: World) -> None:
    """Replace the secret: at Entra, and in the mounted Secret."""
    assert isinstance(world.vendor, Azure)
    world.vendor.secrets[CLIENT] = NEXT_SECRET
    (world.directory / "secret").write_text(NEXT_SECRET)


FEDERATED = row(
    lambda _directory: {"tokenFile": "/var/run/secrets/tokens/azure"},
    refusals=ENTRA_REFUSALS,
    stale=entra_error("invalid_client", 700024, status=401),
    proofless={"tokenFile": None},
)
AT_THE_REGISTRY = row(
    lambda _directory: {"tokenFile": "/var/run/secrets/tokens/azure", "tenant": TENANT},
    identity=CLIENT,
    refusals=REGISTRY_REFUSALS,
    minting_call=1,
    stale=None,
    proofless={"tokenFile": ""},
)
SECRETIVE = row(
    with_secret,
    refusals=ENTRA_REFUSALS,
    stale=entra_error("invalid_client", 7000215, status=401),
    proofless={"clientSecretFile": None},
    renew=renew_secret,
    lose=lambda world: (world.directory / "secret").unlink(),
    secrets=(SECRET, NEXT_SECRET),
)
ROWS = (FEDERATED, AT_THE_REGISTRY, SECRETIVE)
