"""The stand-in for an RFC 8693 server, in two flavours: the RFC's and JFrog's.

It verifies the subject token, requires the same parameters as the original, and mints signed tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from testing.tokens import SigningKey, Trust, UntrustedError
from testing.wire import Answer, Asked, in_json

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange"
TOKEN_TYPE = "urn:ietf:params:oauth:token-type:"  # noqa: S105 -- a type

Flavour = Literal["rfc", "jfrog"]

_PATHS = {"rfc": "/token", "jfrog": "/access/api/v1/oidc/token"}
_SUBJECT_TYPES = {"rfc": ("jwt", "id_token"), "jfrog": ("id_token",)}


class TokenExchange:
    """One server with one identity: an audience or a provider name, depending on its flavour."""

    def __init__(
        self,
        clock: Callable[[], float],
        trust: Trust,
        *,
        identity: str,
        flavour: Flavour = "rfc",
        client: str | None = None,
        key: SigningKey | None = None,
    ) -> None:
        self.lifetime_seconds = 3600.0
        self.again = False
        self.minted: list[str] = []
        self.says_lifetime = True
        """Send `expires_in`."""
        self.says_user = True
        """Send `username`, where the flavour has it."""
        self.numbers_as_strings = False
        """Send `"expires_in": "3600"`, as some services do."""
        self._expires_at = 0.0
        self._clock = clock
        self._trust = trust
        self._identity = identity
        self._flavour: Flavour = flavour
        self._client = client
        self._key = key or SigningKey()

    async def handle(self, asked: Asked) -> Answer:
        """See Vendor."""
        if asked.path != _PATHS[self._flavour]:
            return in_json(404, {"errors": [{"code": "NOT_FOUND", "message": "Not Found"}]})
        if asked.method != "POST":
            return Answer(405)
        if self._client is not None and asked.headers.get("Authorization") != self._client:
            return refusal("invalid_client", status=401)
        return await self._exchange(self._parameters(asked))

    def _parameters(self, asked: Asked) -> dict[str, str]:
        """JFrog reads JSON, the RFC's server a form; anything else counts as no parameters."""
        if self._flavour == "jfrog":
            return {name: str(value) for name, value in (asked.json() or {}).items()}
        return {name: values[0] for name, values in (asked.form() or {}).items() if len(values) == 1}

    async def _exchange(self, parameters: dict[str, str]) -> Answer:
        if parameters.get("grant_type") != GRANT_TYPE:
            return refusal("unsupported_grant_type")
        if parameters.get("subject_token_type", "").removeprefix(TOKEN_TYPE) not in _SUBJECT_TYPES[self._flavour]:
            return refusal("invalid_request")
        try:
            await self._trust.claims(parameters.get("subject_token", ""))
        except UntrustedError:
            return refusal("invalid_grant")
        if parameters.get("provider_name" if self._flavour == "jfrog" else "audience") != self._identity:
            return refusal("invalid_target")
        return self._token()

    def _token(self) -> Answer:
        now = self._clock()
        if not self.again or not self.minted:
            self._expires_at = now + self.lifetime_seconds
            self.minted.append(
                self._key.sign({"sub": "jfac@0123/users/puller", "aud": "*@*", "exp": int(self._expires_at)})
            )
        life: object = int(self._expires_at - now)
        answer = {
            "access_token": self.minted[-1],
            "issued_token_type": f"{TOKEN_TYPE}access_token",
            "token_type": "Bearer",
            "scope": "repo:read",
            **({"expires_in": str(life) if self.numbers_as_strings else life} if self.says_lifetime else {}),
            **({"username": "puller"} if self._flavour == "jfrog" and self.says_user else {}),
        }
        return in_json(200, answer, Cache_Control="no-store")


def refusal(code: str, *, status: int = 400, **headers: str) -> Answer:
    """An error of RFC 6749 5.2, with a description that the controller must not repeat."""
    return in_json(status, {"error": code, "error_description": "eyJ-words-of-the-issuer"}, **headers)
