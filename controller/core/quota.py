"""How many Secrets of a namespace are served: the oldest ones, up to a limit."""

from __future__ import annotations

import bisect

from controller.core.model import ManagedSecret, Ref

_Place = tuple[str, str]
"""When a Secret was created, and its name: in the order in which Secrets are served."""


class Quota:
    """Told of every Secret that asks; both methods return the Secrets whose place within the limit has changed."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._places: dict[str, list[_Place]] = {}
        """By namespace, sorted."""
        self._known: dict[Ref, _Place] = {}

    def is_over(self, ref: Ref) -> bool:
        """Whether so many older ones are served that this one isn't."""
        place = self._known.get(ref)
        return place is not None and bisect.bisect_left(self._places[ref.namespace], place) >= self._most

    def add(self, secret: ManagedSecret) -> list[Ref]:
        """It asks. Who is pushed out by it has changed; it itself counts as new, and not as changed."""
        ref, place = secret.ref, (secret.created_at, secret.ref.name)
        if self._known.get(ref) == place:
            return []
        changed = self.remove(ref)  # created again under its name
        places = self._places.setdefault(ref.namespace, [])
        bisect.insort(places, place)
        self._known[ref] = place
        if not self.is_over(ref) and len(places) > self._most:
            changed.append(Ref(ref.namespace, places[self._most][1]))
        return [each for each in changed if each != ref]

    def remove(self, ref: Ref) -> list[Ref]:
        """It is gone, or asks no more. Who moves up has changed."""
        place = self._known.pop(ref, None)
        if place is None:
            return []
        places = self._places[ref.namespace]
        index = bisect.bisect_left(places, place)
        del places[index]
        if not places:
            del self._places[ref.namespace]
        has_successor = index < self._most <= len(places)
        return [Ref(ref.namespace, places[self._most - 1][1])] if has_successor else []
