"""Reading managed Secrets and the controller's Events about them: metadata only, never data."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from controller.cli.cluster import Cluster
from controller.cli.secretstatus import Told
from controller.core.model import Ref
from controller.core.projection import Described, project_metadata
from controller.kube.errors import ApiError, Forbidden, NotFound
from controller.kube.events import COMPONENT

_BY_NAME = ("pull-secret",)
"""The names that are looked for where one may not list all Secrets; the controller's own default."""


class _Subject(msgspec.Struct, frozen=True):
    kind: str = ""
    namespace: str = ""
    name: str = ""


class _Source(msgspec.Struct, frozen=True):
    component: str = ""


class _Event(msgspec.Struct, frozen=True, rename="camel"):
    involved_object: _Subject
    type: str = ""
    reason: str = ""
    message: str = ""
    source: _Source = _Source()
    count: int | None = None
    first_timestamp: str | None = None
    last_timestamp: str | None = None


_event_decoder = msgspec.json.Decoder(_Event)


@dataclass(frozen=True, slots=True)
class Found:
    """What could be read, and what could not."""

    secrets: Sequence[Described]
    unreadable: str | None
    """Why not all of them; None if these are all."""
    missing: Sequence[Ref] = ()
    """Asked for by name and not there, or without an identity."""


async def read_secrets(
    cluster: Cluster, *, namespace: str | None, names: Sequence[str] = (), selector: str | None = None
) -> Found:
    """The Secrets that ask for an identity, by name or all; of all namespaces if none is given. Raises ApiError."""
    if names:
        return await _by_names(cluster, namespace or cluster.namespace, names)
    path = "/api/v1/secrets" if namespace is None else f"/api/v1/namespaces/{namespace}/secrets"
    query = {"labelSelector": selector} if selector else {}
    try:
        raws = await cluster.list(path, query=query, metadata_only=True)
        return Found(_asking(raws), None)
    except Forbidden as error:
        refused = error
    # As the controller itself may, by RBAC with resourceNames.
    try:
        by_name = [
            await cluster.list(path, query={**query, "fieldSelector": f"metadata.name={name}"}, metadata_only=True)
            for name in _BY_NAME
        ]
    except Forbidden:
        return Found((), str(refused))
    only = f"only Secrets called {', '.join(_BY_NAME)} were looked at: {refused}"
    return Found(_asking(raw for raws in by_name for raw in raws), only)


async def _by_names(cluster: Cluster, namespace: str, names: Sequence[str]) -> Found:
    async def one(name: str) -> Described | Forbidden | None:
        try:
            return project_metadata(
                await cluster.get(f"/api/v1/namespaces/{namespace}/secrets/{name}", metadata_only=True)
            )
        except NotFound:
            return None
        except Forbidden as error:
            return error

    got = await asyncio.gather(*map(one, names))
    refused = next((str(each) for each in got if isinstance(each, ApiError)), None)
    missing = [Ref(namespace, name) for name, each in zip(names, got, strict=True) if each is None]
    return Found([each for each in got if isinstance(each, Described)], refused, missing)


async def read_told(cluster: Cluster, *, namespace: str | None) -> Mapping[Ref, Told]:
    """Of each Secret the latest Event of the controller; Kubernetes keeps Events for an hour. Raises ApiError."""
    path = "/api/v1/events" if namespace is None else f"/api/v1/namespaces/{namespace}/events"
    raws = await cluster.list(path, query={"fieldSelector": "involvedObject.kind=Secret"})
    told: dict[Ref, Told] = {}
    for event in map(_event_decoder.decode, raws):
        ref = Ref(event.involved_object.namespace, event.involved_object.name)
        last_at = event.last_timestamp or ""
        if event.source.component == COMPONENT and (ref not in told or told[ref].last_at <= last_at):
            told[ref] = Told(
                event.reason,
                event.message,
                event.type == "Warning",
                event.count or 1,
                event.first_timestamp or last_at,
                last_at,
            )
    return told


def _asking(raws: Iterable[msgspec.Raw]) -> list[Described]:
    return [described for described in map(project_metadata, raws) if described is not None]
