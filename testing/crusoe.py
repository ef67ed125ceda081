"""The stand-in for Crusoe's API: signed requests create, list and delete registry tokens.

It computes signatures from the API's documentation, not with the controller's code.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import secrets
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass

from testing.wire import Answer, Asked, in_json

_SKEW_SECONDS = 300
_THREE_MONTHS_SECONDS = 90 * 24 * 3600
_MESSAGES = {400: "bad_request", 401: "bad_credential", 403: "unauthorized", 404: "not_found", 429: "too_many_requests"}


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One token, as the list shows it. Times are seconds since the epoch."""

    key_id: str
    alias: str
    created_at: float
    expires_at: float
    usage: str = "registry"


class Crusoe:
    """An organisation with one user, who has one access key."""

    def __init__(self, clock: Callable[[], float], *, access_key: str, secret_key: str) -> None:
        self.lifetime_seconds = 0.0
        self.again = False
        self.minted: list[str] = []
        self.access_key = access_key
        self.secret_key = secret_key
        self.api_keys: list[ApiKey] = []
        self._key_ids: dict[str, str] = {}  # token -> the ID under which it is listed
        self.wanted: list[dict[str, object]] = []
        """The body of every request that created a token."""
        self._clock = clock

    async def handle(self, asked: Asked) -> Answer:
        """See Vendor."""
        if not self._is_signed(asked):
            return refusal(401)
        match asked.method, asked.path:
            case "POST", "/v1/ccr/tokens":
                return self._create(asked)
            case "GET", "/v1/users/limited-usage-api-key":
                return in_json(200, {"items": [_item(key) for key in self.api_keys]})
            case "DELETE", "/v1/users/limited-usage-api-key":
                return self._delete(asked.parameters().get("key_id", [""])[0])
            case _:
                return refusal(404)

    def admits(self, token: str) -> bool:
        """Whether the registry accepts it now, since it is neither deleted nor expired."""
        key_id = self._key_ids.get(token)
        return any(key.key_id == key_id and key.expires_at > self._clock() for key in self.api_keys)

    def _is_signed(self, asked: Asked) -> bool:
        timestamp = asked.headers.get("X-Crusoe-Timestamp", "")
        try:
            apart = abs(dt.datetime.fromisoformat(timestamp).timestamp() - self._clock())
        except (ValueError, TypeError):
            return False
        secret = base64.urlsafe_b64decode(self.secret_key + "==")
        text = "\n".join((asked.path, _canonical(asked.query), asked.method, timestamp, ""))
        signature = base64.urlsafe_b64encode(hmac.new(secret, text.encode(), hashlib.sha256).digest()).rstrip(b"=")
        expected = f"Bearer 1.0:{self.access_key}:{signature.decode()}"
        return apart <= _SKEW_SECONDS and hmac.compare_digest(asked.headers.get("Authorization", ""), expected)

    def _create(self, asked: Asked) -> Answer:
        body = asked.json()
        if body is None:
            return refusal(400)
        self.wanted.append(body)
        now = self._clock()
        expires_at = dt.datetime.fromisoformat(body["expires_at"]).timestamp() if "expires_at" in body else None
        key_id = base64.b64encode(secrets.token_bytes(16)).decode()  # may have + and /, like the original
        self.api_keys.append(ApiKey(key_id, body.get("alias", ""), now, expires_at or now + _THREE_MONTHS_SECONDS))
        self.minted.append(secrets.token_urlsafe(32))
        self._key_ids[self.minted[-1]] = key_id
        return in_json(200, {"token": self.minted[-1]})

    def _delete(self, key_id: str) -> Answer:
        left = [key for key in self.api_keys if key.key_id != key_id]
        if len(left) == len(self.api_keys):
            return refusal(404)
        self.api_keys = left
        return Answer(200)


def _canonical(query: str) -> str:
    pairs = [part.partition("=") for part in query.split("&") if part]
    plain = sorted((urllib.parse.unquote_plus(name), urllib.parse.unquote_plus(value)) for name, _, value in pairs)
    return "&".join(f"{urllib.parse.quote_plus(name)}={urllib.parse.quote_plus(value)}" for name, value in plain)


def _item(key: ApiKey) -> dict[str, str]:
    return {
        "key_id": key.key_id,
        "alias": key.alias,
        "usage": key.usage,
        "created_at": _rfc3339(key.created_at),
        "expires_at": _rfc3339(key.expires_at),
        "last_used": "",
    }


def _rfc3339(instant: float) -> str:
    return dt.datetime.fromtimestamp(instant, dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def refusal(status: int, **headers: str) -> Answer:
    """An error of the API; its code is a string."""
    return in_json(status, {"code": str(status), "message": _MESSAGES.get(status, "internal_error")}, **headers)
