"""What `refresh`, `pause` and `resume` do: set an annotation of each Secret, as the person, and say what came of it."""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.progress import Progress

from controller.cli.cluster import Cluster, cure_of
from controller.cli.exits import Exit, Level, worst
from controller.cli.findings import Finding, print_findings
from controller.cli.flags import Flags
from controller.cli.secrets import read_secrets
from controller.cli.selection import Selection
from controller.cli.spans import until
from controller.core.annotations import PREFIX, render_instant
from controller.core.model import ManagedSecret, Ref
from controller.core.projection import Described
from controller.core.states import is_paused
from controller.kube.errors import Forbidden

_LOOK_SECONDS = 1.0
_FIELD_MANAGER = "pull-secret-updater-cli"


async def annotate(cluster: Cluster, flags: Flags, selection: Selection, *, paused: str | None) -> Exit:
    """Set or remove `paused`. Raises ApiError."""
    found, missing = await selected(cluster, selection)
    done = "paused: the controller leaves it alone until resume" if paused else "resumed"
    findings = [
        await _set(cluster, described.secret.ref, {"paused": paused})
        or Finding(topic="/".join(described.secret.ref), level=Level.OK, message=done)
        for described in found
    ]
    return print_findings(flags, [*findings, *missing])


async def refresh(cluster: Cluster, flags: Flags, selection: Selection, *, wait_seconds: float | None) -> Exit:
    """Ask for new tokens, and wait for them for so long, or for none. Raises ApiError."""
    found, findings = await selected(cluster, selection)
    value = f"{render_instant(cluster.now())}-{secrets.token_hex(4)}"
    waiting: dict[Ref, ManagedSecret] = {}
    for described in found:
        ref = described.secret.ref
        if any(is_paused(view) for view in described.secret.views()):
            cure = f"pull-secret-updater resume {ref.name} -n {ref.namespace}"
            findings.append(Finding(topic="/".join(ref), level=Level.ERROR, message="it is paused", cure=cure))
        elif refused := await _set(cluster, ref, {"refresh": value}):
            findings.append(refused)
        else:
            waiting[ref] = described.secret
    if wait_seconds is None:
        asked = [Finding(topic="/".join(ref), level=Level.OK, message="asked for a new token") for ref in waiting]
        return print_findings(flags, [*findings, *asked])
    late = await _wait(cluster, selection, waiting, value, findings, seconds=wait_seconds)
    code = print_findings(flags, findings)
    return worst([code, *([Exit.TIMEOUT] if late else [])])


async def _wait(
    cluster: Cluster,
    selection: Selection,
    waiting: dict[Ref, ManagedSecret],
    value: str,
    findings: list[Finding],
    *,
    seconds: float,
) -> bool:
    """Add what comes of each Secret that waits; whether some did not answer in time."""
    ends_at = time.monotonic() + seconds
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task("new tokens", total=len(waiting))
        while waiting:
            is_over = time.monotonic() >= ends_at
            seen = {each.secret.ref: each.secret for each in (await _read(cluster, selection))}
            for ref, before in list(waiting.items()):
                came = _came(ref, before, seen.get(ref), value, now=cluster.now(), is_over=is_over)
                if came is not None:
                    findings.append(came)
                    del waiting[ref]
                    progress.advance(bar)
            if is_over:
                break
            await asyncio.sleep(min(_LOOK_SECONDS, max(ends_at - time.monotonic(), 0.0)) if waiting else 0)
    cure = "see that the controller runs, and what it says: pull-secret-updater explain NAME"
    message = f"no new token within {seconds:g} s"
    findings += [Finding(topic="/".join(ref), level=Level.UNKNOWN, message=message, cure=cure) for ref in waiting]
    return bool(waiting)


def _came(
    ref: Ref, before: ManagedSecret, after: ManagedSecret | None, value: str, *, now: float, is_over: bool
) -> Finding | None:
    """What came of one that asks for a new token; None if nothing yet.

    An error that was there before may be the answer to this request too: it counts when the time is over.
    """
    topic = "/".join(ref)
    if after is None:
        return Finding(topic=topic, level=Level.ERROR, message="it is gone, or asks for no identity any more")
    old_errors = {claim.name: claim.error for claim in before.claims}
    for claim in after.claims:
        is_new = claim.error != old_errors.get(claim.name)
        if claim.error and claim.refreshed_for != value and (is_new or is_over):
            sentence, _, cure = claim.error.partition("; ")
            return Finding(topic=topic, level=Level.ERROR, message=sentence, cure=cure or None)
    if any(claim.refreshed_for != value for claim in after.claims):
        return None
    ends = min((claim.expires_at for claim in after.claims if claim.expires_at is not None), default=None)
    lives = "" if ends is None else f", which ends {until(ends, now)}"
    return Finding(topic=topic, level=Level.OK, message=f"has a new token{lives}")


async def selected(cluster: Cluster, selection: Selection) -> tuple[list[Described], list[Finding]]:
    """The Secrets, and a finding for each that was named and isn't there. Raises ApiError."""
    found = await read_secrets(cluster, namespace=cluster.namespace, names=selection.names, selector=selection.selector)
    missing = [
        Finding(topic="/".join(ref), level=Level.ERROR, message="there is no such Secret, or it asks for no identity")
        for ref in found.missing
    ]
    if found.unreadable:
        missing.append(Finding(topic=cluster.namespace, level=Level.UNKNOWN, message=found.unreadable))
    if not found.secrets and not missing:
        message = "no Secret here asks for an identity" + (
            f" and has {selection.selector}" if selection.selector else ""
        )
        missing.append(Finding(topic=cluster.namespace, level=Level.ERROR, message=message))
    return list(found.secrets), missing


async def _read(cluster: Cluster, selection: Selection) -> Iterable[Described]:
    found = await read_secrets(cluster, namespace=cluster.namespace, names=selection.names, selector=selection.selector)
    return found.secrets


async def patch(cluster: Cluster, ref: Ref, body: object) -> None:
    """Apply a merge patch as the person's command; no data comes back. Raises ApiError."""
    await cluster.send(
        "PATCH",
        f"/api/v1/namespaces/{ref.namespace}/secrets/{ref.name}",
        what="patch secrets",
        query={"fieldManager": _FIELD_MANAGER},
        body=body,
        content_type="application/merge-patch+json",
        accept="application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
    )


async def _set(cluster: Cluster, ref: Ref, values: Mapping[str, str | None]) -> Finding | None:
    """Set our annotations; what is wrong if that is refused. Raises ApiError if there is no answer."""
    try:
        await patch(cluster, ref, {"metadata": {"annotations": {PREFIX + key: new for key, new in values.items()}}})
    except Forbidden as error:
        return Finding(topic="/".join(ref), level=Level.ERROR, message=str(error), cure=cure_of(error))
    return None
