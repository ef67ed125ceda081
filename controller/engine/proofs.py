"""Before the controller counts as ready, each provider has read once what proves who we are to its issuer.

So a rollout with a wrong path, key or audience never takes a Pod away that works. Once is enough: a proof that is lost
later shows in mints that fail, and an unready Pod would mend nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from structlog.typing import FilteringBoundLogger

from controller.core.errors import MintError
from controller.providers.contract import Provider

RETRY_SECONDS = 2.0


class FirstProofs:
    """See the module."""

    def __init__(self, providers: Iterable[str], *, log: FilteringBoundLogger) -> None:
        self._problems = dict.fromkeys(providers, "its proof has not been read yet")
        """Of the providers whose proof was never read."""
        self._log = log

    def problem(self) -> str | None:
        """None once all were read, or what is wrong with one."""
        return next((f"provider {name}: {problem}" for name, problem in self._problems.items()), None)

    async def run(self, providers: Mapping[str, Provider]) -> None:
        """Read, and read again, until each was read once."""
        while True:
            for name in tuple(self._problems):
                await self._check(name, providers[name])
            if not self._problems:
                return
            await asyncio.sleep(RETRY_SECONDS)

    async def _check(self, name: str, provider: Provider) -> None:
        try:
            await provider.check_proof()
        except MintError as error:
            problem = f"{error.problem.reason}: {error.detail}"
            if problem != self._problems[name]:
                self._log.warning(
                    "a provider can't prove who we are; not ready until it can",
                    provider=name,
                    reason=error.problem.reason,
                    detail=error.detail,
                )
            self._problems[name] = problem
        else:
            del self._problems[name]
