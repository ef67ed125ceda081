"""The data path for one claim: look, decide, mint, merge, write; and the instant to look again.

Whatever woke it, it acts on the newest known version. If that changes meanwhile the API server refuses the write, since
every write carries the version that it was decided on. A failure never touches the credential in place.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import cachetools
from structlog.typing import FilteringBoundLogger

from controller.core import dockerconfig
from controller.core.annotations import Written, render_error, render_instant, render_wiped, render_written
from controller.core.errors import Pace, Problem, Rejection
from controller.core.fights import ContestedClaims
from controller.core.model import (
    Claim,
    Ignore,
    Keep,
    Key,
    Reason,
    Refresh,
    Report,
    Resolved,
    Token,
    View,
    Wipe,
)
from controller.core.policy import Policy, issued_for
from controller.core.schedule import Coverage, retry_at
from controller.engine.confirmations import Confirmations
from controller.engine.grants import GrantChecker
from controller.engine.minter import Failed, InFlight, Minter
from controller.engine.writer import NotWritten, Outdated, Writer, names
from controller.kube.notices import Notices
from controller.observe.counts import StateCounter
from controller.observe.metrics import Metrics, Result

LOOKS_PER_RUN = 5
"""A claim that changes this often during one run waits a second."""

URGENT_LIFE_LEFT = 0.2
"""Once no more than this share of a token's life is left, an outage of its issuer is reported on the Secret."""

_RESTLESS_KEPT_SECONDS = 300.0
STUCK_SECONDS = 60.0
"""A claim that has had no valid token for this long is reported, whatever is in the way."""

_UNFIT_WAIT_SECONDS = 10.0
_REMEMBERED = 10_000
_REPORTED_SECONDS = 600.0
_REQUESTED_SECONDS = 3600.0


class Reconciler:
    """Brings one claim from its current state to the wanted one."""

    def __init__(
        self,
        *,
        view: Callable[[Key], View | None],
        confirmations: Confirmations,
        policy: Policy,
        minters: Mapping[str, Minter],
        grants: GrantChecker | None,
        writer: Writer,
        notices: Notices,
        contested: ContestedClaims,
        states: StateCounter,
        now: Callable[[], float],
        metrics: Metrics,
        log: FilteringBoundLogger,
    ) -> None:
        self._view = view
        self._confirmations = confirmations
        self._policy = policy
        self._minters = minters
        self._grants = grants
        """Where they are asked again."""
        self._writer = writer
        self._notices = notices
        self._contested = contested
        self._states = states
        self._now = now
        self._metrics = metrics
        self._log = log
        # What was reported of a claim, so that removing `error` doesn't bring the same report again and again.
        self._reported: cachetools.TTLCache[Key, tuple[object, ...]] = cachetools.TTLCache(
            _REMEMBERED, _REPORTED_SECONDS, timer=now
        )
        # The namespaces of which it was reported that they are over a limit.
        self._over_limit: cachetools.TTLCache[tuple[str, Problem], bool] = cachetools.TTLCache(
            _REMEMBERED, _REPORTED_SECONDS, timer=now
        )
        # For a claim that changed too often during one run: how often in a row, since when and until when it is left
        # alone.
        self._restless: cachetools.TTLCache[Key, tuple[int, float, float]] = cachetools.TTLCache(
            _REMEMBERED, _RESTLESS_KEPT_SECONDS, timer=now
        )
        # Since when a claim has had no valid token.
        self._missing: cachetools.LRUCache[Key, float] = cachetools.LRUCache(_REMEMBERED)
        # When each value of `refresh` was first seen: a token minted before then doesn't honour it.
        self._requested: cachetools.TTLCache[Key, tuple[str | None, float]] = cachetools.TTLCache(
            10 * _REMEMBERED, _REQUESTED_SECONDS, timer=now
        )

    async def run(self, key: Key, *, due_at: float) -> float | None:
        """Reconcile a claim that was due at `due_at`. Returns when to look again; None: wait for a change."""
        times, since, held_until = self._restless.get(key, (0, 0.0, 0.0))
        if since <= self._now() < held_until:
            return held_until
        for look in range(LOOKS_PER_RUN):
            view = self._view(key)
            if view is None:
                return None
            try:
                next_at = await self._act(view, due_at=due_at if look == 0 else None)
                self._restless.pop(key, None)
                return next_at
            except Outdated:
                continue
            except NotWritten as failure:
                self._report_stuck(view, failure)
                return failure.next_at
        return self._leave_alone(key, times + 1)

    def _leave_alone(self, key: Key, times: int) -> float | None:
        """Until when. Each change made the claim due at once, so a later deadline alone would not hold it back."""
        view, now = self._view(key), self._now()
        if view is None:
            return None
        until = retry_at(
            failed_at=now, attempt=times, pace=Pace.FAST, spread_by=str(key), coverage=self._coverage(view)
        )
        if until is not None:
            self._restless[key] = (times, now, until)
        return until

    async def _act(self, view: View, *, due_at: float | None) -> float | None:
        held_until = self._writer.held_until(view)
        if held_until is not None:
            return held_until
        match self._policy.decide(view, self._now(), self._contested.standing(view, self._now())):
            case Ignore():
                return None
            case Keep(until):
                return until
            case Report(Rejection(Problem.OVER_LIMIT) as rejection, until):
                self._report_once_a_namespace(view, rejection)
                return until
            case Report(rejection, until):
                await self._report(view, rejection)
                return until
            case Wipe(rejection):
                await self._wipe(view, rejection)
                return None
            case Refresh(reason, at):
                return await self._refresh(view, reason, at, due_at=due_at)

    async def _refresh(self, view: View, reason: Reason, at: float, *, due_at: float | None) -> float | None:
        resolved = self._policy.resolve(view)
        if isinstance(resolved, Rejection):
            raise Outdated
        if (held_until := self._contested.held_until(view, self._now())) is not None:
            return held_until
        if self._grants is not None and (obstacle := await self._grants.obstacle(view)) is not None:
            if obstacle.rejection is not None:
                await self._report_failure(view, obstacle.rejection)
            return obstacle.again_at
        minter = self._minters[resolved.provider]
        mint_key = minter.key(resolved, view.key.namespace)
        if due_at is not None and not minter.owes(mint_key, view.key):
            self._metrics.begun(self._now() - due_at)
        asked_at = self._asked_at(view)
        outcome = minter.ask(
            mint_key,
            asker=view.key,
            coverage=self._coverage(view),
            due_at=at,
            # A requested refresh accepts no older token; a first fill does, whatever `refresh` says.
            not_before=0.0 if reason is Reason.NEW else asked_at,
            asked_at=asked_at,
            heals=reason is Reason.EDITED or self._contested.standing(view, self._now()) is not None,
        )
        match outcome:
            case InFlight(waits_seconds):
                if waits_seconds > STUCK_SECONDS and self._coverage(view).is_missing:
                    self._report_once_a_namespace(view, Rejection(Problem.MINTS_LIMITED))
                return None
            case Failed(rejection, retry_at):
                self._metrics.refreshed(resolved.provider, "failed", reason)
                await self._report_failure(view, rejection)
                return retry_at
            case Token():
                return await self._use(view, resolved, reason, outcome)

    def _coverage(self, view: View) -> Coverage:
        """What the claim has in place; for one without a valid token, since when that is known."""
        expiry, now = self._policy.expiry(view.claim), self._now()
        if expiry is not None and now < expiry:
            self._missing.pop(view.key, None)
            return Coverage(expiry)
        since = self._missing.setdefault(view.key, now)
        return Coverage(None, missing_since=min(since, now))

    def _asked_at(self, view: View) -> float:
        """When the present value of `refresh` was first seen; 0 if there is none, or the token honours it already."""
        if view.secret.refresh in (None, view.claim.refreshed_for):
            self._requested.pop(view.key, None)
            return 0.0
        now = self._now()
        value, since = self._requested.get(view.key, (None, 0.0))
        if value != view.secret.refresh or since > now:  # in the future: the clock was set back
            since = now
            self._requested[view.key] = (view.secret.refresh, since)
        return since

    async def _use(self, view: View, resolved: Resolved, reason: Reason, token: Token) -> float | None:
        """Write a token, unless it is no better than the present one."""
        now, present = self._now(), self._policy.expiry(view.claim)
        same = fingerprint(resolved, token) == view.claim.present_fingerprint
        if reason.by_the_clock and present is not None and (same or token.expires_at <= present):
            self._metrics.refreshed(resolved.provider, "unchanged", reason)
            self._log.info("the issuer's token doesn't outlive the present one", **names(view.key))
            later = now + max((present - now) / 2, _UNFIT_WAIT_SECONDS)
            return min(later, present) if now < present else later
        result: Result = "failed"
        try:
            if self._contested.wants_manager(view, now):
                self._contested.name_manager(view, await self._writer.last_other_writer(view), now)
            standing = self._contested.standing(view, now)
            content, unreadable = await self._merged(view, resolved, token)
            beside = standing.rejection if standing else self._policy.foreign_fault(view, unreadable)
            await self._writer.fill(view, self._annotations(view, resolved, token, beside), content)
            result = "written"
        except Outdated:
            result = "conflict"
            raise
        except NotWritten as failure:
            if failure.rejection is not None:
                result = "refused"
                await self._report(view, failure.rejection)
            raise
        finally:
            self._metrics.refreshed(resolved.provider, result, reason)
        self._written(view, resolved, reason, token, beside)
        return self._after_write(view)

    def _after_write(self, view: View) -> float | None:
        """When to look again. A write that didn't lead to a valid token was changed by somebody on its way."""
        written, now = self._view(view.key), self._now()
        if written is None:
            return None
        decision = self._policy.decide(written, now, self._contested.standing(written, now))
        if isinstance(decision, Keep):
            return decision.until
        if isinstance(decision, Refresh) and written.inputs == view.inputs:
            self._contested.reverted(written, now)
        return now

    async def _merged(self, view: View, resolved: Resolved, token: Token) -> tuple[bytes, tuple[str, ...]]:
        """The new content, and what no kubelet can read of it.

        The present content is read first only if it holds more than this claim's entries. What would exceed a limit is
        not written.
        """
        claim, others = view.claim, self._hosts_of_others(view)
        given_up = set(claim.managed_hosts) - set(resolved.hosts) - others
        is_unedited = claim.present_fingerprint == claim.fingerprint
        known = {*resolved.hosts, *(given_up if is_unedited else ())}
        config = dockerconfig.EMPTY
        if not view.secret.plain or not known >= set(view.secret.hosts):
            config = dockerconfig.parse(await self._writer.read(view))
        content = dockerconfig.merge(
            config,
            entries=token.entries(resolved.hosts),
            remove=_still_ours(config, claim, given_up),
        )
        try:
            unreadable = dockerconfig.parse(content).unreadable
        except dockerconfig.Unreadable:
            raise self._writer.refuse(view, Problem.CONFIG_TOO_LARGE) from None
        if len(content) > dockerconfig.MAX_BYTES:
            raise self._writer.refuse(view, Problem.CONFIG_TOO_LARGE)
        return content, unreadable

    async def _wipe(self, view: View, rejection: Rejection) -> None:
        """Take away what we wrote for the claim, and nothing else."""
        claim = view.claim
        ours = set(claim.managed_hosts) - self._hosts_of_others(view)
        try:
            config = dockerconfig.parse(await self._writer.read(view))
            remove = _still_ours(config, claim, ours)
            content = dockerconfig.merge(config, entries={}, remove=remove)
            await self._writer.fill(view, render_wiped(claim.name, rejection.text), content)
        except NotWritten as failure:
            if failure.rejection is not None:
                self._report_by_event(view, failure.rejection)
            raise
        self._log.warning("the token was taken away", **names(view.key), reason=rejection.problem.reason)
        self._report_by_event(view, rejection)

    def _hosts_of_others(self, view: View) -> set[str]:
        """The hosts that the Secret's other claims name or have written."""
        hosts: set[str] = set()
        for other in view.secret.views():
            if other.key != view.key:
                resolved = self._policy.resolve(other)
                hosts.update(other.claim.managed_hosts, resolved.hosts if isinstance(resolved, Resolved) else ())
        return hosts

    def _annotations(
        self, view: View, resolved: Resolved, token: Token, beside: Rejection | None
    ) -> dict[str, str | None]:
        refresh_at = self._policy.refresh_at(
            uid=view.secret.uid, issued_at=token.issued_at, expiry=float(token.expires_at)
        )
        written = Written(
            issued_at=token.issued_at,
            expires_at=token.expires_at,
            refresh_at=int(refresh_at),
            issued_for=issued_for(resolved),
            fingerprint=fingerprint(resolved, token),
            hosts=resolved.hosts,
            refreshed_for=view.secret.refresh,
            error=beside.text if beside else None,
        )
        return {**(dict(view.secret.owed) if not view.claim.name else {}), **render_written(view.claim.name, written)}

    def _written(self, view: View, resolved: Resolved, reason: Reason, token: Token, beside: Rejection | None) -> None:
        """Log the success; report what is wrong beside it, unless the Secret says so already, or else good news."""
        self._missing.pop(view.key, None)
        if reason.by_the_clock:
            self._metrics.replaced(self._life_left(view))
        self._log.info(
            "secret refreshed",
            **names(view.key),
            provider=resolved.provider,
            identity=resolved.identity,
            reason=reason.value,
            expires_at=render_instant(token.expires_at),
        )
        if beside is not None:
            if beside.text != view.claim.error:
                self._report_by_event(view, beside)
            return
        self._reported.pop(view.key, None)
        if reason in (Reason.NEW, Reason.IDENTITY) or view.claim.error is not None:
            tell = self._notices.token_written if view.claim.error is None else self._notices.recovered
            self._confirmations.expect(view, fingerprint(resolved, token), tell)

    async def _report_failure(self, view: View, rejection: Rejection) -> None:
        """One that passes by itself is reported only if urgent: an outage must not rewrite healthy Secrets."""
        passes = rejection.problem.pace is Pace.FAST
        if view.claim.error != rejection.text and (not passes or self._is_urgent(view)):
            await self._report(view, rejection)

    def _is_urgent(self, view: View) -> bool:
        """No valid token is in place, or most of its life is gone."""
        return self._life_left(view) <= URGENT_LIFE_LEFT

    def _life_left(self, view: View) -> float:
        """The share of its life that is left of the token in place; 0 without one."""
        expiry, issued_at = self._policy.expiry(view.claim), view.claim.issued_at
        if expiry is None or issued_at is None or expiry <= issued_at:
            return 0.0
        return max(0.0, (expiry - self._now()) / (expiry - issued_at))

    def _report_stuck(self, view: View, failure: NotWritten) -> None:
        """A failure of the API server that should pass is reported when it doesn't: after a minute, or near expiry."""
        coverage, now = self._coverage(view), self._now()
        waits = coverage.missing_since is None or now - coverage.missing_since >= STUCK_SECONDS
        if failure.rejection is None and waits and self._is_urgent(view):
            self._report_by_event(view, Rejection(Problem.WRITE_FAILS))

    async def _report(self, view: View, rejection: Rejection | None) -> None:
        """Set or remove `error`, and report a new one by an Event; if nothing may be written, by the Event alone."""
        text = rejection.text if rejection else None
        if self._reported.get(view.key) == (view.inputs, text):
            return
        if rejection is None or rejection.problem is not Problem.WRONG_TYPE:
            try:
                await self._writer.annotate(view, render_error(view.claim.name, text))
            except NotWritten as failure:
                if failure.rejection is None:
                    raise
        if rejection is not None:
            self._report_by_event(view, rejection)
        else:
            self._notices.recovered(view.secret)
        self._reported[view.key] = (view.inputs, text)

    def _report_once_a_namespace(self, view: View, rejection: Rejection) -> None:
        """What is over a limit: there may be thousands of such Secrets, and none of them is written for it."""
        place = view.key.namespace, rejection.problem
        if place not in self._over_limit:
            self._over_limit[place] = True
            self._log.warning("a namespace is over a limit", **names(view.key), reason=rejection.problem.reason)
            self._notices.rejected(view.secret, rejection)

    def _report_by_event(self, view: View, rejection: Rejection) -> None:
        self._states.reported(view, rejection.problem)
        reported = (view.inputs, rejection.text)
        if self._reported.get(view.key) != reported:
            self._reported[view.key] = reported
            self._log.warning("claim not served", **names(view.key), reason=rejection.problem.reason)
            self._notices.rejected(view.secret, rejection)


def _still_ours(config: dockerconfig.DockerConfig, claim: Claim, hosts: Collection[str]) -> set[str]:
    """Those of `hosts` that have the claim's credential; the entry of any other is somebody's own by now.

    Where each host had a password of its own, an edit of one leaves none that could be told from somebody's.
    """
    entries = dockerconfig.credentials(config, hosts)
    if claim.present_fingerprint == claim.fingerprint:
        return set(entries)
    written = {pair: dockerconfig.fingerprint(dict.fromkeys(claim.managed_hosts, pair)) for pair in entries.values()}
    return {host for host, pair in entries.items() if written[pair] == claim.fingerprint}


def fingerprint(resolved: Resolved, token: Token) -> str:
    """Of the entries that a token is written as."""
    return dockerconfig.fingerprint(token.entries(resolved.hosts))
