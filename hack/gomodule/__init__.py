"""Programs built from Go modules that are pinned here, once per user; we never download a binary."""

from hack.gomodule.module import BinariesError, GoPrograms, user_cache

__all__ = ["BinariesError", "GoPrograms", "user_cache"]
