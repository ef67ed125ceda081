"""What `migrate crusoe` makes of the values of Crusoe's chart: ours, with a word about each key."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from controller import config
from controller.cli import main
from controller.cli.crusoe import translate
from controller.cli.crusoechart import Unusable
from controller.providers.crusoe import CrusoeSettings

CHART = yaml.safe_load(
    """
    image: {repository: ghcr.io/crusoecloud/crusoe-registry-token-rotator, tag: latest, pullPolicy: Always}
    fullnameOverride: ""
    nameOverride: ""
    schedule: "0 */6 * * *"
    successfulJobsHistoryLimit: 3
    failedJobsHistoryLimit: 1
    namespace: crusoe-system
    resources: {limits: {cpu: 100m, memory: 128Mi}, requests: {cpu: 50m, memory: 64Mi}}
    rbac: {create: true, serviceAccount: {name: ""}}
    crusoeCredentialsSecretName: crusoe-secrets
    token: {expirationHours: 12, alias: k8s-cronjob-token-api}
    targetSecret: {name: crusoe-image-pull-secrets, namespaces: [default], registryUrl: "", registryUsername: ""}
    """
)
"""The chart's own file, as of version 1.0.0."""

FULL = """
image: {repository: mirror.example/rotator, tag: "1.2", pullPolicy: IfNotPresent}
nameOverride: puller
fullnameOverride: prod-puller
schedule: "*/30 * * * *"
successfulJobsHistoryLimit: 1
failedJobsHistoryLimit: "5"
namespace: pull
resources: {limits: {memory: 512Mi}, requests: {cpu: 0.1}}
rbac: {create: false, serviceAccount: {name: puller}}
crusoeCredentialsSecretName: puller-key
token: {expirationHours: 6, alias: prod-eu}
targetSecret:
  name: registry
  namespaces: [team-b, team-a]
  registryUrl: https://Registry.us-east1-a.ccr.crusoecloudcompute.com/
  registryUsername: puller@acme.example
"""

NEEDED = "targetSecret: {registryUrl: r.example, registryUsername: a@b.example}\n"
"""What their chart can't do without."""


class Printed(NamedTuple):
    """What the command printed."""

    text: str
    told: list[str]

    @property
    def values(self) -> Any:
        """Our values."""
        return yaml.safe_load(self.text)

    @property
    def comments(self) -> str:
        """All comments, each on one line, however they are wrapped."""
        return " ".join(line.strip().strip("#").strip() for line in self.text.splitlines() if "# " in line)


def migrated(content: str) -> Printed:
    """Their values through the command, from standard input."""
    result = CliRunner().invoke(main, ["migrate", "crusoe", "-f", "-"], input=content)
    assert result.exit_code == 0, result.output
    return Printed(result.stdout, [line.strip() for line in result.stderr.splitlines()])


def refused(*args: str, content: str | bytes | None = None) -> str:
    """The one sentence that the command ends with."""
    result = CliRunner().invoke(main, ["migrate", "crusoe", *args], input=content)
    assert isinstance(result.exception, SystemExit), "a traceback is no answer"
    assert (result.exit_code, result.stdout) == (2, "")
    (sentence,) = result.stderr.splitlines()
    assert sentence.startswith("pull-secret-updater: ")
    return sentence.removeprefix("pull-secret-updater: ")


def loaded(printed: Printed, tmp_path: Path) -> config.Config:
    """The printed `config`, as the controller reads it from its file."""
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(printed.values["config"]))
    return config.load(file)


def test_all_values_are_taken_over() -> None:
    assert migrated(FULL).values == {
        "config": {
            "secretNames": ["registry"],
            "providers": {
                "crusoe": {
                    "type": "crusoe",
                    "user": "puller@acme.example",
                    "registries": ["registry.us-east1-a.ccr.crusoecloudcompute.com"],
                    "lifetime": "6h",
                    "alias": "prod-eu",
                }
            },
            "targets": [
                {
                    "name": "crusoe",
                    "identity": "puller@acme.example",
                    "secretName": "registry",
                    "namespaces": [{"names": ["team-b", "team-a"]}],
                }
            ],
        },
        "credentials": [
            {
                "provider": "crusoe",
                "existingSecret": "puller-key",
                "keys": {"CRUSOE_ACCESS_KEY": "accessKey", "CRUSOE_SECRET_KEY": "secretKey"},
            }
        ],
        "namespaceOverride": "pull",
        "nameOverride": "puller",
        "fullnameOverride": "prod-puller",
        "serviceAccount": {"name": "puller"},
        "rbac": {"create": False},
        "resources": {"limits": {"memory": "512Mi"}, "requests": {"cpu": 0.1}},
        "image": {"pullPolicy": "IfNotPresent"},
    }


@pytest.mark.parametrize("content", [FULL, NEEDED, "", yaml.safe_dump(CHART)])
def test_the_printed_config_passes_the_controllers_own_check_without_a_warning(content: str, tmp_path: Path) -> None:
    settings = loaded(migrated(content), tmp_path)
    (target,) = settings.targets
    assert settings.secret_names == (target.secret_name,)
    assert settings.warnings == []


@pytest.mark.parametrize("content", ["", "# nothing\n", "null", "{}", yaml.safe_dump(CHART)])
def test_what_is_not_set_has_the_default_of_their_chart(content: str) -> None:
    printed = migrated(content)
    (target,) = printed.values["config"]["targets"]
    assert target["secretName"] == "crusoe-image-pull-secrets"
    assert target["namespaces"] == [{"names": ["default"]}]
    assert printed.values["config"]["providers"]["crusoe"]["lifetime"] == "12h"
    assert printed.values["credentials"][0]["existingSecret"] == "crusoe-secrets"
    assert printed.values["namespaceOverride"] == "crusoe-system"


def test_their_chart_s_own_file_gives_the_same_values_as_no_file_but_for_the_roles() -> None:
    assert migrated(yaml.safe_dump(CHART)).values == {**migrated("").values, "rbac": {"create": True}}


def test_a_value_of_null_is_none_as_in_helm() -> None:
    assert migrated("namespace: null\ntargetSecret:\ntoken: {alias: null}").values == migrated("").values


def test_an_empty_namespace_is_the_releases() -> None:
    assert "namespaceOverride" not in migrated("namespace: ''").values


@pytest.mark.parametrize(
    ("key", "content"),
    [
        ("image.repository", "image: {repository: x}"),
        ("image.tag", "image: {tag: latest}"),
        ("image.pullPolicy", "image: {pullPolicy: Always}"),
        ("image.imagePullSecrets", "image: {imagePullSecrets: []}"),
        ("imagePullSecrets", "imagePullSecrets: [{name: gitlab}]"),
        ("schedule", "schedule: '0 */6 * * *'"),
        ("successfulJobsHistoryLimit", "successfulJobsHistoryLimit: 3"),
        ("failedJobsHistoryLimit", "failedJobsHistoryLimit: 1"),
        ("resources", "resources: {limits: {cpu: 100m, memory: 128Mi}}"),
    ],
)
def test_each_key_without_a_meaning_has_a_line_that_says_why(key: str, content: str) -> None:
    printed = migrated(NEEDED + content)
    (line,) = [line for line in printed.text.splitlines() if line.startswith(f"# - {key}: ")]
    assert len(line) > len(f"# - {key}: ") + 10
    assert printed.values == migrated(NEEDED).values
    assert not any(line.startswith("not translated") for line in printed.told)


def test_a_key_without_a_meaning_that_is_not_set_is_not_mentioned() -> None:
    assert "# - " not in migrated(NEEDED).text


def test_each_value_that_moved_names_its_old_key() -> None:
    comments = migrated(FULL).comments
    for key in (
        *("targetSecret.name", "targetSecret.namespaces", "targetSecret.registryUrl", "targetSecret.registryUsername"),
        *("token.expirationHours", "token.alias", "crusoeCredentialsSecretName", "namespace", "nameOverride"),
        *("fullnameOverride", "rbac.serviceAccount.name"),
    ):
        assert f"Was {key}" in comments


def test_a_comment_stands_above_its_value_with_the_same_indent() -> None:
    lines = migrated(FULL).text.splitlines()
    at = lines.index("      # Was targetSecret.registryUsername.")
    assert lines[at + 1] == "      user: puller@acme.example"


@pytest.mark.parametrize("user", ["", "puller", "<crusoe-registry-username>", "a@b:c", "a@@b"])
def test_a_user_that_is_no_email_is_to_be_filled_in(user: str, tmp_path: Path) -> None:
    printed = migrated(f"targetSecret: {{registryUrl: r.example, registryUsername: '{user}'}}")
    assert "FILL IN the e-mail of the user whose key it is" in printed.comments
    assert "to fill in: config.targets[0].identity: the same e-mail" in printed.told
    assert (f"targetSecret.registryUsername is '{user}', which is none" in printed.comments) == bool(user)
    (target,) = loaded(printed, tmp_path).targets
    assert target.identity == printed.values["config"]["providers"]["crusoe"]["user"] == "fill-in@crusoe.invalid"


@pytest.mark.parametrize("url", ["", "<crusoe-registry-url>", "https://", "my registry", "ftp://r.example", "r:x"])
def test_a_registry_that_is_no_host_is_to_be_filled_in(url: str, tmp_path: Path) -> None:
    printed = migrated(f"targetSecret: {{registryUrl: '{url}', registryUsername: a@b.example}}")
    assert "FILL IN the registry's host" in printed.comments
    assert any(line.startswith("to fill in: config.providers.crusoe.registries: ") for line in printed.told)
    assert loaded(printed, tmp_path).providers["crusoe"].registries == ("fill-in.crusoe.invalid",)


@pytest.mark.parametrize("url", ["R.example", "https://r.example", "http://r.example/", "r.example/v2/", " r.example "])
def test_a_registry_is_written_as_its_host(url: str) -> None:
    printed = migrated(f"targetSecret: {{registryUrl: '{url}', registryUsername: a@b.example}}")
    assert printed.values["config"]["providers"]["crusoe"]["registries"] == ["r.example"]


def test_with_all_that_their_chart_needs_only_the_image_and_the_alias_are_to_be_filled_in() -> None:
    assert [line.split(": ")[1] for line in migrated(NEEDED).told] == [
        "config.providers.crusoe.alias",
        "image.registry, image.repository",
    ]


@pytest.mark.parametrize("content", ["", "image: {pullPolicy: Never}"])
def test_the_rotators_image_is_never_taken_over(content: str) -> None:
    printed = migrated(content)
    assert printed.values.get("image", {}).keys() <= {"pullPolicy"}
    assert "where you have pushed the controller's image" in printed.comments


@pytest.mark.parametrize("alias", ["k8s-cronjob-token-api", ""])
def test_an_alias_that_other_clusters_may_have_is_not_taken_over(alias: str) -> None:
    printed = migrated(f"{NEEDED}token: {{alias: '{alias}'}}")
    assert "alias" not in printed.values["config"]["providers"]["crusoe"]
    assert "# alias: pull-secret-updater-CLUSTER\n" in printed.text


@pytest.mark.parametrize(("hours", "longest"), [(1, 12), (12, 12), (13, 13), ("24", 24), (8784, 8784)])
def test_tokens_live_as_long_as_the_values_say(hours: int | str, longest: int, tmp_path: Path) -> None:
    settings = loaded(migrated(f"{NEEDED}token: {{expirationHours: {hours!r}}}"), tmp_path)
    provider = settings.providers["crusoe"]
    assert isinstance(provider, CrusoeSettings)
    assert float(provider.lifetime) == int(hours) * 3600
    assert float(settings.refresh.max_lifetime) == longest * 3600


def test_a_namespace_that_is_given_twice_is_taken_once() -> None:
    (target,) = migrated("targetSecret: {namespaces: [b, a, b]}").values["config"]["targets"]
    assert target["namespaces"] == [{"names": ["b", "a"]}]


def test_an_empty_list_of_namespaces_is_the_default() -> None:
    (target,) = migrated("targetSecret: {namespaces: []}").values["config"]["targets"]
    assert target["namespaces"] == [{"names": ["default"]}]


def test_unknown_keys_are_told_by_name_and_stop_nothing() -> None:
    printed = migrated(
        f"{FULL}  registryUser: x\npodLabels: {{a: b}}\nshedule: x\nimage.tag: x\n7: x\n? ~\n: x\n'a\\nb': x\n"
    )
    assert [line for line in printed.told if line.startswith("not translated: ")] == [
        "not translated: targetSecret.registryUser; did you mean targetSecret.registryUrl?",
        "not translated: podLabels",
        "not translated: shedule; did you mean schedule?",
        "not translated: image.tag; did you mean image.tag?",
        "not translated: 7",
        "not translated: empty",
        "not translated: a\\\\nb",
    ]
    assert printed.values == migrated(FULL).values


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("a: [", "standard input: is not valid YAML in line 1, column 5: "),
        ("a: 1\na: 2", "standard input: is not valid YAML in line 2, column 1: a is given twice"),
        (b"\xff", "standard input: is not text in UTF-8"),
        ("- a", "standard input: must be a mapping of keys to values, but is a list"),
        ("text", "standard input: must be a mapping of keys to values, but is 'text'"),
        ("targetSecret: x", "standard input: targetSecret must be a mapping of keys to values, but is 'x'"),
        ("targetSecret: {name: [a]}", "standard input: targetSecret.name must be text, but is a list"),
        (
            "targetSecret: {namespaces: a}",
            "standard input: targetSecret.namespaces must be a list of texts, but is 'a'",
        ),
        ("targetSecret: {namespaces: [1]}", "standard input: targetSecret.namespaces must be a list of texts, but is"),
        ("targetSecret: {namespaces: ['*']}", "standard input: targetSecret.namespaces: '*' is not a valid name of a"),
        ("targetSecret: {name: A}", "standard input: targetSecret.name must be a valid Kubernetes name, but is 'A'"),
        ("targetSecret: {registryUsername: 7}", "standard input: targetSecret.registryUsername must be text, but is 7"),
        ("crusoeCredentialsSecretName: ''", "standard input: crusoeCredentialsSecretName must be a valid Kubernetes"),
        ("schedule: [1]", "standard input: schedule must be text, but is a list"),
        ("failedJobsHistoryLimit: x", "standard input: failedJobsHistoryLimit must be a whole number, but is 'x'"),
        ("rbac: {create: 'no'}", "standard input: rbac.create must be true or false, but is 'no'"),
        ("rbac: {serviceAccount: {name: a_b}}", "standard input: rbac.serviceAccount.name must be a valid Kubernetes"),
        ("token: {expirationHours: 0}", "standard input: token.expirationHours must be from 1 to 8784, but is 0"),
        ("token: {expirationHours: 8785}", "standard input: token.expirationHours must be from 1 to 8784, but is 8785"),
        ("token: {expirationHours: true}", "standard input: token.expirationHours must be a whole number, but is true"),
        ("token: {expirationHours: 1.5}", "standard input: token.expirationHours must be a whole number, but is 1.5"),
        (
            "image: {pullPolicy: Maybe}",
            "standard input: image.pullPolicy must be Always, IfNotPresent or Never, but is",
        ),
        ("imagePullSecrets: x", "standard input: imagePullSecrets must be a list, but is 'x'"),
        (
            "resources: {limits: {cpu: [1]}}",
            "standard input: resources.limits must be a mapping of texts to quantities",
        ),
    ],
)
def test_what_cannot_be_translated_is_one_plain_sentence(content: str | bytes, sentence: str) -> None:
    assert refused("-f", "-", content=content).startswith(sentence)


def test_a_file_that_cannot_be_read_is_one_plain_sentence(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    assert refused("-f", str(missing)) == f"{missing}: can't be read: No such file or directory"
    assert refused("-f", str(tmp_path)) == f"{tmp_path}: can't be read: Is a directory"


def test_a_file_and_standard_input_give_the_same(tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(FULL)
    result = CliRunner().invoke(main, ["migrate", "crusoe", "--file", str(file)])
    assert (result.exit_code, result.stdout) == (0, migrated(FULL).text)


def test_the_same_values_in_another_order_give_the_same_bytes() -> None:
    turned = dict(reversed(yaml.safe_load(FULL).items()))
    assert migrated(yaml.safe_dump(turned, sort_keys=False)).text == migrated(FULL).text


def test_what_may_be_a_credential_in_the_wrong_place_is_not_printed_in_full() -> None:
    secret = "eyJhbGciOiJSUzI1NiJ9.e30.c2lnbmF0dXJl"
    printed = migrated(f"targetSecret: {{registryUsername: {secret}, registryUrl: {secret}}}\n{secret}: x")
    assert secret not in printed.text
    assert secret not in "".join(printed.told)


_KEYS = st.sampled_from([*CHART, "name", "limits", "create", "alias", "namespaces", "registryUrl", "other"])
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["a@b.example", "r.io"])
_ANYTHING = st.recursive(_LEAVES, lambda inner: st.lists(inner) | st.dictionaries(_KEYS | st.text(), inner))


@given(st.dictionaries(_KEYS, _ANYTHING) | _ANYTHING)
def test_nonsense_is_refused_or_gives_a_config_that_passes(content: Any) -> None:
    try:
        found = translate(content)
    except Unusable:
        return
    config.load(None, yaml.safe_load(found.text)["config"])
    assert all("\n" not in line for line in (*found.unknown, *found.tasks))
