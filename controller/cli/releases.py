"""What `release` does: it takes the controller's entries and annotations out of a Secret, as the person.

It reads the Secret's data, as it must, and writes it in one patch that is valid for the version that was read alone.
Entries of others stay byte for byte, and so does one of ours that somebody has changed since.
"""

from __future__ import annotations

import base64

import msgspec

from controller.cli.asks import patch, selected
from controller.cli.cluster import Cluster, cure_of
from controller.cli.exits import Exit, Level
from controller.cli.findings import Finding, print_findings
from controller.cli.flags import Flags
from controller.cli.selection import Selection
from controller.core import dockerconfig
from controller.core.annotations import PREFIX
from controller.core.model import ManagedSecret, Ref
from controller.core.projection import DATA_KEY, config_bytes, project
from controller.kube.errors import Conflict, Forbidden, NotFound

_TRIES = 5
"""The controller may write between our read and our patch."""


class _Metadata(msgspec.Struct, frozen=True):
    annotations: dict[str, str] = {}


class _Annotated(msgspec.Struct, frozen=True):
    metadata: _Metadata


async def release(cluster: Cluster, flags: Flags, selection: Selection) -> Exit:
    """Release each Secret. Raises ApiError."""
    found, findings = await selected(cluster, selection)
    for described in found:
        findings.append(await _release(cluster, described.secret.ref, target=described.secret.target))
    return print_findings(flags, findings)


async def _release(cluster: Cluster, ref: Ref, *, target: str | None) -> Finding:
    topic = "/".join(ref)
    if target is not None:
        cure = "take the namespace out of the target: kubectl annotate namespace NAME " + PREFIX + "targets=none"
        message = f"the target {target or '(unnamed)'} has made it, and would restore it"
        return Finding(topic=topic, level=Level.ERROR, message=message, cure=cure)
    for _ in range(_TRIES):
        try:
            return Finding(topic=topic, level=Level.OK, message=await _try(cluster, ref))
        except Conflict:
            continue
        except NotFound:
            return Finding(topic=topic, level=Level.ERROR, message="it is gone")
        except Forbidden as error:
            return Finding(topic=topic, level=Level.ERROR, message=str(error), cure=cure_of(error))
    return Finding(topic=topic, level=Level.ERROR, message="somebody keeps writing it", cure="try again")


async def _try(cluster: Cluster, ref: Ref) -> str:
    """What was done. Raises ApiError; Conflict if somebody wrote meanwhile."""
    raw = await cluster.get(f"/api/v1/namespaces/{ref.namespace}/secrets/{ref.name}")
    observed = project(raw)
    ours = [key for key in msgspec.json.decode(raw, type=_Annotated).metadata.annotations if key.startswith(PREFIX)]
    hosts = _hosts_of(observed.item)
    body: dict[str, object] = {
        "metadata": {"resourceVersion": observed.resource_version, "annotations": dict.fromkeys(ours)}
    }
    if hosts:
        config = dockerconfig.parse(config_bytes(raw))
        content = dockerconfig.merge(config, entries={}, remove=hosts)
        body["data"] = {DATA_KEY: base64.b64encode(content).decode()}
    await patch(cluster, ref, body)
    data = f"no entry for {', '.join(hosts)}" if hosts else "its data as it was"
    return f"released: no annotation of ours, and {data}"


def _hosts_of(secret: ManagedSecret | None) -> list[str]:
    """The hosts whose entries are as the controller wrote them."""
    claims = secret.claims if secret is not None else ()
    untouched = [claim for claim in claims if claim.fingerprint and claim.present_fingerprint == claim.fingerprint]
    return sorted({host for claim in untouched for host in claim.managed_hosts})
