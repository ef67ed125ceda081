"""What `targets` shows: by namespace what each target has made there, and what is still to be created or removed.

Which namespaces a target selects is decided by the controller's own code, on the configuration that it runs with or on
another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from controller import app, config
from controller.cli import installation
from controller.cli.cluster import Cluster
from controller.cli.exits import Exit, Level, worst
from controller.cli.flags import Flags
from controller.cli.output import print_objects, print_table, refuse
from controller.cli.secretstatus import API_VERSION, Item, items_of
from controller.cli.statustable import STYLES
from controller.core.annotations import CREATED_BY
from controller.core.model import Ref
from controller.core.projection import project_metadata, project_namespace
from controller.core.targets import ASKED, Namespace, Target, Targets, installation_of


class Entry(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A Secret of a target in one namespace."""

    namespace: str
    target: str
    entry: str | None
    """Of the target's configuration, the first that matches; null if none does."""
    secret: str
    state: str
    """As `status` has it; Missing if there is none, InTheWay if there is one that the target hasn't made."""
    action: str | None
    """`create` or `remove`, for what is still to be done."""
    level: str


class EntryList(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What `-o json` prints of targets."""

    api_version: str = API_VERSION
    kind: str = "PullSecretTargetList"
    items: list[Entry]


class _Known(NamedTuple):
    """The Secrets of the cluster, as far as targets are concerned."""

    made: Mapping[Ref, tuple[str, Item]]
    """By this installation: the target, and the state."""
    others: Collection[Ref]


async def show(cluster: Cluster, flags: Flags, *, file: Path | None, install_namespace: str | None) -> Exit:
    """Print the plan; the exit code. Raises ApiError."""
    installed: installation.Installation | None = None
    try:
        installed = await installation.find(cluster, namespace=install_namespace)
    except installation.NotInstalled as error:
        if file is None:
            refuse(f"{error}; name a configuration with -f FILE")
    settings = _settings(file, installed)
    own = installed.namespace if installed else installation.STANDARD_NAMESPACE
    targets = app.targets_of(settings, own_namespace=own)
    known = await _known(cluster, targets, installation_of(installed.user) if installed else None)
    raws = await cluster.list("/api/v1/namespaces", metadata_only=True)
    namespaces = [item for raw in raws if (item := project_namespace(raw).item) is not None]
    entries = _entries(targets, namespaces, known, is_plan=file is not None)
    return _print(flags, sorted(entries, key=lambda each: (each.namespace, each.secret)))


def _settings(file: Path | None, installed: installation.Installation | None) -> config.Config:
    """Of the file, else of the installation; exits with 2 if it can't be used."""
    if file is not None:
        try:
            return config.load(file)
        except config.ConfigError as error:
            refuse("; ".join(error.lines))
    if installed is None or installed.config is None:
        why = (installed and (installed.unreadable or "; ".join(installed.problems))) or "there is none"
        refuse(f"the controller's configuration can't be used: {why}; name another one with -f FILE")
    return installed.config


async def _known(cluster: Cluster, targets: Targets, ours: str | None) -> _Known:
    """Raises ApiError."""
    made: dict[Ref, tuple[str, Item]] = {}
    if ours is not None:
        selector = {"labelSelector": f"{CREATED_BY}={ours}"}
        for raw in await cluster.list("/api/v1/secrets", query=selector, metadata_only=True):
            described = project_metadata(raw)
            if described is not None and described.secret.target is not None:
                item = next(items_of(described, told=None, now=cluster.now()))
                made[described.secret.ref] = (described.secret.target, item)
    lists = await asyncio.gather(
        *(
            cluster.list("/api/v1/secrets", query={"fieldSelector": f"metadata.name={name}"}, metadata_only=True)
            for name in sorted(targets.secret_names)
        )
    )
    there = {_ref(raw) for raws in lists for raw in raws}
    return _Known(made, there - made.keys())


class _Meta(msgspec.Struct, frozen=True):
    name: str
    namespace: str


class _Object(msgspec.Struct, frozen=True):
    metadata: _Meta


def _ref(raw: msgspec.Raw) -> Ref:
    metadata = msgspec.json.decode(raw, type=_Object).metadata
    return Ref(metadata.namespace, metadata.name)


def _entries(targets: Targets, namespaces: list[Namespace], known: _Known, *, is_plan: bool) -> Iterator[Entry]:
    wanted: set[Ref] = set()
    pending = Level.OK if is_plan else Level.WARNING
    for namespace in namespaces:
        for name, target in targets.chosen(namespace).items():
            ref = Ref(namespace.name, name)
            wanted.add(ref)
            if ref in known.made:
                item = known.made[ref][1]
                state, action, level = item.state, None, Level(item.level)
            elif ref in known.others:
                state, action, level = "InTheWay", None, Level.ERROR
            else:
                state, action, level = "Missing", "create", pending
            entry = _matching(target, namespace)
            yield _entry(ref, target.name, entry, state=state, action=action, level=level)
    for ref, (target_name, item) in known.made.items():
        if ref not in wanted and not target_name.startswith(ASKED):
            yield _entry(ref, target_name, None, state=item.state, action="remove", level=pending)


def _entry(ref: Ref, target: str, entry: str | None, *, state: str, action: str | None, level: Level) -> Entry:
    return Entry(
        namespace=ref.namespace,
        target=target,
        entry=entry,
        secret=ref.name,
        state=state,
        action=action,
        level=level.value,
    )


def _matching(target: Target, namespace: Namespace) -> str | None:
    """The first entry of the target that selects the namespace, by its path."""
    return next(
        (f"namespaces[{index}]" for index, each in enumerate(target.selections) if each.matches(namespace)), None
    )


def _print(flags: Flags, entries: list[Entry]) -> Exit:
    if flags.output in ("json", "yaml", "name"):
        print_objects(flags, EntryList(items=entries), names=[f"secret/{each.secret}" for each in entries])
    else:
        rows = [
            [each.namespace, each.target, each.entry or "-", each.secret, each.state, each.action or "-"]
            for each in entries
        ]
        columns = ["NAMESPACE", "TARGET", "ENTRY", "SECRET", "STATE", "ACTION"]
        print_table(flags, columns, rows, styles=[(4, STYLES[each.level]) for each in entries])
    return worst(Level(each.level).exit(fail_on=flags.fail_on) for each in entries)
