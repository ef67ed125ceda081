"""An API server as a table, behind the transport seam: for each method and path an answer, for what the commands read.

What isn't in the table is 404. An answer is an object, a list of objects, or a status that refuses.
"""

from __future__ import annotations

import email.utils
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from controller.cli.cluster import Cluster
from controller.cli.flags import Flags
from controller.kube.client import KubeClient
from controller.net.transport import AiohttpTransport, Stream, Unreachable

Answer = Any


class Refusal(NamedTuple):
    """A status, and the message of Kubernetes."""

    status: int
    message: str = ""


def flags(**changed: Any) -> Flags:
    """Those of a command without any, but for `changed`."""
    given: dict[str, Any] = {
        "namespace": None,
        "context": None,
        "kubeconfig": Path("/nonexistent"),
        "request_timeout": 5.0,
        "output": "table",
        "headers": True,
        "color": False,
        "verbose": 0,
        "fail_on": "error",
    }
    return Flags(**{**given, **changed})


@dataclass
class ApiTable:
    """See the module; as an `Access` and a `Transport` of the client."""

    now: Callable[[], float]
    answers: dict[str, Answer] = field(default_factory=dict)
    """By `METHOD /path`: an object, a list of items, a status from 400 on, or a function of query and body."""
    asked: list[str] = field(default_factory=list)
    is_unreachable: bool = False
    refuses_all: bool = False
    url = "https://api-table.invalid"
    namespace: str | None = "default"

    async def headers(self) -> dict[str, str]:
        """See Access."""
        return {}

    def rejected(self) -> None:
        """See Access."""

    def transport(self, connections: int) -> AiohttpTransport:
        """See Access."""
        raise NotImplementedError

    def cluster(self, **changed: Any) -> Cluster:
        """As commands have it."""
        client = KubeClient(access=self, requests=self, watches=self, now=self.now)
        given = flags(**changed)
        return Cluster(client, url=self.url, namespace=given.namespace or "default", flags=given, now=self.now)

    @asynccontextmanager
    async def open(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None = None
    ) -> AsyncIterator[Stream]:
        """See Transport."""
        parts = urlsplit(url)
        self.asked.append(f"{method} {parts.path}")
        if self.is_unreachable:
            raise Unreachable("api-table.invalid: Connection refused")
        answer = 403 if self.refuses_all else self.answers.get(f"{method} {parts.path}", 404)
        if callable(answer):
            answer = answer(
                {key: values[0] for key, values in parse_qs(parts.query).items()}, json.loads(body or b"null")
            )
        yield _reply(answer, self.now())


@dataclass
class _Complete:
    status: int
    headers: Mapping[str, str]
    body: bytes

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """See Stream."""
        yield self.body


def _reply(answer: Answer, now: float) -> Stream:
    date = {"Date": email.utils.formatdate(now, usegmt=True)}
    if isinstance(answer, int):
        answer = Refusal(answer)
    if isinstance(answer, Refusal):
        reason = {403: "Forbidden", 404: "NotFound", 409: "Conflict"}.get(answer.status, "InternalError")
        status = {"kind": "Status", "code": answer.status, "reason": reason, "message": answer.message}
        return _Complete(answer.status, date, json.dumps(status).encode())
    if isinstance(answer, list):
        answer = {"metadata": {"resourceVersion": "1"}, "items": answer}
    return _Complete(200, date, json.dumps(answer).encode())
