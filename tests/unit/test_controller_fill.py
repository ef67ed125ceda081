"""A Secret that asks for an identity is filled, kept valid, and otherwise left alone."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path

import pytest

from tests.unit.engine import Engine, asking, identity
from tests.unit.fake_issuer import HOUR, jwt
from tests.unit.virtual_time import Clock


@pytest.fixture
def engine(clock: Clock, tmp_path: Path) -> Engine:
    return Engine(clock, tmp_path)


async def test_a_secret_is_filled_at_once(engine: Engine) -> None:
    async with engine.running():
        engine.api.put_secret("team-a", "pull-secret", config={})
        await engine.settle()
        assert engine.mints == 0
        before = engine.api.secret("team-a", "pull-secret")
        engine.annotate("team-a", identity=identity(1))
        await engine.settle()
        after = engine.api.secret("team-a", "pull-secret")
    assert engine.password("team-a") == engine.issuer.minted[0]
    assert engine.expiry("team-a") == int(engine.clock()) + HOUR
    assert [(exchange.identity, exchange.proof) for exchange in engine.issuer.requests] == [(identity(1), engine.proof)]
    assert [request.verb for request in engine.api.requests if request.resource == "secrets"] == [
        "list",
        "watch",
        "patch",
    ]
    for field in ("uid", "creationTimestamp", "name", "namespace"):
        assert after["metadata"][field] == before["metadata"][field]
    assert after["type"] == before["type"]
    assert [event["reason"] for event in engine.api.events] == ["TokenWritten"]


async def test_a_secret_without_data_and_one_with_null_are_filled(engine: Engine) -> None:
    engine.api.put_secret("team-a", "pull-secret", annotations=asking(identity=identity(1)))
    engine.api.put_secret("team-b", "pull-secret", annotations=asking(identity=identity(1)), config=b"null")
    engine.ask("team-c", config={"auths": None})
    async with engine.running():
        pass
    assert {engine.password(team) for team in ("team-a", "team-b", "team-c")} == {engine.issuer.minted[0]}
    assert engine.mints == 1


async def test_our_own_write_never_mints_and_is_never_written_twice(engine: Engine) -> None:
    engine.ask("team-a")
    async with engine.running():
        await engine.settle(60)
        assert (engine.mints, engine.patches) == (1, 1)
        engine.api.break_off_watches()
        await engine.settle(60)
        engine.api.compact()
        engine.api.send_error_event(410)
        await engine.settle(60)
    assert len(engine.api.requests_of("list")) == 2
    assert (engine.mints, engine.patches) == (1, 1)


async def test_idle_for_an_hour_no_request_but_the_watch(engine: Engine) -> None:
    engine.issuer.lifetime_seconds = 12 * HOUR
    for number in range(5):
        engine.ask(f"team-{number}", number)
    async with engine.running():
        await engine.settle(60)
        before = len(engine.api.requests)
        await asyncio.sleep(HOUR)
        after = engine.api.requests[before:]
    assert {request.verb for request in after} == {"watch"}
    assert len(after) <= 12
    assert engine.mints == 5


async def test_a_change_that_is_not_ours_costs_no_request(engine: Engine) -> None:
    engine.ask("team-a")
    async with engine.running():
        before = len(engine.api.requests)
        for number in range(100):
            engine.api.merge_patch("team-a", "pull-secret", {"metadata": {"labels": {"n": str(number)}}})
            await engine.settle()
        assert {request.resource for request in engine.api.requests[before:]} <= {"events"}
    assert engine.mints == 1


async def test_a_secret_of_another_name_is_never_touched(engine: Engine) -> None:
    engine.api.put_secret("team-a", "other", annotations=asking(identity=identity(1)), config={})
    async with engine.running():
        await engine.settle(60)
    assert engine.mints == 0


async def test_the_proof_is_read_anew_for_every_mint(engine: Engine) -> None:
    engine.ask("team-a", 1)
    async with engine.running():
        newer = engine.proof + "2"
        engine.proof_file.write_text(newer)
        engine.ask("team-b", 2)
        await engine.settle()
    assert [exchange.proof for exchange in engine.issuer.requests] == [engine.proof, newer]


async def test_a_missing_proof_is_told_and_sends_nothing(engine: Engine) -> None:
    engine.proof_file.unlink()
    engine.ask("team-a")
    async with engine.running():
        await engine.settle(10)
        assert engine.told("team-a") == ["ProofMissing"]
        assert engine.mints == 0
        engine.proof_file.write_text(engine.proof)
        await engine.settle(60)
    assert engine.password("team-a") is not None
    assert engine.annotation("team-a", "error") is None


async def test_the_proof_for_another_audience_is_never_sent(engine: Engine) -> None:
    engine.proof_file.write_text("eyJhbGciOiJub25lIn0.eyJhdWQiOiJvdGhlciJ9.x")
    engine.ask("team-a")
    async with engine.running():
        await engine.settle(10)
    assert engine.mints == 0
    assert engine.told("team-a") == ["ProofUnfit"]


async def test_foreign_entries_keys_and_labels_keep_their_bytes(engine: Engine) -> None:
    foreign = '{ "credsStore" : "desktop",  "auths": {"https://quay.io/v2/": {"auth" :  "YTpi", "x":1.50}} }'
    engine.api.put_secret(
        "team-a",
        "pull-secret",
        annotations={**asking(identity=identity(1)), "else": "where"},
        labels={"a": "b"},
        config=foreign.encode(),
        data={"other": "aGVsbG8="},
    )
    async with engine.running():
        pass
    secret = engine.api.secret("team-a", "pull-secret")
    config = engine.api.config("team-a", "pull-secret")
    assert engine.password("team-a") == engine.issuer.minted[0]
    assert list(config) == ["credsStore", "auths"]
    assert list(config["auths"]) == ["https://quay.io/v2/", "cgr.dev"]
    raw = base64.b64decode(secret["data"][".dockerconfigjson"]).decode()
    assert '{"auth" :  "YTpi", "x":1.50}' in raw
    assert secret["data"]["other"] == "aGVsbG8="
    assert secret["metadata"]["labels"] == {"a": "b"}
    assert secret["metadata"]["annotations"]["else"] == "where"
    assert json.loads(raw)["credsStore"] == "desktop"


async def test_a_refusal_names_provider_host_and_whom_the_issuer_must_trust(engine: Engine) -> None:
    engine.issuer.fail(403)
    engine.ask("team-a")
    async with engine.running():
        error = engine.annotation("team-a", "error") or ""
        assert error.startswith("MintRefused: the issuer refused this identity; ")
        assert error.endswith(
            ": provider chainguard, host issuer.chainguard.test, "
            "subject system:serviceaccount:pull-secret-updater:controller, audience issuer.enforce.dev"
        )
        (event,) = engine.api.events
        assert f"{event['reason']}: {event['message']}" == error


@pytest.mark.parametrize(
    ("content", "reason", "named"),
    [
        (None, "ProofMissing", "provider chainguard, file {path}"),
        ("no token", "ProofUnfit", "provider chainguard, file {path}, audience issuer.enforce.dev"),
        (jwt(aud="another", sub="me"), "ProofUnfit", "provider chainguard, file {path}, audience issuer.enforce.dev"),
    ],
)
async def test_a_proof_that_is_missing_or_wrong_is_named_by_its_path(
    engine: Engine, content: str | None, reason: str, named: str
) -> None:
    engine.proof_file.unlink()
    if content is not None:
        engine.proof_file.write_text(content)
    engine.ask("team-a")
    async with engine.running():
        error = engine.annotation("team-a", "error") or ""
        assert error.startswith(f"{reason}: ")
        assert error.endswith(f": {named.format(path=engine.proof_file)}")


async def test_an_outage_names_the_host_and_says_the_same_while_the_circuit_is_open(engine: Engine) -> None:
    engine.issuer.fail(503)
    for number in range(25):
        engine.ask(f"team-{number}", number)
    async with engine.running():
        await asyncio.sleep(300)
        assert engine.metric("circuit_open", provider="chainguard") == 1
        errors = {engine.annotation(f"team-{number}", "error") for number in range(25)}
        (error,) = errors
        assert (error or "").endswith(": provider chainguard, host issuer.chainguard.test")
        assert len(engine.told("team-3")) == 1


async def test_the_log_names_a_secret_that_waits_and_the_identity_that_was_written(engine: Engine) -> None:
    engine.issuer.fail(403, times=1)
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(60)
    (failed,) = engine.logged("token not minted")
    assert (failed["namespace"], failed["name"]) == ("team-a", "pull-secret")
    assert failed["detail"].startswith("HTTP 403")
    (written,) = engine.logged("secret refreshed")
    assert written["identity"] == identity(1)
