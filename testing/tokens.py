"""The two ends of a token exchange: verifying others' tokens, and minting our own.

Every token minted here has a canary, readable in its payload and in its `jti`: if it, or any part of the token, appears
in a log or an Event, that is a leak.
"""

import asyncio
import secrets
import urllib.parse
from collections.abc import Callable
from typing import Any, Protocol

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm


class UntrustedError(Exception):
    """The bearer isn't a valid token from the trusted issuer for our audience."""


Get = Callable[[str], dict[str, Any]]
"""GET a path at an issuer; returns the JSON response."""


class PublishedKeys:
    """Verifies tokens of an OIDC issuer, such as a cluster, with the keys that it publishes.

    It fetches the keys once, and again when a token names a key that it doesn't have (a rotation).
    """

    def __init__(self, get: Get, *, audience: str) -> None:
        self._get = get
        self._audience = audience
        self._issuer = ""
        self._keys: dict[str, jwt.PyJWK] = {}

    async def claims(self, token: str) -> dict[str, Any]:
        """The verified claims; raises UntrustedError, which names the problem."""
        try:
            key_id = str(jwt.get_unverified_header(token)["kid"])
            if key_id not in self._keys:
                await asyncio.to_thread(self._fetch)
            return jwt.decode(
                token,
                self._keys[key_id],
                algorithms=["RS256", "ES256"],
                audience=self._audience,
                issuer=self._issuer,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except (KeyError, jwt.PyJWTError) as error:
            raise UntrustedError(type(error).__name__) from error

    def _fetch(self) -> None:
        discovered = self._get("/.well-known/openid-configuration")
        self._issuer = discovered["issuer"]
        # Only the path: we reach the issuer in our own way, whatever it calls itself.
        published = self._get(urllib.parse.urlsplit(discovered["jwks_uri"]).path)
        self._keys = {key["kid"]: jwt.PyJWK(key) for key in published["keys"]}


class SigningKey:
    """Signs RS256 tokens and publishes the public half."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._key_id = secrets.token_hex(8)
        self.canary = f"canary-{secrets.token_hex(8)}"

    def sign(self, claims: dict[str, Any]) -> str:
        """The claims as a signed token, with the canary in two of them."""
        marked = {**claims, "canary": self.canary, "jti": f"{self.canary}-{secrets.token_hex(8)}"}
        return jwt.encode(marked, self._key, algorithm="RS256", headers={"kid": self._key_id})

    def jwks(self) -> dict[str, Any]:
        """The JSON Web Key Set to serve."""
        public = RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return {"keys": [{**public, "kid": self._key_id, "use": "sig", "alg": "RS256"}]}


class KeyTrust:
    """Verifies ServiceAccount tokens signed by a given key, with a given clock: a substitute for a cluster."""

    def __init__(self, key: SigningKey, *, audience: str, clock: Callable[[], float]) -> None:
        self._key = jwt.PyJWK(key.jwks()["keys"][0])
        self._audience = audience
        self._clock = clock

    async def claims(self, token: str) -> dict[str, Any]:
        """The verified claims; raises UntrustedError."""
        required = ["exp", "iss", "aud", "sub"]
        try:
            # The library's own check of `exp` reads the machine's clock.
            claims: dict[str, Any] = jwt.decode(
                token,
                self._key,
                algorithms=["RS256"],
                audience=self._audience,
                options={"require": required, "verify_exp": False, "verify_nbf": False, "verify_iat": False},
            )
        except jwt.PyJWTError as error:
            raise UntrustedError(type(error).__name__) from error
        if claims["exp"] <= self._clock():
            raise UntrustedError("expired")
        return claims


class Trust(Protocol):
    """Decides which tokens are accepted as a proof."""

    async def claims(self, token: str) -> dict[str, Any]:
        """The verified claims; raises UntrustedError."""
        ...
