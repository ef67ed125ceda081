"""Adds the Secrets of targets to the imagePullSecrets of ServiceAccounts, and takes them away again.

The list is atomic to Kubernetes: whoever patches it replaces it. So we read it, add our names at its end, and write it
for exactly the version that was read. What we added is remembered in an annotation; nothing else is ever taken away.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import cachetools
import msgspec

from controller.core.annotations import ATTACHED, render_attached
from controller.core.model import Ref
from controller.core.projection import Observed, project_account
from controller.core.store import newer
from controller.core.targets import Account
from controller.kube.answers import read_last_manager
from controller.kube.client import FIELD_MANAGER, KubeClient
from controller.kube.errors import ApiError, Conflict, NotFound

CONTESTED = 3
CONTESTED_SECONDS = 600.0
"""What somebody took away so often isn't added again until so long after the last time."""

_CONFLICTS = 5
"""In a row with those who write the same ServiceAccount; then others have their turn first."""
_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Contested:
    """Somebody keeps taking away what we add."""

    account: Account
    manager: str
    """The field manager that wrote it last beside us; "" if that can't be told."""


class Accounts:
    """The sink of the watches on ServiceAccounts, and all writes to them. `changed` gets the namespace of a change."""

    def __init__(
        self,
        names: Sequence[str],
        *,
        installation: str,
        client: KubeClient,
        changed: Callable[[str], None],
        now: Callable[[], float],
    ) -> None:
        self._names = names
        self._installation = installation
        self._client = client
        self._changed = changed
        self._known: dict[Ref, Account] = {}
        self._detached: cachetools.TTLCache[Ref, int] = cachetools.TTLCache(_REMEMBERED, CONTESTED_SECONDS, timer=now)
        """How often somebody took away what we had added, until ten minutes after the last time."""

    def of(self, namespace: str) -> Iterator[Account]:
        """Those that are known in a namespace."""
        return (self._known[ref] for name in self._names if (ref := Ref(namespace, name)) in self._known)

    def replaced(
        self, items: Sequence[Account], *, covers: Callable[[Ref], bool], resource_version: str, rolled_back: bool
    ) -> None:
        """See Sink."""
        del resource_version, rolled_back
        listed = {account.ref: account for account in items}
        for ref in [ref for ref in self._known if covers(ref) and ref not in listed]:
            self._set(ref, None)
        for ref, account in listed.items():
            self._set(ref, account)

    def upserted(self, observed: Observed[Account]) -> None:
        """See Sink."""
        held = self._known.get(observed.ref)
        if held is None or newer(observed.resource_version, held.resource_version):
            self._set(observed.ref, observed.item)

    def deleted(self, ref: Ref, resource_version: str) -> None:
        """See Sink."""
        del resource_version
        self._set(ref, None)

    async def attach(self, ref: Ref, wanted: Collection[str]) -> Contested | None:
        """See that it names these Secrets and no other of ours. Raises ApiError; Conflict if it keeps changing."""
        for _ in range(_CONFLICTS + len(wanted)):
            account = self._known.get(ref)
            if account is None or (changed := account.with_attached(wanted)) == account:
                return None
            if self._detached.get(ref, 0) >= CONTESTED and changed.missing_in(account):
                return Contested(account, await self._last_other_writer(ref))
            patch = {
                "metadata": {
                    "resourceVersion": account.resource_version,
                    "annotations": {
                        ATTACHED: render_attached(changed.attached, changed.attached_by_others, self._installation)
                    },
                },
                "imagePullSecrets": [{"name": name} for name in changed.pull_secrets],
            }
            try:
                reply = self._project(await self._client.patch_service_account(ref, msgspec.json.encode(patch)))
                if reply.item is not None and changed.missing_in(reply.item) and not reply.item.lost():
                    self._count(ref)  # admission undid it, and what we remember of it
            except Conflict:
                reply = self._project(await self._client.get_service_account(ref))
            except NotFound:
                return None
            self.upserted(reply)
        raise Conflict("patch serviceaccount: it keeps changing")

    def _project(self, raw: bytes) -> Observed[Account]:
        return project_account(raw, installation=self._installation)

    def _count(self, ref: Ref) -> None:
        self._detached[ref] = self._detached.get(ref, 0) + 1

    async def _last_other_writer(self, ref: Ref) -> str:
        try:
            return read_last_manager(await self._client.get_service_account(ref), other_than=FIELD_MANAGER)
        except ApiError:
            return ""

    def _set(self, ref: Ref, account: Account | None) -> None:
        before = self._known.pop(ref, None)
        if account is not None:
            self._known[ref] = account
            if before is not None and set(account.lost()) - set(before.lost()):
                self._count(ref)
        if account != before:
            self._changed(ref.namespace)
