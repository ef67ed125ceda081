"""The table of `status`, and what it exits with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import click

from controller.cli.cluster import Cluster
from controller.cli.exits import Exit, Level, worst
from controller.cli.flags import Flags
from controller.cli.output import print_objects, print_table, told
from controller.cli.secrets import read_secrets, read_told
from controller.cli.secretstatus import STATES, Item, ItemList, items_of, unknown, worst_first
from controller.cli.spans import span, until
from controller.core.annotations import read_instant
from controller.kube.errors import ApiError

STYLES = {"ok": "green", "warning": "yellow", "error": "bold red", "unknown": "cyan"}
"""By level."""


async def show(cluster: Cluster, flags: Flags, *, names: Sequence[str], everywhere: bool, selector: str | None) -> Exit:
    """Print them; the exit code. Raises ApiError."""
    namespace = None if everywhere else cluster.namespace
    found = await read_secrets(cluster, namespace=namespace, names=names, selector=selector)
    try:
        events = await read_told(cluster, namespace=namespace)
    except ApiError as error:
        events = {}
        if found.unreadable:
            told(f"nor can Events be read: {error}")
    now = cluster.now()
    items = [
        item
        for described in found.secrets
        for item in items_of(described, told=events.get(described.secret.ref), now=now)
    ]
    if found.unreadable:
        seen = {described.secret.ref for described in found.secrets}
        wanted = [ref for ref in events if ref not in seen and (not names or ref.name in names)]
        items += [unknown(*ref, events[ref]) for ref in wanted]
    items = worst_first(items)
    if flags.output in ("json", "yaml", "name"):
        print_objects(flags, ItemList(items=items), names=[f"secret/{item.name}" for item in items])
    else:
        _print(flags, items, now=now, everywhere=everywhere)
        click.echo(_summary(items, now), err=True)
    for ref in found.missing:
        told(f"there is no Secret {ref.name} in the namespace {ref.namespace} that asks for an identity")
    if found.unreadable:
        told(f"{found.unreadable}\n  cure: ask whoever manages RBAC for the verb list on secrets, or name the Secrets")
    codes = [Level(item.level).exit(fail_on=flags.fail_on) for item in items]
    return worst([*codes, *[Exit.WRONG for _ in found.missing], *([Exit.UNKNOWN] if found.unreadable else [])])


def _print(flags: Flags, items: Sequence[Item], *, now: float, everywhere: bool) -> None:
    columns: dict[str, Callable[[Item], str]] = {
        "NAME": lambda item: item.name + (f" ({item.claim})" if item.claim else ""),
        "STATE": lambda item: item.state,
        "REGISTRIES": lambda item: _some(item.registries, all_of_them=flags.is_wide),
        "EXPIRES": lambda item: _when(read_instant(item.expires_at), now),
        "NEXT": lambda item: _next(item, read_instant(item.refresh_at), now),
    }
    if everywhere:
        columns = {"NAMESPACE": lambda item: item.namespace, **columns}
    if flags.is_wide:
        columns |= {
            "PROVIDER": lambda item: item.provider or "-",
            "IDENTITY": lambda item: item.identity or "-",
            "PROOF": lambda item: item.service_account or "controller",
            "TARGET": lambda item: item.target or "-",
            "AGE": lambda item: _age(read_instant(item.created_at), now),
            "FINGERPRINT": lambda item: item.fingerprint or "-",
        }
    columns["LAST ERROR"] = lambda item: _last_error(item, whole=flags.is_wide)
    rows = [[cell(item) for cell in columns.values()] for item in items]
    place = list(columns).index("STATE")
    print_table(flags, list(columns), rows, styles=[(place, STYLES[item.level]) for item in items])


def _summary(items: Sequence[Item], now: float) -> str:
    if not items:
        return "No Secrets ask for an identity here."
    number = len({(item.namespace, item.name) for item in items})
    counts = Counter(item.state for item in items)
    parts = [f"{counts[state]} {state.lower()}" for state in reversed(tuple(STATES)) if counts[state]]
    ends = [end for item in items if (end := read_instant(item.expires_at)) is not None and end > now]
    soonest = f"; soonest expiry {until(min(ends), now)}" if ends else ""
    return f"{number} {'Secret' if number == 1 else 'Secrets'}: {', '.join(parts)}{soonest}"


def _some(registries: Sequence[str], *, all_of_them: bool) -> str:
    if all_of_them or len(registries) <= 1:
        return ",".join(registries) or "-"
    return f"{registries[0]} +{len(registries) - 1}"


def _when(instant: int | None, now: float) -> str:
    return "-" if instant is None else until(instant, now)


def _age(instant: int | None, now: float) -> str:
    return "-" if instant is None else span(now - instant)


def _next(item: Item, refresh_at: int | None, now: float) -> str:
    if item.paused or refresh_at is None:
        return "-"
    return _when(refresh_at, now) if refresh_at > now else "now"


def _last_error(item: Item, *, whole: bool) -> str:
    message = item.message or "-"
    return message if whole else message.partition(";")[0]
