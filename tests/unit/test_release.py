"""What `release` leaves of a Secret: nothing of the controller's, and everything of others'."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from controller.cli.exits import Exit
from controller.cli.releases import release
from controller.cli.selection import Selection
from controller.core import dockerconfig
from controller.core.annotations import PREFIX
from tests.unit.api_table import ApiTable, flags
from tests.unit.installed_world import NOW, secret

PATH = "/api/v1/namespaces/team-a/secrets/pull-secret"
OURS = {"username": "_token", "password": "canary-of-the-controller"}
FINGERPRINT = dockerconfig.fingerprint({"cgr.dev": ("_token", "canary-of-the-controller")})
OTHER = '"https://Index.docker.io/v1/" : { "auth":"YTpi" ,"x": 1.0}'


class World:
    """One Secret with this .dockerconfigjson."""

    def __init__(self, config: str, **ours: str) -> None:
        self.secret: Any = secret(**{"fingerprint": FINGERPRINT, **ours})
        self.secret["metadata"]["annotations"]["else"] = "stays"
        self.secret |= {"type": "kubernetes.io/dockerconfigjson"}
        self.secret["data"] = {".dockerconfigjson": base64.b64encode(config.encode()).decode(), "other": "eA=="}
        self.patches: list[Any] = []
        self.conflicts = 0
        self.api = ApiTable(lambda: NOW, {f"GET {PATH}": lambda *_: self.secret, f"PATCH {PATH}": self._patch})

    def _patch(self, _: Any, body: Any) -> Any:
        if self.conflicts:
            self.conflicts -= 1
            return 409
        self.patches.append(body)
        return self.secret

    async def release(self) -> Exit:
        selection = Selection(names=("pull-secret",), selector=None)
        return await release(self.api.cluster(namespace="team-a"), flags(), selection)

    def written(self) -> str:
        (body,) = self.patches
        return base64.b64decode(body["data"][".dockerconfigjson"]).decode()


async def test_our_entry_goes_and_others_stay_byte_for_byte(capsys: pytest.CaptureFixture[str]) -> None:
    world = World(f'{{"auths":{{{OTHER},"cgr.dev":{json.dumps(OURS)}}},"credHelpers":{{"a":"b"}}}}')
    assert await world.release() == Exit.GOOD
    assert world.written() == f'{{"auths":{{{OTHER.replace(" : ", ":", 1)}}},"credHelpers":{{"a":"b"}}}}'
    out = capsys.readouterr().out
    assert out == "ok    team-a/pull-secret  released: no annotation of ours, and no entry for cgr.dev\n"


async def test_all_of_our_annotations_go_and_no_other() -> None:
    world = World(json.dumps({"auths": {"cgr.dev": OURS}}))
    await world.release()
    (body,) = world.patches
    removed = body["metadata"]["annotations"]
    assert set(removed) == {key for key in world.secret["metadata"]["annotations"] if key.startswith(PREFIX)}
    assert set(removed.values()) == {None}
    assert body["metadata"]["resourceVersion"] == "1"
    assert set(body["data"]) == {".dockerconfigjson"}


async def test_an_entry_that_somebody_has_changed_stays() -> None:
    world = World(json.dumps({"auths": {"cgr.dev": {"username": "u", "password": "mine"}}}))
    assert await world.release() == Exit.GOOD
    assert "data" not in world.patches[0]


async def test_what_is_no_docker_config_loses_the_annotations_alone() -> None:
    world = World("[not json")
    assert await world.release() == Exit.GOOD
    assert "data" not in world.patches[0]


@pytest.mark.parametrize(("conflicts", "code"), [(1, Exit.GOOD), (4, Exit.GOOD), (5, Exit.WRONG)])
async def test_a_write_in_between_is_read_and_tried_again(conflicts: int, code: Exit) -> None:
    world = World(json.dumps({"auths": {"cgr.dev": OURS}}))
    world.conflicts = conflicts
    assert await world.release() == code


async def test_what_a_target_has_made_is_not_touched() -> None:
    world = World("{}", target="teams")
    world.secret["metadata"]["labels"] = {PREFIX + "created-by": "ns.controller"}
    assert (await world.release(), world.patches) == (Exit.WRONG, [])


async def test_nothing_of_the_data_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    await World(json.dumps({"auths": {"cgr.dev": OURS}})).release()
    captured = capsys.readouterr()
    assert "canary" not in captured.out + captured.err
