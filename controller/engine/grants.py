"""Asks the API server whether a namespace may still use an identity: before each mint, and where a no has followed.

Admission has judged who wrote the Secret, once. A grant that is taken away later, or that was never given to the
namespace, is seen here: by a SubjectAccessReview for the group of the namespace's ServiceAccounts. The answer is kept
for the recheck time. An API server that doesn't answer takes nothing away: who was allowed before stays so, and who
wasn't waits.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import NoReturn

from structlog.typing import FilteringBoundLogger

from controller.core.errors import Problem, Rejection
from controller.core.grants import Grant, Grants, grant_of, group_of
from controller.core.model import Key, View
from controller.core.queue import RefreshQueue
from controller.kube.client import KubeClient
from controller.kube.errors import ApiError, Forbidden
from controller.observe.metrics import GrantAnswer

WORKERS = 8
"""Questions at once that no claim waits for."""

AGAIN_SECONDS = 10.0
"""An API server that didn't answer is asked again at this pace."""

_ROUNDING_SECONDS = 0.001
_UNKNOWN_SECONDS = 1.0
"""Whether a claim needs a grant is looked at again after so long: the namespaces haven't been listed."""

_UNKNOWN_PASSES_SECONDS = 60.0
"""That should pass; where it hasn't after so long, it is told, and looked at at the slower pace."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why no token may be minted now, and when to look again. Without a rejection there is nothing to tell yet."""

    again_at: float
    rejection: Rejection | None = None


class GrantChecker:
    """See the module. `look_again` is called for each claim that an answer makes a difference to.

    `view` gives a claim as it is now.
    """

    def __init__(
        self,
        grants: Grants,
        *,
        client: KubeClient,
        needs: Callable[[View], bool | None],
        view: Callable[[Key], View | None],
        look_again: Callable[[Key], None],
        count: Callable[[GrantAnswer], None],
        now: Callable[[], float],
        log: FilteringBoundLogger,
    ) -> None:
        self._grants = grants
        self._client = client
        self._needs = needs
        self._view = view
        self._look_again = look_again
        self._count = count
        self._now = now
        self._log = log
        # In loop time, like all that is known of grants: no step of the clock makes a second no of a first one.
        self._queue = RefreshQueue[Grant](_loop_time, turn=lambda grant: grant.namespace)
        self._asking: dict[Grant, asyncio.Future[Rejection | None]] = {}
        self._unanswered: dict[Grant, tuple[float, Rejection]] = {}
        """When there was no answer the last time, and why."""
        self._unknown_since = math.inf

    def replaced(self, before: Iterable[View], after: Iterable[View]) -> None:
        """These claims took the place of those."""
        new, gone = self._grants.replaced(before, after)
        for grant in gone:
            self._queue.forget(grant)
            self._unanswered.pop(grant, None)
        for grant in new:
            if self._grants.asks_by_itself(grant):
                self._queue.schedule(grant, _loop_time())

    async def obstacle(self, view: View) -> Obstacle | None:
        """What keeps a claim from a mint; None if its namespace may use the identity."""
        found = await self._obstacle(view)
        # A moment later than by the clock alone, so that rounding never makes it too early.
        return found and replace(found, again_at=self._now() + found.again_at - _loop_time() + _ROUNDING_SECONDS)

    async def _obstacle(self, view: View) -> Obstacle | None:
        """The same in loop time."""
        needs = self._needs(view)
        if needs is None:
            return self._while_unknown(_loop_time())
        grant = grant_of(view)
        if not needs or self._grants.allows(grant, _loop_time()):
            return None
        self._grants.add(view)  # a target may have asked for it until now
        if (until := self._grants.waits_until(grant, _loop_time())) is not None:
            return Obstacle(until)
        if (unanswered := self._lately_unanswered(grant)) is None:
            await self._ask_once(grant)
            unanswered = self._lately_unanswered(grant)
        now = _loop_time()
        if unanswered is not None:
            return None if self._grants.allows(grant, now, however_old=True) else unanswered
        if self._grants.asks_by_itself(grant):
            self._queue.schedule(grant, self._grants.next_at(grant, now))
        if self._grants.allows(grant, now):
            return None
        return Obstacle(self._grants.waits_until(grant, now) or now)

    async def run(self) -> NoReturn:
        """Ask again what has to be asked although nobody needs a token, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(WORKERS):
                group.create_task(self._work(), name=f"grants {number}")
        raise AssertionError("the workers have no end")

    async def _work(self) -> NoReturn:
        while True:
            grant = (await self._queue.get()).key
            needed = self._grants.is_needed(grant, self._view)
            failure = await self._ask_once(grant) if needed else None
            now, next_at = _loop_time(), None
            if self._grants.asks_by_itself(grant):
                is_unclear = needed is None or failure is not None
                next_at = now + AGAIN_SECONDS if is_unclear else self._grants.next_at(grant, now)
            self._queue.done(grant, next_at)

    def _while_unknown(self, now: float) -> Obstacle:
        """That the namespaces haven't been listed."""
        self._unknown_since = min(now, self._unknown_since)
        if now < self._unknown_since + _UNKNOWN_PASSES_SECONDS:
            return Obstacle(now + _UNKNOWN_SECONDS)
        unclear = Rejection(Problem.GRANT_UNCLEAR, ("the namespaces can't be listed",))
        return Obstacle(now + AGAIN_SECONDS, unclear)

    def _lately_unanswered(self, grant: Grant) -> Obstacle | None:
        """That there was no answer, while it is too early to ask again, however many claims wait for one."""
        at, failure = self._unanswered.get(grant, (-math.inf, None))
        return Obstacle(at + AGAIN_SECONDS, failure) if at <= _loop_time() < at + AGAIN_SECONDS else None

    async def _ask_once(self, grant: Grant) -> Rejection | None:
        """Ask, unless somebody is asking already; then wait for that. Returns why there is no answer."""
        if (asking := self._asking.get(grant)) is not None:
            return await asyncio.shield(asking)
        self._asking[grant] = asked = asyncio.get_running_loop().create_future()
        failure: Rejection | None = Rejection(Problem.GRANT_UNCLEAR)  # for those who wait, if this is cancelled
        try:
            failure = await self._ask(grant)
            self._unanswered.pop(grant, None)
            if failure is not None and self._grants.knows(grant):
                self._unanswered[grant] = _loop_time(), failure
            return failure
        finally:
            del self._asking[grant]
            asked.set_result(failure)

    async def _ask(self, grant: Grant) -> Rejection | None:
        try:
            allowed = await self._client.may_use(grant.identity, grant.namespace, group=group_of(grant.namespace))
        except ApiError as error:
            self._count("failed")
            self._log.warning(
                "can't tell whether a namespace may use an identity", **grant._asdict(), detail=str(error)
            )
            return Rejection(Problem.GRANT_UNCLEAR, (error.why,) if isinstance(error, Forbidden) and error.why else ())
        self._count("granted" if allowed else "refused")
        changed = self._grants.answered(grant, allowed=allowed, now=_loop_time())
        if changed and allowed:
            self._log.info("a namespace may use an identity again", **grant._asdict())
        elif changed:
            self._log.warning("a namespace may not, or may no longer, use an identity", **grant._asdict())
        for key in changed:
            self._look_again(key)
        return None


def _loop_time() -> float:
    return asyncio.get_running_loop().time()
