"""The newest version seen of every managed Secret, and never an older one again.

Three sources report: the watch (`put`, `drop`), a relist (`replace`), and the answers to our own requests
(`put_reply`). They arrive in any order; the resource version decides. The one exception is a cluster that was restored
from a backup, whose versions start over: a relist or a read says so (`roll_back`), and then it decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from controller.core.model import ManagedSecret, Ref


def newer(incoming: str, held: str) -> bool:
    """Whether the resource version `incoming` is newer than `held`.

    Versions are decimal integers of any size without leading zeros, so the longer is the newer, then the lexically
    later (KEP-5504). Any other text says only whether it is the same; a different one then counts as newer, because to
    take a stale object costs one 409, and to refuse a fresh one would lose it.
    """
    if _is_number(incoming) and _is_number(held):
        return (len(incoming), incoming) > (len(held), held)
    return incoming != held


def older(incoming: str, *, than: str) -> bool:
    """Whether `incoming` is certainly the older version; False if they can't be compared."""
    return incoming != than and not newer(incoming, than)


def _is_number(version: str) -> bool:
    return version.isascii() and version.isdecimal() and not version.startswith("0")


class Store:
    """The latest `ManagedSecret` per `Ref`, in memory, without any credential."""

    def __init__(self) -> None:
        self._secrets: dict[Ref, ManagedSecret] = {}
        self._assumed: set[Ref] = set()
        """Those whose newest version was concluded from a write of ours, and not seen yet."""

    def get(self, ref: Ref) -> ManagedSecret | None:
        """The newest version seen, or None if there is no such Secret or it asks for nothing."""
        return self._secrets.get(ref)

    def __iter__(self) -> Iterator[ManagedSecret]:
        """All of them; the store may change meanwhile."""
        return iter(tuple(self._secrets.values()))

    def put(self, secret: ManagedSecret) -> bool:
        """Take a version that the watch reports. False, and nothing changes, if the held one is as new or newer.

        A Secret that was deleted and created again has another UID and a newer version, so it takes the place.
        """
        held = self._secrets.get(secret.ref)
        if held is not None and held.resource_version == secret.resource_version and secret.ref in self._assumed:
            # The same version, now as it is: admission may have made something else of what we wrote.
            self._assumed.discard(secret.ref)
            self._secrets[secret.ref] = secret
            return secret != held
        if held is not None and not newer(secret.resource_version, held.resource_version):
            return False
        self._assumed.discard(secret.ref)
        self._secrets[secret.ref] = secret
        return True

    def put_reply(self, secret: ManagedSecret, *, assumed: bool) -> bool:
        """Take the answer to a read or write of our own, like `put`, but never bring back what is no longer held.

        The answer to a write can arrive after the watch has reported a later deletion. We only ask about
        what is held, so what isn't held any more has been deleted since or asks for nothing; only the watch, which
        reports in order, can say that it is there again. So no list of the deleted has to be kept.
        """
        held = self._secrets.get(secret.ref)
        if held is None or not newer(secret.resource_version, held.resource_version):
            return False
        self._secrets[secret.ref] = secret
        (self._assumed.add if assumed else self._assumed.discard)(secret.ref)
        return True

    def amend(self, secret: ManagedSecret) -> None:
        """See the version that is held in another way: what its target asks for has changed."""
        self._secrets[secret.ref] = secret

    def is_seen(self, ref: Ref) -> bool:
        """Whether the newest version was seen as it is, and not only concluded from our own write."""
        return ref in self._secrets and ref not in self._assumed

    def roll_back(self, secret: ManagedSecret) -> bool:
        """Take a version although it is older: it was read after the newer one was known, so the newer one is lost."""
        if secret.ref not in self._secrets:
            return False
        self._secrets[secret.ref] = secret
        self._assumed.discard(secret.ref)
        return True

    def drop(self, ref: Ref, resource_version: str) -> ManagedSecret | None:
        """Remove what was deleted, or stopped asking, at `resource_version`, and return it.

        None, and nothing changes, if nothing is held or what is held is newer: it was created again since.
        """
        held = self._secrets.get(ref)
        if held is None or older(resource_version, than=held.resource_version):
            return None
        self._assumed.discard(ref)
        return self._secrets.pop(ref)

    def replace(
        self,
        secrets: Iterable[ManagedSecret],
        *,
        covers: Callable[[Ref], bool],
        resource_version: str,
        rolled_back: bool,
    ) -> tuple[list[ManagedSecret], list[ManagedSecret]]:
        """Make the held Secrets that the list `covers` equal to the list; return (changed, removed).

        `secrets` is the whole list, `resource_version` its own. What it lacks is removed, what is held at a newer
        version stays: an answer of ours overtook the list. With `rolled_back` the list is the truth whatever the
        versions. Secrets that the list does not cover, another reflector's, are left alone.
        """
        listed = {secret.ref: secret for secret in secrets}
        gone = [
            held
            for held in self
            if covers(held.ref)
            and held.ref not in listed
            and (rolled_back or not older(resource_version, than=held.resource_version))
        ]
        for held in gone:
            del self._secrets[held.ref]
            self._assumed.discard(held.ref)
        if not rolled_back:
            return [secret for secret in listed.values() if self.put(secret)], gone
        changed = [secret for secret in listed.values() if self._secrets.get(secret.ref) != secret]
        self._secrets |= listed
        self._assumed -= listed.keys()
        return changed, gone
