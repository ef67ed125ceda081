"""Signature Version 4: golden vectors, for what we send and for what the stand-in expects."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from controller.providers import aws, ecr
from controller.providers.settings import ProviderSettings
from testing import sigv4
from testing.wire import Answer, Asked
from tests.unit import contract_ecr
from tests.unit.contract_ecr import (
    refused,
)
from tests.unit.provider_world import World, configured
from tests.unit.virtual_time import Clock

NewWorld = Callable[..., World]


@pytest.fixture
def new_world(clock: Clock, tmp_path: Path) -> NewWorld:
    """Makes a world of `ecr`; keyword arguments are settings put over those of the contract suite."""
    return lambda **overrides: contract_ecr.world(clock, tmp_path, **overrides)


@pytest.fixture
def world(new_world: NewWorld) -> World:
    return new_world()


JSON_TYPE, FORM_TYPE = "application/x-amz-json-1.1", "application/x-www-form-urlencoded; charset=utf-8"
PRIVATE = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"
PUBLIC = "SpencerFrontendService.GetAuthorizationToken"
ASSUME = (
    b"Action=AssumeRole&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Fpull"
    b"&RoleSessionName=psr&ExternalId=xid"
)
GOLDEN = [
    pytest.param(
        ("ecr", "us-east-1", "https://api.ecr.us-east-1.amazonaws.com", PRIVATE, None),
        "997b80552554e08571a650063d23958ffe90e86d094fff42c53be7649d3432f7",
        id="ecr",
    ),
    pytest.param(
        ("ecr", "us-east-1", "https://api.ecr.us-east-1.amazonaws.com", PRIVATE, "SESSION"),
        "42024c1bf958185a78346d12e0da32be0482f9d07e05c6696920a75e9d471cb5",
        id="ecr with a session token",
    ),
    pytest.param(
        ("ecr-public", "us-east-1", "https://api.ecr-public.us-east-1.amazonaws.com", PUBLIC, None),
        "f9e95b28cf454a134189d09ec9db563d82e59f94ebc0ab03a7b0c7f45cbe6008",
        id="ecr-public",
    ),
    pytest.param(
        ("ecr", "us-east-1", "http://127.0.0.1:8080", PRIVATE, None),
        "05cebc9ba5ab744f6d9a19c569f7854ac0ffdd49f0e3b04327f7e60eaa2f16d3",
        id="a port that is signed with the host",
    ),
    pytest.param(
        ("sts", "eu-central-1", "https://sts.eu-central-1.amazonaws.com", None, "SESSION"),
        "76e6da40a344730c9aa5a6cb9987d93e1a70c9c5d42bb7ebe5940bc69a56d4ad",
        id="sts",
    ),
]


async def sent(world: World, case: tuple[str, str, str, str | None, str | None]) -> Asked:
    """The request as production code sends it, at 20260102T030405Z."""
    service, region, url, target, token = case
    keys = aws.Keys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", token)
    headers = {"Content-Type": JSON_TYPE, "X-Amz-Target": target} if target else {"Content-Type": FORM_TYPE}
    world.wire.script.append(Answer(200))
    signed = aws.Service(world.tools, service, region, url, ProviderSettings(type=service))
    await signed.ask(b"{}" if target else ASSUME, headers, keys=keys)
    return world.wire.asked[-1]


@pytest.mark.parametrize(("case", "signature"), GOLDEN)
async def test_a_request_is_signed_as_the_specification_says(
    world: World, case: tuple[str, str, str, str | None, str | None], signature: str
) -> None:
    asked = await sent(world, case)
    names = ["content-type", "host", "x-amz-date", *(["x-amz-security-token"] if case[4] else [])]
    names += ["x-amz-target"] if case[3] else []
    assert asked.headers["Authorization"] == (
        f"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260102/{case[1]}/{case[0]}/aws4_request, "
        f"SignedHeaders={';'.join(names)}, Signature={signature}"
    )


@pytest.mark.parametrize(("case", "signature"), GOLDEN)
async def test_the_stand_in_computes_the_same_signature_by_itself(
    world: World, case: tuple[str, str, str, str | None, str | None], signature: str
) -> None:
    asked = await sent(world, case)
    claim = sigv4.signed(asked)
    assert claim is not None
    assert sigv4.signature(asked, claim, "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY") == signature
    if case == GOLDEN[0].values[0]:
        canonical = hashlib.sha256(sigv4.canonical_request(asked, claim.headers).encode()).hexdigest()
        assert canonical == "730f72636847de7730b2eee3d75b2f9b132f6371246ed2483aa747ada7d4ef9a"


async def test_a_signature_by_a_clock_that_is_16_minutes_off_is_refused_and_by_14_is_not(
    clock: Clock, tmp_path: Path
) -> None:
    for minutes, taken in ((14, True), (16, False), (-16, False)):
        world = World(contract_ecr.ROW, clock, tmp_path)
        ours = Clock()
        ours.step(minutes * 60)
        world.provider = ecr.Ecr(configured(contract_ecr.ROW, tmp_path), replace(world.tools, now=ours))
        if taken:
            await world.mint()
        else:
            detail = (await refused(world)).detail
            assert detail == "HTTP 400, InvalidSignatureException, the clocks are 960 s apart"
