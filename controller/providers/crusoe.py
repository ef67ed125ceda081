"""Crusoe Cloud Container Registry: an access key of a user makes registry tokens of that user.

Page: https://docs.crusoecloud.com (container registry) and the public Go client of the API.

Request   POST <apiUrl>/ccr/tokens, JSON: expires_at, always (the default is months), and alias if one is set.
          X-Crusoe-Timestamp, and `Authorization: Bearer 1.0:<access key>:<signature>`, an HMAC over path, query, method
          and timestamp.
Response  200 {"token": opaque}, and nothing else. The docker user is the user's e-mail, which the answer doesn't name,
          so an identity must be the configured `user`.
Lifetime  what was asked for, by the issuer's clock.
Errors    {"code": "401", "message": "bad_credential"}, by status; 401 also if the clocks are too far apart.

With an alias, the provider lists the tokens of that alias once an hour at most. It deletes those that have expired, and
those that every Secret should have replaced while this process ran: GET and DELETE
<apiUrl>/users/limited-usage-api-key.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import datetime as dt
import hashlib
import hmac
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, NamedTuple

import msgspec

from controller.core.conversion import Seconds
from controller.core.errors import MintError, Problem
from controller.core.model import Token
from controller.net.transport import http_date
from controller.providers.contract import SettingsType, Tools
from controller.providers.exchange import MAX_ANSWER_BYTES, IssuerReply, ask, bearer, read_answer, refusal, stale
from controller.providers.proof import KeySource, with_proof
from controller.providers.settings import ProviderSettings, Url, checked
from controller.providers.token import is_username, make_token, rfc3339

IDENTITY = r"[^@\s]+@[^@\s]+"
"""The e-mail of a user."""

_Email = Annotated[str, checked(lambda text: None if _is_email(text) else "must be the e-mail of the key's user")]

_CLEANUP_SECONDS = 5.0
"""For one clean-up, and `timeoutSeconds` at most. It comes after the mint and delays the token by as much."""
_CLEANUP_EVERY_SECONDS = 3600.0
_CLEANUP_DELETIONS = 20
"""At most, in one clean-up; the next goes on with the rest."""
_MARGIN_SECONDS = 3600.0
"""A token is left alone for this long after the last Secret should have replaced it."""

_KEYS_PATH = "/users/limited-usage-api-key"
_LIST_BYTES = 8 * 1024 * 1024
"""The list has no pages, and holds expired tokens too: some 250 bytes each."""


class CrusoeSettings(ProviderSettings, frozen=True, kw_only=True, rename="camel"):
    """The configuration of `type: crusoe`."""

    user: _Email
    """E-mail of the key's user; the only valid identity."""
    access_key: KeySource = KeySource(file="/var/run/crusoe/CRUSOE_ACCESS_KEY")
    secret_key: KeySource = KeySource(file="/var/run/crusoe/CRUSOE_SECRET_KEY")
    lifetime: Seconds = Seconds(12 * 3600)
    """Asked for; refresh.maxLifetime may make it less."""
    alias: str | None = None
    """Marks our tokens, so that old ones can be deleted. Must be unique to this cluster: nobody else may use it."""
    api_url: Url = "https://api.cloud.crusoe.ai/v1"

    def problems(self) -> Iterator[str]:
        """See ProviderSettings."""
        yield from self.access_key.problems("accessKey")
        yield from self.secret_key.problems("secretKey")


class Key(NamedTuple):
    """An access key, whose repr hides it."""

    access: str
    secret: str

    def __repr__(self) -> str:
        return "Key(...)"


class _Created(msgspec.Struct, frozen=True):
    token: str


class _Listed(msgspec.Struct, frozen=True):
    key_id: str
    alias: str | None = None
    usage: str | None = None
    created_at: str | None = None
    expires_at: str | None = None


class _List(msgspec.Struct, frozen=True):
    items: tuple[_Listed, ...]


class Crusoe:
    """Makes tokens of one user, and deletes its own when they are old."""

    SETTINGS: ClassVar[SettingsType] = CrusoeSettings
    SHARES_TOKEN: ClassVar[bool] = True

    def __init__(self, settings: CrusoeSettings, tools: Tools) -> None:
        self._settings = settings
        self._tools = tools
        self._started_at = tools.now()
        # After a start, Secrets may hold tokens that were due long ago; each gets another first.
        self._next_cleanup_at = self._started_at + _CLEANUP_EVERY_SECONDS

    async def mint(self, identity: str, hosts: tuple[str, ...]) -> Token:
        """See Provider."""
        if identity != self._settings.user:
            raise MintError(Problem.IDENTITY_UNKNOWN, "the configured key is another user's")
        token = await with_proof(self._key, self._create)
        if self._settings.alias is not None and self._tools.now() >= self._next_cleanup_at:
            self._next_cleanup_at = self._tools.now() + _CLEANUP_EVERY_SECONDS
            self._tools.cleaned(await self._clean_up(self._settings.alias))
        return token

    async def check_proof(self) -> None:
        """See Provider."""
        await self._key()

    async def _key(self) -> Key:
        return Key(self._settings.access_key.read(), self._settings.secret_key.read())

    async def _create(self, key: Key) -> Token:
        life = min(self._settings.lifetime, self._tools.max_lifetime_seconds)
        expires_at = int(self._tools.now() + life)
        alias = {"alias": self._settings.alias} if self._settings.alias else {}
        wanted = {"expires_at": _rfc3339(expires_at), **alias}
        reply = await self._ask("POST", "/ccr/tokens", key, body=msgspec.json.encode(wanted))
        return make_token(
            self._tools,
            username=self._settings.user,
            password=read_answer(reply, _Created).token,
            reply=reply,
            lifetimes_seconds=(life,),
            expiries=(expires_at,),
        )

    async def _clean_up(self, alias: str) -> MintError | None:
        """Delete old tokens, or return the reason why not. Never raises: a token has been minted, and that counts."""
        try:
            async with asyncio.timeout(min(_CLEANUP_SECONDS, self._settings.timeout_seconds)):
                await self._delete_old(alias)
        except MintError as error:
            return error
        except TimeoutError:
            return MintError(Problem.ISSUER_UNAVAILABLE, "the clean-up took too long")
        return None

    async def _delete_old(self, alias: str) -> None:
        key = await self._key()
        reply = await self._ask("GET", _KEYS_PATH, key, max_bytes=_LIST_BYTES)
        listed = read_answer(reply, _List, "a list of tokens in JSON")
        now = http_date(reply.headers.get("Date")) or self._tools.now()
        old = [item.key_id for item in listed.items if self._is_old(item, alias, now)]
        for key_id in old[:_CLEANUP_DELETIONS]:
            await self._ask("DELETE", _KEYS_PATH, key, query=canonical({"key_id": key_id}))

    def _is_old(self, item: _Listed, alias: str, now: float) -> bool:
        """Whether a token is ours, and has expired or should have been replaced in every Secret an hour ago.

        The second is known only of tokens made since our start. If in doubt, a token is left alone.
        """
        if item.alias != alias or item.usage != "registry":
            return False
        try:
            created_at, expires_at = rfc3339(item.created_at), rfc3339(item.expires_at)
        except MintError:
            return False
        if created_at is None or expires_at is None:
            return False
        replaced_at = created_at + self._tools.refreshed_by_share * (expires_at - created_at)
        return now >= expires_at or (created_at >= self._started_at and now > replaced_at + _MARGIN_SECONDS)

    async def _ask(
        self,
        method: str,
        path: str,
        key: Key,
        *,
        query: str = "",
        body: bytes | None = None,
        max_bytes: int = MAX_ANSWER_BYTES,
    ) -> IssuerReply:
        """Send a signed request; `query` is canonical. Raises MintError unless the answer is a success."""
        base, timestamp = self._settings.api_url.rstrip("/"), _rfc3339(self._tools.now())
        signature = sign(
            key.secret,
            method=method,
            path=urllib.parse.urlsplit(base).path + path,
            canonical_query=query,
            timestamp=timestamp,
        )
        reply = await ask(
            self._tools,
            method,
            f"{base}{path}{f'?{query}' if query else ''}",
            headers={
                **bearer(f"1.0:{key.access}:{signature}"),
                "X-Crusoe-Timestamp": timestamp,
                "Content-Type": "application/json",
                "Accept": "application/json",
            },
            body=body,
            max_bytes=max_bytes,
        )
        match reply.status:
            case 200:
                return reply
            case 401:
                raise stale(reply, self._tools)
            case 404 if method == "DELETE":  # somebody else deleted it first
                return reply
            case 404:  # the URL holds no identity, so the URL is wrong
                raise refusal(reply, self._tools, problem=Problem.REQUEST_REFUSED)
            case _:
                raise refusal(reply, self._tools)


def _is_email(text: str) -> bool:
    return re.fullmatch(IDENTITY, text) is not None and is_username(text)


def canonical(query: Mapping[str, str]) -> str:
    """The query as it is signed: sorted by key, escaped as Go's url.QueryEscape does."""
    return urllib.parse.urlencode(sorted(query.items()))


def sign(secret_key: str, *, method: str, path: str, canonical_query: str, timestamp: str) -> str:
    """The signature of a request; its body is not signed. Raises MintError if the key isn't valid."""
    try:
        secret = base64.b64decode(secret_key + "=" * (-len(secret_key) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise MintError(Problem.PROOF_UNFIT, "the secret key is not base64url") from None
    message = f"{path}\n{canonical_query}\n{method}\n{timestamp}\n".encode()
    return base64.urlsafe_b64encode(hmac.digest(secret, message, hashlib.sha256)).decode().rstrip("=")


def _rfc3339(instant: float) -> str:
    return dt.datetime.fromtimestamp(int(instant), dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
