"""The data path for one claim: look, decide, mint, merge, write; and the instant to look again.

Whatever woke it, it acts on the latest known version, and what changes meanwhile is found by the API server, since
every write carries the version that it was decided on. A failure never touches the credential in place.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Protocol

import cachetools
from structlog.typing import FilteringBoundLogger

from controller.core import dockerconfig
from controller.core.annotations import Written, render_error, render_instant, render_written
from controller.core.errors import Pace, Problem, Rejection
from controller.core.model import Ignore, Keep, Key, ManagedSecret, Reason, Refresh, Resolved, Tell, Token, View
from controller.core.policy import Policy, issued_for
from controller.fights import Fights
from controller.minter import Failed, InFlight, Minter, MintKey
from controller.telemetry import Result, Telemetry
from controller.writer import Changed, NotWritten, Writer, names

LOOKS_PER_RUN = 5
"""After so many changes under its hands in one run a claim waits a second."""

URGENT_SHARE = 0.8
"""Of a life gone, after which an issuer's outage is told on the Secret."""

_UNFIT_WAIT_SECONDS = 10.0
_REMEMBERED = 10_000
_TOLD_SECONDS = 600.0
_REQUESTED_SECONDS = 3600.0


class Tells(Protocol):
    """Where people are told, beside the annotation `error`."""

    def token_written(self, secret: ManagedSecret) -> None:
        """The Secret holds a token of an identity that it did not hold one of before."""
        ...

    def rejected(self, secret: ManagedSecret, rejection: Rejection) -> None:
        """Why the Secret isn't filled."""
        ...


class Reconciler:
    """Makes one claim right from its current state."""

    def __init__(
        self,
        *,
        view: Callable[[Key], View | None],
        policy: Policy,
        minters: Mapping[str, Minter[Key]],
        shares_token: Collection[str],
        writer: Writer,
        tells: Tells,
        fights: Fights,
        now: Callable[[], float],
        telemetry: Telemetry,
        log: FilteringBoundLogger,
    ) -> None:
        self._view = view
        self._policy = policy
        self._minters = minters
        self._shares_token = frozenset(shares_token)
        """Providers whose credential serves all their hosts, so that the mint key leaves the hosts out."""
        self._writer = writer
        self._tells = tells
        self._fights = fights
        self._now = now
        self._telemetry = telemetry
        self._log = log
        # What was told of a claim, so that who removes `error` isn't told the same again and again.
        self._told: cachetools.TTLCache[Key, tuple[object, ...]] = cachetools.TTLCache(
            _REMEMBERED, _TOLD_SECONDS, timer=now
        )
        # Since when a value of `refresh` is known: nothing minted before then honours it.
        self._requested: cachetools.TTLCache[Key, tuple[str | None, float]] = cachetools.TTLCache(
            10 * _REMEMBERED, _REQUESTED_SECONDS, timer=now
        )

    async def run(self, key: Key, *, due_at: float) -> float | None:
        """Reconcile a claim that was due at `due_at`; the instant to look again, None to wait for a change."""
        for look in range(LOOKS_PER_RUN):
            view = self._view(key)
            if view is None:
                return None
            try:
                return await self._act(view, due_at=due_at if look == 0 else None)
            except Changed:
                continue
            except NotWritten as failure:
                return failure.next_at
        return self._now() + 1.0

    async def _act(self, view: View, *, due_at: float | None) -> float | None:
        held_until = self._writer.held_until(view)
        if held_until is not None:
            return held_until
        match self._policy.decide(view, self._now()):
            case Ignore():
                return None
            case Keep(until):
                return until
            case Tell(rejection, until):
                await self._tell(view, rejection)
                return until
            case Refresh(reason):
                if due_at is not None:
                    self._telemetry.begun(self._now() - due_at)
                return await self._refresh(view, reason)

    async def _refresh(self, view: View, reason: Reason) -> float | None:
        resolved = self._policy.resolve(view)
        if isinstance(resolved, Rejection):
            raise Changed
        if (held_until := self._fights.held_until(view, self._now())) is not None:
            self._tell_by_event(view, Rejection(Problem.FIGHT))
            return held_until
        asked_at = self._asked_at(view)
        outcome = await self._minters[resolved.provider].mint(
            self._mint_key(resolved),
            asker=view.key,
            # A refresh that is asked for takes no token from before; a first fill does, whatever `refresh` says.
            not_before=0.0 if reason is Reason.NEW else asked_at,
            asked_at=asked_at,
            valid_until=self._policy.expiry(view.claim),
        )
        match outcome:
            case InFlight():
                return None
            case Failed(problem, retry_at):
                self._telemetry.refreshed(resolved.provider, "failed", reason)
                await self._tell_of_failure(view, problem)
                return retry_at
            case Token():
                return await self._use(view, resolved, reason, outcome)

    def _mint_key(self, resolved: Resolved) -> MintKey:
        hosts = () if resolved.provider in self._shares_token else resolved.hosts
        return MintKey(resolved.provider, resolved.identity, resolved.service_account, hosts)

    def _asked_at(self, view: View) -> float:
        """Since when the present value of `refresh` is known; 0 where there is none, or a token honours it."""
        if view.secret.refresh in (None, view.claim.refreshed_for):
            return 0.0
        value, since = self._requested.get(view.key, (None, 0.0))
        if value != view.secret.refresh:
            since = self._now()
            self._requested[view.key] = (view.secret.refresh, since)
        return min(since, self._now())

    async def _use(self, view: View, resolved: Resolved, reason: Reason, token: Token) -> float | None:
        """Put a token in place, unless the Secret changed while it was minted or it is no better than the present."""
        current = self._view(view.key)
        if current is None or current.secret is not view.secret:
            raise Changed
        now, present = self._now(), self._policy.expiry(view.claim)
        same = _fingerprint(resolved, token) == view.claim.present_fingerprint
        if reason.by_the_clock and present is not None and (same or token.expires_at <= present):
            self._telemetry.refreshed(resolved.provider, "unchanged", reason)
            self._log.info("the issuer's token doesn't outlive the present one", **names(view.key))
            later = now + max((present - now) / 2, _UNFIT_WAIT_SECONDS)
            return min(later, present) if now < present else later
        result: Result = "failed"
        try:
            content = await self._merged(view, resolved, token)
            await self._writer.fill(view, self._annotations(view, resolved, token), content)
            result = "written"
        except Changed:
            result = "conflict"
            raise
        except NotWritten as failure:
            if failure.problem is not None:
                result = "refused"
                self._tell_by_event(view, Rejection(failure.problem))
            raise
        finally:
            self._telemetry.refreshed(resolved.provider, result, reason)
        self._written(view, resolved, reason, token)
        written = self._view(view.key)
        decision = self._policy.decide(written, self._now()) if written else Ignore()
        # What changed meanwhile has its deadline already, and the earlier one counts.
        return decision.until if isinstance(decision, Keep) else self._now() + _UNFIT_WAIT_SECONDS

    async def _merged(self, view: View, resolved: Resolved, token: Token) -> bytes:
        """The new content. Only where there is more than this claim's entries in it, the present one is read first."""
        mine = {*resolved.hosts, *view.claim.managed_hosts}
        others = self._hosts_of_others(view)
        config = dockerconfig.EMPTY
        if not view.secret.plain or not mine - others >= set(view.secret.hosts):
            config = dockerconfig.parse(await self._writer.read(view))
        content = dockerconfig.merge(
            config,
            hosts=resolved.hosts,
            username=token.username,
            password=token.password,
            remove=mine - set(resolved.hosts) - others,
        )
        if len(content) > dockerconfig.MAX_BYTES:
            raise self._writer.refuse(view, Problem.CONFIG_TOO_LARGE)
        return content

    def _hosts_of_others(self, view: View) -> set[str]:
        """The hosts that the Secret's other claims name or have written."""
        hosts: set[str] = set()
        for other in view.secret.views():
            if other.key != view.key:
                resolved = self._policy.resolve(other)
                hosts.update(other.claim.managed_hosts, resolved.hosts if isinstance(resolved, Resolved) else ())
        return hosts

    def _annotations(self, view: View, resolved: Resolved, token: Token) -> dict[str, str | None]:
        refresh_at = self._policy.refresh_at(
            uid=view.secret.uid, issued_at=token.issued_at, expiry=float(token.expires_at)
        )
        written = Written(
            issued_at=token.issued_at,
            expires_at=token.expires_at,
            refresh_at=int(refresh_at),
            issued_for=issued_for(resolved),
            fingerprint=_fingerprint(resolved, token),
            hosts=resolved.hosts,
            refreshed_for=view.secret.refresh,
        )
        return render_written(view.claim.name, written)

    def _written(self, view: View, resolved: Resolved, reason: Reason, token: Token) -> None:
        self._told.pop(view.key, None)
        self._requested.pop(view.key, None)
        self._log.info(
            "secret refreshed",
            **names(view.key),
            provider=resolved.provider,
            reason=reason.value,
            expires_at=render_instant(token.expires_at),
        )
        if reason in (Reason.NEW, Reason.IDENTITY):
            self._tells.token_written(view.secret)

    async def _tell_of_failure(self, view: View, problem: Problem) -> None:
        """A failure that passes by itself is told only where it hurts: an outage must not rewrite healthy Secrets."""
        rejection = Rejection(problem)
        if view.claim.error != rejection.text and (problem.pace is not Pace.FAST or self._is_urgent(view)):
            await self._tell(view, rejection)

    def _is_urgent(self, view: View) -> bool:
        """No valid token is in place, or most of its life is gone."""
        expiry, issued_at = self._policy.expiry(view.claim), view.claim.issued_at
        if expiry is None or issued_at is None:
            return True
        return self._now() >= issued_at + (expiry - issued_at) * URGENT_SHARE

    async def _tell(self, view: View, rejection: Rejection | None) -> None:
        """Set or remove `error`, and tell of a new one by an Event; where nothing may be written, by that alone."""
        text = rejection.text if rejection else None
        if self._told.get(view.key) == (view.inputs, text):
            return
        if rejection is None or rejection.problem is not Problem.WRONG_TYPE:
            try:
                await self._writer.annotate(view, render_error(view.claim.name, text))
            except NotWritten as failure:
                if failure.problem is None:
                    raise
        if rejection is not None:
            self._tell_by_event(view, rejection)
        self._told[view.key] = (view.inputs, text)

    def _tell_by_event(self, view: View, rejection: Rejection) -> None:
        told = (view.inputs, rejection.text)
        if self._told.get(view.key) != told:
            self._told[view.key] = told
            self._log.warning("a claim can't be served", **names(view.key), reason=rejection.problem.reason)
            self._tells.rejected(view.secret, rejection)


def _fingerprint(resolved: Resolved, token: Token) -> str:
    return dockerconfig.fingerprint(dict.fromkeys(resolved.hosts, (token.username, token.password)))
