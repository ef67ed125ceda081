"""Every problem of a configuration is told at once, with its path in the file; and what is right is taken as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from controller.config import Config, ConfigError, Limits, Refreshing, load
from controller.core.schedule import RefreshWindow
from controller.providers import TYPES
from controller.providers.base import ProviderSettings
from controller.providers.chainguard import ChainguardSettings

Write = Callable[[str], Path]

EXAMPLE = """
scope: name                     # name | namespaces | cluster
secretNames: [pull-secret]
namespaces: []
requirePolicies: false          # true in manifests/
providers:
  chainguard:                   # the name, a DNS label of at most 40; used in `provider` and as suffix
    type: chainguard
    issuer: https://issuer.enforce.dev
    audience: issuer.enforce.dev          # of the ServiceAccount token we present
    tokenAudience: cgr.dev                # sent as aud, and must be in the minted token
    registries: [cgr.dev]
    tokenFile: /var/run/chainguard/oidc/oidc-token
    caFile: null                          # a private CA for this issuer only; re-read when it changes
    proxy: null
refresh: {from: 0.50, to: 0.65, maxLifetime: 12h}
limits: {mintsPerSecond: 20, mintConcurrency: 16, writeConcurrency: 32}     # per provider
"""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return path

    return write_file


def problems(path: Path | None, overrides: dict[str, Any] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def chainguard(write: Write, **settings: Any) -> Path:
    """A configuration with these settings of one provider."""
    return write(yaml.safe_dump({"providers": {"cg": {"type": "chainguard", **settings}}}))


# What is right.


def test_without_a_file_everything_has_its_default() -> None:
    assert load(None) == Config(providers={"chainguard": ChainguardSettings(type="chainguard")})


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n", "{}", "null"])
def test_an_empty_file_works(write: Write, text: str) -> None:
    assert load(write(text)) == load(None)


def test_the_example_of_the_documentation_is_the_default(write: Write) -> None:
    assert load(write(EXAMPLE)) == load(None)


def test_the_defaults_are_those_of_the_documentation() -> None:
    config = load(None)
    assert (config.scope, config.secret_names, config.namespaces) == ("name", ("pull-secret",), ())
    assert (config.require_policies, config.per_secret_metrics) == (False, False)
    assert config.refresh.window == RefreshWindow(0.5, 0.65, 43200.0)
    assert config.limits == Limits(mints_per_second=20, mint_concurrency=16, write_concurrency=32)
    settings = config.providers["chainguard"]
    assert (settings.timeout_seconds, settings.default_lifetime) == (10, None)


def test_fields_are_camel_case_in_the_file(write: Write) -> None:
    path = chainguard(write, tokenFile="/t", caFile="/c", timeoutSeconds=5, tokenAudience="x", registries=["a.example"])
    assert load(path).providers == {
        "cg": ChainguardSettings(
            type="chainguard",
            token_file="/t",
            ca_file="/c",
            timeout_seconds=5.0,
            token_audience="x",
            registries=("a.example",),
        )
    }


def test_a_file_with_providers_has_those_alone(write: Write) -> None:
    assert set(load(chainguard(write)).providers) == {"cg"}


def test_several_providers_of_a_type_may_be_configured(write: Write) -> None:
    path = write("providers: {one: {type: chainguard}, two: {type: chainguard, registries: [b.example]}}")
    assert [settings.registries for settings in load(path).providers.values()] == [("cgr.dev",), ("b.example",)]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("90s", 90),
        ("15m", 900),
        ("12h", 43200),
        ("1h30m", 5400),
        ("1h1m1s", 3661),
        ("0h15m0s", 900),
        (90, 90),
        (0.5, 0.5),
    ],
)
def test_a_duration_is_a_number_of_seconds_or_digits_with_a_unit(write: Write, value: object, seconds: float) -> None:
    path = write(yaml.safe_dump({"refresh": {"maxLifetime": value}}))
    assert load(path).refresh.max_lifetime == seconds
    assert load(chainguard(write, defaultLifetime=value)).providers["cg"].default_lifetime == seconds


@pytest.mark.parametrize("value", ["", "90", "1d", "h", "1m1h", "1.5h", "-5s", " 5s", "5 s", True, [], "soon", None])
def test_what_is_no_duration_is_a_problem(write: Write, value: object) -> None:
    (problem,) = problems(write(yaml.safe_dump({"refresh": {"maxLifetime": value}})))
    assert problem.startswith("refresh.maxLifetime: ")


# Flags.


def test_flags_win_over_the_file(write: Write) -> None:
    config = load(write("secretNames: [a]\nscope: name"), {"secretNames": ["b"]})
    assert config.secret_names == ("b",)
    config = load(write("scope: cluster"), {"scope": "namespaces", "namespaces": ["n"]})
    assert (config.scope, config.namespaces) == ("namespaces", ("n",))


def test_flags_are_checked_like_the_file() -> None:
    assert problems(None, {"scope": "everything", "namespaces": ["N"]}) == [
        "namespaces: 'N' is no name of Kubernetes",
        "namespaces: is only used in scope namespaces; set scope, or remove it",
        "scope: must be one of name, namespaces, cluster",
    ]


# What is wrong.


def test_every_problem_is_told_at_once_each_with_its_path(write: Write) -> None:
    text = """
    scope: galaxy
    secretName: [x]
    secretNames: [A_b, 7]
    namespaces: n
    requirePolicies: "no"
    refresh: {from: 0.7, to: 0.6, maxLifetime: soon, jitter: 1}
    limits: {mintsPerSecond: 0, mintConcurrency: many, writeConcurrency: -1}
    providers:
      Bad_Name: {type: chainguard}
      nothing: null
      gone: {type: gone}
      cg:
        type: chainguard
        issuer: http://issuer.example
        proxy: "ftp://x"
        registries: [HTTPS://cgr.dev/, ok.example]
        tokenFile: null
        timeoutSeconds: 0
        defaultLifetime: 0
        extra: 1
        audience: [x]
    """
    found = problems(write(text))
    assert found == sorted(found)
    assert {problem.partition(":")[0] for problem in found} == {
        *("limits.mintConcurrency", "limits.mintsPerSecond", "limits.writeConcurrency", "namespaces"),
        *("providers.Bad_Name", "providers.cg.audience", "providers.cg.defaultLifetime", "providers.cg.extra"),
        *("providers.cg.issuer", "providers.cg.proxy", "providers.cg.registries", "providers.cg.timeoutSeconds"),
        *("providers.cg.tokenFile", "providers.gone.type", "providers.nothing.type", "refresh", "refresh.jitter"),
        *("refresh.maxLifetime", "requirePolicies", "scope", "secretName", "secretNames[1]"),
    }


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("scpoe: name", "scpoe"),
        ("refresh: {form: 0.5}", "refresh.form"),
        ("refresh: {from_: 0.5}", "refresh.from_"),
        ("limits: {mints_per_second: 1}", "limits.mints_per_second"),
        ("providers: {cg: {type: chainguard, tokenAudiance: x}}", "providers.cg.tokenAudiance"),
        ("providers: {cg: {type: chainguard, token_audience: x}}", "providers.cg.token_audience"),
        ("7: x", "7"),
        ("TOKEN_EXIPIRATION_HOURS: 12", "TOKEN_EXIPIRATION_HOURS"),
    ],
)
def test_an_unknown_configuration_key_fails_at_start(write: Write, text: str, path: str) -> None:
    assert problems(write(text)) == [f"{path}: is not a known key"]


def test_a_key_that_stands_twice_is_a_problem_since_one_of_them_would_do_nothing(write: Write) -> None:
    assert len(problems(write("scope: name\nscope: cluster\n"))) == 1


@pytest.mark.parametrize("text", ["[]", "[1]", "x", "7", "false", '""'])
def test_what_is_no_mapping_is_told(write: Write, text: str) -> None:
    assert problems(write(text)) == ["$: must be a mapping of keys to values"]


@pytest.mark.parametrize(("key", "value"), [("refresh", "x"), ("refresh", []), ("limits", 7), ("limits", None)])
def test_a_section_that_is_no_mapping_is_told(write: Write, key: str, value: object) -> None:
    assert problems(write(yaml.safe_dump({key: value}))) == [f"{key}: must be a mapping of keys to values"]


@pytest.mark.parametrize("value", [None, [], {}, "x", 7])
def test_at_least_one_provider_is_needed(write: Write, value: object) -> None:
    assert problems(write(yaml.safe_dump({"providers": value}))) == [
        "providers: must be a mapping of names to at least one provider"
    ]


@pytest.mark.parametrize("type_", [None, "", "Chainguard", 7, ["chainguard"], {"a": "b"}])
def test_a_type_that_there_isnt_is_told_with_those_that_there_are(write: Write, type_: object) -> None:
    assert problems(write(yaml.safe_dump({"providers": {"x": {"type": type_}}}))) == [
        f"providers.x.type: must be one of {', '.join(sorted(TYPES))}"
    ]


@pytest.mark.parametrize("name", ["x" * 40, "a", "0", "team-ecr"])
def test_a_provider_is_named_by_a_dns_label_of_at_most_forty(write: Write, name: str) -> None:
    assert set(load(write(yaml.safe_dump({"providers": {name: {"type": "chainguard"}}}))).providers) == {name}


@pytest.mark.parametrize("name", ["x" * 41, "", "A", "-a", "a-", "a.b", "a b", "ä", "a\n", 7, True, None])
def test_another_name_is_a_problem(write: Write, name: object) -> None:
    (problem,) = problems(write(yaml.safe_dump({"providers": {name: {"type": "chainguard"}}})))
    assert problem.endswith("the name must be a DNS label of at most 40 characters")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("secretNames: []", "secretNames: must name at least one Secret in scope name"),
        ("scope: namespaces", "namespaces: must name at least one namespace in scope namespaces"),
        ("scope: namespaces\nnamespaces: [a b]", "namespaces: 'a b' is no name of Kubernetes"),
        ("namespaces: [a]", "namespaces: is only used in scope namespaces; set scope, or remove it"),
        ("scope: cluster\nsecretNames: [a]", "secretNames: is only used in scope name; set scope, or remove it"),
        ("secretNames: [b, a, b]", "secretNames: 'b' stands there twice"),
        ("scope: namespaces\nnamespaces: [a, a, a]", "namespaces: 'a' stands there twice"),
        ("secretNames: ['']", "secretNames: '' is no name of Kubernetes"),
        ("secretNames: ['a,metadata.name=b']", "secretNames: 'a,metadata.name=b' is no name of Kubernetes"),
        ("secretNames: ['a\\n']", "secretNames: 'a\\\\n' is no name of Kubernetes"),
    ],
)
def test_a_scope_needs_what_it_watches(write: Write, text: str, problem: str) -> None:
    assert problems(write(text)) == [problem]


@pytest.mark.parametrize(
    ("start", "end", "right"),
    [
        *((0.1, 0.1, True), (0.1, 0.8, True), (0.5, 0.5, True), (0.8, 0.8, True)),
        *((0.09, 0.5, False), (0.5, 0.81, False), (0.6, 0.5, False), (-1, 2, False)),
        *((float("nan"), 0.6, False), (0.5, float("nan"), False)),
    ],
)
def test_a_refresh_falls_between_a_tenth_and_four_fifths_of_a_life(
    write: Write, start: float, end: float, right: bool
) -> None:
    path = write(yaml.safe_dump({"refresh": {"from": start, "to": end}}))
    if right:
        assert load(path).refresh == Refreshing(from_=start, to=end)
    else:
        assert [problem.partition(":")[0] for problem in problems(path)] == ["refresh"]


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("-inf")])
@pytest.mark.parametrize(
    "path",
    [
        *("refresh.maxLifetime", "limits.mintsPerSecond", "limits.mintConcurrency", "limits.writeConcurrency"),
        *("providers.cg.defaultLifetime", "providers.cg.timeoutSeconds"),
    ],
)
def test_a_limit_that_is_not_more_than_nothing_is_a_problem(write: Write, path: str, value: float) -> None:
    content: Any = value
    for key in reversed(path.split(".")):
        content = {key: content}
    if "providers" in content:
        content["providers"]["cg"]["type"] = "chainguard"
    assert [problem.partition(":")[0] for problem in problems(write(yaml.safe_dump(content)))] == [path]


@pytest.mark.parametrize("value", ["9" * 400 + "h", 1e308, float("inf")])
def test_a_lifetime_that_no_calendar_can_show_is_a_problem(write: Write, value: object) -> None:
    """The end of such a life could not be written down."""
    (problem,) = problems(chainguard(write, defaultLifetime=value))
    assert problem.startswith("providers.cg.defaultLifetime: ")


@pytest.mark.parametrize(
    "host", ["cgr.dev", "reg.example:5000", "localhost:5000", "127.0.0.1:5000", "a.example/team/sub", "index.docker.io"]
)
def test_a_registry_is_a_lower_case_host_with_or_without_port_and_path(write: Write, host: str) -> None:
    assert load(chainguard(write, registries=[host])).providers["cg"].registries == (host,)


@pytest.mark.parametrize(
    "host",
    [
        *("", "CGR.dev", "https://cgr.dev", "cgr.dev/", "cgr.dev/v1/", "docker.io", "*.cgr.dev", "a,b", "a b", "ä.de"),
        *("cgr.dev:", "cgr.dev:x", "-a.example", "a.example\n", "user@a.example"),
    ],
)
def test_another_spelling_of_a_registry_is_a_problem(write: Write, host: str) -> None:
    (problem,) = problems(chainguard(write, registries=[host]))
    assert problem.startswith("providers.cg.registries: ")


def test_a_ca_file_that_is_no_pem_is_told_and_one_that_is_not_here_is_not(write: Write, tmp_path: Path) -> None:
    load(chainguard(write, caFile=str(tmp_path / "missing.pem")))
    (tmp_path / "ca.pem").write_text("not a certificate")
    assert problems(chainguard(write, caFile=str(tmp_path / "ca.pem"))) == [
        "providers.cg.caFile: can't be read, or holds no certificate in PEM"
    ]


def test_a_provider_needs_a_registry_and_a_proof(write: Write) -> None:
    assert problems(chainguard(write, registries=[], tokenFile=None)) == [
        "providers.cg.registries: must name at least one host",
        "providers.cg.tokenFile: must be the path of the token that proves who the controller is",
    ]
    assert len(problems(chainguard(write, tokenFile=""))) == 1


@pytest.mark.parametrize(
    "url",
    [
        *("https://issuer.example", "https://issuer.example/", "https://issuer.example:8443/base"),
        *("http://127.0.0.1:8080", "http://localhost:1", "http://[::1]:8080/x", "https://10.0.0.1"),
    ],
)
def test_an_https_url_is_taken_and_http_on_loopback(write: Write, url: str) -> None:
    (provider,) = load(chainguard(write, issuer=url)).providers.values()
    assert isinstance(provider, ChainguardSettings)
    assert provider.issuer == url


@pytest.mark.parametrize("url", ["http://proxy.corp:3128", "http://10.0.0.1:3128/", "https://proxy.corp"])
def test_an_ordinary_proxy_is_taken_since_it_passes_tls_on_unread(write: Write, url: str) -> None:
    assert load(chainguard(write, proxy=url)).providers["cg"].proxy == url


@pytest.mark.parametrize("url", ["socks5://proxy.corp", "proxy.corp:3128", "http://u:p@proxy.corp", "http://p/?q", ""])
def test_what_is_no_http_proxy_is_a_problem(write: Write, url: str) -> None:
    (problem,) = problems(chainguard(write, proxy=url))
    assert problem.startswith("providers.cg.proxy: must be an http or https URL")


@pytest.mark.parametrize(
    "url",
    [
        *("http://issuer.example", "http://10.0.0.1", "http://localhost.evil.example", "http://127.0.0.1.evil.example"),
        *("ftp://issuer.example", "issuer.enforce.dev", "https://", "//issuer.example", "", "https:///path"),
        *("https://user:password@issuer.example", "https://user@issuer.example", "https://issuer.example/?a=b"),
        *("https://issuer.example/#a", "https://issuer.example:port", "https://issuer.example:99999", "https://[::1"),
    ],
)
def test_another_url_is_a_problem(write: Write, url: str) -> None:
    (problem,) = problems(chainguard(write, issuer=url))
    assert problem.startswith("providers.cg.issuer: ")
    assert "password" not in problem


URLS = [
    (type_, field.encode_name)
    for type_ in sorted(TYPES)
    for field in msgspec.structs.fields(TYPES[type_].SETTINGS)
    if isinstance(field.default, str) and "://" in field.default
    if field.name not in ("scope", "audience", "resource")  # look like an address, and nobody ever goes there
]


@pytest.mark.parametrize(("type_", "key"), URLS)
def test_no_provider_may_send_a_credential_in_the_clear(write: Write, type_: str, key: str) -> None:
    found = problems(write(yaml.safe_dump({"providers": {"x": {"type": type_, key: "http://issuer.example"}}})))
    assert [problem for problem in found if problem.startswith(f"providers.x.{key}: must be https")]


def test_settings_know_no_field_of_a_secret() -> None:
    """The operator's file is a ConfigMap: what is secret is in files that it names."""
    names = {field.name for field in msgspec.structs.fields(ProviderSettings)}
    assert not [name for name in names if "password" in name or "secret" in name]


# The file itself.


def test_a_file_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path / "missing.yaml")
    assert problem == f"{tmp_path / 'missing.yaml'}: can't be read: No such file or directory"


def test_a_folder_is_a_problem(tmp_path: Path) -> None:
    assert "can't be read" in problems(tmp_path)[0]


@pytest.mark.parametrize("text", ["a: [", "a: b: c", "\t", "a: !!python/object/apply:os.system [x]", "a: &a [*a"])
def test_what_is_not_yaml_is_told_with_its_line(write: Write, text: str) -> None:
    (problem,) = problems(write("\n" + text))
    assert "is not YAML in line " in problem


@pytest.mark.parametrize("text", ["[" * 3000 + "]" * 3000, "a: " + "{b: " * 3000 + "}" * 3000, "- " * 3000])
def test_yaml_nested_too_deep_to_read_is_a_problem_and_not_a_crash(write: Write, text: str) -> None:
    (problem,) = problems(write(text))
    assert problem.endswith(": is not YAML")


def test_bytes_that_are_no_text_are_a_problem(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\xfa")
    assert "is not YAML" in problems(tmp_path / "c.yaml")[0]


def test_a_file_that_contains_itself_is_a_problem(write: Write) -> None:
    assert problems(write("secretNames: &a [*a]"))
    assert problems(write("providers: &a {x: *a}"))


def test_a_problem_says_what_was_expected_in_plain_words(write: Write) -> None:
    (problem,) = problems(write("secretNames: pull-secret"))
    assert problem == "secretNames: expected `array`, got `str`"
    (problem,) = problems(write("limits: {mintConcurrency: 1.5}"))
    assert problem == "limits.mintConcurrency: expected `int`, got `float`"
