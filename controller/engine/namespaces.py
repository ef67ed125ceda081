"""The namespaces of the cluster, as far as targets need them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from controller.core.model import Ref
from controller.core.projection import Observed
from controller.core.targets import Namespace


class Namespaces:
    """The sink of the watch on namespaces. `changed` gets the name of each that has changed, come or gone.

    With `exact` names nothing is watched, and any namespace counts as there: that is found out by trying.
    """

    def __init__(self, changed: Callable[[str], None], *, exact: Collection[str] | None) -> None:
        self._changed = changed
        self._known = {name: Namespace(name, {}) for name in exact or ()}
        self._is_exact = self.is_complete = exact is not None
        """The first list is here. Before that, a namespace that isn't known may well be there."""

    def get(self, name: str) -> Namespace | None:
        """What is known of a namespace; None if it isn't there."""
        return Namespace(name, {}) if self._is_exact else self._known.get(name)

    def names(self) -> set[str]:
        """Of all that are there."""
        return set(self._known)

    def replaced(
        self, items: Sequence[Namespace], *, covers: Callable[[Ref], bool], resource_version: str, rolled_back: bool
    ) -> None:
        """See Sink."""
        del covers, resource_version, rolled_back
        before, self._known = self._known, {namespace.name: namespace for namespace in items}
        first, self.is_complete = not self.is_complete, True
        for name in before.keys() | self._known.keys():
            if first or before.get(name) != self._known.get(name):
                self._changed(name)

    def upserted(self, observed: Observed[Namespace]) -> None:
        """See Sink."""
        namespace = observed.item
        if namespace is not None and self._known.get(namespace.name) != namespace:
            self._known[namespace.name] = namespace
            self._changed(namespace.name)

    def deleted(self, ref: Ref, resource_version: str) -> None:
        """See Sink."""
        del resource_version
        self._known.pop(ref.name, None)
        self._changed(ref.name)
