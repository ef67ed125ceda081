"""What all commands share: exit codes, times, tables, and the schema of what machines read."""

from __future__ import annotations

import itertools
import json
import re
from importlib import resources
from pathlib import Path

import click
import jsonschema
import pytest
from click.testing import CliRunner

from controller.cli import cluster, main, plugin
from controller.cli.checks import CHECKS
from controller.cli.exits import Exit, Level, worst
from controller.cli.flags import DURATION
from controller.cli.output import printable
from controller.cli.secretstatus import STATES, Item
from controller.cli.spans import span, until
from hack import commandline
from tests.unit.api_table import flags


@pytest.mark.parametrize(
    ("codes", "counts"),
    [
        ((), 0),
        ((0, 3), 3),
        ((3, 4), 4),
        ((4, 1), 1),
        ((0, 1, 3, 4), 1),
        ((0, 0), 0),
    ],
)
def test_what_is_wrong_beats_what_timed_out_and_that_what_is_unknown(codes: tuple[int, ...], counts: int) -> None:
    for order in itertools.permutations(codes):
        assert worst(map(Exit, order)) == counts


def test_a_warning_is_wrong_only_for_who_says_so_and_unknown_is_never_good() -> None:
    assert [Level.WARNING.exit(fail_on=which) for which in ("error", "warning")] == [0, 1]
    assert [Level.ERROR.exit(fail_on=which) for which in ("error", "warning")] == [1, 1]
    assert [Level.UNKNOWN.exit(fail_on=which) for which in ("error", "warning")] == [3, 3]
    assert [Level.OK.exit(fail_on=which) for which in ("error", "warning")] == [0, 0]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (7199, "119m"),
        (7200, "2h"),
        (172_799, "47h"),
        (172_800, "2d"),
    ],
)
def test_a_span_has_one_unit(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_an_instant_is_told_from_now() -> None:
    assert (until(400.0, 100.0), until(100.0, 400.0)) == ("in 5m", "5m ago")


@pytest.mark.parametrize(("text", "seconds"), [("1", 1.0), ("30s", 30.0), ("2m", 120.0), ("1.5h", 5400.0)])
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert DURATION.convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "-1s", "1d", "1 s", "s", "9" * 7, "\u0661s"])
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(click.BadParameter):
        DURATION.convert(text, None, None)


def test_no_annotation_can_move_the_cursor_of_a_terminal() -> None:
    assert printable("a\x1b[2Jb\nc\u202ed") == "a\ufffd[2Jb\ufffdc\ufffdd"


@pytest.mark.parametrize("name", commandline.SCHEMAS)
def test_the_schema_that_ships_is_that_of_what_is_printed(name: str) -> None:
    shipped = (resources.files("controller.cli") / f"{name}.schema.json").read_text()
    assert shipped == commandline.schema(name), "run python -m hack.commandline"
    jsonschema.Draft202012Validator.check_schema(json.loads(shipped))


def test_every_state_of_the_table_is_a_word_and_the_worst_come_first() -> None:
    levels = [level for state, level in STATES.items() if state not in ("Due", "Paused", "Valid")]
    assert levels == [Level.ERROR] * 7 + [Level.UNKNOWN]


def test_the_plugin_has_every_command_but_run() -> None:
    assert main.commands.keys() - plugin.commands.keys() == {"run"}
    assert plugin.commands.keys() - main.commands.keys() == set()


@pytest.mark.parametrize("command", sorted(plugin.commands))
def test_every_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(plugin, [command, "--help"])
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: kubectl pull-secrets {command}")


def test_names_and_a_selection_are_a_usage_error() -> None:
    result = CliRunner().invoke(main, ["status", "a", "-A"])
    assert result.exit_code == 2
    assert "give names, or -A or -l" in result.stderr


def test_an_item_has_no_field_for_a_credential() -> None:
    assert {"data", "token", "password", "auth"}.isdisjoint(Item.__struct_encode_fields__)


@pytest.mark.parametrize(("page", "text"), [("cli.md", commandline.cli()), ("checks.md", commandline.checks())])
def test_the_pages_about_the_commands_are_what_these_say_of_themselves(page: str, text: str) -> None:
    assert (commandline.DOCS / page).read_text() == text, "run python -m hack.commandline"


def test_the_page_of_a_check_has_its_heading_and_no_id_is_given_twice() -> None:
    headings = re.findall(r"^### (PSU-\d{3})$", commandline.checks(), re.MULTILINE)
    assert headings == [check.id for check in CHECKS]
    assert len(set(headings)) == 24


def test_every_state_is_in_the_reference() -> None:
    assert re.findall(r"^\| ([A-Z]\w+) \|", commandline.cli(), re.MULTILINE) == list(STATES)


def test_a_defect_is_told_by_its_place_and_never_in_words_that_may_be_a_credential(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("token", "ca.crt", "namespace"):
        (tmp_path / name).write_text("x")
    for key, value in {
        "HOME": str(tmp_path),
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT": "1",
        "PULL_SECRET_UPDATER_SERVICEACCOUNT_DIR": str(tmp_path),
    }.items():
        monkeypatch.setenv(key, value)

    async def broken(_: cluster.Cluster) -> Exit:
        raise ValueError("canary")

    with pytest.raises(SystemExit) as exited:
        cluster.run(flags(kubeconfig=None, verbose=2), broken)
    assert exited.value.code == Exit.UNKNOWN
    told = capsys.readouterr()
    assert told.out == ""
    assert "a defect; please report it" in told.err
    assert "ValueError at test_cli_output.py" in told.err
    assert "canary" not in told.err
