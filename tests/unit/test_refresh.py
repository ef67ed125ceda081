"""What `refresh`, `pause` and `resume` ask of the API server, and what they make of what comes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from controller.cli.asks import annotate, refresh
from controller.cli.exits import Exit
from controller.cli.selection import Selection
from controller.core.annotations import PREFIX, render_instant
from tests.unit.api_table import ApiTable, flags
from tests.unit.installed_world import NOW, secret

NAMED = Selection(names=("pull-secret",), selector=None)
PATH = "/api/v1/namespaces/team-a/secrets/pull-secret"


class World:
    """One Secret, and a controller that does `answers` to it once it is asked for a new token; None leaves it."""

    def __init__(self, answers: dict[str, str | None] | None, **ours: str) -> None:
        self.secret: Any = secret(**ours)
        self.answers = answers
        self.patches: list[Any] = []
        self.api = ApiTable(lambda: NOW, {f"GET {PATH}": lambda *_: self.secret, f"PATCH {PATH}": self._patch})

    def _patch(self, query: Any, body: Any) -> Any:
        self.patches.append((query, body))
        self.annotate(body["metadata"]["annotations"])
        if self.answers is not None and (value := body["metadata"]["annotations"].get(PREFIX + "refresh")):
            self.annotate({PREFIX + key: value if new == "asked" else new for key, new in self.answers.items()})
        return self.secret

    def annotate(self, values: dict[str, str | None]) -> None:
        merged = {**self.secret["metadata"]["annotations"], **values}
        kept = {key: value for key, value in merged.items() if value is not None}
        self.secret = {"metadata": {**self.secret["metadata"], "annotations": kept}}

    async def refresh(self, *, seconds: float | None = 0.05, output: str = "table") -> Exit:
        cluster = self.api.cluster(namespace="team-a")
        return await refresh(cluster, flags(output=output), NAMED, wait_seconds=seconds)


NEW_TOKEN = {
    "refreshed-for": "asked",
    "issued-at": render_instant(NOW),
    "expires-at": render_instant(NOW + 3600),
    "error": None,
}
REFUSED = "MintRefused: the issuer refused this identity; check that it exists"


async def test_a_new_token_is_good(capsys: pytest.CaptureFixture[str]) -> None:
    assert await World(NEW_TOKEN).refresh() == Exit.GOOD
    assert capsys.readouterr().out == "ok    team-a/pull-secret  has a new token, which ends in 59m\n"


async def test_a_new_token_after_an_error_is_good() -> None:
    assert await World(NEW_TOKEN, error=REFUSED).refresh() == Exit.GOOD


async def test_a_new_error_is_wrong_and_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert await World({"error": REFUSED}).refresh(seconds=600) == Exit.WRONG
    assert capsys.readouterr().out == (
        "FAIL  team-a/pull-secret  MintRefused: the issuer refused this identity\n"
        "                          cure: check that it exists\n"
    )


async def test_an_error_that_was_there_before_is_wrong_when_the_time_is_over() -> None:
    assert await World(None, error=REFUSED).refresh() == Exit.WRONG


@pytest.mark.parametrize("output", ["table", "wide", "json", "yaml", "name"])
async def test_nothing_in_time_is_4(output: str) -> None:
    assert await World(None).refresh(output=output) == Exit.TIMEOUT


async def test_who_does_not_wait_is_told_that_it_was_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert await World(None).refresh(seconds=None) == Exit.GOOD
    assert "asked for a new token" in capsys.readouterr().out


async def test_a_paused_secret_is_not_asked_for() -> None:
    world = World(NEW_TOKEN, paused="true")
    assert (await world.refresh(), world.patches) == (Exit.WRONG, [])


async def test_a_refused_write_is_wrong_and_says_which_right_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    world = World(None)
    world.api.answers[f"PATCH {PATH}"] = 403
    assert await world.refresh() == Exit.WRONG
    assert "patch secrets: 403 Forbidden" in capsys.readouterr().out


async def test_a_secret_that_goes_while_one_waits_is_wrong() -> None:
    world = World(None)

    def patch(*_: Any) -> Any:
        world.api.answers[f"GET {PATH}"] = 404
        return world.secret

    world.api.answers[f"PATCH {PATH}"] = patch
    assert await world.refresh() == Exit.WRONG


async def test_a_secret_that_is_not_there_is_wrong() -> None:
    world = World(None)
    world.api.answers = {}
    assert await world.refresh() == Exit.WRONG


async def test_a_selection_of_nothing_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    api = ApiTable(lambda: NOW, {"GET /api/v1/namespaces/team-a/secrets": []})
    labelled = Selection(names=(), selector="team=web")
    assert await annotate(api.cluster(namespace="team-a"), flags(), labelled, paused="true") == Exit.WRONG
    assert "no Secret here asks for an identity and has team=web" in capsys.readouterr().out


async def test_each_request_has_a_value_of_its_own_that_the_controller_takes() -> None:
    world = World(None)
    for _ in range(2):
        await world.refresh(seconds=None)
    values = [body["metadata"]["annotations"][PREFIX + "refresh"] for _, body in world.patches]
    assert len(set(values)) == 2
    assert max(map(len, values)) <= 256


async def test_pause_and_resume_set_one_annotation_as_their_own_field_manager() -> None:
    world = World(None)
    cluster = world.api.cluster(namespace="team-a")
    assert await annotate(cluster, flags(), NAMED, paused="true") == Exit.GOOD
    assert world.secret["metadata"]["annotations"][PREFIX + "paused"] == "true"
    assert await annotate(cluster, flags(), NAMED, paused=None) == Exit.GOOD
    assert PREFIX + "paused" not in world.secret["metadata"]["annotations"]
    assert [query for query, _ in world.patches] == [{"fieldManager": "pull-secret-updater-cli"}] * 2
    assert json.dumps(world.patches[0][1]) == json.dumps({"metadata": {"annotations": {PREFIX + "paused": "true"}}})
