"""The stand-in for a registry: the door of the OCI distribution protocol, Basic or Bearer. No images are behind it."""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Callable
from typing import Literal

from hack.standin.wire import Answer, Asked, in_json

_REGISTRY_TOKEN_SECONDS = 60


class Registry:
    """Lets in who `admits(user, password)` admits at this moment."""

    def __init__(
        self,
        clock: Callable[[], float],
        admits: Callable[[str, str], bool],
        *,
        flavour: Literal["basic", "bearer"],
    ) -> None:
        self.logins: list[bool] = []
        """What came of every credential that was shown."""
        self.realm: str | None = None
        """In place of our own; for whoever must not believe it."""
        self._clock = clock
        self._admits = admits
        self._flavour = flavour
        self._tokens: dict[str, float] = {}

    async def handle(self, asked: Asked) -> Answer:
        """See Vendor."""
        if asked.method not in ("GET", "HEAD"):
            return Answer(405)
        if asked.path == "/token" and self._flavour == "bearer":
            return self._registry_token(asked)
        if asked.path != "/v2/":
            return _refusal(404, "NAME_UNKNOWN")
        scheme, _, credential = asked.headers.get("Authorization", "").partition(" ")
        if self._flavour == "basic" and scheme == "Basic" and self._knows(credential):
            return in_json(200, {})
        if self._flavour == "bearer" and scheme == "Bearer" and self._tokens.get(credential, 0) > self._clock():
            return in_json(200, {})
        return _refusal(401, "UNAUTHORIZED", WWW_Authenticate=self._challenge(asked))

    def _challenge(self, asked: Asked) -> str:
        origin = asked.url.removesuffix(asked.path)
        realm = self.realm or f"{origin}/token"
        if self._flavour == "basic":
            return f'Basic realm="{origin}/",service="registry"'
        return f'Bearer realm="{realm}",service="{asked.host}"'

    def _registry_token(self, asked: Asked) -> Answer:
        scheme, _, credential = asked.headers.get("Authorization", "").partition(" ")
        if asked.parameters().get("service") != [asked.host]:
            return _refusal(400, "UNSUPPORTED")
        if scheme != "Basic" or not self._knows(credential):
            return _refusal(401, "UNAUTHORIZED")
        token = secrets.token_urlsafe(24)
        self._tokens[token] = self._clock() + _REGISTRY_TOKEN_SECONDS
        return in_json(200, {"token": token, "expires_in": _REGISTRY_TOKEN_SECONDS})

    def _knows(self, credential: str) -> bool:
        try:
            user, _, password = base64.b64decode(credential, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return False
        self.logins.append(self._admits(user, password))
        return self.logins[-1]


def _refusal(status: int, code: str, **headers: str) -> Answer:
    return in_json(status, {"errors": [{"code": code, "message": code.lower()}]}, **headers)
