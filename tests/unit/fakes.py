"""Builders and servers that the unit tests share. Nothing here checks a signature, so the JWTs are not signed."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog
from multidict import CIMultiDict
from structlog.testing import LogCapture
from structlog.typing import FilteringBoundLogger

from controller.core import dockerconfig
from controller.core.annotations import PREFIX, Written, render_written
from controller.core.errors import Problem
from controller.core.model import ManagedSecret, Resolved, View
from controller.core.policy import Profile, Shape, issued_for
from controller.core.projection import project
from controller.core.schedule import RefreshWindow, refresh_at
from controller.core.states import State
from controller.net.transport import Stream, Unreachable
from controller.observe.counts import HORIZONS_SECONDS, StateCounts
from controller.observe.metrics import Metrics
from tests.unit.virtual_time import EPOCH_SECONDS

NOW = int(EPOCH_SECONDS)
HOUR = 3600
IDENTITY = "c95870ebffa72a258df087ea727ee92daf177e29/f067a9080d45a098"
OTHER_IDENTITY = "0123456789abcdef0123456789abcdef01234567/0123456789abcdef"
CHAINGUARD = Profile("chainguard", "chainguard", ("cgr.dev",))
SHAPES = (
    Shape(re.compile("[0-9a-f]{40}(/[0-9a-f]{16})*"), frozenset({"chainguard"})),
    Shape(re.compile(r"arn:aws:iam::\d{12}:role/.+"), frozenset({"ecr", "ecr-public"})),
)
WINDOW = RefreshWindow()
NO_CLAIMS = StateCounts(
    dict.fromkeys(State, 0),
    dict.fromkeys(Problem, 0),
    expired_seconds=0.0,
    earliest_expiry=None,
    least_life_left=None,
    oldest_unfilled_seconds=0.0,
    oldest_overdue_seconds=0.0,
    due_within=dict.fromkeys(HORIZONS_SECONDS, 0),
)
UID = "3b0a1f3e-0000-4000-8000-000000000001"


def encode_segment(content: bytes) -> str:
    """Base64url without padding, as in a JWT."""
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def jwt(claims: Any = None, /, **more: Any) -> str:
    """A JWT of these claims; its header is real, its signature isn't."""
    payload = {**(claims or {}), **more} if claims is None or isinstance(claims, dict) else claims
    return ".".join(encode_segment(part) for part in (b'{"alg":"RS256"}', json.dumps(payload).encode(), b"signature"))


def registry_token(identity: str = IDENTITY, *, lifetime: float = HOUR, now: float = NOW, **claims: Any) -> str:
    """What the issuer of Chainguard mints; a claim given as None is left out."""
    all_claims = {"iss": "https://issuer.enforce.dev", "aud": "cgr.dev", "sub": identity, "exp": int(now + lifetime)}
    return jwt({name: value for name, value in (all_claims | claims).items() if value is not None})


def annotated(**values: str) -> dict[str, str]:
    """Our annotations: `identity_team_a="x"` is `identity.team-a`, for the keys that take a suffix."""
    return {PREFIX + _key(name): value for name, value in values.items()}


def _key(name: str) -> str:
    for key in ("service_account", "registries", "identity"):
        if name.startswith(f"{key}_") and name != "registries_managed":
            return f"{key.replace('_', '-')}.{name.removeprefix(f'{key}_').replace('_', '-')}"
    return name.replace("_", "-")


def entry(username: str = "_token", password: str = "a-password") -> dict[str, str]:
    """An entry of a docker config, as kubectl writes it."""
    return {
        "username": username,
        "password": password,
        "auth": base64.b64encode(f"{username}:{password}".encode()).decode(),
    }


def secret_json(
    annotations: Mapping[str, str] | None = None,
    *,
    config: Any = b"{}",
    namespace: str = "team-a",
    name: str = "pull-secret",
    uid: str = UID,
    resource_version: str = "7",
    labels: Mapping[str, str] | None = None,
    **fields: Any,
) -> bytes:
    """A Secret as the API server sends it. `config` is bytes or what is rendered as JSON; None leaves `data` out."""
    secret: dict[str, Any] = {
        "kind": "Secret",
        "apiVersion": "v1",
        "metadata": {"name": name, "namespace": namespace, "uid": uid, "resourceVersion": resource_version},
        "type": "kubernetes.io/dockerconfigjson",
    }
    if labels is not None:
        secret["metadata"]["labels"] = dict(labels)
    if annotations is not None:
        secret["metadata"]["annotations"] = dict(annotations)
    if config is not None:
        content = config if isinstance(config, bytes) else json.dumps(config).encode()
        secret["data"] = {".dockerconfigjson": base64.b64encode(content).decode()}
    return json.dumps(secret | fields).encode()


def managed(annotations: Mapping[str, str] | None = None, **fields: Any) -> ManagedSecret:
    """The projection of such a Secret, which must ask for an identity."""
    secret = project(secret_json(annotations, **fields)).item
    assert secret is not None
    return secret


def view(annotations: Mapping[str, str] | None = None, *, claim: str = "", **fields: Any) -> View:
    """One claim of such a Secret."""
    found = managed(annotations, **fields).view(claim)
    assert found is not None
    return found


def written(
    *,
    issued_at: int = NOW,
    expires_at: int = NOW + HOUR,
    identity: str = IDENTITY,
    profile: Profile = CHAINGUARD,
    hosts: tuple[str, ...] | None = None,
    claim: str = "",
    refreshed_for: str | None = None,
    password: str = "a-password",
    uid: str = UID,
) -> dict[str, str]:
    """The annotations that the controller writes beside a token, as they are found in the Secret afterwards."""
    hosts = hosts or profile.registries
    facts = Written(
        issued_at=issued_at,
        expires_at=expires_at,
        refresh_at=int(refresh_at(WINDOW, uid=uid, issued_at=issued_at, expiry=float(expires_at))),
        issued_for=issued_for(Resolved(profile.name, identity, hosts, None)),
        fingerprint=dockerconfig.fingerprint(dict.fromkeys(hosts, ("_token", password))),
        hosts=hosts,
        refreshed_for=refreshed_for,
    )
    return {key: value for key, value in render_written(claim, facts).items() if value is not None}


def filled(
    *, password: str = "a-password", overrides: Mapping[str, str | None] | None = None, **fields: Any
) -> dict[str, Any]:
    """Arguments for `view`, `managed` and `secret_json`: a Secret that holds a token of ours.

    `overrides` are annotations without prefix that somebody set afterwards; None removes one.
    """
    secret_fields: dict[str, Any] = {
        key: fields.pop(key) for key in ("uid", "resource_version", "name", "namespace") if key in fields
    }
    ours: dict[str, str | None] = {**annotated(identity=IDENTITY), **written(password=password, **fields)}
    ours |= {PREFIX + key: value for key, value in (overrides or {}).items()}
    return {
        "annotations": {key: value for key, value in ours.items() if value is not None},
        "config": {"auths": {"cgr.dev": entry(password=password)}},
        **secret_fields,
    }


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that reached the fake transport."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the fake transport answers."""

    status: int | None = 200
    """None breaks the connection off before any answer."""
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    after_seconds: float = 0.0
    hangs_before_body: bool = False
    breaks_after_body: bool = False
    chunk_bytes: int = 4096


class FakeTransport:
    """The transport seam with a function behind it; counts what it was asked and what was left open."""

    def __init__(self, respond: Callable[[Sent], Answer]) -> None:
        self.respond = respond
        self.sent: list[Sent] = []
        self.open_now = 0
        self.bytes_read = 0

    @asynccontextmanager
    async def open(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None = None
    ) -> AsyncIterator[Stream]:
        """As Transport."""
        request = Sent(method, url, headers, body)
        self.sent.append(request)
        answer = self.respond(request)
        self.open_now += 1
        try:
            await asyncio.sleep(answer.after_seconds)
            if answer.status is None:
                raise Unreachable("ConnectionResetError")
            yield _FakeStream(self, answer, answer.status)
        finally:
            self.open_now -= 1


class _FakeStream:
    def __init__(self, transport: FakeTransport, answer: Answer, status: int) -> None:
        self._transport = transport
        self._answer = answer
        self.status = status
        self.headers: Mapping[str, str] = CIMultiDict(answer.headers)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        if self._answer.hangs_before_body:
            await asyncio.Event().wait()
        for start in range(0, len(self._answer.body), self._answer.chunk_bytes):
            chunk = self._answer.body[start : start + self._answer.chunk_bytes]
            self._transport.bytes_read += len(chunk)
            yield chunk
        if self._answer.breaks_after_body:
            raise Unreachable("ConnectionResetError")


def metrics(*providers: str) -> Metrics:
    """The metrics of a controller with these providers."""
    return Metrics(providers=providers or ("chainguard",), policies=("a-policy",), relist_reasons=("start",))


def capturing_log() -> tuple[FilteringBoundLogger, LogCapture]:
    """A logger, and where its entries are found."""
    capture = LogCapture()
    log: FilteringBoundLogger = structlog.wrap_logger(
        None, processors=[capture], wrapper_class=structlog.make_filtering_bound_logger(0)
    )
    return log, capture
