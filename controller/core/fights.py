"""Contested claims: somebody keeps reverting our write, and we keep restoring it, at a pace that floods nobody.

The first three reverts within ten minutes are healed at once; after the next ones we wait 10 s, 20 s, then 30 s. So a
Secret is never without its token for longer than 30 s after the last revert, and somebody who reverts every second
costs two patches a minute. From the third revert on the claim counts as contested, until ten minutes after the last. A
change of the inputs ends it at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cachetools

from controller.core.errors import Problem, Rejection
from controller.core.model import Key, Standing, View

_WINDOW_SECONDS = 600.0
_CONTESTED = 3
_WAITS_SECONDS = (0.0, 0.0, 0.0, 10.0, 20.0, 30.0)
"""After the first, second, ... revert; the last one counts for all further ones."""

_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class _Fight:
    inputs: tuple[object, ...]
    reverts: tuple[float, ...]
    """Within the last ten minutes, as far as they make a difference."""
    manager: str | None = None
    """The field manager that reverts, once that is known."""

    @property
    def is_contested(self) -> bool:
        return len(self.reverts) >= _CONTESTED

    @property
    def held_until(self) -> float:
        return self.reverts[-1] + _WAITS_SECONDS[len(self.reverts) - 1]

    @property
    def over_at(self) -> float:
        return self.reverts[-1] + _WINDOW_SECONDS


class ContestedClaims:
    """The claims whose writes were reverted lately."""

    def __init__(self) -> None:
        self._fights: cachetools.LRUCache[Key, _Fight] = cachetools.LRUCache(_REMEMBERED)

    def reverted(self, view: View, now: float) -> None:
        """Somebody undid our write."""
        fight = self._current(view, now)
        earlier = [at for at in fight.reverts if now - at < _WINDOW_SECONDS] if fight else []
        reverts = (*earlier, now)[-len(_WAITS_SECONDS) :]
        self._fights[view.key] = _Fight(view.inputs, reverts, fight.manager if fight else None)

    def held_until(self, view: View, now: float) -> float | None:
        """Until when the claim must not be written; None if it may be now."""
        fight = self._current(view, now)
        return fight.held_until if fight and fight.reverts[-1] <= now < fight.held_until else None

    def standing(self, view: View, now: float) -> Standing | None:
        """What to report of a contested claim while it is one; None of any other."""
        fight = self._current(view, now)
        if fight is None or not fight.is_contested:
            return None
        return Standing(Rejection(Problem.FIGHT, (fight.manager,) if fight.manager else ()), fight.over_at)

    def wants_manager(self, view: View, now: float) -> bool:
        """Whether the claim is contested and nobody has said yet by whom."""
        fight = self._current(view, now)
        return fight is not None and fight.is_contested and fight.manager is None

    def name_manager(self, view: View, manager: str, now: float) -> None:
        """The field manager that reverts; "" if none can be told."""
        if (fight := self._current(view, now)) is not None:
            self._fights[view.key] = replace(fight, manager=manager)

    def _current(self, view: View, now: float) -> _Fight | None:
        fight = self._fights.get(view.key)
        if fight is not None and (fight.inputs != view.inputs or not fight.reverts[0] <= now < fight.over_at):
            del self._fights[view.key]
            return None
        return fight
