"""How many Secrets to ask for at once: 500, or as few as it takes for a page to fit into memory."""

from __future__ import annotations

from controller.kube.client import PAGE_BYTES

MOST = 500
_SHRINK = 4


class PageSize:
    """`limit` is what to ask for next. It shrinks by a page that is too large and grows again by small ones."""

    def __init__(self) -> None:
        self.limit = MOST

    def shrink(self) -> bool:
        """The page was too large. Returns False if it can't be smaller, because it is of one Secret."""
        if self.limit == 1:
            return False
        self.limit = max(1, self.limit // _SHRINK)
        return True

    def fitted(self, size: int) -> None:
        """The page was of `size` bytes. The next one may be twice as long if it will then still fit easily."""
        if size <= PAGE_BYTES // 4:
            self.limit = min(2 * self.limit, MOST)
