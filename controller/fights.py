"""Who keeps reverting our write is backed off from, so that two controllers never spin against each other.

The third revert within 10 minutes holds the claim for 15 minutes; while the fight lasts every further write is held
just as long, which makes it four writes an hour. A change of the inputs ends the matter at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import cachetools

from controller.core.model import Key, View

_WINDOW_SECONDS = 600.0
_HOLD_SECONDS = 900.0
_REVERTS = 3
_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class _Fight:
    inputs: tuple[object, ...]
    reverts: tuple[float, ...]
    held_until: float

    @property
    def over_at(self) -> float:
        return max(self.reverts[-1], self.held_until) + _WINDOW_SECONDS


class Fights:
    """The claims whose writes were reverted of late."""

    def __init__(self) -> None:
        self._fights: cachetools.LRUCache[Key, _Fight] = cachetools.LRUCache(_REMEMBERED)

    def reverted(self, view: View, now: float) -> None:
        """Somebody undid our write."""
        fight = self._current(view, now)
        earlier = fight.reverts if fight else ()
        reverts = (*(at for at in earlier if now - at < _WINDOW_SECONDS), now)[-_REVERTS:]
        goes_on = fight is not None and fight.held_until > 0
        held_until = now + _HOLD_SECONDS if goes_on or len(reverts) == _REVERTS else 0.0
        self._fights[view.key] = _Fight(view.inputs, reverts, held_until)

    def held_until(self, view: View, now: float) -> float | None:
        """Before when the claim must not be written; None when it may."""
        fight = self._current(view, now)
        return fight.held_until if fight and fight.reverts[-1] <= now < fight.held_until else None

    def _current(self, view: View, now: float) -> _Fight | None:
        fight = self._fights.get(view.key)
        if fight is not None and (fight.inputs != view.inputs or now >= fight.over_at):
            del self._fights[view.key]
            return None
        return fight
