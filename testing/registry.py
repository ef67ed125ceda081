"""The stand-in for a registry: authentication of the OCI distribution protocol, Basic or Bearer, without images."""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Callable
from typing import Literal

from testing.wire import Answer, Asked, in_json

_REGISTRY_TOKEN_SECONDS = 60


class Registry:
    """Accepts the credentials for which `admits(user, password)` is true."""

    def __init__(
        self,
        clock: Callable[[], float],
        admits: Callable[[str, str], bool],
        *,
        flavour: Literal["basic", "bearer"],
    ) -> None:
        self.logins: list[bool] = []
        """The result for every credential that was presented."""
        self.realm: str | None = None
        """Sent instead of our own realm, for tests of clients that must not trust it."""
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
