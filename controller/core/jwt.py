"""Claims of a JWT, read without checking its signature: whoever receives the token does that."""

from __future__ import annotations

import base64
import json

_YEAR_10000 = 253_402_300_800
"""Seconds since the epoch; instants from here on can't be rendered."""


def jwt_claim(token: str, name: str) -> object:
    """A claim of a JWT, read without checking its signature; None if there is no such claim."""
    return _member(token, 1, name)


def jwt_header(token: str, name: str) -> object:
    """A member of a JWT's header, such as `kid`; None if there is no such member."""
    return _member(token, 0, name)


def _member(token: str, part: int, name: str) -> object:
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        found = json.loads(base64.urlsafe_b64decode(parts[part] + "=" * (-len(parts[part]) % 4)))
    except (ValueError, RecursionError):
        return None
    return found.get(name) if isinstance(found, dict) else None


def jwt_instant(token: str, name: str) -> int | None:
    """A NumericDate claim (RFC 7519 2) in whole seconds since the epoch, None if there is no such claim."""
    value = jwt_claim(token, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _YEAR_10000:
        return None
    return int(value)
