"""Which Secrets targets have made, and which of those they no longer want.

Counted by namespace, as one namespace counts once, however many Secrets somebody marks there by hand: so no tenant can
make up a mass of removals that holds back everybody else's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from controller.core.model import Ref
from controller.core.targets import Brake


class Holdings:
    """See the module."""

    def __init__(self, brake: Brake) -> None:
        self._brake = brake
        self._made: dict[str, dict[Ref, str]] = {}
        """By namespace, each Secret with the name of its target."""
        self._made_in: dict[str, Counter[str]] = {}
        """By target, how many there are in each namespace."""
        self._leaving: dict[str, dict[str, dict[Ref, float]]] = {}
        """By target and namespace, which of them are no longer wanted, and since when."""

    def of(self, namespace: str) -> Mapping[Ref, str]:
        """The Secrets that targets have made in a namespace, each with its target's name."""
        return self._made.get(namespace, {})

    def namespaces(self) -> Iterable[str]:
        """Where there is any."""
        return self._made.keys()

    def put(self, ref: Ref, target: str | None) -> None:
        """The target that has made a Secret, by its marks; None if that is none, or if it is gone."""
        before = self._made.get(ref.namespace, {}).pop(ref, None)
        if before is not None:
            self.wanted(ref, before)
            made_in = self._made_in[before]
            made_in[ref.namespace] -= 1
            if not made_in[ref.namespace]:
                del made_in[ref.namespace]
        if target is not None:
            self._made.setdefault(ref.namespace, {})[ref] = target
            self._made_in.setdefault(target, Counter())[ref.namespace] += 1
        elif not self._made.get(ref.namespace, True):
            del self._made[ref.namespace]

    def wanted(self, ref: Ref, target: str) -> None:
        """The target wants its Secret, or somebody else sees to it."""
        leaving = self._leaving.get(target, {})
        leaving.get(ref.namespace, {}).pop(ref, None)
        if not leaving.get(ref.namespace, True):
            del leaving[ref.namespace]

    def unwanted_since(self, ref: Ref, target: str, now: float) -> float:
        """Since when the target hasn't wanted its Secret any more; `now` if it did until now."""
        return self._leaving.setdefault(target, {}).setdefault(ref.namespace, {}).setdefault(ref, now)

    def leaving(self, target: str) -> int:
        """In how many namespaces a target no longer wants what it has made."""
        return len(self._leaving.get(target, {}))

    def made(self, target: str) -> int:
        """In how many namespaces a target has made something."""
        return len(self._made_in.get(target, {}))

    def brakes(self, target: str) -> bool:
        """Whether too many namespaces would lose a target's Secret at once."""
        return self._brake.holds(leaving=self.leaving(target), of=self.made(target))
