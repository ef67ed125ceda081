"""A Secret that names a ServiceAccount is minted for by that ServiceAccount's own token, and by no other proof."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgspec
import pytest

from controller.core.jwt import jwt_claim
from controller.providers.settings import ProofBy
from tests.unit.engine import NAME, Engine, identity
from tests.unit.fake_issuer import CANARY, HOUR
from tests.unit.virtual_time import Clock

CONTROLLER = "system:serviceaccount:pull-secret-updater:controller"
BUILDER_OF_A, BUILDER_OF_B = (f"system:serviceaccount:team-{team}:builder" for team in "ab")


@pytest.fixture
def engine(clock: Clock, tmp_path: Path) -> Engine:
    """With a ServiceAccount `builder` in team-a and team-b."""
    engine = Engine(clock, tmp_path)
    engine.api.service_accounts |= {("team-a", "builder"), ("team-b", "builder")}
    return engine


def takes(engine: Engine, proof: ProofBy) -> None:
    """Set the provider's `proof`."""
    settings = msgspec.structs.replace(engine.config.providers["chainguard"], proof=proof)
    engine.config = msgspec.structs.replace(engine.config, providers={"chainguard": settings})


def seen(engine: Engine) -> list[object]:
    """The subjects that the issuer was shown, in order."""
    return [jwt_claim(request.proof, "sub") for request in engine.issuer.requests]


async def test_the_issuer_sees_the_tenants_subject(engine: Engine) -> None:
    engine.ask("team-a", service_account="builder")
    async with engine.running():
        assert engine.password("team-a") == engine.issuer.minted[0]
    assert seen(engine) == [BUILDER_OF_A]


async def test_the_proof_is_for_the_issuer_alone_lives_ten_minutes_and_ends_with_the_secret(engine: Engine) -> None:
    uid = engine.ask("team-a", service_account="builder")["metadata"]["uid"]
    async with engine.running():
        (request,) = engine.api.requests_of("create", "serviceaccounts/token")
    assert request.path == "/api/v1/namespaces/team-a/serviceaccounts/builder/token"
    assert request.json["spec"] == {
        "audiences": ["issuer.enforce.dev"],
        "expirationSeconds": 600,
        "boundObjectRef": {"apiVersion": "v1", "kind": "Secret", "name": NAME, "uid": uid},
    }


async def test_without_the_annotation_the_controller_proves_and_asks_for_no_token(engine: Engine) -> None:
    engine.ask("team-a")
    async with engine.running():
        assert engine.password("team-a")
    assert seen(engine) == [CONTROLLER]
    assert not engine.api.requests_of("create", "serviceaccounts/token")


async def test_the_same_annotations_in_two_namespaces_are_two_mints_each_by_its_own_proof(engine: Engine) -> None:
    engine.issuer.delay_seconds = 1.0
    for team in ("team-a", "team-b"):
        engine.ask(team, service_account="builder")
    async with engine.running():
        await asyncio.sleep(2)
        assert sorted(map(str, seen(engine))) == [BUILDER_OF_A, BUILDER_OF_B]
        assert engine.password("team-a") != engine.password("team-b")


async def test_what_one_namespace_proved_is_not_handed_to_another_whose_proof_fails(engine: Engine) -> None:
    engine.api.service_accounts.discard(("team-b", "builder"))
    engine.ask("team-a", service_account="builder")
    async with engine.running():
        engine.ask("team-b", service_account="builder")
        await asyncio.sleep(HOUR)
        assert engine.password("team-a")
        assert engine.password("team-b") is None
    assert set(seen(engine)) == {BUILDER_OF_A}


async def test_what_the_controller_proved_is_not_handed_to_a_secret_that_names_a_service_account(
    engine: Engine,
) -> None:
    engine.api.may_create_tokens = False
    engine.ask("team-a")
    async with engine.running():
        engine.ask("team-b", service_account="builder")
        await asyncio.sleep(60)
        assert engine.password("team-a")
        assert engine.password("team-b") is None


async def test_secrets_of_one_namespace_share_a_mint_whose_proof_is_bound_to_the_first_that_is_still_there(
    clock: Clock, tmp_path: Path
) -> None:
    """The rate can hold a mint back for longer than the Secret lives that asked for it first."""
    engine = Engine(clock, tmp_path, names=(NAME, "other"))
    engine.api.service_accounts.add(("team-a", "builder"))
    limits = msgspec.structs.replace(engine.config.limits, mints_per_second=0.5)
    engine.config = msgspec.structs.replace(engine.config, limits=limits)
    engine.ask("team-b")
    async with engine.running():
        engine.ask("team-a", service_account="builder")
        await engine.settle()
        engine.ask("team-a", name="other", service_account="builder")
        await asyncio.sleep(1)
        assert engine.mints == 1
        engine.api.delete_secret("team-a", NAME)
        await asyncio.sleep(10)
        assert engine.password("team-a", name="other") == engine.issuer.minted[1]
        engine.ask("team-a", service_account="builder")
        await engine.settle()
        assert engine.password("team-a") == engine.issuer.minted[1]
    (request,) = engine.api.requests_of("create", "serviceaccounts/token")
    assert request.json["spec"]["boundObjectRef"]["name"] == "other"


async def test_a_secret_that_was_deleted_and_created_again_is_filled(engine: Engine) -> None:
    engine.ask("team-a", service_account="builder")
    async with engine.running():
        engine.api.delete_secret("team-a", NAME)
        await asyncio.sleep(0.3 * HOUR)
        engine.ask("team-a", service_account="builder")
        await engine.settle()
        assert engine.password("team-a") == engine.issuer.minted[1]


async def test_each_mint_asks_for_a_token_of_its_own(engine: Engine) -> None:
    engine.ask("team-a", service_account="builder")
    async with engine.running():
        await asyncio.sleep(4 * HOUR)
        assert engine.expiry("team-a") > engine.clock()
    proofs = [request.proof for request in engine.issuer.requests]
    assert len(proofs) >= 6
    assert proofs == engine.api.issued_tokens
    assert len(set(proofs)) == len(proofs)


async def test_a_proof_that_the_issuer_calls_stale_is_tried_once_since_it_was_made_for_this_mint(
    engine: Engine,
) -> None:
    engine.issuer.fail(401, times=1)
    engine.ask("team-a", service_account="builder")
    async with engine.running():
        assert engine.mints == 1
        await asyncio.sleep(60)
        assert engine.password("team-a")
    assert len(engine.api.issued_tokens) == engine.mints == 2


async def test_a_refusal_names_the_subject_that_the_issuer_has_to_trust(engine: Engine) -> None:
    engine.issuer.fail(403)
    engine.ask("team-a", service_account="builder")
    async with engine.running():
        error = engine.annotation("team-a", "error") or ""
    assert error.startswith("MintRefused: ")
    assert f"subject {BUILDER_OF_A}, audience issuer.enforce.dev" in error


# The API server gives no token.


async def test_without_the_right_it_is_told_and_tried_again_slowly(engine: Engine) -> None:
    engine.api.may_create_tokens = False
    engine.ask("team-a", service_account="builder")
    async with engine.running():
        await asyncio.sleep(2 * HOUR)
        error = engine.annotation("team-a", "error") or ""
        assert error.startswith("TokenRequestRefused: ")
        assert error.endswith(": provider chainguard, ServiceAccount team-a/builder")
        assert engine.told("team-a") == ["TokenRequestRefused"]
        assert engine.mints == 0
        assert 30 < len(engine.api.requests_of("create", "serviceaccounts/token")) < 90
        engine.api.may_create_tokens = True
        await asyncio.sleep(900)
        assert engine.password("team-a")
        assert engine.annotation("team-a", "error") is None


async def test_a_service_account_that_is_missing_is_told_and_seen_within_seconds_once_it_is_there(
    engine: Engine,
) -> None:
    engine.ask("team-a", service_account="deployer")
    async with engine.running():
        error = engine.annotation("team-a", "error") or ""
        assert error.startswith("ServiceAccountMissing: ")
        assert error.endswith(": provider chainguard, ServiceAccount team-a/deployer")
        await asyncio.sleep(2)
        engine.api.service_accounts.add(("team-a", "deployer"))
        await asyncio.sleep(4)
        assert engine.password("team-a")
        assert engine.annotation("team-a", "error") is None
        assert engine.told("team-a") == ["ServiceAccountMissing"]


@pytest.mark.parametrize("status", [None, 401, 409, 429, 500, 503])
async def test_an_api_server_that_fails_is_told_and_tried_again_soon(engine: Engine, status: int | None) -> None:
    engine.api.fail("create", status, resource="serviceaccounts/token", times=6)
    engine.ask("team-a", service_account="builder")
    async with engine.running():
        await engine.settle(0.1)
        assert (engine.annotation("team-a", "error") or "").startswith("TokenRequestFails: ")
        assert engine.mints == 0
        await asyncio.sleep(70)
        assert engine.password("team-a")
    assert set(seen(engine)) == {BUILDER_OF_A}


@pytest.mark.parametrize("status", [400, 422])
async def test_a_token_that_somebodys_webhook_denies_is_refused(engine: Engine, status: int) -> None:
    engine.api.fail("create", status, resource="serviceaccounts/token", times=1000)
    engine.ask("team-a", service_account="builder")
    async with engine.running():
        await asyncio.sleep(HOUR)
        assert (engine.annotation("team-a", "error") or "").startswith("TokenRequestRefused: ")
    assert engine.mints == 0


async def test_an_api_server_that_hangs_is_not_blamed_on_the_issuer(engine: Engine) -> None:
    engine.api.fail("create", 200, resource="serviceaccounts/token", after_seconds=10_000, times=1000)
    for number in range(30):
        engine.api.service_accounts.add((f"team-{number}", "builder"))
        engine.ask(f"team-{number}", number, service_account="builder")
    async with engine.running():
        await asyncio.sleep(600)
        assert (engine.annotation("team-1", "error") or "").startswith("TokenRequestFails: ")
        assert engine.metric("mints_total", provider="chainguard", result="IssuerUnavailable") == 0
        assert engine.metric("circuit_open", provider="chainguard") == 0
        engine.ask("team-a")
        await engine.settle()
        assert engine.password("team-a"), "the controller's own proofs are not held up"


@pytest.mark.parametrize("body", [b"{}", b"no", b'{"status": {"token": 1}}', b'{"status": {}}'])
async def test_an_answer_without_a_token_is_a_failure_of_the_api_server(engine: Engine, body: bytes) -> None:
    engine.api.fail("create", 201, resource="serviceaccounts/token", body=body)
    engine.ask("team-a", service_account="builder")
    async with engine.running():
        assert (engine.annotation("team-a", "error") or "").startswith("TokenRequestFails: ")
        await asyncio.sleep(2)
        assert engine.password("team-a")


async def test_a_valid_token_outlives_the_loss_of_the_right(engine: Engine) -> None:
    engine.ask("team-a", service_account="builder")
    async with engine.running():
        token = engine.password("team-a")
        engine.api.may_create_tokens = False
        await asyncio.sleep(0.9 * HOUR)
        assert engine.password("team-a") == token
        assert engine.told("team-a") == ["TokenRequestRefused"]
    assert set(seen(engine)) == {BUILDER_OF_A}


# The annotation changes.


async def test_setting_changing_and_removing_the_annotation_each_mint_anew(engine: Engine) -> None:
    engine.api.service_accounts.add(("team-a", "deployer"))
    engine.ask("team-a")
    async with engine.running():
        for name in ("builder", "deployer", None):
            engine.annotate("team-a", service_account=name)
            await engine.settle()
            assert engine.password("team-a") == engine.issuer.minted[-1] or name is None
    deployer = BUILDER_OF_A.replace("builder", "deployer")
    assert seen(engine) == [CONTROLLER, BUILDER_OF_A, deployer]
    assert engine.password("team-a") == engine.issuer.minted[0], "what the controller has proved is still young"


async def test_a_second_claim_has_a_service_account_of_its_own(clock: Clock, tmp_path: Path) -> None:
    engine = Engine(clock, tmp_path, providers=("chainguard", "mirror"))
    engine.api.service_accounts.add(("team-a", "builder"))
    engine.ask("team-a", provider="chainguard", identity__mirror=identity(2), service_account__mirror="builder")
    async with engine.running():
        assert engine.password("team-a")
        assert engine.password("team-a", "mirror.test")
    assert seen(engine) == [CONTROLLER]
    assert [jwt_claim(request.proof, "sub") for request in engine.issuers["mirror"].requests] == [BUILDER_OF_A]


# What the operator allows.


async def test_a_provider_that_takes_the_controllers_proof_alone_refuses_the_annotation(engine: Engine) -> None:
    takes(engine, "controller")
    engine.ask("team-a", service_account="builder")
    async with engine.running():
        error = engine.annotation("team-a", "error") or ""
        assert error.startswith("ServiceAccountUnsupported: ")
        assert error.endswith(": provider chainguard")
        assert engine.mints == 0
        engine.annotate("team-a", service_account=None)
        await engine.settle()
        assert engine.password("team-a")


async def test_a_provider_that_takes_tenants_proofs_alone_needs_the_annotation_and_no_proof_of_its_own(
    engine: Engine,
) -> None:
    engine.proof_file.unlink()
    takes(engine, "serviceAccount")
    engine.ask("team-a")
    async with engine.running() as controller:
        error = engine.annotation("team-a", "error") or ""
        assert error.startswith("ServiceAccountRequired: ")
        assert engine.mints == 0
        engine.annotate("team-a", service_account="builder")
        await engine.settle()
        assert engine.password("team-a")
        assert controller.health.ready() is None
    assert seen(engine) == [BUILDER_OF_A]


# Leaks.


async def test_no_tenants_token_is_readable_whatever_the_api_server_and_the_issuer_answer(engine: Engine) -> None:
    engine.ask("team-a", service_account="builder")
    async with engine.running():
        for status in (201, 400, 403, 404, 409, 422, 500, None):
            body = json.dumps({"message": engine.api.issued_tokens[-1], "kind": "Status"}).encode()
            engine.api.fail("create", status, resource="serviceaccounts/token", body=body)
            engine.annotate("team-a", refresh=str(status))
            await asyncio.sleep(120)
        assert CANARY not in engine.readable()
    assert len(engine.api.issued_tokens) > 8
