"""Google in the contract suite: one row for each proof that can be lost. The metadata server is in test_google.py."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from controller.core.errors import Problem
from testing.google import AUDIENCE, GKE_POOL, GKE_PROVIDER, PROVIDER, Google, api_error, oauth_error
from testing.tokens import Trust
from testing.wire import Answer
from tests.unit.provider_world import Row, World
from tests.unit.virtual_time import Clock

EMAIL = "puller@my-project.iam.gserviceaccount.com"
TOKEN_FILE = "/var/run/secrets/tokens/google"
FEDERATION = {"tokenFile": TOKEN_FILE, "workloadIdentityProvider": PROVIDER}
LONG = "12h"
ISSUER_UNREACHABLE = oauth_error("invalid_grant", "Error connecting to the given credential's issuer.")

OAUTH_REFUSALS: Mapping[str, tuple[Answer, Problem]] = {
    "refused": (oauth_error("unauthorized_client"), Problem.MINT_REFUSED),
    "refused client": (oauth_error("invalid_client", status=401), Problem.MINT_REFUSED),
    "a wrong pool": (oauth_error("invalid_target"), Problem.REQUEST_REFUSED),
    "malformed request": (oauth_error("invalid_request"), Problem.REQUEST_REFUSED),
    "an unknown word": (oauth_error("something_new", status=403), Problem.MINT_REFUSED),
    "throttled": (api_error(429, "RESOURCE_EXHAUSTED"), Problem.ISSUER_THROTTLES),
    "the cluster's issuer can't be reached": (ISSUER_UNREACHABLE, Problem.CLUSTER_ISSUER_UNREACHABLE),
    "throttled in another word": (oauth_error("invalid_grant", status=429), Problem.ISSUER_THROTTLES),
    "unavailable": (oauth_error("internal_failure"), Problem.ISSUER_UNAVAILABLE),
    "unavailable in another word": (oauth_error("invalid_grant", status=503), Problem.ISSUER_UNAVAILABLE),
}
API_REFUSALS: Mapping[str, tuple[Answer, Problem]] = {
    "refused": (api_error(403, "PERMISSION_DENIED"), Problem.MINT_REFUSED),
    "refused bearer": (api_error(401, "UNAUTHENTICATED"), Problem.MINT_REFUSED),
    "unknown": (api_error(404, "NOT_FOUND"), Problem.IDENTITY_UNKNOWN),
    "malformed request": (api_error(400, "INVALID_ARGUMENT"), Problem.REQUEST_REFUSED),
    "throttled": (api_error(429, "RESOURCE_EXHAUSTED"), Problem.ISSUER_THROTTLES),
    "unavailable": (api_error(503, "UNAVAILABLE"), Problem.ISSUER_UNAVAILABLE),
}


@functools.cache
def private_key(key_id: str) -> rsa.RSAPrivateKey:
    """A key of the service account; made once for all tests."""
    del key_id
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@functools.cache
def pem(key_id: str) -> str:
    """The same as Google hands it out."""
    kind = serialization.PrivateFormat.PKCS8
    return private_key(key_id).private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption()).decode()


def write_key(path: Path, key_id: str = "key-1", **changes: Any) -> str:
    """A key file; None leaves a field out."""
    content = {
        "type": "service_account",
        "project_id": "my-project",
        "private_key_id": key_id,
        "private_key": pem(key_id),
        "client_email": EMAIL,
        "client_id": "112233445566778899",
        "token_uri": "https://oauth2.googleapis.com/token",
        "universe_domain": "googleapis.com",
    } | changes
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))
    return str(path)


def write_external_account(path: Path, **changes: Any) -> str:
    """What `gcloud iam workload-identity-pools create-cred-config` writes; None leaves a field out."""
    impersonation = f"https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{EMAIL}:generateAccessToken"
    content = {
        "type": "external_account",
        "universe_domain": "googleapis.com",
        "audience": f"//iam.googleapis.com/{PROVIDER}",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": "https://sts.googleapis.com/v1/token",
        "credential_source": {"file": TOKEN_FILE, "format": {"type": "text"}},
        "service_account_impersonation_url": impersonation,
    } | changes
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))
    return str(path)


def vendor(clock: Clock, trust: Callable[[str], Trust]) -> Google:
    """A project where the controller may act as EMAIL, and EMAIL has two keys."""
    google = Google(clock, trust(AUDIENCE))
    google.longest_seconds = 12 * 3600
    google.impersonators[EMAIL] = {google.principal}
    google.keys = {key_id: (EMAIL, private_key(key_id).public_key()) for key_id in ("key-1", "key-2")}
    return google


def vendor_to_impersonate_at(clock: Clock, trust: Callable[[str], Trust]) -> Google:
    """The same; however long the account's tokens live, those that it is asked with live an hour."""
    google = vendor(clock, trust)
    google.federated_seconds = 3600.0
    return google


def vendor_of_gke(clock: Clock, trust: Callable[[str], Trust]) -> Google:
    """A project whose own pool trusts the tokens of its clusters."""
    google = Google(clock, trust(GKE_POOL), provider=GKE_PROVIDER)
    google.impersonators[EMAIL] = {google.principal}
    return google


def row(
    settings: Callable[[Path], Mapping[str, Any]], *, identity: str, proofless: Mapping[str, Any], **more: Any
) -> Row:
    """A row of the suite for one kind of credentials."""
    return Row(
        type="google",
        identity=identity,
        username="oauth2accesstoken",
        vendor=more.pop("vendor", vendor_to_impersonate_at if more.get("minting_call") else vendor),
        settings=lambda directory: {"registries": ["us-docker.pkg.dev", "gcr.io"], **settings(directory)},
        proofless=proofless,
        **more,
    )


def at(url: str) -> Mapping[str, str]:
    """Everything that workload identity asks, at one address. Not for files, which have to name the address too."""
    return dict.fromkeys(("stsEndpoint", "iamCredentialsEndpoint"), url)


def renew_key(world: World) -> None:
    """Put another key in place."""
    write_key(world.directory / "key.json", "key-2")


DIRECT = row(
    lambda _directory: FEDERATION,
    identity=PROVIDER,
    refusals=OAUTH_REFUSALS,
    stale=oauth_error("invalid_grant"),
    proofless={"tokenFile": None},
    at=at,
)
ON_GKE = row(
    lambda _directory: {**FEDERATION, "workloadIdentityProvider": GKE_PROVIDER},
    identity=GKE_POOL,
    vendor=vendor_of_gke,
    refusals=OAUTH_REFUSALS,
    stale=oauth_error("invalid_grant"),
    proofless={"tokenFile": None},
    at=at,
)
IMPERSONATED = row(
    lambda _directory: {**FEDERATION, "lifetime": LONG},
    identity=EMAIL,
    refusals=API_REFUSALS,
    minting_call=1,
    stale=None,
    proofless={"workloadIdentityProvider": None},
    at=at,
)
EXTERNAL = row(
    lambda directory: {
        "credentials": "externalAccount",
        "credentialsFile": write_external_account(directory / "external.json"),
        "tokenFile": TOKEN_FILE,
        "lifetime": LONG,
    },
    identity=EMAIL,
    refusals=API_REFUSALS,
    minting_call=1,
    stale=None,
    proofless={"tokenFile": None},
)
KEY = row(
    lambda directory: {
        "credentials": "serviceAccountKey",
        "credentialsFile": write_key(directory / "key.json"),
    },
    identity=EMAIL,
    refusals=OAUTH_REFUSALS,
    stale=oauth_error("invalid_grant"),
    proofless={"credentialsFile": None},
    renew=renew_key,
    lose=lambda world: (world.directory / "key.json").unlink(),
    secrets=(*pem("key-1").splitlines()[1:-1], *pem("key-2").splitlines()[1:-1]),
)
ROWS = (DIRECT, ON_GKE, IMPERSONATED, EXTERNAL, KEY)
