"""What is known of every managed Secret: the newest version seen of each, and never an older one again.

Three sources report: the watch (`put`, `drop`), a relist (`replace`), and the answers to our own requests
(`put_reply`). They arrive in any order; the resource version decides which is the truth. The one exception is a
cluster restored from a backup, whose versions start over: then the relist says so and its list is the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from controller.core.model import ManagedSecret, Ref


def newer(incoming: str, held: str) -> bool:
    """Whether what comes in at resource version `incoming` is newer than what is held at `held`.

    Versions are decimal integers of any size without leading zeros, so the longer is the newer, then the lexically
    later (KEP-5504). Any other text says only whether it is the same; a different one then counts as newer, because to
    take a stale object costs one 409, and to refuse a fresh one would lose it.
    """
    if _is_number(incoming) and _is_number(held):
        return (len(incoming), incoming) > (len(held), held)
    return incoming != held


def _is_number(version: str) -> bool:
    return version.isascii() and version.isdecimal() and not version.startswith("0")


class Store:
    """The latest `ManagedSecret` per `Ref`, in memory, without any credential."""

    def __init__(self) -> None:
        self._secrets: dict[Ref, ManagedSecret] = {}

    def get(self, ref: Ref) -> ManagedSecret | None:
        """The newest version seen, or None if there is no such Secret or it asks for nothing."""
        return self._secrets.get(ref)

    def __iter__(self) -> Iterator[ManagedSecret]:
        """All of them; the store may change meanwhile."""
        return iter(tuple(self._secrets.values()))

    def __len__(self) -> int:
        return len(self._secrets)

    def put(self, secret: ManagedSecret) -> bool:
        """Take what the watch reports. False, and nothing changes, if what is held is as new or newer.

        A Secret that was deleted and created again has another UID and a newer version, so it takes the place.
        """
        held = self._secrets.get(secret.ref)
        if held is not None and not newer(secret.resource_version, held.resource_version):
            return False
        self._secrets[secret.ref] = secret
        return True

    def put_reply(self, secret: ManagedSecret) -> bool:
        """Take the answer to a read or write of our own, like `put`, but never bring back what is no longer held.

        The answer to a write can arrive after the watch has told of a deletion that came later. We only ask about
        what is held, so what isn't held any more has been deleted since or asks for nothing; only the watch, which
        reports in order, can say that it is there again. So no list of the deleted has to be kept.
        """
        return secret.ref in self._secrets and self.put(secret)

    def drop(self, ref: Ref, resource_version: str | None) -> ManagedSecret | None:
        """Remove what was deleted, or stopped asking, at `resource_version`, and return it.

        None, and nothing changes, if nothing is held or what is held is newer: it was created again since. A
        `resource_version` of None means that the Secret is known to be gone, as after a 404.
        """
        held = self._secrets.get(ref)
        if held is None or (resource_version is not None and _outlives(held, resource_version)):
            return None
        return self._secrets.pop(ref)

    def replace(
        self,
        secrets: Iterable[ManagedSecret],
        *,
        covers: Callable[[Ref], bool],
        resource_version: str,
        rolled_back: bool,
    ) -> tuple[list[ManagedSecret], list[ManagedSecret]]:
        """Make what is held of the Secrets that the list `covers` equal to the list; return (changed, removed).

        `secrets` is the whole list, `resource_version` its own. What it lacks is removed, what is held at a newer
        version stays: an answer of ours overtook the list. With `rolled_back` the list is the truth whatever the
        versions. Secrets that the list does not cover, another reflector's, are left alone.
        """
        listed = {secret.ref: secret for secret in secrets}
        gone = [
            held
            for held in self
            if covers(held.ref) and held.ref not in listed and (rolled_back or not _outlives(held, resource_version))
        ]
        for held in gone:
            del self._secrets[held.ref]
        if not rolled_back:
            return [secret for secret in listed.values() if self.put(secret)], gone
        changed = [secret for secret in listed.values() if self._secrets.get(secret.ref) != secret]
        self._secrets |= listed
        return changed, gone


def _outlives(held: ManagedSecret, version: str) -> bool:
    """Whether `held` was written after `version`. One that can't be compared wasn't: what comes in counts."""
    return held.resource_version != version and not newer(version, held.resource_version)
