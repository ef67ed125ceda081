"""What only GitHub Apps do: a JWT of the App, permissions, and a limit on the rate that looks like a refusal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jwt
import pytest

from controller import config
from controller.core.errors import MintError, Problem
from controller.providers.contract import MissingExtra
from controller.providers.github_app import GithubApp
from testing.github import Github, refusal
from testing.wire import Answer
from tests.unit.contract_github_app import APP, KEY_FILE, ROW, key_pair
from tests.unit.provider_world import World, configured
from tests.unit.virtual_time import Clock


@pytest.fixture
def world(clock: Clock, tmp_path: Path) -> World:
    return World(ROW, clock, tmp_path)


async def refused(world: World) -> MintError:
    with pytest.raises(MintError) as caught:
        await world.mint()
    return caught.value


async def test_the_app_proves_itself_for_less_than_ten_minutes_from_a_minute_ago(world: World) -> None:
    now = int(world.clock())
    await world.mint()
    [asked] = world.wire.asked
    options: Any = {"verify_signature": False}
    claims = jwt.decode(asked.headers["Authorization"].removeprefix("Bearer "), options=options)
    assert claims == {"iss": APP, "iat": now - 60, "exp": now + 540}
    assert asked.url == "https://api.github.com/app/installations/12345678/access_tokens"
    assert asked.json() == {"permissions": {"packages": "read"}}


async def test_a_token_without_the_permission_is_unfit(world: World) -> None:
    body = b'{"token": "ghs_x", "expires_at": "2026-01-02T04:04:05Z", "permissions": {"metadata": "read"}}'
    world.wire.script.append(Answer(201, body))
    assert (await refused(world)).problem is Problem.TOKEN_UNFIT


async def test_a_token_may_be_for_some_repositories_alone(clock: Clock, tmp_path: Path) -> None:
    world = World(ROW, clock, tmp_path, {"repositories": ["app"]})
    await world.mint()
    assert world.wire.asked[0].json() == {"permissions": {"packages": "read"}, "repositories": ["app"]}
    world = World(ROW, clock, tmp_path, {"repositories": ["app", "elsewhere"]})
    assert (await refused(world)).problem is Problem.REQUEST_REFUSED


async def test_a_token_for_all_repositories_is_unfit_where_some_are_configured(clock: Clock, tmp_path: Path) -> None:
    world = World(ROW, clock, tmp_path, {"repositories": ["app"]})
    body = b'{"token": "ghs_x", "expires_at": "2026-01-02T04:04:05Z", "permissions": {"packages": "read"}}'
    world.wire.script.append(Answer(201, body))
    assert (await refused(world)).problem is Problem.TOKEN_UNFIT


@pytest.mark.parametrize("repository", ["acme/app", "", "app?"])
def test_a_repository_is_named_without_its_owner(tmp_path: Path, repository: str) -> None:
    with pytest.raises(config.ConfigError, match="must be the name of a repository, without its owner"):
        configured(ROW, tmp_path, {"repositories": [repository]})


async def test_an_installation_that_does_not_grant_packages_is_told(world: World) -> None:
    assert isinstance(world.vendor, Github)
    world.vendor.permissions = {"metadata": "read"}
    assert (await refused(world)).problem is Problem.REQUEST_REFUSED


@pytest.mark.parametrize("status", [403, 429])
async def test_a_spent_limit_is_waited_for_until_it_is_lifted(world: World, status: int) -> None:
    reset = str(int(world.clock()) + 90)
    world.wire.script.append(refusal(status, "limit", x_ratelimit_remaining="0", x_ratelimit_reset=reset))
    error = await refused(world)
    assert error.problem is Problem.ISSUER_THROTTLES
    assert error.retry_after_seconds == pytest.approx(90, abs=1)
    both = {"x_ratelimit_remaining": "0", "x_ratelimit_reset": reset, "Retry_After": "7"}
    world.wire.script.append(refusal(403, "limit", **both))
    assert (await refused(world)).retry_after_seconds == 7


PUBLIC_KEY = key_pair(1)[1]


@pytest.mark.parametrize(
    "content", [PUBLIC_KEY, "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----", "hush"]
)
async def test_a_file_that_holds_no_key_is_told_without_its_content(world: World, content: str) -> None:
    (world.directory / KEY_FILE).write_text(content)
    error = await refused(world)
    assert error.problem is Problem.PROOF_UNFIT
    assert "hush" not in str(error)
    assert "AAAA" not in str(error)
    assert not world.wire.asked


def test_a_token_file_would_do_nothing_and_is_refused(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError, match="tokenFile: is not a known key"):
        configured(ROW, tmp_path, {"tokenFile": "/x"})


def test_it_has_to_be_asked_for_and_says_why(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError, match=r"experimental: must be true; ghcr\.io accepts logins"):
        configured(ROW, tmp_path, {"experimental": False})


@pytest.mark.parametrize("key", ["appId", "privateKeyFile"])
def test_what_is_missing_is_told_with_its_path(tmp_path: Path, key: str) -> None:
    with pytest.raises(config.ConfigError, match=rf"^providers\.under-test\.{key}: must not be empty$"):
        configured(ROW, tmp_path, {key: ""})


def test_a_missing_package_is_a_problem_of_the_configuration_that_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jwt", None)
    with pytest.raises(config.ConfigError) as caught:
        configured(ROW, tmp_path)
    [problem] = caught.value.problems
    assert problem.startswith("providers.under-test.type: github-app needs packages that are not installed")
    assert problem.endswith("pip install pull-secret-updater[github]")


def test_a_missing_package_stops_the_provider_from_being_built(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = configured(ROW, world.directory)
    monkeypatch.setitem(sys.modules, "jwt", None)
    with pytest.raises(MissingExtra, match="github"):
        GithubApp(settings, world.tools)


def test_a_package_that_no_configured_provider_needs_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jwt", None)
    assert config.load(None).providers.keys() == {"chainguard"}
