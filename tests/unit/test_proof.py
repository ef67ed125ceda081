"""The proof: read for each use, checked before it is sent, never quoted."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from controller.core.errors import MintError, Problem
from controller.providers.proof import ProofFile
from tests.unit.virtual_time import Clock

AUDIENCE = "issuer.enforce.dev"


def jwt(**claims: Any) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'RS256'})}.{part(claims)}.c2lnbmF0dXJl"


def write(path: Path, content: str) -> None:
    path.write_bytes(content.encode())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "oidc-token"


async def test_a_newline_at_the_end_of_the_token_file_is_harmless(path: Path, clock: Clock) -> None:
    token = jwt(aud=[AUDIENCE], exp=clock() + 600)
    write(path, f"\n {token} \r\n")
    assert await ProofFile(path, now=clock)(AUDIENCE) == token


async def test_the_file_is_read_for_each_use(path: Path, clock: Clock) -> None:
    """T1: the kubelet replaces it."""
    proof = ProofFile(path, now=clock)
    for number in range(2):
        token = jwt(aud=AUDIENCE, n=number)
        write(path, token)
        assert await proof(AUDIENCE) == token


@pytest.mark.parametrize(
    "content",
    [
        "",
        " \n",
        "not a token",
        "a.b.c",
        jwt(),
        jwt(aud="other"),
        jwt(aud=["other", "issuer.enforce.dev.evil"]),
        jwt(aud=7),
        jwt(aud={AUDIENCE: 1}),
        jwt(aud=AUDIENCE, exp=1767323045),
        jwt(aud=AUDIENCE) + "\nX-Header: injected",
        jwt(aud=AUDIENCE) + "\r" + "more",
        jwt(aud=AUDIENCE) + "ü",
        jwt(aud=AUDIENCE) + "x" * 64 * 1024,
    ],
)
async def test_an_unfit_proof_is_refused_and_not_quoted(path: Path, clock: Clock, content: str) -> None:
    """TH8: a proof for another audience never leaves the process."""
    write(path, content)
    with pytest.raises(MintError) as raised:
        await ProofFile(path, now=clock)(AUDIENCE)
    assert raised.value.problem is Problem.PROOF_UNFIT
    for part in content.split("."):
        assert len(part) < 4 or part not in str(raised.value)


async def test_a_file_that_is_not_there_is_missing(path: Path, clock: Clock) -> None:
    for target in (path, path.parent):
        with pytest.raises(MintError) as raised:
            await ProofFile(target, now=clock)(AUDIENCE)
        assert raised.value.problem is Problem.PROOF_MISSING
