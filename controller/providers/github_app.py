"""GitHub App installations (ghcr.io): experimental, because it logs in but may not be able to pull.

Page: https://docs.github.com/en/rest/apps/apps#create-an-installation-access-token-for-an-app. GitHub documents only
classic personal access tokens and the token of Actions for ghcr.io. An installation token passes `docker login`, but
pulls of private packages were seen denied even with `packages: read`. So the operator must say `experimental: true`.

Request   POST <apiUrl>/app/installations/<identity>/access_tokens, `Authorization: Bearer <JWT of the App>`, RS256,
          `iss` the App, `iat` a minute back for clocks that differ, `exp` at most ten minutes ahead; JSON: the
          permission packages: read, and the configured repositories.
Response  201 {"token", "expires_at": RFC 3339, "permissions": {...}}. The docker user is x-access-token.
Lifetime  `expires_at`; an hour.
Errors    by status; 403 is a rate limit if `x-ratelimit-remaining` is 0 or there is a Retry-After.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import msgspec

from controller.core.conversion import shown
from controller.core.errors import MintError, Problem
from controller.core.model import Token
from controller.providers.contract import SettingsType, Tools, needs_extra
from controller.providers.exchange import IssuerReply, ask, bearer, read_answer, refusal, stale
from controller.providers.proof import secret_file, with_proof
from controller.providers.settings import IssuerSettings, Url
from controller.providers.token import make_token, rfc3339

IDENTITY = r"[0-9]{1,20}"
"""The id of an installation, as in the address of its settings."""

USERNAME = "x-access-token"

_REPOSITORY = re.compile(r"[A-Za-z0-9._-]{1,100}")
_BACKDATED_SECONDS = 60
_JWT_SECONDS = 540
"""Ahead of now; GitHub refuses more than 600."""


class GithubAppSettings(IssuerSettings, frozen=True, kw_only=True, rename="camel"):
    """The configuration of `type: github-app`."""

    registries: tuple[str, ...] = ("ghcr.io",)
    experimental: bool = False
    """Must be true: see above."""
    app_id: str
    """The App's id or client id."""
    private_key_file: str
    """Path of the App's private key in PEM; read anew for every request."""
    repositories: tuple[str, ...] = ()
    """Names, without the owner, that the token is for; by default all of the installation's."""
    api_url: Url = "https://api.github.com"

    def problems(self) -> Iterator[str]:
        """See ProviderSettings."""
        if not self.experimental:
            yield "experimental: must be true; ghcr.io accepts logins with App tokens, but was seen to deny pulls"
        for repository in self.repositories:
            if not _REPOSITORY.fullmatch(repository):
                yield f"repositories: {shown(repository)} must be the name of a repository, without its owner"
        _signer()


class _InstallationToken(msgspec.Struct, frozen=True):
    token: str
    expires_at: str | None = None
    permissions: Mapping[str, str] = {}
    repository_selection: str = ""


def _signer() -> Callable[[str, dict[str, object]], str]:
    """Signs claims with the App's key. Raises MissingExtra."""
    with needs_extra("github"):
        import jwt  # noqa: PLC0415 -- an extra

    def sign(key: str, claims: dict[str, object]) -> str:
        try:
            return jwt.encode(claims, key, algorithm="RS256")
        except Exception:  # a public key fails with AttributeError; and the vendor's text could quote the key
            raise MintError(Problem.PROOF_UNFIT, "privateKeyFile holds no RSA key in PEM") from None

    return sign


@dataclass(frozen=True, slots=True)
class GithubApp:
    """Gets tokens of an App's installations, proven by the App's private key."""

    SETTINGS: ClassVar[SettingsType] = GithubAppSettings
    SHARES_TOKEN: ClassVar[bool] = True

    settings: GithubAppSettings
    tools: Tools
    _sign: Callable[[str, dict[str, object]], str] = field(init=False, default_factory=_signer)

    async def mint(self, identity: str, hosts: tuple[str, ...]) -> Token:
        """See Provider."""
        return await with_proof(self._key, lambda key: self._create(identity, key))

    async def check_proof(self) -> None:
        """See Provider."""
        await asyncio.to_thread(self._sign, await self._key(), {})

    async def _key(self) -> str:
        return secret_file(self.settings.private_key_file, lines=True)

    async def _create(self, installation: str, key: str) -> Token:
        now = int(self.tools.now())
        claims: dict[str, object] = {
            "iss": self.settings.app_id,
            "iat": now - _BACKDATED_SECONDS,
            "exp": now + _JWT_SECONDS,
        }
        wish: dict[str, object] = {"permissions": {"packages": "read"}}
        if self.settings.repositories:
            wish["repositories"] = self.settings.repositories
        # Reading an RSA key takes tens of milliseconds, which would block the event loop.
        proof = await asyncio.to_thread(self._sign, key, claims)
        reply = await ask(
            self.tools,
            "POST",
            f"{self.settings.api_url.rstrip('/')}/app/installations/{installation}/access_tokens",
            headers={
                **bearer(proof),
                "Accept": "application/vnd.github+json",
                "Content-Type": "application/json",
                "X-GitHub-Api-Version": "2022-11-28",
            },
            body=msgspec.json.encode(wish),
        )
        if reply.status != 201:
            raise self._error(reply)
        answer = read_answer(reply, _InstallationToken)
        token = make_token(
            self.tools,
            username=USERNAME,
            password=answer.token,
            reply=reply,
            expiries=(rfc3339(answer.expires_at),),
        )
        if "packages" not in answer.permissions:
            raise MintError(Problem.TOKEN_UNFIT, "without the permission packages: read")
        if self.settings.repositories and answer.repository_selection != "selected":
            raise MintError(Problem.TOKEN_UNFIT, "for more repositories than the configured ones")
        return token

    def _error(self, reply: IssuerReply) -> MintError:
        match reply.status:
            case 401:
                return stale(reply, self.tools)
            case 429:
                return self._throttled(reply)
            case 403 if reply.headers.get("x-ratelimit-remaining") == "0" or "Retry-After" in reply.headers:
                return self._throttled(reply)
            case _:
                return refusal(reply, self.tools)

    def _throttled(self, reply: IssuerReply) -> MintError:
        """Without a Retry-After, a header of GitHub's says when the limit is lifted, in seconds since the epoch."""
        error = refusal(reply, self.tools, problem=Problem.ISSUER_THROTTLES)
        reset = reply.headers.get("x-ratelimit-reset", "")
        if error.retry_after_seconds is None and reset.isascii() and reset.isdigit():
            error.retry_after_seconds = max(0.0, float(reset) - self.tools.now())
        return error
