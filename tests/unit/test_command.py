"""What the command makes of its flags and its environment, seen by what it says is wrong; tests/e2e runs it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from controller.cli import main


def problems(*args: str, env: Mapping[str, str] | None = None) -> list[str]:
    """What `pull-secret-updater run` says of a configuration that can't be used, in its order."""
    result = CliRunner().invoke(main, ["run", *args], env={"PULL_SECRET_UPDATER_NAMESPACE": None, **(env or {})})
    assert isinstance(result.exception, SystemExit), "a traceback is no answer"
    assert result.exit_code == 1
    title, *lines = result.stderr.splitlines()
    assert title == "pull-secret-updater: the configuration can't be used:"
    return [line.strip() for line in lines]


NOT_NAMES = [
    "namespaces: 'Team-A' is not a valid Kubernetes name",
    "namespaces: 'Team-B' is not a valid Kubernetes name",
]


def test_a_repeated_flag_is_a_list() -> None:
    assert problems("--scope", "namespaces", "--namespace", "Team-A", "--namespace", "Team-B") == NOT_NAMES
    assert problems("--secret-name", "a", "--secret-name", "B") == ["secretNames: 'B' is not a valid Kubernetes name"]


def test_a_list_in_the_environment_is_separated_by_spaces() -> None:
    env = {"PULL_SECRET_UPDATER_SCOPE": "namespaces", "PULL_SECRET_UPDATER_NAMESPACE": "Team-A  ok Team-B"}
    assert problems(env=env) == NOT_NAMES
    assert problems(env={"PULL_SECRET_UPDATER_SECRET_NAME": "B a"}) == [
        "secretNames: 'B' is not a valid Kubernetes name"
    ]


def test_a_flag_wins_over_the_environment_and_neither_silently_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("scope: from-file\n")
    env = {"PULL_SECRET_UPDATER_CONFIG": str(file)}
    scope = "line 1: scope: must be one of name, namespaces, cluster, but is 'from-file'"
    env["PULL_SECRET_UPDATER_SECRET_NAME"] = "From-Environment"
    assert problems(env=env) == ["secretNames: 'From-Environment' is not a valid Kubernetes name", scope]
    file.write_text("secretNames: [from-file]\n")
    elsewhere = "secretNames: a flag or the environment sets it to another value; set it in one place"
    assert problems(env=env) == [f"line 1: {elsewhere}"]
    file.write_text("{}\n")
    assert problems("--secret-name", "From-Flag", env=env) == [
        "secretNames: 'From-Flag' is not a valid Kubernetes name"
    ]


@pytest.mark.parametrize(
    "address", ["x:²", "x:٣", "x", "x:", ":", "x:-1", "x:65536", "x: 1", "x:1\n", "x:" + "9" * 5000]
)
def test_a_port_that_is_no_number_is_told_and_not_a_crash(address: str) -> None:
    told = [f"--metrics-address: {address!r} is not HOST:PORT"]
    assert problems("--metrics-address", address) == told
    assert problems(env={"PULL_SECRET_UPDATER_METRICS_ADDRESS": address}) == told


def test_what_is_wrong_with_flags_and_file_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("typo: 1\n")
    assert problems("--config", str(file), "--metrics-address", "x", "--scope", "everywhere") == [
        "--metrics-address: 'x' is not HOST:PORT",
        "scope: must be one of name, namespaces, cluster, but is 'everywhere'",
        "line 1: typo: is not a known key",
    ]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--secret-name", "x", "--scope", "cluster"), "secretNames: is only used in scope name"),
        (("--namespace", "x"), "namespaces: is only used in scope namespaces"),
    ],
)
def test_a_flag_without_effect_is_told(flags: tuple[str, ...], told: str) -> None:
    assert problems(*flags) == [f"{told}; set scope, or remove it"]


def test_check_config_warns_of_providers_that_take_the_same_identities_and_accepts_them(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("providers: {one: {type: chainguard}, two: {type: chainguard}}\n")
    result = CliRunner().invoke(main, ["check-config", str(file)])
    assert result.exit_code == 0
    assert result.stderr.startswith("  warning: providers one and two take the same identities, so a Secret is filled")
    assert f"{file} is valid." in result.stdout


@pytest.mark.parametrize("name", ["LOG_LEVEL", "LOG_FORMAT"])
def test_how_to_log_is_read_from_the_environment(name: str) -> None:
    result = CliRunner().invoke(main, ["run"], env={f"PULL_SECRET_UPDATER_{name}": "loud"})
    assert result.exit_code == 2
    assert "'loud' is not one of" in result.stderr


CRUSOE = "{type: crusoe, registries: [r.example], user: a@b.example}"


@pytest.mark.parametrize(
    ("provider", "says"),
    [
        ("{type: chainguard}", "proven by the controller, or by a ServiceAccount that the Secret names"),
        ("{type: chainguard, proof: controller}", "proven by the controller alone"),
        ("{type: chainguard, proof: serviceAccount}", "proven by a ServiceAccount that the Secret must name"),
        (CRUSOE, "since these credentials have no place for a ServiceAccount's token"),
    ],
)
def test_check_config_says_of_each_provider_whose_proof_it_takes(tmp_path: Path, provider: str, says: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"providers: {{x: {provider}}}")
    result = CliRunner().invoke(main, ["check-config", str(file)])
    assert result.exit_code == 0, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if "provider x: " in line]
    assert line.endswith(says)


def test_check_config_says_when_namespaces_are_asked_about_and_what_a_no_does(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("grants: {check: both, onRevoke: wipe}")
    result = CliRunner().invoke(main, ["check-config", str(file)])
    assert result.exit_code == 0, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("  grants: ")]
    assert line.startswith(
        "  grants: asked before each mint whether the namespace may use the identity, beside whoever"
    )
    assert line.endswith("; a yes is good for 60 s; after a no the token is taken out of the Secret")
    file.write_text("{}")
    assert "grants" not in CliRunner().invoke(main, ["check-config", str(file)]).stdout
