"""Signature Version 4, checked as a server does: from the received bytes, by the specification, without an SDK.

Page: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from testing.wire import Asked

SKEW_SECONDS = 15 * 60
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/, ]+)/(\d{8})/([^/, ]+)/([^/, ]+)/aws4_request, "
    r"SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})"
)


@dataclass(frozen=True, slots=True)
class Signed:
    """A signature and what it claims to cover."""

    access_key: str
    date: str
    region: str
    service: str
    headers: tuple[str, ...]
    signature: str


def signed(asked: Asked) -> Signed | None:
    """The claim in the Authorization header; None if it is missing or has another format."""
    match = _AUTHORIZATION.fullmatch(asked.headers.get("Authorization", ""))
    if match is None:
        return None
    access_key, date, region, service, headers, signature = match.groups()
    return Signed(access_key, date, region, service, tuple(headers.split(";")), signature)


def is_right(asked: Asked, claim: Signed, secret_key: str, now: float) -> bool:
    """Whether the secret key signed every relevant part of this request, within 15 minutes of `now`."""
    sent = asked.headers.get("X-Amz-Date", "")
    try:
        at = datetime.strptime(sent, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return False
    must = {"host"} | {name.lower() for name in asked.headers if name.lower().startswith(("x-amz-", "content-type"))}
    if abs(at - now) > SKEW_SECONDS or not sent.startswith(claim.date) or not must <= set(claim.headers):
        return False
    return hmac.compare_digest(signature(asked, claim, secret_key), claim.signature)


def canonical_request(asked: Asked, headers: tuple[str, ...]) -> str:
    """The request in the canonical form that is signed."""
    values = {name.lower(): " ".join(value.split()) for name, value in asked.headers.items()} | {"host": asked.host}
    lines = [f"{name}:{values.get(name, '')}" for name in headers]
    body = hashlib.sha256(asked.body).hexdigest()
    return "\n".join([asked.method, asked.path or "/", asked.query, *lines, "", ";".join(headers), body])


def signature(asked: Asked, claim: Signed, secret_key: str) -> str:
    """The signature that the request should have."""
    digest = hashlib.sha256(canonical_request(asked, claim.headers).encode()).hexdigest()
    scope = f"{claim.date}/{claim.region}/{claim.service}/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", asked.headers["X-Amz-Date"], scope, digest])
    key = f"AWS4{secret_key}".encode()
    for part in (claim.date, claim.region, claim.service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()
