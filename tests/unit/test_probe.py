"""The optional login with a new token: only a registry's refusal keeps a token from its Secret."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.core.errors import MintError, Problem
from controller.core.model import Token
from controller.providers.contract import Tools
from controller.providers.probe import Probed
from testing import wire
from testing.registry import Registry
from testing.wire import Answer, Hang, Reset, Scripted, Wire
from tests.unit.fakes import capturing_log
from tests.unit.provider_world import WireTransport
from tests.unit.virtual_time import Clock

REGISTRY = "registry.example"


class Minting:
    """A provider that always has the same token, or the same error."""

    def __init__(self, clock: Clock) -> None:
        self.error: MintError | None = None
        self.token = Token(
            provider="p", username="user", password="good", issued_at=int(clock()), expires_at=int(clock()) + 600
        )

    async def mint(self, identity: str, hosts: tuple[str, ...]) -> Token:
        """See Provider."""
        del identity, hosts
        if self.error is not None:
            raise self.error
        return self.token

    async def check_proof(self) -> None:
        """See Provider."""
        if self.error is not None:
            raise self.error


class Scene:
    """A probed provider and the registry that it is for."""

    def __init__(self, clock: Clock, flavour: str, *, admits: bool) -> None:
        self.registry = Registry(
            clock,
            lambda user, password: admits and (user, password) == ("user", "good"),
            flavour="basic" if flavour == "basic" else "bearer",
        )
        self.wire = Wire(self.registry, clock=clock)
        self.minting = Minting(clock)
        tools = Tools(
            name="p",
            timeout_seconds=10.0,
            default_lifetime_seconds=None,
            transport=WireTransport(self.wire),
            proof=_no_proof,
            now=clock,
            max_lifetime_seconds=3600,
            refreshed_by_share=0.65,
            cleaned=lambda _error: None,
        )
        log, self.log = capturing_log()
        self.provider = Probed(self.minting, tools, log)

    async def mint(self, *hosts: str) -> Token:
        return await self.provider.mint("somebody", hosts)


async def _no_proof(_audience: str) -> str:
    raise AssertionError("a probe proves nothing but the token")


async def test_the_proof_that_is_checked_is_the_providers(clock: Clock) -> None:
    scene = Scene(clock, "basic", admits=True)
    await scene.provider.check_proof()
    scene.minting.error = MintError(Problem.PROOF_MISSING, "FileNotFoundError")
    with pytest.raises(MintError):
        await scene.provider.check_proof()
    assert not scene.wire.asked


@pytest.mark.parametrize("flavour", ["basic", "bearer"])
async def test_a_token_that_the_registry_takes_is_handed_on(clock: Clock, flavour: str) -> None:
    scene = Scene(clock, flavour, admits=True)
    assert await scene.mint(REGISTRY) is scene.minting.token
    assert scene.registry.logins == [True]


@pytest.mark.parametrize("flavour", ["basic", "bearer"])
async def test_a_token_that_the_registry_refuses_is_unfit(clock: Clock, flavour: str) -> None:
    scene = Scene(clock, flavour, admits=False)
    with pytest.raises(MintError) as caught:
        await scene.mint(REGISTRY)
    assert caught.value.problem is Problem.TOKEN_UNFIT
    assert scene.registry.logins == [False]


async def test_a_registry_token_that_does_not_open_the_door_is_a_refusal(clock: Clock) -> None:
    scene = Scene(clock, "bearer", admits=True)
    scene.wire.script.extend([None, None, Answer(401)])
    with pytest.raises(MintError):
        await scene.mint(REGISTRY)


@pytest.mark.parametrize("flavour", ["basic", "bearer"])
@pytest.mark.parametrize(
    "fault", [Answer(500), Answer(503), Answer(429), wire.HTML, wire.EMPTY, wire.OVERSIZE, Reset(), Hang()]
)
async def test_an_outage_of_the_registry_keeps_no_token_back(clock: Clock, flavour: str, fault: Scripted) -> None:
    for request in range(3 if flavour == "bearer" else 2):
        scene = Scene(clock, flavour, admits=True)
        scene.wire.script.extend([*[None] * request, fault])
        began = clock()
        assert await scene.mint(REGISTRY) is scene.minting.token
        assert clock() - began <= 10


async def test_every_registry_that_the_token_is_for_is_tried(clock: Clock) -> None:
    scene = Scene(clock, "basic", admits=True)
    await scene.mint("a.example", "b.example/team")
    assert sorted(asked.url for asked in scene.wire.asked) == [
        *["https://a.example/v2/"] * 2,
        *["https://b.example/v2/"] * 2,
    ]


async def test_each_registry_is_tried_with_its_own_password(clock: Clock) -> None:
    scene = Scene(clock, "basic", admits=True)
    scene.minting.token = replace(scene.minting.token, passwords={"a.example": "good", "b.example": "bad"})
    with pytest.raises(MintError) as caught:
        await scene.mint("a.example", "b.example")
    assert caught.value.named == ("registry b.example",)


async def test_one_registry_that_refuses_is_enough(clock: Clock) -> None:
    scene = Scene(clock, "basic", admits=True)
    scene.wire.script.extend([None, None, None, Answer(403)])
    with pytest.raises(MintError):
        await scene.mint("a.example", "b.example")


@pytest.mark.parametrize("realm", ["http://elsewhere.example/token", "ftp://x/", "", "nonsense", "https://"])
async def test_the_credential_is_never_sent_in_the_clear(clock: Clock, realm: str) -> None:
    scene = Scene(clock, "bearer", admits=True)
    scene.wire.script.append(Answer(401, headers={"WWW-Authenticate": f'Bearer realm="{realm}",service="s"'}))
    await scene.mint(REGISTRY)
    assert len(scene.wire.asked) == 1


@pytest.mark.parametrize(
    "realm", ["http://127.0.0.1:9/t", "https://localhost/t", "http://[::1]/t", "https://169.254.169.254/t"]
)
async def test_no_registry_can_have_the_credential_sent_to_a_neighbour_of_ours(clock: Clock, realm: str) -> None:
    scene = Scene(clock, "bearer", admits=True)
    scene.wire.script.append(Answer(401, headers={"WWW-Authenticate": f'Bearer realm="{realm}"'}))
    assert await scene.mint(REGISTRY) is scene.minting.token
    assert len(scene.wire.asked) == 1


async def test_a_challenge_may_be_written_without_quotes(clock: Clock) -> None:
    scene = Scene(clock, "bearer", admits=True)
    challenge = "Bearer realm=https://auth.example/token,service=registry.example,scope=x"
    scene.wire.script.append(Answer(401, headers={"WWW-Authenticate": challenge}))
    await scene.mint(REGISTRY)
    assert scene.wire.asked[1].url == "https://auth.example/token?service=registry.example"


async def test_of_several_challenges_the_first_counts(clock: Clock) -> None:
    scene = Scene(clock, "bearer", admits=False)
    challenge = 'Bearer realm="https://auth.example/token",service="s", Basic realm="y"'
    scene.wire.script.append(Answer(401, headers={"WWW-Authenticate": challenge}))
    await scene.mint(REGISTRY)
    assert scene.wire.asked[1].url == "https://auth.example/token?service=s"


@pytest.mark.parametrize("first", [Answer(401), Answer(200), Answer(403, b"no"), Answer(500), Reset(), Hang()])
async def test_a_token_that_could_not_be_tried_is_told_in_the_log(clock: Clock, first: Scripted) -> None:
    scene = Scene(clock, "bearer", admits=False)
    scene.wire.script.append(first)
    assert await scene.mint(REGISTRY) is scene.minting.token
    [entry] = scene.log.entries
    assert (entry["event"], entry["registry"]) == ("token handed on untried", REGISTRY)


async def test_the_first_look_shows_no_credential(clock: Clock) -> None:
    scene = Scene(clock, "basic", admits=True)
    await scene.mint(REGISTRY)
    assert "Authorization" not in scene.wire.asked[0].headers


@pytest.mark.parametrize("host", ["127.0.0.1:5000", "localhost:5000", "[::1]:5000"])
async def test_plain_http_is_for_loopback_only(clock: Clock, host: str) -> None:
    scene = Scene(clock, "basic", admits=True)
    await scene.mint(host)
    assert scene.wire.asked[0].url == f"http://{host}/v2/"


async def test_a_mint_that_fails_probes_nothing(clock: Clock) -> None:
    scene = Scene(clock, "basic", admits=True)
    scene.minting.error = MintError(Problem.MINT_REFUSED, "HTTP 403")
    with pytest.raises(MintError):
        await scene.mint(REGISTRY)
    assert not scene.wire.asked


async def test_a_realm_with_a_query_of_its_own_keeps_it(clock: Clock) -> None:
    scene = Scene(clock, "bearer", admits=True)
    challenge = 'Bearer realm="https://auth.example/token?account=x",service="s v"'
    scene.wire.script.append(Answer(401, headers={"WWW-Authenticate": challenge}))
    await scene.mint(REGISTRY)
    assert scene.wire.asked[1].url == "https://auth.example/token?account=x&service=s+v"
