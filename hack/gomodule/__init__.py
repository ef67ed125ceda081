"""Programs that are built from Go modules pinned here, once per user; nothing is ever downloaded as a binary by us."""

from hack.gomodule.module import BinariesError, GoPrograms, user_cache

__all__ = ["BinariesError", "GoPrograms", "user_cache"]
