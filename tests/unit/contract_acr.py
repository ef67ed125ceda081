"""Azure in the contract suite, by what refuses: Entra or the registry. Managed identities are in test_acr.py."""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

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
        settings=lambda directory: {"registries": [REGISTRY], **settings(directory)},
        at=lambda url: dict.fromkeys(("authority", "registryEndpoint"), url),
        **{"identity": IDENTITY, "vendor": vendor, **more},
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


@functools.cache
def certificate(number: int) -> tuple[str, str, str, Any]:
    """Of the puller: the certificate and the key in PEM, the thumbprint, and the public key; made once."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"puller-{number}")])
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    made = (
        x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=key.public_key(), serial_number=number)
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=365))
        .sign(key, SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    thumbprint = base64.urlsafe_b64encode(made.fingerprint(SHA256())).rstrip(b"=").decode()
    return made.public_bytes(Encoding.PEM).decode(), private, thumbprint, key.public_key()


def certified(clock: Clock, trust: Callable[[str], Trust]) -> Azure:
    """A tenant where CLIENT has a certificate."""
    azure = vendor(clock, trust)
    azure.certificates[CLIENT] = certificate(1)[2:]
    return azure


def with_certificate(directory: Path) -> Mapping[str, Any]:
    """Certificate and key are mounted, as a Secret of type kubernetes.io/tls has them."""
    for name, text in zip(("tls.crt", "tls.key"), certificate(1)[:2], strict=True):
        (directory / name).write_text(text)
    return {
        "credentials": "clientCertificate",
        "tenant": TENANT,
        "clientId": CLIENT,
        "certificateFile": str(directory / "tls.crt"),
        "privateKeyFile": str(directory / "tls.key"),
    }


def renew_certificate(world: World) -> None:
    """Replace the certificate: at Entra, and in the mounted Secret."""
    assert isinstance(world.vendor, Azure)
    world.vendor.certificates[CLIENT] = certificate(2)[2:]
    for name, text in zip(("tls.crt", "tls.key"), certificate(2)[:2], strict=True):
        (world.directory / name).write_text(text)


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
CERTIFIED = row(
    with_certificate,
    vendor=certified,
    refusals=ENTRA_REFUSALS,
    stale=entra_error("invalid_client", 700027, status=401),
    proofless={"certificateFile": None},
    renew=renew_certificate,
    lose=lambda world: (world.directory / "tls.key").unlink(),
    secrets=tuple(line for number in (1, 2) for line in certificate(number)[1].splitlines()[1:-1]),
)
ROWS = (FEDERATED, AT_THE_REGISTRY, SECRETIVE, CERTIFIED)
