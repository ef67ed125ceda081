"""The optional last check of a new token: log in to each registry with it before it is handed on.

The OCI distribution protocol: the answer to GET /v2/ says how to log in. `Basic` is tried on /v2/ itself; `Bearer`
names a realm that turns the credential into a registry token, which is then tried on /v2/. Without a scope: it is a
login, not a pull.

Only a refusal counts. A registry that doesn't answer, fails or throttles says nothing about the token, and its outage
must not keep a Secret from its refresh; the log says that a token was handed on untried.

The credential goes to the realm that the registry names, as every client that pulls sends it: a probe trusts the
configured registries no less than the nodes do.
"""

from __future__ import annotations

import asyncio
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
from structlog.typing import FilteringBoundLogger

from controller.core.errors import MintError, Problem
from controller.core.model import Token
from controller.net.urls import is_link_local, is_loopback, is_safe_url
from controller.providers.contract import Provider, Tools
from controller.providers.exchange import IssuerReply, ask, basic, bearer, is_sendable, read_json

_PARAMETER = re.compile(r'(\w+)=(?:"([^"]*)"|([^\s",]+))')
"""A parameter of a challenge: a quoted string or a token (RFC 9110 11.2)."""


class _RegistryToken(msgspec.Struct, frozen=True):
    token: str = ""
    access_token: str = ""


class Probed:
    """A provider that tries each new token at every registry it is for. Uses the provider's proxy and caFile."""

    def __init__(self, provider: Provider, tools: Tools, log: FilteringBoundLogger) -> None:
        self._provider = provider
        self._door = _Door(tools)
        self._log = log

    async def mint(self, identity: str, hosts: tuple[str, ...]) -> Token:
        """See Provider. Those of `hosts` are tried, and no other registry of the provider."""
        token = await self._provider.mint(identity, hosts)
        async with asyncio.TaskGroup() as group:
            logins = [group.create_task(self._refuses(host, token)) for host in hosts]
        if refused := [host for host, login in zip(hosts, logins, strict=True) if login.result()]:
            named = tuple(f"registry {host}" for host in refused)
            raise MintError(Problem.TOKEN_UNFIT, "the registry refused the new token", named=named)
        return token

    async def check_proof(self) -> None:
        """See Provider."""
        await self._provider.check_proof()

    async def _refuses(self, registry: str, token: Token) -> bool:
        try:
            async with asyncio.timeout(self._door.tools.timeout_seconds):
                return not await self._door.admits(registry, token)
        except (MintError, TimeoutError) as error:
            detail = error.detail if isinstance(error, MintError) else "no answer in time"
            self._log.warning("token handed on untried", registry=registry, detail=detail)
            return False


@dataclass(frozen=True, slots=True)
class _Door:
    """The way into a registry."""

    tools: Tools

    async def admits(self, registry: str, token: Token) -> bool:
        """Whether the registry accepts the token. Raises MintError if it neither accepts nor refuses it."""
        url = _v2(registry)
        login = basic(*token.credential(registry))
        challenge = (await self._get(url, {})).headers.get("WWW-Authenticate", "")
        scheme, _, parameters = challenge.partition(" ")
        match scheme.lower():
            case "basic":
                return _admitted(await self._get(url, login))
            case "bearer":
                # The first of several challenges in one header counts.
                found = {name: quoted or token for name, quoted, token in reversed(_PARAMETER.findall(parameters))}
                realm = _realm(found, url)
                reply = await self._get(realm, login)
                return _admitted(reply) and _admitted(await self._get(url, bearer(_registry_token(reply))))
        raise MintError(Problem.ISSUER_MALFORMED, "the registry asks for an unknown kind of login")

    async def _get(self, url: str, headers: Mapping[str, str]) -> IssuerReply:
        return await ask(self.tools, "GET", url, headers=headers)


def _admitted(reply: IssuerReply) -> bool:
    if reply.status not in (200, 401, 403):
        raise MintError(Problem.ISSUER_UNAVAILABLE, f"HTTP {reply.status}")
    return reply.status == 200


def _registry_token(reply: IssuerReply) -> str:
    answer = read_json(reply, _RegistryToken)
    token = answer.token or answer.access_token if answer else ""
    if not is_sendable(token):
        raise MintError(Problem.ISSUER_MALFORMED, "no registry token in the answer")
    return token


def _v2(registry: str) -> str:
    """The address of the protocol's root; plain HTTP for loopback only, as container runtimes do."""
    host = registry.partition("/")[0]
    plain = f"http://{host}/v2/"
    return plain if is_safe_url(plain) else f"https://{host}/v2/"


def _realm(parameters: dict[str, str], registry: str) -> str:
    """The URL that turns the credential into a registry token. Raises MintError if it must not be sent there.

    It must not be sent in the clear, nor to this machine or its node, unless the registry is there too: a registry may
    not make us speak to a neighbour.
    """
    realm, service = parameters.get("realm", ""), parameters.get("service")
    is_near = is_link_local(realm) or (is_loopback(realm) and not is_loopback(registry))
    if is_near or not is_safe_url(realm):
        raise MintError(Problem.ISSUER_MALFORMED, "the registry names a realm that the token must not be sent to")
    query = urllib.parse.urlencode({"service": service}) if service else ""
    return f"{realm}{'&' if '?' in realm else '?'}{query}" if query else realm
