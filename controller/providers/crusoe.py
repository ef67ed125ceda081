"""Crusoe Cloud Container Registry: an access key of a user makes registry tokens of that user.

Page: https://docs.crusoecloud.com (container registry) and the public Go client of the API.

Request   POST <apiUrl>/ccr/tokens, JSON: expires_at, always (left out it would be months), and alias where one is set.
          X-Crusoe-Timestamp, and `Authorization: Bearer 1.0:<access key>:<signature>`, an HMAC over path, query, method
          and timestamp.
Response  200 {"token": opaque}, and nothing else. The docker user is the user's e-mail, which the answer doesn't name:
          so an identity must be the configured `user`.
Lifetime  what was asked for, by the issuer's clock.
Errors    {"code": "401", "message": "bad_credential"}, by status; 401 also where the clocks are too far apart.

With an alias, tokens of that alias are listed now and then, and those are deleted that have expired, or that every
Secret should have replaced while this process ran: GET and DELETE <apiUrl>/users/limited-usage-api-key.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import datetime as dt
import hashlib
import hmac
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import ClassVar, NamedTuple

import msgspec

from controller.core.errors import MintError, Problem, StaleProof
from controller.core.model import Token
from controller.http import Reply, http_date
from controller.providers.base import (
    KeySource,
    ProviderSettings,
    Seconds,
    Tools,
    Url,
    ask,
    is_username,
    make_token,
    needs_unset,
    read_json,
    refusal,
    refusal_detail,
    rfc3339,
    with_proof,
)

IDENTITY = r"[^@\s]+@[^@\s]+"
"""The e-mail of a user."""

CLEANUP_SECONDS = 5.0
"""For one clean-up, and `timeoutSeconds` at most; it comes after the mint, so the token can be so much later."""
CLEANUP_EVERY_SECONDS = 3600.0
CLEANUP_DELETIONS = 20
"""In one clean-up at the most; what is left waits for the next."""
MARGIN_SECONDS = 3600.0
"""A token is left alone for so long after the last Secret should have replaced it."""

_KEYS_PATH = "/users/limited-usage-api-key"
_LIST_BYTES = 8 * 1024 * 1024
"""The list has no pages, and holds expired tokens too: some 250 bytes each."""


class CrusoeSettings(ProviderSettings, frozen=True, kw_only=True, rename="camel"):
    """The configuration of `type: crusoe`."""

    user: str = ""
    """E-mail of the user whose key it is; the only identity there is."""
    access_key: KeySource = KeySource(file="/var/run/crusoe/CRUSOE_ACCESS_KEY")
    secret_key: KeySource = KeySource(file="/var/run/crusoe/CRUSOE_SECRET_KEY")
    lifetime: Seconds = Seconds(12 * 3600)
    """Asked for; refresh.maxLifetime may make it less."""
    alias: str | None = None
    """Marks our tokens, so that old ones can be deleted. Must be unique to this cluster: nobody else may use it."""
    api_url: Url = "https://api.cloud.crusoe.ai/v1"


class Key(NamedTuple):
    """An access key. Never printed: its repr says nothing."""

    access: str
    secret: str

    def __repr__(self) -> str:
        """Say that it is one."""
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

    SETTINGS: ClassVar[type[ProviderSettings]] = CrusoeSettings
    SHARES_TOKEN: ClassVar[bool] = True

    @staticmethod
    def problems(settings: CrusoeSettings) -> Iterator[str]:
        """See ProviderType."""
        if not re.fullmatch(IDENTITY, settings.user) or not is_username(settings.user):
            yield "user: must be the e-mail of the user whose key it is"
        yield from settings.access_key.problems("accessKey")
        yield from settings.secret_key.problems("secretKey")
        if settings.lifetime <= 0:
            yield "lifetime: must be more than 0"
        yield from needs_unset(settings, ("token_file", "default_lifetime"), "type: crusoe")

    def __init__(self, name: str, settings: CrusoeSettings, tools: Tools) -> None:
        self._name = name
        self._settings = settings
        self._tools = tools
        self._started_at = tools.now()
        # After a start Secrets may hold tokens that were due long ago; each gets another first.
        self._next_cleanup_at = self._started_at + CLEANUP_EVERY_SECONDS

    async def mint(self, identity: str, hosts: tuple[str, ...]) -> Token:
        """See Provider."""
        if identity != self._settings.user:
            raise MintError(Problem.IDENTITY_UNKNOWN, "the configured key is another user's")
        token = await with_proof(self._key, self._create)
        if self._settings.alias is not None and self._tools.now() >= self._next_cleanup_at:
            self._next_cleanup_at = self._tools.now() + CLEANUP_EVERY_SECONDS
            self._tools.cleaned(await self._clean_up(self._settings.alias))
        return token

    async def _key(self) -> Key:
        return Key(self._settings.access_key.read() or "", self._settings.secret_key.read() or "")

    async def _create(self, key: Key) -> Token:
        asked_at = self._tools.now()
        life = min(self._settings.lifetime, self._tools.max_lifetime_seconds)
        expires_at = int(asked_at + life)
        wanted = {
            "expires_at": _rfc3339(expires_at),
            **({"alias": self._settings.alias} if self._settings.alias else {}),
        }
        reply = await self._ask("POST", "/ccr/tokens", key, body=msgspec.json.encode(wanted))
        answer = read_json(reply, _Created)
        if answer is None:
            raise MintError(Problem.ISSUER_MALFORMED, "HTTP 200 without a token in JSON")
        return make_token(
            self._tools,
            provider=self._name,
            username=self._settings.user,
            password=answer.token,
            asked_at=asked_at,
            reply=reply,
            lifetimes_seconds=(life,),
            expiries=(expires_at,),
        )

    async def _clean_up(self, alias: str) -> MintError | None:
        """Delete what is old, or say why not. Never fails: a token has been minted, and that counts."""
        try:
            async with asyncio.timeout(min(CLEANUP_SECONDS, self._settings.timeout_seconds)):
                await self._delete_old(alias)
        except MintError as error:
            return error
        except TimeoutError:
            return MintError(Problem.ISSUER_UNAVAILABLE, "the clean-up took too long")
        return None

    async def _delete_old(self, alias: str) -> None:
        key = await self._key()
        reply = await self._ask("GET", _KEYS_PATH, key, max_bytes=_LIST_BYTES)
        listed = read_json(reply, _List)
        if listed is None:
            raise MintError(Problem.ISSUER_MALFORMED, "HTTP 200 without a list of tokens in JSON")
        now = http_date(reply.headers.get("Date")) or self._tools.now()
        old = [item.key_id for item in listed.items if self._is_old(item, alias, now)]
        for key_id in old[:CLEANUP_DELETIONS]:
            with contextlib.suppress(_Gone):  # somebody else was quicker
                await self._ask("DELETE", _KEYS_PATH, key, query={"key_id": key_id})

    def _is_old(self, item: _Listed, alias: str, now: float) -> bool:
        """Ours, and over, or made since our start and so old that every Secret has had another for an hour.

        What isn't sure is left alone.
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
        return now >= expires_at or (created_at >= self._started_at and now > replaced_at + MARGIN_SECONDS)

    async def _ask(
        self,
        method: str,
        path: str,
        key: Key,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        max_bytes: int | None = None,
    ) -> Reply:
        """Send a signed request. Raises MintError unless the answer is 200."""
        base, canonical_query = self._settings.api_url.rstrip("/"), canonical(query or {})
        timestamp = _rfc3339(self._tools.now())
        signature = sign(
            key.secret,
            method=method,
            path=urllib.parse.urlsplit(base).path + path,
            canonical_query=canonical_query,
            timestamp=timestamp,
        )
        reply = await ask(
            self._tools,
            method,
            f"{base}{path}{f'?{canonical_query}' if canonical_query else ''}",
            headers={
                "X-Crusoe-Timestamp": timestamp,
                "Content-Type": "application/json",
                "Accept": "application/json",
                "Authorization": f"Bearer 1.0:{key.access}:{signature}",
            },
            body=body,
            timeout_seconds=self._settings.timeout_seconds,
            max_bytes=max_bytes,
        )
        match reply.status:
            case 200:
                return reply
            case 401:
                raise StaleProof(refusal_detail(reply, self._tools))
            case 404:  # no identity is in the address, so it is the address that is wrong
                raise _Gone(Problem.REQUEST_REFUSED, refusal_detail(reply, self._tools))
            case _:
                raise refusal(reply, self._tools)


class _Gone(MintError):
    """404."""


def canonical(query: Mapping[str, str]) -> str:
    """The query as it is signed: sorted by key, escaped as Go's url.QueryEscape does."""
    return urllib.parse.urlencode(sorted(query.items()))


def sign(secret_key: str, *, method: str, path: str, canonical_query: str, timestamp: str) -> str:
    """The signature of a request; its body is not signed. Raises MintError where the key is none."""
    try:
        secret = base64.b64decode(secret_key + "=" * (-len(secret_key) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise MintError(Problem.PROOF_UNFIT, "the secret key is not base64url") from None
    message = f"{path}\n{canonical_query}\n{method}\n{timestamp}\n".encode()
    return base64.urlsafe_b64encode(hmac.digest(secret, message, hashlib.sha256)).decode().rstrip("=")


def _rfc3339(instant: float) -> str:
    return dt.datetime.fromtimestamp(int(instant), dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
