"""Claims of a JWT, read without checking its signature: whoever receives the token does that."""

from __future__ import annotations

import base64
import json

_YEAR_10000 = 253_402_300_800
"""Seconds since the epoch; instants from here on can't be rendered."""


def jwt_claim(token: str, name: str) -> object:
    """A claim of a JWT, read without checking its signature; None if there is no such claim."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        payload = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return None
    return payload.get(name) if isinstance(payload, dict) else None


def jwt_instant(token: str, name: str) -> int | None:
    """A NumericDate claim (RFC 7519 2) in whole seconds since the epoch, None if there is no such claim."""
    value = jwt_claim(token, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _YEAR_10000:
        return None
    return int(value)
