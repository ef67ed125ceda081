"""What only Amazon ECR does: the ways to a session, whose session it is, and how long a password counts."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from controller.core.errors import MintError, Problem
from controller.core.jwt import jwt_claim
from controller.core.model import Token
from testing.aws import AGENT_AUDIENCE, STS_AUDIENCE, Key, Role
from testing.wire import Answer, in_json
from tests.unit import contract_ecr
from tests.unit.contract_ecr import (
    AGENTS_ROLE,
    FIRST_ROLE,
    IDENTITY,
    REGISTRY,
    USER,
    USERS_KEYS,
    form,
    in_stss_words,
    on_instance,
    refused,
    vendor,
    with_agent,
)
from tests.unit.provider_world import SUBJECT, World
from tests.unit.virtual_time import Clock

NewWorld = Callable[..., World]


@pytest.fixture
def new_world(clock: Clock, tmp_path: Path) -> NewWorld:
    """Makes a world of `ecr`; keyword arguments are settings put over those of the contract suite."""
    return lambda **overrides: contract_ecr.world(clock, tmp_path, **overrides)


@pytest.fixture
def world(new_world: NewWorld) -> World:
    return new_world()


# Ways to a session of the role.


async def test_a_web_identity_assumes_the_identitys_role_with_the_projected_token_and_no_signature(
    world: World,
) -> None:
    await world.mint()
    assert [jwt_claim(proof, "aud") for proof in world.proofs_read] == [[STS_AUDIENCE]]
    request, last = world.wire.asked
    assert "Authorization" not in request.headers
    assert form(request) == {
        "Action": "AssumeRoleWithWebIdentity",
        "Version": "2011-06-15",
        "RoleArn": IDENTITY,
        "RoleSessionName": "pull-secret-updater",
        "WebIdentityToken": form(request)["WebIdentityToken"],
        "DurationSeconds": "3600",
    }
    assert last.body == b"{}"


async def test_a_first_role_may_stand_between_and_is_asked_for_the_shortest_session(new_world: NewWorld) -> None:
    world = new_world(roleArn=FIRST_ROLE, externalId="x-1", sessionName="cluster-7", durationSeconds=1800)
    vendor(world).add(Role(arn=FIRST_ROLE, subjects=frozenset({SUBJECT})))
    vendor(world).add(Role(arn=IDENTITY, principals=frozenset({FIRST_ROLE}), external_id="x-1"))
    await world.mint()
    first, second, _ = map(form, world.wire.asked)
    assert (first["RoleArn"], first["DurationSeconds"], first.get("ExternalId")) == (FIRST_ROLE, "900", None)
    assert (second["RoleArn"], second["DurationSeconds"], second["ExternalId"]) == (IDENTITY, "1800", "x-1")
    assert first["RoleSessionName"] == second["RoleSessionName"] == "cluster-7"


async def test_a_first_role_that_is_the_identitys_own_needs_no_second_session(new_world: NewWorld) -> None:
    world = new_world(roleArn=IDENTITY)
    await world.mint()
    assert len(world.wire.asked) == 2


async def test_pod_identity_with_one_association_and_one_role_needs_no_role_that_trusts_itself(
    new_world: NewWorld,
) -> None:
    world = new_world(credentials="podIdentity")
    token = await world.mint()
    agent, caller, mint = world.wire.asked
    assert (agent.path, form(caller)["Action"], mint.body) == ("/v1/credentials", "GetCallerIdentity", b"{}")
    assert token.lifetime_seconds == pytest.approx(6 * 3600, abs=1), "the session is the agent's, of six hours"


async def test_pod_identity_takes_the_agents_keys_and_assumes_the_identitys_role_if_they_are_anothers(
    new_world: NewWorld,
) -> None:
    world = with_agent(new_world)
    await world.mint()
    assert [jwt_claim(proof, "aud") for proof in world.proofs_read] == [[AGENT_AUDIENCE]]
    agent, _, assume, _ = world.wire.asked
    assert (agent.method, agent.url) == ("GET", "http://169.254.170.23/v1/credentials")
    assert agent.headers["Authorization"].count(".") == 2, "the token alone, without Bearer"
    assert form(assume)["RoleArn"] == IDENTITY


async def test_the_agent_may_be_elsewhere(new_world: NewWorld) -> None:
    world = with_agent(new_world, podIdentityEndpoint="http://[fd00:ec2::23]/v1/credentials")
    await world.mint()
    assert world.wire.asked[0].host == "[fd00:ec2::23]"


async def test_an_instances_own_role_mints_with_the_keys_of_its_metadata_service(new_world: NewWorld) -> None:
    world = on_instance(new_world, IDENTITY)
    token = await world.mint()
    session, name, keys, caller, _ = world.wire.asked
    metadata = "http://169.254.169.254/latest"
    assert (session.method, session.url) == ("PUT", f"{metadata}/api/token")
    assert name.url == f"{metadata}/meta-data/iam/security-credentials/"
    assert keys.url == f"{metadata}/meta-data/iam/security-credentials/pull"
    assert form(caller)["Action"] == "GetCallerIdentity"
    assert world.proofs_read == []
    assert token.lifetime_seconds == pytest.approx(9000, abs=1), "what is left of the instance's keys"


async def test_an_instances_role_assumes_the_identitys(new_world: NewWorld) -> None:
    world = on_instance(new_world, durationSeconds=1800)
    token = await world.mint()
    assert [form(asked).get("Action") for asked in world.wire.asked[3:]] == ["GetCallerIdentity", "AssumeRole", None]
    assert token.lifetime_seconds == pytest.approx(1800, abs=1)


async def test_an_instances_role_never_stands_in_for_a_user_or_a_role_that_does_not_trust_it(
    new_world: NewWorld,
) -> None:
    world = on_instance(new_world)
    vendor(world).users.add(USER)
    for identity, problem in ((USER, Problem.IDENTITY_UNKNOWN), (FIRST_ROLE, Problem.MINT_REFUSED)):
        with pytest.raises(MintError) as caught:
            await world.provider.mint(identity, world.hosts)
        assert caught.value.problem is problem
    assert not vendor(world).minted


async def test_the_metadata_service_may_be_asked_by_ipv6(new_world: NewWorld) -> None:
    world = on_instance(new_world, metadataEndpoint="http://[fd00:ec2::254]/")
    await world.mint()
    assert [asked.url for asked in world.wire.asked[:1]] == ["http://[fd00:ec2::254]/latest/api/token"]


async def test_an_instance_has_no_proof_to_check(new_world: NewWorld) -> None:
    world = on_instance(new_world)
    await world.provider.check_proof()
    assert (world.wire.asked, world.proofs_read) == ([], [])


async def test_keys_come_from_the_variables_and_files_that_the_configuration_names(
    new_world: NewWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret-key"
    settings = {"credentials": "static", "tokenFile": None}
    world = new_world(**settings, accessKeyId={"env": "TEAM_KEY"}, secretAccessKey={"file": str(secret)})
    vendor(world).add(Role(arn=IDENTITY, principals=frozenset({USER})))
    key = vendor(world).user_key(USER)
    monkeypatch.setenv("TEAM_KEY", f" {key.access_key}\n")
    secret.write_text(f"{key.secret_key}\n")
    await world.mint()
    assert world.proofs_read == []
    assert [form(asked).get("Action") for asked in world.wire.asked] == ["AssumeRole", None]


def static(world_of: NewWorld, directory: Path, key: Key, **overrides: Any) -> World:
    """A world whose static keys are these, with a session token if they have one."""
    content = {"accessKeyId": key.access_key, "secretAccessKey": key.secret_key, "sessionToken": key.token}
    files = {}
    for name, text in content.items():
        if text is not None:
            (directory / name).write_text(text)
            files[name] = {"file": str(directory / name)}
    world: World = world_of(credentials="static", tokenFile=None, **files, **overrides)
    vendor(world).know(key)
    return world


async def test_a_users_own_keys_need_no_role_in_between(new_world: NewWorld, tmp_path: Path) -> None:
    world = static(new_world, tmp_path, USERS_KEYS[0])
    vendor(world).users.add(USER)
    token = await world.provider.mint(USER, world.hosts)
    assert token.lifetime_seconds == pytest.approx(12 * 3600, abs=1), "there is no session that could end"
    assert [form(asked).get("Action") for asked in world.wire.asked] == ["GetCallerIdentity", None]


async def test_the_keys_of_one_user_are_never_taken_for_anothers(new_world: NewWorld, tmp_path: Path) -> None:
    world = static(new_world, tmp_path, USERS_KEYS[0])
    vendor(world).users.add(USER)
    for other in (f"{USER}-2", "arn:aws:iam::210987654321:user/ci", "arn:aws:iam::123456789012:user/team/ci"):
        with pytest.raises(MintError) as caught:
            await world.provider.mint(other, world.hosts)
        assert caught.value.problem is Problem.IDENTITY_UNKNOWN
    assert not vendor(world).minted


async def test_a_users_keys_that_assume_a_role_are_not_asked_for_their_owner(
    new_world: NewWorld, tmp_path: Path
) -> None:
    world = static(new_world, tmp_path, USERS_KEYS[0])
    vendor(world).add(Role(arn=IDENTITY, principals=frozenset({USER})))
    await world.mint()
    assert [form(asked).get("Action") for asked in world.wire.asked] == ["AssumeRole", None]


@pytest.mark.parametrize(("ends_with_session", "seconds"), [(True, 2700), (False, 12 * 3600)])
async def test_a_session_of_the_role_itself_needs_no_second_one(
    new_world: NewWorld, tmp_path: Path, clock: Clock, ends_with_session: bool, seconds: int
) -> None:
    key = Key("ASIAEXAMPLE", "the-secret-key-of-a-session", "the-session-token", IDENTITY, clock() + 3600)
    world = static(new_world, tmp_path, key, durationSeconds=2700, endsWithSession=ends_with_session)
    token = await world.mint()
    assert [form(asked).get("Action") for asked in world.wire.asked] == ["GetCallerIdentity", None]
    assert token.lifetime_seconds == pytest.approx(seconds, abs=1), "the keys don't say when their session ends"


@pytest.mark.parametrize("role", [AGENTS_ROLE, f"{IDENTITY}-all", IDENTITY.replace("role/pull", "role/pul")])
async def test_a_session_of_another_role_is_only_a_way_to_the_identitys(
    new_world: NewWorld, tmp_path: Path, clock: Clock, role: str
) -> None:
    key = Key("ASIAEXAMPLE", "the-secret-key-of-a-session", "the-session-token", role, clock() + 3600)
    world = static(new_world, tmp_path, key)
    vendor(world).add(Role(arn=IDENTITY, principals=frozenset({role})))
    await world.mint()
    assert [form(asked).get("Action") for asked in world.wire.asked] == ["GetCallerIdentity", "AssumeRole", None]


async def test_keys_that_are_rotated_while_they_are_used_are_read_again(new_world: NewWorld, tmp_path: Path) -> None:
    settings = {"credentials": "static", "tokenFile": None}
    files = {name: {"file": str(tmp_path / name)} for name in ("accessKeyId", "secretAccessKey")}
    world = new_world(**settings, **files)
    vendor(world).add(Role(arn=IDENTITY, principals=frozenset({USER})))
    key = vendor(world).user_key(USER)
    (tmp_path / "accessKeyId").write_text("AKIAOLD")
    (tmp_path / "secretAccessKey").write_text(key.secret_key)

    def rotate() -> Answer:
        (tmp_path / "accessKeyId").write_text(key.access_key)
        return in_stss_words(403, "InvalidClientTokenId")

    world.wire.script.append(rotate)
    await world.mint()


@pytest.mark.parametrize("missing", ["accessKeyId", "secretAccessKey", "sessionToken"])
async def test_without_its_keys_nothing_is_sent(
    new_world: NewWorld, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    names = {"accessKeyId": "K1", "secretAccessKey": "K2", "sessionToken": "K3"}
    for key, variable in names.items():
        monkeypatch.setenv(variable, "" if key == missing else "value")
    world = new_world(credentials="static", tokenFile=None, **{key: {"env": name} for key, name in names.items()})
    assert (await refused(world)).problem is Problem.PROOF_MISSING
    assert world.wire.asked == []


async def test_whoever_is_not_trusted_by_the_role_gets_nothing(new_world: NewWorld) -> None:
    world = new_world(roleArn=FIRST_ROLE, externalId="wrong")
    vendor(world).add(Role(arn=FIRST_ROLE, subjects=frozenset({SUBJECT})))
    vendor(world).add(Role(arn=IDENTITY, principals=frozenset({FIRST_ROLE}), external_id="right"))
    error = await refused(world)
    assert (error.problem, error.detail) == (Problem.MINT_REFUSED, "HTTP 403, AccessDenied")


POLICY = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*"}],
}


@pytest.mark.parametrize("kind", ["webIdentity", "podIdentity"])
async def test_a_session_of_the_identitys_role_may_be_narrowed(new_world: NewWorld, kind: str) -> None:
    def narrowed_to(policy: Mapping[str, Any]) -> World:
        if kind == "podIdentity":
            return with_agent(new_world, sessionPolicy=policy)
        return new_world(sessionPolicy=policy)

    world = narrowed_to(POLICY)
    await world.mint()
    asked = {form(one).get("Action"): form(one) for one in world.wire.asked}
    narrowed = asked["AssumeRole" if kind == "podIdentity" else "AssumeRoleWithWebIdentity"]
    assert json.loads(narrowed["Policy"]) == POLICY
    assert (await refused(narrowed_to({"Statement": []}))).problem is Problem.MINT_REFUSED


async def test_a_first_role_is_not_narrowed(new_world: NewWorld) -> None:
    world = new_world(roleArn=FIRST_ROLE, sessionPolicy=POLICY)
    vendor(world).add(Role(arn=FIRST_ROLE, subjects=frozenset({SUBJECT})))
    vendor(world).add(Role(arn=IDENTITY, principals=frozenset({FIRST_ROLE})))
    await world.mint()
    first, second, _ = map(form, world.wire.asked)
    assert ("Policy" in first, "Policy" in second) == (False, True)


async def test_keys_that_are_to_be_narrowed_are_never_used_as_they_are(
    new_world: NewWorld, tmp_path: Path, clock: Clock
) -> None:
    key = Key("ASIAEXAMPLE", "the-secret-key-of-a-session", "the-session-token", IDENTITY, clock() + 3600)
    world = static(new_world, tmp_path, key, sessionPolicy=POLICY)
    assert (await refused(world)).problem is Problem.MINT_REFUSED, "the role doesn't trust itself"
    assert [form(asked).get("Action") for asked in world.wire.asked] == ["AssumeRole"]
    with pytest.raises(MintError, match="sessionPolicy narrows sessions of roles"):
        await world.provider.mint(USER, world.hosts)


# Whose session it is.


@pytest.mark.parametrize(
    "other",
    [
        "arn:aws:iam::123456789012:role/pull-all",
        "arn:aws:iam::210987654321:role/pull",
        "arn:aws-cn:iam::123456789012:role/pull",
    ],
)
@pytest.mark.parametrize("kind", ["webIdentity", "podIdentity"])
async def test_a_session_of_another_role_mints_nothing(new_world: NewWorld, kind: str, other: str) -> None:
    world = with_agent(new_world) if kind == "podIdentity" else new_world()
    vendor(world).session_of = other
    assert (await refused(world)).problem is Problem.TOKEN_UNFIT
    assert not vendor(world).minted


async def test_a_first_session_of_another_role_is_not_used(new_world: NewWorld) -> None:
    world = new_world(roleArn=FIRST_ROLE)
    vendor(world).add(Role(arn=FIRST_ROLE, subjects=frozenset({SUBJECT})))
    vendor(world).session_of = AGENTS_ROLE
    assert (await refused(world)).problem is Problem.TOKEN_UNFIT
    assert len(world.wire.asked) == 1


async def test_the_path_of_a_role_is_no_part_of_its_sessions(world: World) -> None:
    role = "arn:aws:iam::123456789012:role/teams/a/pull"
    vendor(world).add(Role(arn=role, subjects=frozenset({SUBJECT})))
    token: Token = await world.provider.mint(role, world.hosts)
    assert token.username == "AWS"


@pytest.mark.parametrize(
    ("identity", "problem"),
    [
        (USER, Problem.IDENTITY_UNKNOWN),
        ("arn:aws:iam::123456789012:group/ci", Problem.REQUEST_REFUSED),
        ("arn:aws:iam::123456789012:root", Problem.REQUEST_REFUSED),
        ("arn:aws:sts::123456789012:assumed-role/pull/x", Problem.REQUEST_REFUSED),
    ],
)
async def test_what_is_no_role_gets_nothing_for_a_web_identity(world: World, identity: str, problem: Problem) -> None:
    with pytest.raises(MintError) as caught:
        await world.provider.mint(identity, world.hosts)
    assert caught.value.problem is problem
    assert not world.wire.asked


async def test_a_key_of_two_lines_is_no_key_and_the_issuer_is_not_asked(new_world: NewWorld, tmp_path: Path) -> None:
    (tmp_path / "id").write_text("AKIDEX\nAMPLE")
    (tmp_path / "key").write_text("secret")
    keys = {"accessKeyId": {"file": str(tmp_path / "id")}, "secretAccessKey": {"file": str(tmp_path / "key")}}
    world = new_world(credentials="static", tokenFile=None, **keys)
    assert (await refused(world)).problem is Problem.PROOF_UNFIT
    with pytest.raises(MintError):
        await world.provider.check_proof()
    (tmp_path / "id").write_text("AKIDEXAMPLE")
    await world.provider.check_proof()
    assert not world.wire.asked


def authorization(**fields: Any) -> dict[str, Any]:
    token = base64.b64encode(b"AWS:password").decode()
    return {"authorizationToken": token, "expiresAt": 1767366245.123, "proxyEndpoint": f"https://{REGISTRY}"} | fields


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ([authorization(proxyEndpoint=f"https://{REGISTRY.replace('123456789012', '2' * 12)}")], Problem.TOKEN_UNFIT),
        ([authorization(proxyEndpoint=f"https://{REGISTRY.replace('central', 'west')}")], Problem.TOKEN_UNFIT),
        ([authorization(authorizationToken=base64.b64encode(b"root:password").decode())], Problem.TOKEN_UNFIT),
        ([authorization(authorizationToken=base64.b64encode(b"AWS:").decode())], Problem.ISSUER_MALFORMED),
        ([authorization(authorizationToken=base64.b64encode(b"AWS:pass\nword").decode())], Problem.ISSUER_MALFORMED),
        ([authorization(authorizationToken=base64.b64encode(b"AWS:\xff").decode())], Problem.ISSUER_MALFORMED),
        ([authorization(authorizationToken="no base64")], Problem.ISSUER_MALFORMED),
        ([authorization(authorizationToken=None)], Problem.ISSUER_MALFORMED),
        ([authorization(expiresAt="tomorrow")], Problem.ISSUER_MALFORMED),
        ([authorization(expiresAt=1767323045)], Problem.TOKEN_UNFIT),
        ([], Problem.ISSUER_MALFORMED),
        (None, Problem.ISSUER_MALFORMED),
    ],
)
async def test_an_answer_that_does_not_fit_is_refused(world: World, data: object, problem: Problem) -> None:
    world.wire.script += [None, in_json(200, {"authorizationData": data})]
    assert (await refused(world)).problem is problem


@pytest.mark.parametrize(
    "fields",
    [{}, {"proxyEndpoint": None}, {"proxyEndpoint": "https://registry.internal"}, {"expiresAt": 1767366245}],
)
async def test_an_answer_that_fits_is_taken(world: World, fields: Mapping[str, Any]) -> None:
    world.wire.script += [None, in_json(200, {"authorizationData": [authorization(**fields), authorization()]})]
    assert (await world.mint()).password == "password"


# Lifetime.


@pytest.mark.parametrize(("ends_with_session", "seconds"), [(True, 3600), (False, 12 * 3600)])
async def test_a_date_of_the_issuer_that_is_years_off_makes_no_token_live_longer(
    new_world: NewWorld, ends_with_session: bool, seconds: int
) -> None:
    world = new_world(endsWithSession=ends_with_session)
    answer = in_json(200, {"authorizationData": [authorization()]}, Date="Thu, 01 Jan 1970 00:00:00 GMT")
    world.wire.script += [None, answer]
    assert (await world.mint()).lifetime_seconds == seconds


@pytest.mark.parametrize(
    ("settings", "token_seconds", "lives_seconds"),
    [
        ({}, 12 * 3600, 3600),
        ({"durationSeconds": 900}, 12 * 3600, 900),
        ({"durationSeconds": 43200}, 12 * 3600, 12 * 3600),
        ({}, 600, 600),
        ({"endsWithSession": False}, 12 * 3600, 12 * 3600),
        ({"endsWithSession": False, "durationSeconds": 900}, 75 * 60, 75 * 60),
    ],
)
async def test_a_token_ends_with_the_session_it_was_minted_from_unless_told_otherwise(
    new_world: NewWorld, settings: Mapping[str, Any], token_seconds: int, lives_seconds: int
) -> None:
    world = new_world(**settings)
    vendor(world).lifetime_seconds = token_seconds
    assert (await world.mint()).lifetime_seconds == pytest.approx(lives_seconds, abs=1)


async def test_the_session_of_the_identity_counts_and_not_that_of_the_first_role(new_world: NewWorld) -> None:
    world = with_agent(new_world, durationSeconds=2700)
    assert (await world.mint()).lifetime_seconds == pytest.approx(2700, abs=1)
