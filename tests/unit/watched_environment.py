"""An environment full of settings that vendors' libraries obey, and that none of ours may look at."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

PROXIES = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"), "http://evil.example:3128")


class _Watched(dict[str, str]):
    """Tells what of it was looked at."""

    def __init__(self, values: Mapping[str, str]) -> None:
        super().__init__(values)
        self.seen: set[str] = set()

    def __getitem__(self, key: str) -> str:
        self.seen.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.seen.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.seen.add(str(key))
        return super().__contains__(key)


@contextmanager
def never_looked_at(variables: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set the variables, and a proxy, and fail if one of them is read."""
    watched = _Watched({**os.environ, **PROXIES, **variables})
    with monkeypatch.context() as patch:
        patch.setattr(os, "environ", watched)
        yield
    assert not watched.seen & {*PROXIES, *variables}
