"""GitHub App installations (ghcr.io): experimental, because it logs in but may not pull.

Page: https://docs.github.com/en/rest/apps/apps#create-an-installation-access-token-for-an-app. GitHub documents only
classic personal access tokens and the token of Actions for ghcr.io. An installation token passes `docker login`, but
pulls of private packages were seen denied even with `packages: read`. So it has to be asked for: `experimental: true`.

Request   POST <apiUrl>/app/installations/<identity>/access_tokens, `Authorization: Bearer <JWT of the App>`, RS256,
          `iss` the App, `iat` a minute back for clocks that differ, `exp` at most ten minutes ahead; JSON: the
          permission packages: read.
Response  201 {"token", "expires_at": RFC 3339, "permissions": {...}}. The docker user is x-access-token.
Lifetime  `expires_at`; an hour.
Errors    by status; 403 is a limit on the rate if `x-ratelimit-remaining` is 0 or there is a Retry-After.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import ClassVar

import msgspec

from controller.core.errors import MintError, Problem, StaleProof
from controller.core.model import Token
from controller.http import Reply
from controller.providers.base import (
    ProviderSettings,
    Tools,
    Url,
    ask,
    make_token,
    needs_extra,
    needs_unset,
    read_json,
    refusal,
    refusal_detail,
    rfc3339,
    secret_file,
    with_proof,
)

IDENTITY = r"[0-9]{1,20}"
"""The id of an installation, as in the address of its settings."""

USERNAME = "x-access-token"

_BACKDATED_SECONDS = 60
_JWT_SECONDS = 540
"""Ahead of now; GitHub refuses more than 600."""


class GithubAppSettings(ProviderSettings, frozen=True, kw_only=True, rename="camel"):
    """The configuration of `type: github-app`."""

    registries: tuple[str, ...] = ("ghcr.io",)
    experimental: bool = False
    """Has to be true: see above."""
    app_id: str = ""
    """The App's id or client id."""
    private_key_file: str = ""
    """Path of the App's private key in PEM; read anew for every request."""
    api_url: Url = "https://api.github.com"


class _InstallationToken(msgspec.Struct, frozen=True):
    token: str
    expires_at: str | None = None
    permissions: Mapping[str, str] = {}


class GithubApp:
    """Gets tokens of an App's installations, proven by the App's private key."""

    SETTINGS: ClassVar[type[ProviderSettings]] = GithubAppSettings
    SHARES_TOKEN: ClassVar[bool] = True

    @staticmethod
    def problems(settings: GithubAppSettings) -> Iterator[str]:
        """See ProviderType."""
        if not settings.experimental:
            yield "experimental: must be true: ghcr.io takes the login of App tokens, but was seen to deny their pulls"
        if not settings.app_id:
            yield "appId: must be the id or client id of the GitHub App"
        if not settings.private_key_file:
            yield "privateKeyFile: must be the path of the App's private key, which proves who the controller is"
        yield from needs_unset(settings, ("token_file",), "type: github-app")
        with needs_extra("github"):
            import jwt  # noqa: F401, PLC0415 -- only when configured

    def __init__(self, name: str, settings: GithubAppSettings, tools: Tools) -> None:
        with needs_extra("github"):
            import jwt  # noqa: PLC0415 -- only when configured
        self._jwt = jwt
        self._name = name
        self._settings = settings
        self._tools = tools

    async def mint(self, identity: str, hosts: tuple[str, ...]) -> Token:
        """See Provider."""
        return await with_proof(self._key, lambda key: self._create(identity, key))

    async def _key(self) -> str:
        return secret_file(self._settings.private_key_file, lines=True)

    async def _create(self, installation: str, key: str) -> Token:
        # Reading an RSA key takes tens of milliseconds, in which nothing else would be done.
        proof = await asyncio.to_thread(self._app_jwt, key, self._tools.now())
        asked_at = self._tools.now()
        reply = await ask(
            self._tools,
            "POST",
            f"{self._settings.api_url.rstrip('/')}/app/installations/{installation}/access_tokens",
            headers={
                "Authorization": f"Bearer {proof}",
                "Accept": "application/vnd.github+json",
                "Content-Type": "application/json",
                "X-GitHub-Api-Version": "2022-11-28",
            },
            body=b'{"permissions":{"packages":"read"}}',
            timeout_seconds=self._settings.timeout_seconds,
        )
        if reply.status != 201:
            raise self._error(reply)
        return self._token(reply, asked_at)

    def _app_jwt(self, key: str, now: float) -> str:
        claims = {
            "iss": self._settings.app_id,
            "iat": int(now) - _BACKDATED_SECONDS,
            "exp": int(now) + _JWT_SECONDS,
        }
        try:
            return self._jwt.encode(claims, key, algorithm="RS256")
        except Exception:  # a public key fails with AttributeError; and the vendor's text could quote the key
            raise MintError(Problem.PROOF_UNFIT, "privateKeyFile holds no RSA key in PEM") from None

    def _token(self, reply: Reply, asked_at: float) -> Token:
        answer = read_json(reply, _InstallationToken)
        if answer is None:
            raise MintError(Problem.ISSUER_MALFORMED, "HTTP 201 without a token in JSON")
        token = make_token(
            self._tools,
            provider=self._name,
            username=USERNAME,
            password=answer.token,
            asked_at=asked_at,
            reply=reply,
            expiries=(rfc3339(answer.expires_at),),
            default_lifetime_seconds=self._settings.default_lifetime,
        )
        if "packages" not in answer.permissions:
            raise MintError(Problem.TOKEN_UNFIT, "without the permission packages: read")
        return token

    def _error(self, reply: Reply) -> MintError:
        match reply.status:
            case 401:
                return StaleProof(refusal_detail(reply, self._tools))
            case 429:
                return self._throttled(reply)
            case 403 if reply.headers.get("x-ratelimit-remaining") == "0" or "Retry-After" in reply.headers:
                return self._throttled(reply)
            case _:
                return refusal(reply, self._tools)

    def _throttled(self, reply: Reply) -> MintError:
        """Without a Retry-After, GitHub says when the limit is lifted in seconds since the epoch."""
        error = refusal(reply, self._tools, problem=Problem.ISSUER_THROTTLES)
        reset = reply.headers.get("x-ratelimit-reset", "")
        if error.retry_after_seconds is None and reset.isascii() and reset.isdigit():
            error.retry_after_seconds = max(0.0, float(reset) - self._tools.now())
        return error
