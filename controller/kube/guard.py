"""The controller doesn't run unguarded by accident, nor in silence.

If its admission policies are required, it starts only where they guard the cluster. From then on it looks once a minute
and reports what it finds. A policy that is lost at run time stops nothing, since tokens would run out; it is a metric
and a line in the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from structlog.typing import FilteringBoundLogger

from controller.core.schedule import RETRY_AFTER_CAP_SECONDS
from controller.kube.admission import POLICIES, PREFIX, policy_problems
from controller.kube.client import KubeClient
from controller.kube.errors import ApiError, StartError, Unauthorized, Unavailable

LOOK_SECONDS = 60.0
_RETRY_SECONDS = 2.0

Problems = Mapping[str, str | None]
"""For each policy what is wrong with it; None if it guards the cluster."""


class Guard:
    """See the module. `report` takes each policy and whether it guards the cluster."""

    def __init__(
        self,
        client: KubeClient,
        *,
        policies: Sequence[str] = POLICIES,
        prefix: str = PREFIX,
        required: bool,
        report: Callable[[str, bool], None],
        log: FilteringBoundLogger,
    ) -> None:
        self._client = client
        self._policies = policies
        self._prefix = prefix
        self._required = required
        self._report = report
        self._log = log
        self.user: str | None = None
        """Our own name, by the API server's last answer."""
        self._logged: Problems = dict.fromkeys(policies)
        """What the log says by now, so that each change is logged once."""

    async def start(self, stopping: asyncio.Event) -> None:
        """Look for the first time; returns early when `stopping` is set. Raises StartError.

        Waits for an API server that doesn't answer: a restart would only add to the wait.
        """
        looking = asyncio.create_task(self._first_look())
        stopped = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait((looking, stopped), return_when=asyncio.FIRST_COMPLETED)
            if not stopping.is_set():
                await looking
        finally:
            looking.cancel()
            stopped.cancel()
            await asyncio.gather(looking, stopped, return_exceptions=True)

    async def run(self) -> NoReturn:
        """Look every minute, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                problems = await self._look()
            except Unavailable:
                continue  # the watch reports it, and the last result may well still be true
            self._take(problems)

    async def _first_look(self) -> None:
        while True:
            try:
                problems = await self._look()
            except Unavailable as error:
                self._log.warning("no response from the API server; trying again", detail=str(error))
                await asyncio.sleep(min(error.retry_after_seconds or _RETRY_SECONDS, RETRY_AFTER_CAP_SECONDS))
                continue
            if not self._required:
                self._take(problems)
                return
            for policy, problem in problems.items():
                self._report(policy, problem is None)
            if any(problems.values()):
                raise StartError(f"the admission policies are required (requirePolicies): {_sentence(problems)}")
            return

    async def _look(self) -> Problems:
        """Raises Unavailable: not knowing is not the same as not installed."""
        try:
            self.user = await self._client.who_am_i()
            return await policy_problems(self._client, user=self.user, policies=self._policies, prefix=self._prefix)
        except Unavailable:
            raise
        except Unauthorized as error:
            return dict.fromkeys(self._policies, f"the API server doesn't accept our credential: {error}")
        except ApiError as error:
            return dict.fromkeys(self._policies, f"can't be looked at: {error}")

    def _take(self, problems: Problems) -> None:
        """Report what is found, and log what has changed."""
        for policy, problem in problems.items():
            self._report(policy, problem is None)
        changed = {policy: problem for policy, problem in problems.items() if problem != self._logged[policy]}
        for problem, policies in _by_problem(changed).items():
            if problem is None:
                self._log.info("admission policies guard this cluster again", policies=policies)
            else:
                self._log.warning("admission policies don't guard this cluster", policies=policies, problem=problem)
        self._logged = problems


def _by_problem(problems: Problems) -> dict[str | None, list[str]]:
    found: dict[str | None, list[str]] = {}
    for policy, problem in sorted(problems.items()):
        found.setdefault(problem, []).append(policy)
    return found


def _sentence(problems: Problems) -> str:
    return "; ".join(
        f"{', '.join(policies)}: {problem}" for problem, policies in _by_problem(problems).items() if problem
    )
