"""What completes in a shell, and in kubectl."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from controller.cli import main, plugin
from controller.cli.completion import candidates


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["st"], ["status"]),
        (["re"], ["refresh", "release", "resume"]),
        (["ru"], []),
        (["status", "--all-n"], ["--all-namespaces"]),
        (["status", "-o", ""], ["table", "wide", "json", "yaml", "name"]),
        (["doctor", "--fail-on", "w"], ["warning"]),
        (["migrate", ""], ["crusoe"]),
    ],
)
def test_commands_flags_and_their_values_complete(words: list[str], values: list[str]) -> None:
    assert [line.partition("\t")[0] for line in candidates(plugin, words)] == values


def test_nothing_typed_yet_offers_every_command() -> None:
    assert {line.partition("\t")[0] for line in candidates(plugin, [])} == set(plugin.commands)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_calls_the_program_by_its_name(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert "_PULL_SECRET_UPDATER_COMPLETE" in result.stdout


def test_the_script_of_bash_is_what_the_program_answers() -> None:
    env = {"_PULL_SECRET_UPDATER_COMPLETE": "bash_complete", "COMP_WORDS": "pull-secret-updater st", "COMP_CWORD": "1"}
    result = CliRunner().invoke(main, [], env=env, prog_name="pull-secret-updater")
    assert result.stdout == "plain,status\n"
