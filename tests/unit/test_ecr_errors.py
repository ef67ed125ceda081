"""What STS, ECR and the Pod Identity agent say when they refuse, and what happens then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from controller.core.errors import Problem, StaleProof
from testing import wire
from testing.awsnode import Instance
from testing.wire import Answer, Hang, Scripted, in_json
from tests.unit import contract_ecr
from tests.unit.contract_ecr import (
    STALE,
    form,
    in_ecrs_words,
    in_stss_words,
    on_instance,
    refused,
    vendor,
    with_agent,
)
from tests.unit.provider_world import World
from tests.unit.virtual_time import Clock

VERIFICATION_KEY = "Couldn't retrieve verification key from your identity provider, please reference AssumeRole"

NewWorld = Callable[..., World]


@pytest.fixture
def new_world(clock: Clock, tmp_path: Path) -> NewWorld:
    """Makes a world of `ecr`; keyword arguments are settings put over those of the contract suite."""
    return lambda **overrides: contract_ecr.world(clock, tmp_path, **overrides)


@pytest.fixture
def world(new_world: NewWorld) -> World:
    return new_world()


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (in_stss_words(400, "IDPCommunicationError"), Problem.CLUSTER_ISSUER_UNREACHABLE),
        (in_stss_words(400, "InvalidIdentityToken", VERIFICATION_KEY), Problem.CLUSTER_ISSUER_UNREACHABLE),
        (in_stss_words(400, "InvalidIdentityToken", "No OpenIDConnect provider found"), Problem.MINT_REFUSED),
        (in_stss_words(400, "Throttling", "Rate exceeded"), Problem.ISSUER_THROTTLES),
        (in_stss_words(400, "ExpiredTokenException"), Problem.MINT_REFUSED),
        (in_stss_words(403, "AccessDenied"), Problem.MINT_REFUSED),
        (in_stss_words(403, "IDPRejectedClaim"), Problem.MINT_REFUSED),
        (in_stss_words(403, "RegionDisabledException"), Problem.REQUEST_REFUSED),
        (in_stss_words(403, "SignatureDoesNotMatch"), Problem.MINT_REFUSED),
        (in_stss_words(400, "ValidationError"), Problem.REQUEST_REFUSED),
        (in_stss_words(400, "PackedPolicyTooLarge"), Problem.REQUEST_REFUSED),
        (in_stss_words(503, "NewlyInvented"), Problem.ISSUER_UNAVAILABLE),
        (in_stss_words(400, "NewlyInvented"), Problem.REQUEST_REFUSED),
        (in_stss_words(400, "RequestLimitExceeded"), Problem.ISSUER_THROTTLES),
        (Answer(503, b"<html>try later</html>"), Problem.ISSUER_UNAVAILABLE),
        (Answer(429), Problem.ISSUER_THROTTLES),
    ],
)
async def test_the_words_of_sts_say_what_happens_next(world: World, answer: Answer, problem: Problem) -> None:
    world.wire.script.append(answer)
    assert (await refused(world)).problem is problem


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (in_ecrs_words(400, "ThrottlingException"), Problem.ISSUER_THROTTLES),
        (in_json(400, {"__type": "ThrottlingException", "message": "Rate exceeded"}), Problem.ISSUER_THROTTLES),
        (in_json(400, {"message": ""}, x_amzn_ErrorType="TooManyRequestsException:http://x"), Problem.ISSUER_THROTTLES),
        (in_ecrs_words(400, "LimitExceededException"), Problem.ISSUER_THROTTLES),
        (in_ecrs_words(500, "ServerException"), Problem.ISSUER_UNAVAILABLE),
        (in_ecrs_words(400, "RequestTimeoutException"), Problem.ISSUER_UNAVAILABLE),
        (in_ecrs_words(400, "AccessDeniedException"), Problem.MINT_REFUSED),
        (in_ecrs_words(400, "UnrecognizedClientException"), Problem.MINT_REFUSED),
        (in_ecrs_words(400, "UnsupportedCommandException"), Problem.REQUEST_REFUSED),
        (in_json(400, {"__type": 7}), Problem.REQUEST_REFUSED),
        (Answer(400, b"[" * 60_000), Problem.REQUEST_REFUSED),
        (Answer(400, b"<a>" * 20_000), Problem.REQUEST_REFUSED),
    ],
)
async def test_the_words_of_ecr_say_what_happens_next(world: World, answer: Answer, problem: Problem) -> None:
    world.wire.script += [None, answer]
    assert (await refused(world)).problem is problem


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (Answer(400, b"[id]: (ResourceNotFoundException): No association, fault: client"), Problem.MINT_REFUSED),
        (Answer(400, b"[id]: (ExpiredTokenException): Token expired, fault: client"), Problem.MINT_REFUSED),
        (Answer(429, b"Too Many Requests. "), Problem.ISSUER_THROTTLES),
        (Answer(400, b"[id]: (ThrottlingException): Rate exceeded"), Problem.ISSUER_THROTTLES),
        (Answer(403, b"Access Denied. "), Problem.MINT_REFUSED),
        (Answer(500, b"\xff\xfe"), Problem.ISSUER_UNAVAILABLE),
        (in_json(200, {"AccessKeyId": "A", "SecretAccessKey": "S", "Token": ""}), Problem.ISSUER_MALFORMED),
        (in_json(200, {"AccessKeyId": "A", "SecretAccessKey": "S", "Token": "a\nb"}), Problem.ISSUER_MALFORMED),
    ],
)
async def test_the_words_of_the_agent_say_what_happens_next(
    new_world: NewWorld, answer: Answer, problem: Problem
) -> None:
    world = with_agent(new_world)
    world.wire.script.append(answer)
    assert (await refused(world)).problem is problem


@pytest.mark.parametrize("request_number", range(5))
@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (wire.HTML, Problem.ISSUER_MALFORMED),
        (wire.TRUNCATED, Problem.ISSUER_MALFORMED),
        (wire.EMPTY, Problem.ISSUER_MALFORMED),
        (Answer(200, b"a\r\nb"), Problem.ISSUER_MALFORMED),
        (Hang(), Problem.ISSUER_UNAVAILABLE),
        (Answer(503), Problem.ISSUER_UNAVAILABLE),
        (wire.OVERSIZE, Problem.ISSUER_UNAVAILABLE),
    ],
)
async def test_a_metadata_service_that_answers_something_else_is_no_source_of_keys(
    new_world: NewWorld, request_number: int, answer: Scripted, problem: Problem
) -> None:
    world = on_instance(new_world)
    world.wire.script += [*[None] * request_number, answer]
    assert (await refused(world)).problem is problem
    assert len(world.wire.asked) == request_number + 1


async def test_an_instance_without_a_profile_is_told(new_world: NewWorld) -> None:
    world = on_instance(new_world)
    vendor(world).instance = Instance(world.clock, "role", lambda: None)
    error = await refused(world)
    assert (error.problem, error.detail) == (Problem.IDENTITY_UNKNOWN, "HTTP 404, instance metadata")


async def test_an_instance_that_has_no_access_to_its_role_is_told(new_world: NewWorld) -> None:
    world = on_instance(new_world)
    instance = vendor(world).instance
    assert isinstance(instance, Instance)
    for code, detail in (
        ("AssumeRoleUnauthorizedAccess", "HTTP 200, AssumeRoleUnauthorizedAccess"),
        ("eyJ-", "HTTP 200"),
    ):
        instance.code = code
        error = await refused(world)
        assert (error.problem, error.detail) == (Problem.MINT_REFUSED, detail)


async def test_a_code_is_told_to_the_log_but_never_what_is_no_code(world: World) -> None:
    world.wire.script.append(in_stss_words(400, "eyJhbGciOi.J9-_"))
    assert (await refused(world)).detail == "HTTP 400"
    world.wire.script.append(in_stss_words(403, "AccessDenied", "User arn:aws:sts::1:assumed-role/x is not authorized"))
    assert (await refused(world)).detail == "HTTP 403, AccessDenied"


@pytest.mark.parametrize(
    "body",
    [
        b"<AssumeRoleWithWebIdentityResponse/>",
        b'<?xml version="1.0" encoding="no-such"?><a/>',
        b"<a",
        b"",
    ],
)
async def test_an_answer_of_sts_that_holds_no_session_is_malformed(world: World, body: bytes) -> None:
    world.wire.script.append(Answer(200, body))
    assert (await refused(world)).problem is Problem.ISSUER_MALFORMED


async def test_an_answer_of_sts_with_a_dtd_is_malformed_even_if_it_holds_a_session(world: World) -> None:
    await world.mint()
    good = await world.vendor.handle(world.wire.asked[0])
    world.wire.script += [good, None]
    await world.mint()
    spoiled = '<!DOCTYPE x [<!ENTITY a "aaaa">]>' + good.body.decode()
    for body in (spoiled.encode(), spoiled.encode("utf-16")):
        world.wire.script.append(Answer(200, body))
        assert (await refused(world)).problem is Problem.ISSUER_MALFORMED


@pytest.mark.parametrize(
    "words", [in_stss_words(400, "ExpiredTokenException"), in_stss_words(400, "InvalidIdentityToken")]
)
async def test_a_projected_token_that_expired_is_read_again_once(world: World, words: Answer) -> None:
    def expired() -> Answer:
        world.row.renew(world)
        return words

    world.wire.script.append(expired)
    await world.mint()
    first, second = (form(asked)["WebIdentityToken"] for asked in world.wire.asked[:2])
    assert first != second

    world.wire.script += [words, words]
    with pytest.raises(StaleProof):
        await world.mint()
    assert len(world.wire.script) == 1, "the same token is not sent twice"


async def test_an_issuer_that_the_vendor_cannot_reach_is_named(world: World) -> None:
    world.wire.script.append(in_stss_words(400, "IDPCommunicationError"))
    assert "issuer https://cluster.example" in (await refused(world)).named


async def test_an_agent_that_calls_its_token_expired_is_shown_the_new_one(new_world: NewWorld) -> None:
    world = with_agent(new_world)

    def expired() -> Answer:
        world.row.renew(world)
        return Answer(400, b"[id]: (ExpiredTokenException): Token expired, fault: client")

    world.wire.script.append(expired)
    await world.mint()


async def test_a_session_that_ecr_calls_expired_is_replaced_only_with_another_proof(world: World) -> None:
    world.wire.script += [None, STALE]
    assert isinstance(await refused(world), StaleProof)
