"""The token server of a private docker-registry: anyone with a valid token that the issuer minted may pull.

    python -m testing.registryauth keys DIRECTORY          once, before both start: writes DIRECTORY/key.pem and ca.crt
    python -m testing.registryauth serve DIRECTORY ...     until SIGTERM; prints each decision on stdout, in JSON

https://distribution.github.io/distribution/spec/auth/token/ and https://distribution.github.io/distribution/spec/auth/jwt/
"""

import base64
import binascii
import json
import re
import secrets
import time
from pathlib import Path
from typing import Any

import click
import jwt
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hack import pki
from testing.pod import get_from
from testing.tokens import PublishedKeys, Trust, UntrustedError

SERVICE = "private-registry"
ISSUER = "registryauth"
USER = "_token"
SCOPE = re.compile(r"repository:(?P<name>[a-z0-9/._-]+):pull")
ADMITTED_SECONDS = 30
"""For how long the registry accepts a client that we admitted; enough for one pull."""


class RegistryAuth:
    """Serves /token. The password is a minted token; its `exp` is checked at every request."""

    def __init__(self, trust: Trust, directory: Path) -> None:
        self._trust = trust
        self._key = (directory / "key.pem").read_text()
        certificate = x509.load_pem_x509_certificate((directory / "ca.crt").read_bytes())
        self._chain = [base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()]

    def application(self) -> web.Application:
        """Only GET: a client that tries OAuth 2 first, as containerd does, gets a 405 and then uses GET."""
        app = web.Application()
        app.router.add_get("/token", self._token)
        return app

    async def _token(self, request: web.Request) -> web.Response:
        scope = SCOPE.fullmatch(request.query.get("scope", ""))
        repository = scope["name"] if scope else ""
        try:
            claims = await self._trust.claims(_password(request.headers.get("Authorization", "")))
        except UntrustedError as error:
            _report(repository=repository, admitted=False, why=str(error))
            return web.json_response({"errors": [{"code": "UNAUTHORIZED", "message": str(error)}]}, status=401)
        _report(repository=repository, admitted=True, subject=claims["sub"], left=round(claims["exp"] - time.time(), 1))
        return web.json_response({"token": self._sign(claims["sub"], repository), "expires_in": ADMITTED_SECONDS})

    def _sign(self, subject: str, repository: str) -> str:
        now = int(time.time())
        access = [{"type": "repository", "name": repository, "actions": ["pull"]}] if repository else []
        claims = {
            "iss": ISSUER,
            "sub": subject,
            "aud": SERVICE,
            "nbf": now - 5,
            "iat": now,
            "exp": now + ADMITTED_SECONDS,
            "jti": secrets.token_hex(8),
            "access": access,
        }
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"x5c": self._chain})


def _password(authorization: str) -> str:
    scheme, _, credential = authorization.partition(" ")
    try:
        user, _, password = base64.b64decode(credential, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        user = password = ""
    if scheme != "Basic" or user != USER:
        raise UntrustedError("no credential")
    return password


def _report(**decision: Any) -> None:
    click.echo(json.dumps({"at": time.time(), **decision}))


@click.group()
def cli() -> None:
    """The token server of a private docker-registry."""


@cli.command()
@click.argument("directory", type=click.Path(path_type=Path))
def keys(directory: Path) -> None:
    """Create the signing key, and the certificate that the registry trusts."""
    pair = pki.make_authority()
    pki.write_private(directory / "key.pem", pair.key)
    (directory / "ca.crt").write_bytes(pair.certificate)


@cli.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--port", type=int, required=True, help="on loopback")
@click.option("--issuer", required=True, metavar="URL", help="whose tokens let in")
@click.option("--issuer-ca", type=click.Path(path_type=Path), required=True)
@click.option("--audience", required=True, help="that the tokens must be for")
def serve(*, directory: Path, port: int, issuer: str, issuer_ca: Path, audience: str) -> None:
    """Serve until SIGTERM."""
    trust = PublishedKeys(get_from(issuer.rstrip("/"), ca=issuer_ca), audience=audience)
    server = RegistryAuth(trust, directory).application()
    web.run_app(server, host="127.0.0.1", port=port, access_log=None, print=None)


if __name__ == "__main__":
    cli()
