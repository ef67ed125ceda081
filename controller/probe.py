"""The optional last check of a new token: log in to each registry with it before it is handed on.

The OCI distribution protocol: GET /v2/ names the way in. `Basic` is tried on /v2/ itself; `Bearer` names a realm that
turns the credential into a registry token, which is then tried on /v2/. Without a scope: it is a login, not a pull.

Only a refusal counts. A registry that doesn't answer, fails or throttles says nothing about the token, and an outage
of the registry must not keep a Secret from its refresh.
"""

from __future__ import annotations

import asyncio
import base64
import re
import urllib.parse
from dataclasses import dataclass

import msgspec

from controller.core.errors import MintError, Problem
from controller.core.model import Token
from controller.http import Reply, is_safe_url
from controller.providers.base import Provider, ProviderSettings, Tools, ask, read_json

_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


class _RegistryToken(msgspec.Struct, frozen=True):
    token: str = ""
    access_token: str = ""


class Probed:
    """A provider whose tokens have passed every registry that they are for. Uses the provider's proxy and caFile."""

    def __init__(self, provider: Provider, settings: ProviderSettings, tools: Tools) -> None:
        self._provider = provider
        self._registries = settings.registries
        self._door = _Door(tools, settings.timeout_seconds)

    async def mint(self, identity: str, hosts: tuple[str, ...]) -> Token:
        """See Provider. `hosts` is empty where one token serves all registries of the provider."""
        token = await self._provider.mint(identity, hosts)
        async with asyncio.TaskGroup() as group:
            logins = [group.create_task(self._door.refuses(host, token)) for host in hosts or self._registries]
        if any(login.result() for login in logins):
            raise MintError(Problem.TOKEN_UNFIT, "the registry refuses the new token")
        return token


@dataclass(frozen=True, slots=True)
class _Door:
    """The way into a registry."""

    tools: Tools
    timeout_seconds: float

    async def refuses(self, registry: str, token: Token) -> bool:
        """Whether the registry says no to the token."""
        url = _v2(registry)
        basic = "Basic " + base64.b64encode(f"{token.username}:{token.password}".encode()).decode()
        try:
            async with asyncio.timeout(self.timeout_seconds):
                challenge = (await self._get(url, None)).headers.get("WWW-Authenticate", "")
                scheme, _, parameters = challenge.partition(" ")
                if scheme.lower() == "basic":
                    return _refused(await self._get(url, basic))
                realm = _realm(dict(_CHALLENGE.findall(parameters))) if scheme.lower() == "bearer" else None
                return realm is not None and await self._bearer_refused(url, realm, basic)
        except (MintError, TimeoutError):
            return False

    async def _bearer_refused(self, url: str, realm: str, basic: str) -> bool:
        reply = await self._get(realm, basic)
        answer = read_json(reply, _RegistryToken)
        bearer = (answer.token or answer.access_token) if answer and reply.status == 200 else ""
        if not bearer or not bearer.isascii() or not bearer.isprintable():
            return _refused(reply)
        return _refused(await self._get(url, f"Bearer {bearer}"))

    async def _get(self, url: str, authorization: str | None) -> Reply:
        headers = {"Authorization": authorization} if authorization else {}
        return await ask(self.tools, "GET", url, headers=headers, body=None, timeout_seconds=self.timeout_seconds)


def _refused(reply: Reply) -> bool:
    return reply.status in (401, 403)


def _v2(registry: str) -> str:
    """The address of the protocol's root; plain HTTP for loopback only, as container runtimes do."""
    host = registry.partition("/")[0]
    plain = f"http://{host}/v2/"
    return plain if is_safe_url(plain) else f"https://{host}/v2/"


def _realm(parameters: dict[str, str]) -> str | None:
    """Where the credential becomes a registry token; None where it must not be sent: not https, nor loopback."""
    realm, service = parameters.get("realm", ""), parameters.get("service")
    if not is_safe_url(realm):
        return None
    query = urllib.parse.urlencode({"service": service}) if service else ""
    return f"{realm}{'&' if '?' in realm else '?'}{query}" if query else realm
