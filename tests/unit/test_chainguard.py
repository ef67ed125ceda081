"""The exchange at Chainguard's issuer, against an issuer in memory that checks what it is sent."""

from __future__ import annotations

import dataclasses
import datetime as dt
import email.utils
import json
import urllib.parse
from typing import Any

import pytest

from controller.core.errors import MintError, Pace, Problem, StaleProof
from controller.core.model import Token
from controller.providers.chainguard import IDENTITY as IDENTITY_PATTERN
from controller.providers.chainguard import Chainguard, ChainguardSettings
from controller.providers.contract import Tools
from tests.unit.fakes import (
    HOUR,
    IDENTITY,
    NOW,
    OTHER_IDENTITY,
    SHAPES,
    Answer,
    FakeTransport,
    Sent,
    jwt,
    registry_token,
)
from tests.unit.virtual_time import Clock

PROOF = jwt(aud=["issuer.enforce.dev"], sub="system:serviceaccount:ns:sa", exp=NOW + HOUR)
NEWER_PROOF = jwt(aud=["issuer.enforce.dev"], sub="system:serviceaccount:ns:sa", exp=NOW + 2 * HOUR)


class Issuer:
    """The exchange as the gateway does it: what is not as it must be is refused as the gateway refuses it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.proofs = {PROOF}
        """Those that it takes for valid."""
        self.offset_seconds = 0.0
        """How far its clock is ahead of ours."""
        self.lifetime_seconds = 3600
        self.expiry: object = None
        self.claims: dict[str, Any] = {}
        self.fields: dict[str, Any] = {}
        self.date = True
        self.answer: Answer | None = None
        """Sent in place of what it would say."""
        self.after_seconds = 0.0

    def now(self) -> float:
        return self.clock() + self.offset_seconds

    def respond(self, sent: Sent) -> Answer:
        """As the issuer."""
        return self.answer or self._exchange(sent)

    def _exchange(self, sent: Sent) -> Answer:
        url = urllib.parse.urlsplit(sent.url)
        if (url.scheme, url.netloc, url.path) != ("https", "issuer.enforce.dev", "/sts/exchange"):
            return refusal(404, 5)
        if sent.method != "POST":
            return refusal(405, 12)
        given = [value for name, value in sent.headers.items() if name.lower() == "authorization"]
        if len(given) != 1:
            return refusal(401, 16, "expected exactly one authorization header")
        scheme, _, proof = given[0].partition(" ")
        if scheme != "Bearer" or proof not in self.proofs:
            return refusal(401, 16, "unable to verify bearer token")
        if sent.headers.get("Content-Type") != "application/x-www-form-urlencoded" or url.query:
            return refusal(400, 3, "Audience must be specified")
        form = urllib.parse.parse_qs((sent.body or b"").decode(), strict_parsing=True)
        if form.keys() - {"aud", "identity", "cap"} or form.get("aud") != ["cgr.dev"]:
            return refusal(400, 3, "Audience must be specified")
        if form.get("identity") != [IDENTITY]:
            return refusal(404, 5)
        return self.success()

    def success(self) -> Answer:
        now = self.now()
        claims: dict[str, Any] = {"now": now, "lifetime": self.lifetime_seconds, **self.claims}
        token = registry_token(claims.pop("identity", IDENTITY), **claims)
        headers = {"Content-Type": "application/json"}
        if self.date:
            headers["Date"] = email.utils.formatdate(now, usegmt=True)
        body = {"token": token, "refreshToken": "", "expiry": self.expiry, **self.fields}
        return Answer(200, json.dumps(body).encode(), headers, after_seconds=self.after_seconds)


def refusal(status: int, code: object, message: str = "a message", **headers: str) -> Answer:
    return Answer(status, json.dumps({"code": code, "message": message, "details": []}).encode(), headers)


class World:
    """A provider, its issuer and its proof."""

    def __init__(self, clock: Clock) -> None:
        self.issuer = Issuer(clock)
        self.transport = FakeTransport(self.issuer.respond)
        self.proofs = [PROOF]
        """What the file holds, look by look; the last stays."""
        self.asked_for: list[str] = []
        self.tools = Tools(
            name="cg",
            timeout_seconds=10.0,
            default_lifetime_seconds=None,
            transport=self.transport,
            proof=self.proof,
            now=clock,
            max_lifetime_seconds=12 * HOUR,
            refreshed_by_share=0.65,
            cleaned=lambda _: None,
        )

    async def proof(self, audience: str) -> str:
        self.asked_for.append(audience)
        return self.proofs.pop(0) if len(self.proofs) > 1 else self.proofs[0]

    async def mint(self, identity: str = IDENTITY, *, default_lifetime: float | None = None, **settings: Any) -> Token:
        tools = dataclasses.replace(self.tools, default_lifetime_seconds=default_lifetime)
        provider = Chainguard(ChainguardSettings(type="chainguard", **settings), tools)
        return await provider.mint(identity, ("cgr.dev",))

    async def error(self, answer: Answer | None = None, **settings: Any) -> MintError:
        self.issuer.answer = answer
        with pytest.raises(MintError) as caught:
            await self.mint(**settings)
        return caught.value


@pytest.fixture
def world(clock: Clock) -> World:
    return World(clock)


def instant(at: float, *, digits: int = 0, zone: str = "Z") -> str:
    text = dt.datetime.fromtimestamp(int(at), dt.UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return text + (f".{'987654321'[:digits]}" if digits else "") + zone


# What is asked.


async def test_the_issuer_is_asked_as_its_own_sdk_asks(world: World) -> None:
    token = await world.mint()
    assert (token.provider, token.username) == ("cg", "_token")
    assert token.password == registry_token()
    (sent,) = world.transport.sent
    assert sent.headers["Authorization"] == f"Bearer {PROOF}"
    assert sent.body == b"aud=cgr.dev&identity=" + urllib.parse.quote(IDENTITY, safe="").encode()


async def test_a_token_may_be_narrowed_to_some_capabilities(world: World) -> None:
    await world.mint(capabilities=("repo.list", "manifest.list"))
    (sent,) = world.transport.sent
    form = urllib.parse.parse_qs((sent.body or b"").decode(), strict_parsing=True)
    assert form == {"aud": ["cgr.dev"], "identity": [IDENTITY], "cap": ["repo.list", "manifest.list"]}


def test_a_capability_without_a_name_is_a_problem() -> None:
    assert not list(ChainguardSettings(type="chainguard", capabilities=("repo.list",)).problems())
    (problem,) = ChainguardSettings(type="chainguard", capabilities=("repo.list", "")).problems()
    assert problem.startswith("capabilities: ")


async def test_the_proof_never_stands_in_the_address_or_the_body(world: World) -> None:
    await world.mint()
    (sent,) = world.transport.sent
    assert PROOF not in sent.url
    assert PROOF.encode() not in (sent.body or b"")


async def test_the_proof_is_read_for_every_exchange_and_for_its_audience(world: World) -> None:
    world.proofs = [PROOF, NEWER_PROOF]
    world.issuer.proofs = {PROOF, NEWER_PROOF}
    await world.mint()
    await world.mint(audience="another")
    assert world.asked_for == ["issuer.enforce.dev", "another"]
    assert [sent.headers["Authorization"] for sent in world.transport.sent] == [
        f"Bearer {PROOF}",
        f"Bearer {NEWER_PROOF}",
    ]


@pytest.mark.parametrize("issuer", ["https://issuer.enforce.dev", "https://issuer.enforce.dev/"])
async def test_a_slash_behind_the_issuer_changes_nothing(world: World, issuer: str) -> None:
    await world.mint(issuer=issuer)


@pytest.mark.parametrize("problem", [Problem.PROOF_MISSING, Problem.PROOF_UNFIT])
async def test_without_a_proof_nobody_is_asked(world: World, problem: Problem) -> None:
    async def no_proof(_audience: str) -> str:
        raise MintError(problem, "a detail")

    world.tools = dataclasses.replace(world.tools, proof=no_proof)
    assert (await world.error()).problem is problem
    assert world.transport.sent == []


def test_an_identity_has_the_shape_that_the_sdk_gives_it() -> None:
    assert SHAPES[0].pattern.pattern == IDENTITY_PATTERN


# A life.


@pytest.mark.parametrize(
    ("expiry", "exp", "life"),
    [
        *((None, 3600, 3600), ("", 3600, 3600)),
        *((1800, 3600, 1800), (3600, 1800, 1800), (3600, 3600, 3600)),
        *((1800, None, 1800),),
    ],
)
async def test_the_earlier_of_expiry_and_exp_is_the_end(
    world: World, expiry: int | str | None, exp: int | None, life: int
) -> None:
    world.issuer.expiry = instant(NOW + expiry) if isinstance(expiry, int) else expiry
    world.issuer.claims["exp"] = None if exp is None else NOW + exp
    token = await world.mint()
    assert (token.issued_at, token.expires_at) == (NOW, NOW + life)


@pytest.mark.parametrize("digits", [0, 1, 3, 6, 9])
@pytest.mark.parametrize("zone", ["Z", "+00:00"])
async def test_an_expiry_has_any_number_of_digits(world: World, digits: int, zone: str) -> None:
    world.issuer.expiry = instant(NOW + 1800, digits=digits, zone=zone)
    assert (await world.mint()).expires_at == NOW + 1800


async def test_an_expiry_in_lower_case_is_the_same_instant(world: World) -> None:
    world.issuer.expiry = instant(NOW + 1800).lower()
    assert (await world.mint()).expires_at == NOW + 1800


async def test_an_expiry_in_another_zone_is_the_same_instant(world: World) -> None:
    world.issuer.expiry = instant(NOW + 1800 + HOUR, zone="+01:00")
    assert (await world.mint()).expires_at == NOW + 1800


@pytest.mark.parametrize("expiry", ["soon", "2026-01-02", 7, True, [], {}])
async def test_an_expiry_that_cant_be_read_is_not_taken_for_none(world: World, expiry: object) -> None:
    world.issuer.expiry = expiry
    with pytest.raises(MintError) as caught:
        await world.mint()
    assert caught.value.problem in (Problem.ISSUER_MALFORMED, Problem.TOKEN_UNFIT)


@pytest.mark.parametrize("zero", ["0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z"])
async def test_an_expiry_of_zero_is_none_as_for_the_sdk(world: World, zero: str) -> None:
    world.issuer.expiry = zero
    assert (await world.mint()).expires_at == NOW + HOUR


@pytest.mark.parametrize("fields", [{}, {"expiry": None}, {"refreshToken": None}, {"refresh_token": "x", "a": [1]}])
async def test_only_the_token_is_needed(world: World, fields: dict[str, Any]) -> None:
    world.issuer.answer = Answer(200, json.dumps({"token": registry_token(), **fields}).encode())
    assert (await world.mint()).expires_at == NOW + HOUR


async def test_without_any_expiry_the_token_is_refused_unless_a_default_is_configured(world: World) -> None:
    world.issuer.claims["exp"] = None
    assert (await world.error()).problem is Problem.TOKEN_UNFIT
    assert (await world.mint(default_lifetime=900)).lifetime_seconds == 900


async def test_no_default_makes_a_known_life_longer(world: World) -> None:
    assert (await world.mint(default_lifetime=10 * HOUR)).lifetime_seconds == HOUR


async def test_a_life_counts_at_most_what_is_configured(world: World) -> None:
    world.issuer.lifetime_seconds = 30 * 24 * HOUR
    assert (await world.mint()).lifetime_seconds == 12 * HOUR


async def test_a_life_begins_before_the_request_was_sent(world: World, clock: Clock) -> None:
    world.issuer.after_seconds = 9.0
    world.issuer.lifetime_seconds = 100
    token = await world.mint()
    assert clock() == NOW + 9
    assert token.issued_at == NOW
    assert token.expires_at <= NOW + 100


@pytest.mark.parametrize("offset", [-600, -61, -1, 0, 1, 61, 600])
async def test_the_issuers_clock_may_be_ten_minutes_off(world: World, offset: float) -> None:
    world.issuer.offset_seconds = offset
    world.issuer.expiry = instant(NOW + offset + 1800)
    token = await world.mint()
    assert token.issued_at == NOW
    assert 1799 <= token.lifetime_seconds <= 1800


async def test_without_a_date_our_own_clock_counts(world: World) -> None:
    world.issuer.date = False
    assert (await world.mint()).lifetime_seconds == HOUR


async def test_a_date_that_cant_be_read_is_none(world: World) -> None:
    body = json.dumps({"token": registry_token()}).encode()
    for date in ("yesterday", "", "Fri, 02 Jan 99999999999999 03:04:05 GMT"):
        world.issuer.answer = Answer(200, body, {"Date": date})
        assert (await world.mint()).lifetime_seconds == HOUR


async def test_instants_are_whole_seconds(world: World, clock: Clock) -> None:
    clock.step(0.7)
    world.issuer.claims["exp"] = NOW + 1800.9
    token = await world.mint()
    assert isinstance(token.issued_at, int)
    assert isinstance(token.expires_at, int)
    assert token.issued_at == NOW


# A token that is none, or not ours.

UNFIT: dict[str, dict[str, Any]] = {
    "for another audience": {"aud": "https://console-api.enforce.dev"},
    "for no audience": {"aud": None},
    "for an audience that only begins like ours": {"aud": "cgr.dev.evil.example"},
    "for several audiences without ours": {"aud": ["a", "b"]},
    "for an audience that is no text": {"aud": {"cgr.dev": 1}},
    "for another identity": {"sub": OTHER_IDENTITY},
    "for the organisation above": {"sub": IDENTITY[:40]},
    "for no identity": {"sub": None},
    "expired": {"exp": NOW - 1},
    "expiring now": {"exp": NOW},
    "expired long ago": {"exp": 0},
}


@pytest.mark.parametrize("sentence", UNFIT)
async def test_an_unfit_token_is_refused(world: World, sentence: str) -> None:
    world.issuer.claims = {"sub": IDENTITY, **UNFIT[sentence]}
    error = await world.error()
    assert error.problem is Problem.TOKEN_UNFIT
    assert error.problem.pace is Pace.SLOW


@pytest.mark.parametrize("audience", ["cgr.dev", ["cgr.dev"], ["a", "cgr.dev"]])
async def test_the_audience_may_be_one_or_several(world: World, audience: object) -> None:
    world.issuer.claims = {"aud": audience}
    await world.mint()


MALFORMED: dict[str, bytes] = {
    "nothing": b"",
    "HTML": b"<html>Sign in</html>",
    "a list": b"[]",
    "null": b"null",
    "text": b'"eyJ"',
    "no token": b'{"expiry":null}',
    "an empty token": b'{"token":""}',
    "a token that is null": b'{"token":null}',
    "a token that is a number": b'{"token":7}',
    "a token that is an object, as at the refresh endpoint": b'{"token":{"token":"x"}}',
    "a token with a newline": b'{"token":"a\\nb"}',
    "a token with a blank": b'{"token":"a b"}',
    "a token that is not ASCII": '{"token":"ä"}'.encode(),
    "an error with status 200": b'{"code":7,"message":"x"}',
    "half an answer": b'{"token":"eyJ',
    "bytes": b"\xff\xfe",
    "deep": b"[" * 60_000,
    "an exp that no clock can show": b'{"token":"' + jwt(aud="cgr.dev", sub=IDENTITY, exp=10**400).encode() + b'"}',
}


@pytest.mark.parametrize("sentence", MALFORMED)
async def test_an_answer_without_a_token_is_the_providers_fault(world: World, sentence: str) -> None:
    error = await world.error(Answer(200, MALFORMED[sentence]))
    assert error.problem in (Problem.ISSUER_MALFORMED, Problem.TOKEN_UNFIT)
    if sentence != "an exp that no clock can show":
        assert error.problem is Problem.ISSUER_MALFORMED
    assert error.__cause__ is None


async def test_a_token_that_is_no_jwt_is_refused(world: World) -> None:
    error = await world.error(Answer(200, b'{"token":"opaque"}'), default_lifetime=900)
    assert error.problem is Problem.TOKEN_UNFIT


# Errors of the issuer: the code is trusted over the status.

ROWS: list[tuple[int, object, Problem]] = [
    (400, 3, Problem.REQUEST_REFUSED),
    (400, 9, Problem.REQUEST_REFUSED),
    (400, 11, Problem.REQUEST_REFUSED),
    (401, 16, Problem.MINT_REFUSED),
    (403, 7, Problem.MINT_REFUSED),
    (404, 5, Problem.IDENTITY_UNKNOWN),
    (409, 6, Problem.REQUEST_REFUSED),
    (409, 10, Problem.ISSUER_UNAVAILABLE),
    (429, 8, Problem.ISSUER_THROTTLES),
    (499, 1, Problem.ISSUER_UNAVAILABLE),
    (500, 2, Problem.ISSUER_UNAVAILABLE),
    (500, 13, Problem.ISSUER_UNAVAILABLE),
    (500, 15, Problem.ISSUER_UNAVAILABLE),
    (501, 12, Problem.REQUEST_REFUSED),
    (503, 14, Problem.ISSUER_UNAVAILABLE),
    (504, 4, Problem.ISSUER_UNAVAILABLE),
    # The status says something else than the code.
    (400, 16, Problem.MINT_REFUSED),
    (400, 7, Problem.MINT_REFUSED),
    (500, 7, Problem.MINT_REFUSED),
    (500, 5, Problem.IDENTITY_UNKNOWN),
    (403, 14, Problem.ISSUER_UNAVAILABLE),
    (401, 7, Problem.MINT_REFUSED),
    # The code says nothing.
    (403, 0, Problem.MINT_REFUSED),
    (404, 99, Problem.IDENTITY_UNKNOWN),
    (500, "13", Problem.ISSUER_UNAVAILABLE),
    (429, None, Problem.ISSUER_THROTTLES),
]


@pytest.mark.parametrize(("status", "code", "problem"), ROWS)
async def test_every_error_of_the_gateway_has_its_meaning(
    world: World, status: int, code: object, problem: Problem
) -> None:
    error = await world.error(refusal(status, code))
    assert error.problem is problem
    assert isinstance(error, StaleProof) is (code == 16)


@pytest.mark.parametrize(
    ("status", "problem"),
    [
        *((400, Problem.REQUEST_REFUSED), (401, Problem.MINT_REFUSED), (403, Problem.MINT_REFUSED)),
        *((404, Problem.IDENTITY_UNKNOWN), (408, Problem.ISSUER_UNAVAILABLE), (429, Problem.ISSUER_THROTTLES)),
        *((500, Problem.ISSUER_UNAVAILABLE), (502, Problem.ISSUER_UNAVAILABLE), (503, Problem.ISSUER_UNAVAILABLE)),
        *((504, Problem.ISSUER_UNAVAILABLE), (204, Problem.ISSUER_MALFORMED), (418, Problem.REQUEST_REFUSED)),
    ],
)
@pytest.mark.parametrize("body", [b"", b"<html>", b"[" * 60_000, b"\xff", b"null"])
async def test_an_error_without_a_code_is_judged_by_its_status(
    world: World, status: int, problem: Problem, body: bytes
) -> None:
    assert (await world.error(Answer(status, body))).problem is problem


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_refused_and_not_followed(world: World, status: int) -> None:
    error = await world.error(Answer(status, b"", {"Location": "https://evil.example/sts/exchange"}))
    assert error.problem is Problem.REQUEST_REFUSED
    assert len(world.transport.sent) == 1


@pytest.mark.parametrize(("value", "seconds"), [("7", 7), (email.utils.formatdate(NOW + 30, usegmt=True), 30)])
@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_handed_on(world: World, status: int, value: str, seconds: float) -> None:
    error = await world.error(Answer(status, b"{}", {"Retry-After": value}))
    assert error.retry_after_seconds == seconds


async def test_a_connection_that_never_answers_is_given_up_after_ten_seconds(world: World, clock: Clock) -> None:
    error = await world.error(Answer(after_seconds=86400))
    assert error.problem is Problem.ISSUER_UNAVAILABLE
    assert clock() == NOW + 10
    world.tools = dataclasses.replace(world.tools, timeout_seconds=3)
    error = await world.error(Answer(hangs_before_body=True))
    assert clock() == NOW + 13
    assert world.transport.open_now == 0


async def test_a_connection_that_breaks_is_the_providers_fault(world: World) -> None:
    assert (await world.error(Answer(None))).problem is Problem.ISSUER_UNAVAILABLE
    assert (await world.error(Answer(200, b"{", breaks_after_body=True))).problem is Problem.ISSUER_UNAVAILABLE


@pytest.mark.parametrize("status", [200, 403])
async def test_an_answer_above_64_kib_is_given_up(world: World, status: int) -> None:
    error = await world.error(Answer(status, b"x" * 640 * 1024))
    assert error.problem is Problem.ISSUER_UNAVAILABLE
    assert 64 * 1024 < world.transport.bytes_read < 2 * 64 * 1024


# A stale proof.


async def test_a_stale_proof_is_read_again_and_if_it_changed_tried_once_more(world: World) -> None:
    world.proofs = [PROOF, NEWER_PROOF]
    world.issuer.proofs = {NEWER_PROOF}
    assert (await world.mint()).expires_at == NOW + HOUR
    assert len(world.transport.sent) == 2


async def test_a_stale_proof_that_is_still_the_same_is_not_tried_again(world: World) -> None:
    world.issuer.proofs = set()
    assert (await world.error()).problem is Problem.MINT_REFUSED
    assert len(world.transport.sent) == 1
    assert len(world.asked_for) == 2


async def test_a_newer_proof_that_is_refused_too_is_a_refusal(world: World) -> None:
    world.proofs = [PROOF, NEWER_PROOF, PROOF, NEWER_PROOF]
    world.issuer.proofs = set()
    assert (await world.error()).problem is Problem.MINT_REFUSED
    assert len(world.transport.sent) == 2


@pytest.mark.parametrize("answer", [refusal(403, 7), refusal(404, 5), refusal(503, 14), Answer(None)])
async def test_any_other_error_is_not_tried_again_here(world: World, answer: Answer) -> None:
    world.proofs = [PROOF, NEWER_PROOF]
    await world.error(answer)
    assert len(world.transport.sent) == 1


# Nothing of it is told.


@pytest.mark.parametrize(
    "answer",
    [
        refusal(403, 7, message="a-secret-canary"),
        refusal(401, 16, message="a-secret-canary"),
        Answer(500, b"a-secret-canary", {"WWW-Authenticate": "a-secret-canary", "Retry-After": "a-secret-canary"}),
        Answer(200, b'{"token":"a-secret-canary","expiry":"a-secret-canary"}'),
        Answer(200, json.dumps({"token": jwt(aud="a-secret-canary", exp=NOW + 9)}).encode()),
        Answer(302, b"", {"Location": "https://a-secret-canary"}),
        Answer(None),
    ],
)
async def test_no_error_holds_a_word_of_the_issuer_or_of_the_proof(world: World, answer: Answer) -> None:
    current: BaseException | None = await world.error(answer)
    while current is not None:
        text = f"{current!r} {current} {getattr(current, 'detail', '')}"
        assert "canary" not in text
        assert PROOF not in text
        assert IDENTITY not in text
        current = current.__cause__


async def test_a_token_shows_neither_user_nor_password(world: World) -> None:
    token = await world.mint()
    for part in (token.password, *token.password.split("."), "_token"):
        assert part not in repr(token)
        assert part not in f"{token}"
    assert str(token.expires_at) in repr(token)


@pytest.mark.parametrize(
    ("code", "name"), [(3, "INVALID_ARGUMENT"), (5, "NOT_FOUND"), (7, "PERMISSION_DENIED"), (16, "UNAUTHENTICATED")]
)
async def test_a_code_of_the_issuer_is_told_by_its_name(world: World, code: int, name: str) -> None:
    assert (await world.error(refusal(400, code))).detail == f"HTTP 400, {name}"
