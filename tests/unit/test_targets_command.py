"""What `targets` shows of namespaces and the Secrets that targets have made, or would make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from controller.cli.exits import Exit
from controller.cli.targetplan import show
from controller.core.annotations import PREFIX
from tests.unit.api_table import ApiTable, flags
from tests.unit.installed_world import CONFIGMAP, DEPLOYMENTS, NS, World, secret, table

IDENTITY = "0123456789abcdef0123456789abcdef01234567/0123456789abcdef"
CONFIG = f"""
targets:
- name: teams
  identity: {IDENTITY}
  namespaces: [{{names: [special]}}, {{selector: {{matchLabels: {{team: "yes"}}}}}}]
"""
SECRETS = "GET /api/v1/secrets"


def namespace(name: str, *, team: bool = False, **annotations: str) -> World:
    labels = {"team": "yes"} if team else {}
    ours = {PREFIX + key: value for key, value in annotations.items()}
    return {"metadata": {"name": name, "resourceVersion": "1", "labels": labels, "annotations": ours}}


def made(where: str, target: str = "teams") -> World:
    found = secret(identity=IDENTITY, target=target)
    found["metadata"] |= {"namespace": where, "labels": {PREFIX + "created-by": f"{NS}.controller"}}
    return found


def stranger(where: str) -> World:
    return {"metadata": {"name": "pull-secret", "namespace": where, "uid": "u", "resourceVersion": "1"}}


def world(*secrets: World, config: str = CONFIG, changed: World | None = None) -> ApiTable:
    """Namespaces a to c that the target selects, and two that it doesn't, with these Secrets."""

    def listed(query: Any, _: Any) -> list[World]:
        if "labelSelector" in query:
            assert query["labelSelector"] == f"{PREFIX}created-by={NS}.controller"
            return [each for each in secrets if each["metadata"].get("labels")]
        return list(secrets)

    namespaces = [
        *(namespace(name, team=True) for name in ("a", "b", "c")),
        *(namespace("other"), namespace("special"), namespace("out", team=True, targets="none")),
    ]
    return table(
        {
            CONFIGMAP: {"data": {"config.yaml": config}},
            "GET /api/v1/namespaces": namespaces,
            SECRETS: listed,
            **(changed or {}),
        }
    )


async def plan(api: ApiTable, file: Path | None = None, **changed: Any) -> Exit:
    return await show(api.cluster(), flags(**changed), file=file, install_namespace=None)


async def test_each_namespace_has_the_entry_that_matched_and_what_is_to_be_done(
    capsys: pytest.CaptureFixture[str],
) -> None:
    api = world(made("a"), stranger("b"), made("other"))
    assert await plan(api) == Exit.WRONG
    assert capsys.readouterr().out == (
        "NAMESPACE  TARGET  ENTRY          SECRET       STATE     ACTION\n"
        "a          teams   namespaces[1]  pull-secret  Valid     -\n"
        "b          teams   namespaces[1]  pull-secret  InTheWay  -\n"
        "c          teams   namespaces[1]  pull-secret  Missing   create\n"
        "other      teams   -              pull-secret  Valid     remove\n"
        "special    teams   namespaces[0]  pull-secret  Missing   create\n"
    )


async def test_all_made_is_good_and_what_is_missing_a_warning() -> None:
    everywhere = [made(name) for name in ("a", "b", "c", "special")]
    assert await plan(world(*everywhere)) == Exit.GOOD
    assert await plan(world(*everywhere), fail_on="warning") == Exit.GOOD
    assert await plan(world(*everywhere[1:])) == Exit.GOOD
    assert await plan(world(*everywhere[1:]), fail_on="warning") == Exit.WRONG


async def test_a_plan_with_another_file_is_no_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG.replace("special", "other"))
    assert await plan(world(made("special")), file, fail_on="warning", output="name") == Exit.GOOD
    assert await plan(world(made("special")), file) == Exit.GOOD
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines if line.startswith(("other", "special"))] == ["create", "remove"]


async def test_before_an_installation_a_file_can_be_planned_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG)
    assert await plan(world(changed={DEPLOYMENTS: []}), file) == Exit.GOOD
    assert capsys.readouterr().out.count("create") == 4


@pytest.mark.parametrize(
    ("text", "changed"),
    [(None, {DEPLOYMENTS: []}), (None, {CONFIGMAP: 403}), ("typo: 1", {}), ("typo: 1", {DEPLOYMENTS: []})],
)
async def test_no_usable_configuration_exits_with_2(tmp_path: Path, text: str | None, changed: World) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text or "")
    with pytest.raises(SystemExit) as exited:
        await plan(world(changed=changed), file if text else None)
    assert exited.value.code == Exit.UNUSABLE


async def test_a_secret_that_a_service_account_asked_for_is_not_to_be_removed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    await plan(world(made("other", "serviceaccount/default")))
    assert "other" not in capsys.readouterr().out


async def test_the_controllers_own_namespace_is_selected_only_by_its_name() -> None:
    config = f"targets: [{{name: all, identity: {IDENTITY}, namespaces: [{{names: ['*']}}]}}]"
    api = world(config=config)
    api.answers["GET /api/v1/namespaces"] = [namespace(NS), namespace("kube-system")]
    assert await plan(api, fail_on="warning") == Exit.GOOD
