"""Amazon ECR and ECR Public in the contract suite: with a web identity, a user's keys, and the Pod Identity agent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from controller.core.errors import MintError, Problem
from testing.aws import AGENT_AUDIENCE, AGENT_PATH, STS_AUDIENCE, Aws, Key, Role
from testing.awsnode import Instance
from testing.tokens import Trust
from testing.wire import Answer, Asked, in_json
from tests.unit.provider_world import SUBJECT, Row, World
from tests.unit.virtual_time import Clock

IDENTITY = "arn:aws:iam::123456789012:role/pull"
USER = "arn:aws:iam::123456789012:user/ci"
USERS_KEYS = (
    Key("AKIAEXAMPLEFIRST", "the-first-secret-key-of-the-user", None, USER, None),
    Key("AKIAEXAMPLESECOND", "the-second-secret-key-of-the-user", None, USER, None),
)
FIRST_ROLE = "arn:aws:iam::999999999999:role/first"
AGENTS_ROLE = "arn:aws:iam::123456789012:role/agent"
REGISTRY = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"
_NAMESPACE = "https://sts.amazonaws.com/doc/2011-06-15/"
TOKEN_FILE = "/var/run/secrets/tokens/aws"


def aws(clock: Clock, trust: Callable[[str], Trust], *, region: str = "eu-central-1") -> Aws:
    """AWS with one role that trusts our ServiceAccount."""
    vendor = Aws(region=region, web_identities=trust(STS_AUDIENCE), agent_identities=trust(AGENT_AUDIENCE), clock=clock)
    vendor.add(Role(arn=IDENTITY, subjects=frozenset({SUBJECT})))
    return vendor


def aws_with_agent(clock: Clock, trust: Callable[[str], Trust]) -> Aws:
    """AWS in us-east-1, where the agent gives our ServiceAccount a role, which the identity's role trusts."""
    vendor = aws(clock, trust, region="us-east-1")
    vendor.add(Role(arn=AGENTS_ROLE, subjects=frozenset({SUBJECT})))
    vendor.add(Role(arn=IDENTITY, principals=frozenset({AGENTS_ROLE})))
    return vendor


def aws_with_user(clock: Clock, trust: Callable[[str], Trust]) -> Aws:
    """AWS with one user who has two keys and may pull."""
    vendor = aws(clock, trust)
    vendor.users.add(USER)
    for key in USERS_KEYS:
        vendor.know(key)
    return vendor


def write_keys(directory: Path, key: Key = USERS_KEYS[0]) -> Mapping[str, Any]:
    """The settings for keys in files, as the mounted Secret of a CronJob has them."""
    content = {"AWS_ACCESS_KEY_ID": key.access_key, "AWS_SECRET_ACCESS_KEY": key.secret_key}
    for name, text in content.items():
        (directory / name).write_text(f"{text}\n")
    files = [{"file": str(directory / name)} for name in content]
    return {"credentials": "static", **dict(zip(("accessKeyId", "secretAccessKey"), files, strict=True))}


def renew_keys(world: World) -> None:
    """Put the other key of the user in place."""
    write_keys(world.directory, USERS_KEYS[1])


def in_ecrs_words(status: int, code: str, **headers: str) -> Answer:
    """An error as ECR tells it."""
    return in_json(
        status, {"__type": f"com.amazonaws.ecr#{code}:http://internal", "Message": "eyJsomething"}, **headers
    )


def in_stss_words(status: int, code: str, message: str = "eyJsomething") -> Answer:
    """An error as STS tells it."""
    body = (
        f'<ErrorResponse xmlns="{_NAMESPACE}"><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message>'
    )
    return Answer(
        status, f"{body}</Error><RequestId>1</RequestId></ErrorResponse>".encode(), {"Content-Type": "text/xml"}
    )


REFUSALS = {
    "refused": (in_ecrs_words(400, "AccessDeniedException"), Problem.MINT_REFUSED),
    "malformed request": (in_ecrs_words(400, "InvalidParameterException"), Problem.REQUEST_REFUSED),
    "throttled": (in_ecrs_words(400, "ThrottlingException"), Problem.ISSUER_THROTTLES),
    "unavailable": (in_ecrs_words(500, "ServerException"), Problem.ISSUER_UNAVAILABLE),
    "clock": (in_ecrs_words(400, "InvalidSignatureException"), Problem.MINT_REFUSED),
}
STALE = in_ecrs_words(400, "ExpiredTokenException")

ROW = Row(
    type="ecr",
    identity=IDENTITY,
    username="AWS",
    vendor=aws,
    settings=lambda _directory: {"registries": [REGISTRY], "tokenFile": TOKEN_FILE, "durationSeconds": 43200},
    refusals=REFUSALS,
    stale=STALE,
    at=lambda url: {"stsEndpoint": url, "ecrEndpoint": url},
    proofless={"tokenFile": None},
    minting_call=1,
)

ROW_USER = Row(
    type="ecr",
    identity=USER,
    username="AWS",
    vendor=aws_with_user,
    settings=lambda directory: {"registries": [REGISTRY], **write_keys(directory)},
    refusals=REFUSALS,
    stale=STALE,
    at=lambda url: {"stsEndpoint": url, "ecrEndpoint": url},
    proofless={"secretAccessKey": None},
    minting_call=1,
    renew=renew_keys,
    lose=lambda world: (world.directory / "AWS_SECRET_ACCESS_KEY").unlink(),
    secrets=tuple(key.secret_key for key in USERS_KEYS),
)

ROW_PUBLIC = Row(
    type="ecr-public",
    identity=IDENTITY,
    username="AWS",
    vendor=aws_with_agent,
    settings=lambda _directory: {
        "credentials": "podIdentity",
        "tokenFile": TOKEN_FILE,
        "endsWithSession": False,  # a session of one hour, from another session
    },
    refusals=REFUSALS | {"elsewhere": (in_ecrs_words(400, "UnsupportedCommandException"), Problem.REQUEST_REFUSED)},
    stale=STALE,
    at=lambda url: {"stsEndpoint": url, "ecrEndpoint": url, "podIdentityEndpoint": f"{url}{AGENT_PATH}"},
    proofless={"tokenFile": None},
    minting_call=3,
)


def world(clock: Clock, directory: Path, **overrides: Any) -> World:
    """A world of `ecr` with sessions of an hour; `overrides` are settings."""
    return World(ROW, clock, directory, {"durationSeconds": 3600, **overrides})


def with_agent(new_world: Callable[..., World], **overrides: Any) -> World:
    """One in which the identity's role trusts only the role that the agent gives us."""
    world: World = new_world(credentials="podIdentity", **overrides)
    vendor(world).add(Role(arn=AGENTS_ROLE, subjects=frozenset({SUBJECT})))
    vendor(world).add(Role(arn=IDENTITY, principals=frozenset({AGENTS_ROLE})))
    return world


def on_instance(new_world: Callable[..., World], role: str = AGENTS_ROLE, **overrides: Any) -> World:
    """One on an EC2 instance with that role, which the identity's role trusts."""
    world: World = new_world(credentials="instanceProfile", tokenFile=None, **overrides)
    aws = vendor(world)
    if role != IDENTITY:
        aws.add(Role(arn=IDENTITY, principals=frozenset({role})))
    key = Key("ASIAINSTANCE", "the-secret-key-of-the-instance", "the-token-of-the-instance", role, world.clock() + 9000)
    aws.know(key)
    aws.instance = Instance(world.clock, role.rpartition("/")[2], lambda: key)
    return world


def vendor(world: World) -> Aws:
    """AWS in that world."""
    assert isinstance(world.vendor, Aws)
    return world.vendor


async def refused(world: World) -> MintError:
    """The error of a mint that must fail."""
    with pytest.raises(MintError) as caught:
        await world.mint()
    return caught.value


def form(asked: Asked) -> dict[str, str]:
    """What was sent to STS."""
    return {name: values[0] for name, values in (asked.form() or {}).items()}
