"""Chainguard in the contract suite."""

from __future__ import annotations

from collections.abc import Callable

from controller.core.errors import Problem
from testing.tokens import Trust
from tests.unit.fake_issuer import Issuer, refusal
from tests.unit.provider_world import SUBJECT, Row
from tests.unit.virtual_time import Clock

IDENTITY = "c95870ebffa72a258df087ea727ee92daf177e29/f067a9080d45a098"


def vendor(clock: Clock, trust: Callable[[str], Trust]) -> Issuer:
    """An issuer where the controller may assume any identity."""
    return Issuer(clock, trust=trust("issuer.enforce.dev"), subject=SUBJECT)


ROW = Row(
    type="chainguard",
    identity=IDENTITY,
    username="_token",
    vendor=vendor,
    settings=lambda _directory: {},
    refusals={
        "refused": (refusal(403, 7), Problem.MINT_REFUSED),
        "refused, with the status of another class": (refusal(400, 7), Problem.MINT_REFUSED),
        "unknown": (refusal(404, 5), Problem.IDENTITY_UNKNOWN),
        "malformed request": (refusal(400, 3), Problem.REQUEST_REFUSED),
        "throttled": (refusal(429, 8), Problem.ISSUER_THROTTLES),
        "unavailable": (refusal(503, 14), Problem.ISSUER_UNAVAILABLE),
    },
    stale=refusal(401, 16),
    at=lambda url: {"issuer": url},
    proofless={"tokenFile": None},
)
