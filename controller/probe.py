"""The optional last check of a new token: log in to each registry with it before it is handed on.

The OCI distribution protocol: GET /v2/ names the way in. `Basic` is tried on /v2/ itself; `Bearer` names a realm that
turns the credential into a registry token, which is then tried on /v2/. Without a scope: it is a login, not a pull.

Only a refusal counts. A registry that doesn't answer, fails or throttles says nothing about the token, and an outage
of the registry must not keep a Secret from its refresh; the log says that a token was handed on untried.

The credential goes to the realm that the registry names, as it does with every client that pulls: a probe trusts the
registries that are configured no less than the nodes do.
"""

from __future__ import annotations

import asyncio
import base64
import re
import urllib.parse
from dataclasses import dataclass

import msgspec
from structlog.typing import FilteringBoundLogger

from controller.core.errors import MintError, Problem
from controller.core.model import Token
from controller.http import Reply, is_link_local, is_loopback, is_safe_url
from controller.providers.base import Provider, ProviderSettings, Tools, ask, read_json

_PARAMETER = re.compile(r'(\w+)="([^"]*)"')


class _RegistryToken(msgspec.Struct, frozen=True):
    token: str = ""
    access_token: str = ""


class Probed:
    """A provider whose tokens have passed every registry that they are for. Uses the provider's proxy and caFile."""

    def __init__(self, provider: Provider, settings: ProviderSettings, tools: Tools, log: FilteringBoundLogger) -> None:
        self._provider = provider
        self._door = _Door(tools, settings.timeout_seconds)
        self._log = log

    async def mint(self, identity: str, hosts: tuple[str, ...]) -> Token:
        """See Provider. Those of `hosts` are tried, and no other registry of the provider."""
        token = await self._provider.mint(identity, hosts)
        async with asyncio.TaskGroup() as group:
            logins = [group.create_task(self._refuses(host, token)) for host in hosts]
        if any(login.result() for login in logins):
            raise MintError(Problem.TOKEN_UNFIT, "the registry refuses the new token")
        return token

    async def _refuses(self, registry: str, token: Token) -> bool:
        try:
            async with asyncio.timeout(self._door.timeout_seconds):
                return not await self._door.admits(registry, token)
        except (MintError, TimeoutError) as error:
            detail = error.detail if isinstance(error, MintError) else "no answer in time"
            self._log.warning("token handed on untried", registry=registry, detail=detail)
            return False


@dataclass(frozen=True, slots=True)
class _Door:
    """The way into a registry."""

    tools: Tools
    timeout_seconds: float

    async def admits(self, registry: str, token: Token) -> bool:
        """Whether the registry takes the token. Raises MintError when it says neither yes nor no."""
        url = _v2(registry)
        basic = "Basic " + base64.b64encode(f"{token.username}:{token.password}".encode()).decode()
        challenge = (await self._get(url, None)).headers.get("WWW-Authenticate", "")
        scheme, _, parameters = challenge.partition(" ")
        match scheme.lower():
            case "basic":
                return _admitted(await self._get(url, basic))
            case "bearer":
                # Of several challenges in one header the first counts.
                realm = _realm(dict(reversed(_PARAMETER.findall(parameters))), url)
                reply = await self._get(realm, basic)
                return _admitted(reply) and _admitted(await self._get(url, f"Bearer {_registry_token(reply)}"))
        raise MintError(Problem.ISSUER_MALFORMED, "the registry asks for no login that is known")

    async def _get(self, url: str, authorization: str | None) -> Reply:
        headers = {"Authorization": authorization} if authorization else {}
        return await ask(self.tools, "GET", url, headers=headers, body=None, timeout_seconds=self.timeout_seconds)


def _admitted(reply: Reply) -> bool:
    if reply.status not in (200, 401, 403):
        raise MintError(Problem.ISSUER_UNAVAILABLE, f"HTTP {reply.status}")
    return reply.status == 200


def _registry_token(reply: Reply) -> str:
    answer = read_json(reply, _RegistryToken)
    token = answer.token or answer.access_token if answer else ""
    if not token or not token.isascii() or not token.isprintable():
        raise MintError(Problem.ISSUER_MALFORMED, "no registry token in the answer")
    return token


def _v2(registry: str) -> str:
    """The address of the protocol's root; plain HTTP for loopback only, as container runtimes do."""
    host = registry.partition("/")[0]
    plain = f"http://{host}/v2/"
    return plain if is_safe_url(plain) else f"https://{host}/v2/"


def _realm(parameters: dict[str, str], registry: str) -> str:
    """Where the credential becomes a registry token. Raises MintError where it must not be sent.

    That is in the clear, and to this machine unless the registry is there too: nobody may make us speak to a neighbour.
    """
    realm, service = parameters.get("realm", ""), parameters.get("service")
    is_near = is_link_local(realm) or (is_loopback(realm) and not is_loopback(registry))
    if is_near or not is_safe_url(realm):
        raise MintError(Problem.ISSUER_MALFORMED, "the registry names a realm that the token isn't sent to")
    query = urllib.parse.urlencode({"service": service}) if service else ""
    return f"{realm}{'&' if '?' in realm else '?'}{query}" if query else realm
