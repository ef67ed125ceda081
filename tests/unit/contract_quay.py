"""Quay's robot federation in the contract suite."""

from __future__ import annotations

from collections.abc import Callable

from controller.core.errors import Problem
from testing.quay import Quay
from testing.tokens import Trust
from testing.wire import Answer, in_json
from tests.unit.provider_world import SUBJECT, Row, vendors_key
from tests.unit.virtual_time import Clock

ROBOT = "acme+puller"


def vendor(clock: Clock, trust: Callable[[str], Trust]) -> Quay:
    """A server with one robot that trusts the controller."""
    return Quay(clock, trust("quay.io"), robots={ROBOT: SUBJECT}, key=vendors_key())


ROW = Row(
    type="quay",
    identity=ROBOT,
    username=ROBOT,
    vendor=vendor,
    settings=lambda _directory: {},
    refusals={
        "refused": (in_json(400, {"message": "Token does not match robot"}), Problem.MINT_REFUSED),
        "refused proof": (in_json(400, {"message": "Signature verification failed"}), Problem.MINT_REFUSED),
        "a proof that can't be parsed": (in_json(401, {"error": "missing auth"}), Problem.MINT_REFUSED),
        "a robot without federation": (in_json(500, {"message": "DoesNotExist"}), Problem.ISSUER_UNAVAILABLE),
        "malformed request": (Answer(405), Problem.REQUEST_REFUSED),
        "throttled": (Answer(429), Problem.ISSUER_THROTTLES),
        "unavailable": (Answer(503), Problem.ISSUER_UNAVAILABLE),
    },
    stale=in_json(400, {"message": "Signature has expired"}),
    at=lambda url: {"url": url},
    proofless={"tokenFile": None},
)
