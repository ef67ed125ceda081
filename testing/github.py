"""The stand-in for the part of GitHub's API where Apps get installation tokens."""

from __future__ import annotations

import datetime as dt
import re
import secrets
from collections.abc import Callable
from typing import Any

import jwt

from testing.wire import Answer, Asked, in_json

_PATH = re.compile(r"/app/installations/(\d+)/access_tokens")
_LONGEST_JWT_SECONDS = 600


class Github:
    """One App, with its public key (PEM) and one installation."""

    def __init__(self, clock: Callable[[], float], *, app_id: str, public_key: str, installation: str) -> None:
        self.lifetime_seconds = 3600.0
        self.again = False
        self.minted: list[str] = []
        self.permissions: dict[str, str] = {"packages": "read"}
        self.repositories = {"app", "base"}
        """Those that the installation has."""
        self.public_key = public_key
        """The App's key; set another to rotate it."""
        self._expires_at = 0.0
        self._clock = clock
        self._app_id = app_id
        self._installation = installation

    async def handle(self, asked: Asked) -> Answer:
        """See Vendor."""
        match = _PATH.fullmatch(asked.path)
        if match is None or asked.method != "POST":
            return refusal(404, "Not Found")
        if not self._is_app(asked.headers.get("Authorization", "")):
            return refusal(401, "A JSON web token could not be decoded")
        if match[1] != self._installation:
            return refusal(404, "Not Found")
        wish = asked.json() or {}
        wanted: dict[str, Any] = wish.get("permissions", self.permissions)
        if not set(wish.get("repositories", ())) <= self.repositories:
            return refusal(422, "There is at least one repository that does not exist or is not accessible.")
        if not wanted.items() <= self.permissions.items():
            return refusal(422, "The permissions requested are not granted to this installation.")
        if not self.again or not self.minted:
            self._expires_at = self._clock() + self.lifetime_seconds
            self.minted.append(f"ghs_{secrets.token_hex(20)}")
        end = dt.datetime.fromtimestamp(self._expires_at, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        selection = "selected" if "repositories" in wish else "all"
        answer = {"token": self.minted[-1], "expires_at": end, "permissions": wanted, "repository_selection": selection}
        return in_json(201, answer)

    def _is_app(self, authorization: str) -> bool:
        options: Any = {"verify_exp": False, "verify_iat": False, "require": ["iat", "exp", "iss"]}
        try:
            claims = jwt.decode(
                authorization.removeprefix("Bearer "), self.public_key, algorithms=["RS256"], options=options
            )
        except jwt.PyJWTError:
            return False
        now = self._clock()
        in_time = claims["iat"] <= now < claims["exp"] <= now + _LONGEST_JWT_SECONDS
        return bool(in_time) and claims["iss"] == self._app_id


def refusal(status: int, message: str, **headers: str) -> Answer:
    """An error of the API."""
    return in_json(status, {"message": message, "documentation_url": "https://docs.github.com/rest"}, **headers)
