"""Every problem of a configuration is told at once, with its path in the file; and what is right is taken as it is."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from controller.config import Config, ConfigError, Limits, Refreshing, load
from controller.core.schedule import RefreshWindow
from controller.core.targets import Requirement, Selection, Target
from controller.providers import TYPES
from controller.providers.chainguard import ChainguardSettings
from controller.providers.settings import ProviderSettings

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
    assert isinstance(settings, ChainguardSettings)
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
    ],
)
def test_a_duration_is_digits_with_a_unit(write: Write, value: object, seconds: float) -> None:
    path = write(yaml.safe_dump({"refresh": {"maxLifetime": value}}))
    assert load(path).refresh.max_lifetime == seconds
    settings = load(chainguard(write, defaultLifetime=value)).providers["cg"]
    assert isinstance(settings, ChainguardSettings)
    assert settings.default_lifetime == seconds


@pytest.mark.parametrize("value", ["", "90", "1d", "h", "1m1h", "1.5h", "-5s", " 5s", "5 s", True, [], "soon", None])
def test_what_is_no_duration_is_a_problem(write: Write, value: object) -> None:
    (problem,) = problems(write(yaml.safe_dump({"refresh": {"maxLifetime": value}})))
    assert problem.startswith("refresh.maxLifetime: ")


# Flags.


def test_flags_complete_the_file_and_one_that_says_something_else_is_refused(write: Write) -> None:
    config = load(write("scope: namespaces"), {"scope": "namespaces", "namespaces": ["n"]})
    assert (config.scope, config.namespaces) == ("namespaces", ("n",))
    path = write("secretNames: [a]\nscope: name")
    assert load(path, {"secretNames": ["a"]}).secret_names == ("a",)
    assert problems(path, {"secretNames": ["b"], "scope": "name"}) == [
        "secretNames: a flag or the environment sets it to another value; set it in one place"
    ]


def test_flags_are_checked_like_the_file() -> None:
    assert problems(None, {"scope": "everything", "namespaces": ["N"]}) == [
        "namespaces: 'N' is not a valid Kubernetes name",
        "scope: must be one of name, namespaces, cluster, but is 'everything'",
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
    assert {problem.partition(":")[0] for problem in found} == {
        *("limits.mintConcurrency", "limits.mintsPerSecond", "limits.writeConcurrency", "namespaces"),
        *("providers.Bad_Name", "providers.cg.audience", "providers.cg.defaultLifetime", "providers.cg.extra"),
        *("providers.cg.issuer", "providers.cg.proxy", "providers.cg.registries", "providers.cg.timeoutSeconds"),
        *("providers.cg.tokenFile", "providers.gone.type", "providers.nothing", "refresh", "refresh.jitter"),
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
    (problem,) = problems(write(text))
    assert problem.partition(";")[0] == f"{path}: is not a known key"


def test_a_key_that_is_given_twice_is_a_problem_since_one_of_them_would_do_nothing(write: Write) -> None:
    assert len(problems(write("scope: name\nscope: cluster\n"))) == 1


@pytest.mark.parametrize("text", ["[]", "[1]", "x", "7", "false", '""'])
def test_what_is_no_mapping_is_told(write: Write, text: str) -> None:
    (problem,) = problems(write(text))
    assert problem.startswith("the file: must be a mapping of keys to values, but is ")


@pytest.mark.parametrize(("key", "value"), [("refresh", "x"), ("refresh", []), ("limits", 7), ("limits", None)])
def test_a_section_that_is_no_mapping_is_told(write: Write, key: str, value: object) -> None:
    (problem,) = problems(write(yaml.safe_dump({key: value})))
    assert problem.startswith(f"{key}: must be a mapping of keys to values, but is ")


@pytest.mark.parametrize("value", [None, [], {}, "x", 7])
def test_at_least_one_provider_is_needed(write: Write, value: object) -> None:
    (problem,) = problems(write(yaml.safe_dump({"providers": value})))
    assert problem.startswith("providers: must be a mapping of names to at least one provider, but is ")


@pytest.mark.parametrize("type_", [None, "", "Chainguard", 7, ["chainguard"], {"a": "b"}])
def test_a_type_that_there_isnt_is_told_with_those_that_there_are(write: Write, type_: object) -> None:
    (problem,) = problems(write(yaml.safe_dump({"providers": {"x": {"type": type_}}})))
    assert problem.startswith(f"providers.x.type: must be one of {', '.join(sorted(TYPES))}, but is ")


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
        ("scope: namespaces\nnamespaces: [a b]", "namespaces: 'a b' is not a valid Kubernetes name"),
        ("namespaces: [a]", "namespaces: is only used in scope namespaces; set scope, or remove it"),
        ("scope: cluster\nsecretNames: [a]", "secretNames: is only used in scope name; set scope, or remove it"),
        ("secretNames: [b, a, b]", "secretNames: 'b' is given twice"),
        ("scope: namespaces\nnamespaces: [a, a, a]", "namespaces: 'a' is given twice"),
        ("secretNames: ['']", "secretNames: '' is not a valid Kubernetes name"),
        ("secretNames: ['a,metadata.name=b']", "secretNames: 'a,metadata.name=b' is not a valid Kubernetes name"),
        ("secretNames: ['a\\n']", "secretNames: 'a\\\\n' is not a valid Kubernetes name"),
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
    "host",
    [
        *("cgr.dev", "reg.example:5000", "localhost:5000", "127.0.0.1:5000", "a.example/team/sub", "index.docker.io"),
        *("[::1]:5000", "[2001:db8::1]", "[2001:db8::1]:5000/team"),
    ],
)
def test_a_registry_is_a_lower_case_host_with_or_without_port_and_path(write: Write, host: str) -> None:
    assert load(chainguard(write, registries=[host])).providers["cg"].registries == (host,)


@pytest.mark.parametrize(
    "host",
    [
        *("", "CGR.dev", "https://cgr.dev", "cgr.dev/", "cgr.dev/v1/", "docker.io", "*.cgr.dev", "a,b", "a b", "ä.de"),
        *("cgr.dev:", "cgr.dev:x", "-a.example", "a.example\n", "user@a.example"),
        *("::1", "[2001:DB8::1]", "[]:5000", "[::1", "[cgr.dev]", "[ab.cd]"),
    ],
)
def test_another_spelling_of_a_registry_is_a_problem(write: Write, host: str) -> None:
    (problem,) = problems(chainguard(write, registries=[host]))
    assert problem.startswith("providers.cg.registries: ")


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("docker.io", "must be written as index.docker.io"),
        ("https://CGR.dev/v2/", "must be written as cgr.dev"),
        ("cgr.dev/v2/", "must be written as cgr.dev"),
        ("::1", "is an IPv6 address, which needs brackets: [::1]"),
        ("my_registry.example", "has an underscore, which a host name can't have; write the registry as in the names"),
        ("*.cgr.dev", "must be a host in lower case, such as cgr.dev; a port and a path may follow"),
    ],
)
def test_a_registry_in_another_spelling_is_told_how_to_write_it(write: Write, host: str, told: str) -> None:
    (problem,) = problems(chainguard(write, registries=[host]))
    assert problem.startswith(f"providers.cg.registries: '{host}' {told}")


@pytest.mark.parametrize("key", ["namespaces", "identities"])
def test_a_lock_has_from_1_to_128_globs_of_at_most_2048_characters(write: Write, key: str) -> None:
    path = f"providers.cg.{key}"
    load(chainguard(write, **{key: ["*", "team-?", "x" * 2048, *(f"a{n}" for n in range(125))]}))
    assert problems(chainguard(write, **{key: []})) == [
        f"{path}: must have at least one entry; leave it out to allow all"
    ]
    assert problems(chainguard(write, **{key: ["a"] * 129})) == [f"{path}: must have at most 128 entries"]
    assert problems(chainguard(write, **{key: ["", "x" * 2049]})) == [
        f"{path}: '' must have from 1 to 2,048 characters",
        f"{path}: 'xxxx...' must have from 1 to 2,048 characters",
    ]
    (problem,) = problems(chainguard(write, **{key: ["team-[ab]"]}))
    assert problem == (
        f"{path}: 'team-[ab]' must be the text itself, or have * for any characters and ? for one; no [ or space"
    )


def test_a_proxy_has_exceptions_and_there_are_none_without_a_proxy(write: Write) -> None:
    hosts = ["login.example", ".internal.example", "10.0.0.1", "[fd00::1]"]
    load(chainguard(write, proxy="http://proxy.example:3128", noProxy=hosts))
    assert problems(chainguard(write, noProxy=hosts)) == [
        "providers.cg.noProxy: is only used with proxy; set that, or remove it"
    ]
    for host in ("*.example", "https://login.example", "login.example:443", "Login.example", "10.0.0.0/8", ""):
        (problem,) = problems(chainguard(write, proxy="http://proxy.example:3128", noProxy=[host]))
        assert problem == (
            f"providers.cg.noProxy: '{host}' must be a host or domain in lower case, such as login.example.com, "
            "without a port"
        )


def test_a_provider_can_not_be_called_like_the_beginning_of_an_aws_role(write: Write) -> None:
    assert problems(write(yaml.safe_dump({"providers": {"arn": {"type": "chainguard"}}}))) == [
        "providers.arn: a provider can't be called arn, since AWS identities begin with it; rename it"
    ]


def two(write: Write, **second: Any) -> Path:
    """Two providers of one type."""
    first = {"type": "chainguard", "default": second.pop("first_default", False)}
    return write(yaml.safe_dump({"providers": {"one": first, "two": {"type": "chainguard", **second}}}))


def test_two_providers_that_take_the_same_identities_are_warned_of_until_one_is_the_default(write: Write) -> None:
    (warning,) = load(two(write)).warnings
    assert warning.startswith("providers one and two take the same identities, so a Secret is filled only if")
    assert load(two(write, default=True)).warnings == []
    assert problems(two(write, default=True, first_default=True)) == [
        "providers.two.default: one is the default for the same identities already; remove one"
    ]
    assert load(two(write, type="quay", registries=["quay.io"], tokenFile="/token")).warnings == []


def test_a_ca_file_that_is_no_pem_is_told_and_one_that_is_not_here_is_not(write: Write, tmp_path: Path) -> None:
    load(chainguard(write, caFile=str(tmp_path / "missing.pem")))
    (tmp_path / "ca.pem").write_text("not a certificate")
    assert problems(chainguard(write, caFile=str(tmp_path / "ca.pem"))) == [
        "providers.cg.caFile: can't be read, or has no certificate in PEM format"
    ]


def test_a_provider_needs_a_registry_and_a_proof(write: Write) -> None:
    assert problems(chainguard(write, registries=[], tokenFile=None)) == [
        "providers.cg.registries: must name at least one host",
        "providers.cg.tokenFile: must be text, but is empty",
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
    (type_, kind.__struct_config__.tag, field.encode_name)
    for type_ in sorted(TYPES)
    for kind in get_args(TYPES[type_].SETTINGS) or (TYPES[type_].SETTINGS,)
    for field in msgspec.structs.fields(kind)
    if isinstance(field.default, str) and "://" in field.default
    if field.name not in ("scope", "audience", "resource")  # look like an address, and nobody ever goes there
]


@pytest.mark.parametrize(("type_", "kind", "key"), URLS)
def test_no_provider_may_send_a_credential_in_the_clear(write: Write, type_: str, kind: str | None, key: str) -> None:
    settings = {"type": type_, key: "http://issuer.example"} | ({"credentials": kind} if kind else {})
    found = problems(write(yaml.safe_dump({"providers": {"x": settings}})))
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
    assert re.search(r": is not valid YAML in line 2, column [0-9]+: [a-z]", problem)


@pytest.mark.parametrize("text", ["[" * 1000 + "]" * 1000, "a: " + "{b: " * 3000 + "}" * 3000, "- " * 3000])
def test_yaml_nested_too_deep_to_read_is_a_problem_and_not_a_crash(write: Write, text: str) -> None:
    (problem,) = problems(write(text))
    assert problem.endswith(": is nested too deeply")


def test_bytes_that_are_no_text_are_a_problem(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\xfa")
    assert "is not text in UTF-8" in problems(tmp_path / "c.yaml")[0]


def test_a_file_that_contains_itself_is_a_problem(write: Write) -> None:
    assert problems(write("secretNames: &a [*a]"))
    assert problems(write("providers: &a {x: *a}"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("secretNames: pull-secret", "secretNames: must be a list of texts, but is 'pull-secret'"),
        ("secretNames: [a, 7]", "secretNames[1]: must be text, but is 7"),
        ("requirePolicies: 'no'", "requirePolicies: must be true or false, but is 'no'"),
        ("limits: {mintConcurrency: 1.5}", "limits.mintConcurrency: must be a whole number, but is 1.5"),
        ("limits: {mintsPerSecond: fast}", "limits.mintsPerSecond: must be a number, but is 'fast'"),
        (
            "scope: namespace",
            "scope: must be one of name, namespaces, cluster, but is 'namespace'; did you mean namespaces?",
        ),
        ("secretName: [x]", "secretName: is not a known key; did you mean secretNames?"),
        ("on: x", "true: is not a known key"),
        ("refresh: {maxLifetime: 12}", "refresh.maxLifetime: must have a unit: write 12s, 12m or 12h"),
        ("refresh: {maxLifetime: 59s}", "refresh.maxLifetime: must be at least 1m, but is 59s"),
        ("refresh: {from: 0.9}", "refresh: from 0.9 and to 0.65 must be shares with 0.1 <= from <= to <= 0.8"),
        ("refresh: {from: half, to: 0.4}", "refresh.from: must be a number, but is 'half'"),
        ("providers: {x: {type: ecr-privat}}", None),
        ("scope: namespaces\nnamespaces: [A]", "namespaces: 'A' is not a valid Kubernetes name"),
        ("scope: namespace\nnamespaces: [a]", None),
        ("providers: {x: null}", "providers.x: must be a mapping of keys to values, but is empty"),
        ("providers: {cg: {type: chainguard, timeoutSeconds: 61}}", None),
    ],
)
def test_one_mistake_is_one_problem_in_plain_words(write: Write, text: str, problem: str | None) -> None:
    (found,) = problems(write(text))
    assert problem is None or found == problem


def test_each_problem_has_its_line_and_they_come_in_the_order_of_the_file(write: Write) -> None:
    text = "scope: nme\nproviders:\n  cg:\n    type: chainguard\n    issuer: http://x\n    registries: []\nlimits: 7\n"
    with pytest.raises(ConfigError) as caught:
        load(write(text), {"namespaces": ["B"]})
    assert [line.partition(":")[0] for line in caught.value.lines] == [
        "namespaces",
        "line 1",
        "line 5",
        "line 6",
        "line 7",
    ]


@pytest.mark.parametrize("value", ["eyJhbGciOiJSUzI1NiJ9." * 20, "x" * 41])
def test_a_long_text_in_the_wrong_place_is_not_printed_for_it_may_be_a_token(write: Write, value: str) -> None:
    (problem,) = problems(chainguard(write, timeoutSeconds=value))
    assert problem == f"providers.cg.timeoutSeconds: must be a number, but is '{value[:4]}...'"


@pytest.mark.parametrize(
    "text",
    [
        "refresh: {from: 2026-02-30}",
        "scope: 2026-13-01",
        "requirePolicies: !!bool abc",
        "limits: {mintConcurrency: 0b_}",
        "limits: {mintConcurrency: " + "9" * 5000 + "}",
        "refresh: {maxLifetime: 0x" + "f" * 5000 + "}",
        "? [a]\n: b",
        "? {a: b}\n: c",
    ],
)
def test_a_value_that_yaml_cannot_make_is_a_problem_and_not_a_traceback(write: Write, text: str) -> None:
    (problem,) = problems(write(text))
    assert not PYTHON.search(problem)
    assert len(problem) < 300


@pytest.mark.parametrize(
    "secret", ["ghp_16C7e42F292c6912E7710c838347Ae178B4a", "AKIAIOSFODNN7EXAMPLE", "eyJhbGciOiJub25lIn0.e30."]
)
@pytest.mark.parametrize(
    "settings",
    [
        {"type": "ecr", "region": "eu-west-1", "credentials": "SECRET"},
        {"type": "ecr", "region": "eu-west-1", "credentials": "static", "accessKeyId": "SECRET"},
        {"type": "crusoe", "user": "a@example.com", "accessKey": "SECRET"},
        {"type": "SECRET"},
        {"type": "chainguard", "timeoutSeconds": "SECRET"},
        {"type": "chainguard", "registries": ["SECRET"]},
        {"type": "chainguard", "SECRET": "x"},
    ],
)
def test_a_credential_in_the_wrong_place_is_not_printed(write: Write, settings: dict[str, Any], secret: str) -> None:
    text = yaml.safe_dump({"providers": {"x": settings}}).replace("SECRET", secret)
    with pytest.raises(ConfigError) as caught:
        load(write(text))
    assert secret not in str(caught.value)
    assert secret[:12] not in str(caught.value)


@pytest.mark.parametrize("name", ["Registry-2.Example.com", "11111111-2222-3333-4444-55555555555X", "Some_Team_Name"])
def test_an_ordinary_value_is_shown_whole(write: Write, name: str) -> None:
    (problem,) = problems(write(yaml.safe_dump({"secretNames": [name]})))
    assert f"'{name}'" in problem


def test_a_file_that_grows_by_merge_keys_or_has_very_many_names_is_answered_soon(write: Write) -> None:
    levels = [f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}, *a{n - 1}]}}" for n in range(1, 30)]
    (problem,) = problems(write("\n".join(["a0: &a0 {k: v}", *levels])))
    assert "too many keys" in problem
    assert len(problems(write("secretNames: [" + "a, " * 60_000 + "a]"))) == 1


def test_a_mapping_of_the_wrong_values_is_described_by_what_it_should_hold(write: Write) -> None:
    settings = {"type": "token-exchange", "parameters": {"a": 7}}
    with pytest.raises(ConfigError) as caught:
        load(write(yaml.safe_dump({"providers": {"x": settings}})))
    assert "parameters: must be a mapping of texts to texts" in str(caught.value)


def test_a_file_of_more_than_a_mebibyte_is_not_read(write: Write) -> None:
    load(write("#" * (1024 * 1024)))
    (problem,) = problems(write("#" * (1024 * 1024 + 1)))
    assert problem.endswith(": is larger than 1 MiB")


def test_aliases_that_would_grow_without_bound_are_a_problem_and_no_load(write: Write) -> None:
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    assert problems(write("\n".join(["a0: &a0 [x]", *levels, "secretNames: *a29"])))


PYTHON = re.compile(r"\b(float|array|str|int|bool|dict|tuple|NoneType|None|null|object|Traceback)\b")
YAML = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=6,
)
KEYS = [field.encode_name for field in msgspec.structs.fields(Config)]


@given(st.dictionaries(st.sampled_from(KEYS), YAML), st.sampled_from(sorted(TYPES)), st.data())
def test_no_configuration_leads_to_a_traceback_or_to_a_word_of_python(
    content: dict[str, Any], type_: str, data: st.DataObject
) -> None:
    kinds = get_args(TYPES[type_].SETTINGS) or (TYPES[type_].SETTINGS,)
    keys = ["credentials", *(field.encode_name for kind in kinds for field in msgspec.structs.fields(kind))]
    content["providers"] = {"x": data.draw(st.dictionaries(st.sampled_from(keys), YAML)) | {"type": type_}}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "config.yaml")
        path.write_text(yaml.safe_dump(content))
        try:
            load(path)
        except ConfigError as error:
            for line in error.lines:
                assert not PYTHON.search(re.sub(r"'.*'", "", line)), line


# Kinds of credentials.

ACR = {"type": "acr", "registries": ["team.azurecr.io"]}


@pytest.mark.parametrize("named", ["none", None, 7, [], {}, "WorkloadIdentity"])
def test_credentials_of_no_kind_are_answered_with_the_kinds(write: Write, named: object) -> None:
    (problem,) = problems(write(yaml.safe_dump({"providers": {"x": {**ACR, "credentials": named}}})))
    kinds = "workloadIdentity, managedIdentity, clientSecret, clientCertificate"
    assert problem.startswith(f"providers.x.credentials: must be one of {kinds}, but is ")


def test_without_credentials_the_first_kind_counts(write: Write) -> None:
    path = write(yaml.safe_dump({"providers": {"x": {**ACR, "tokenFile": "/t"}}}))
    assert type(load(path).providers["x"]).__name__ == "AcrWorkloadIdentity"


def test_a_setting_of_another_kind_is_a_problem_unless_it_is_null(write: Write) -> None:
    settings = {**ACR, "credentials": "managedIdentity", "tokenFile": "/t", "clientId": None}
    assert problems(write(yaml.safe_dump({"providers": {"x": settings}}))) == [
        "providers.x.tokenFile: is not used with credentials managedIdentity; remove it"
    ]


def test_what_is_missing_hides_no_other_problem(write: Write) -> None:
    several = {"registries": ["a.example", "b.example"], "service": "a.example"}
    settings = {**ACR, **several, "tenant": "x", "timeoutSeconds": 0}
    assert problems(write(yaml.safe_dump({"providers": {"x": settings}}))) == [
        "providers.x.tokenFile: is needed with credentials workloadIdentity",
        "providers.x.service: is for one registry, and there are several; add a provider for the one that needs it",
        "providers.x.tenant: must be a GUID",
        "providers.x.timeoutSeconds: must be more than 0 and at most 60, but is 0",
    ]


def test_credentials_are_no_setting_of_a_type_that_has_one_kind(write: Write) -> None:
    assert problems(chainguard(write, credentials="workloadIdentity")) == [
        "providers.cg.credentials: is not a known key"
    ]


# Targets.


def targets(write: Write, *given: dict[str, Any], **more: Any) -> Path:
    """A configuration with these targets, each filled up to a valid one."""
    usual = {"name": "everyone", "identity": "a" * 40, "namespaces": [{"names": ["team-*"]}]}
    return write(yaml.safe_dump({"targets": [usual | each for each in given], **more}))


def test_a_target_is_read_whole(write: Write) -> None:
    entry = {
        "names": ["team-*", "payments"],
        "selector": {
            "matchLabels": {"tier": "prod"},
            "matchExpressions": [{"key": "env", "operator": "NotIn", "values": ["sandbox"]}],
        },
    }
    config = load(
        targets(
            write,
            {
                "provider": "chainguard",
                "registries": ["cgr.dev"],
                "secretName": "pull-secret",
                "namespaces": [entry],
                "exclude": [{"names": ["team-legacy"]}],
                "serviceAccounts": ["default"],
                "existing": "adoptEmpty",
                "removal": "leave",
            },
            limits={"removal": {"most": 5, "share": 0.1, "grace": "5m"}},
        )
    )
    (found,) = config.targets
    assert found.target == Target(
        name="everyone",
        secret_name="pull-secret",
        identity="a" * 40,
        provider="chainguard",
        registries=("cgr.dev",),
        service_account=None,
        selections=(
            Selection(
                ("team-*", "payments"),
                (
                    Requirement("tier", "In", frozenset({"prod"})),
                    Requirement("env", "NotIn", frozenset({"sandbox"})),
                ),
            ),
        ),
        exclude=(Selection(("team-legacy",)),),
        service_accounts=("default",),
        adopts_empty=True,
        deletes=False,
    )
    removal = config.limits.removal
    assert (removal.most, removal.share, float(removal.grace)) == (5, 0.1, 300)


def test_the_defaults_of_a_target_are_those_of_the_documentation(write: Write) -> None:
    config = load(targets(write, {}))
    (found,) = config.targets
    assert (found.secret_name, found.service_accounts) == ("pull-secret", ())
    assert (found.existing, found.removal) == ("report", "delete")
    removal = config.limits.removal
    assert (removal.most, removal.share, float(removal.grace)) == (10, 0.2, 600)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"identiti": "x"}, "targets[0].identiti: is not a known key; did you mean identity?"),
        ({"name": "Every_One"}, "targets[0].name: must be a DNS label of at most 40 characters"),
        ({"name": "x" * 41}, "targets[0].name: must be a DNS label of at most 40 characters"),
        ({"identity": ""}, "targets[0].identity: must be the identity to act as, without white space around it"),
        ({"identity": None}, "targets[0].identity: is needed"),
        ({"secretName": "other"}, "targets[0].secretName: 'other' is not watched; add it to secretNames"),
        ({"provider": "chaingard"}, "did you mean chainguard?"),
        ({"registries": []}, "targets[0].registries: must have at least one host"),
        (
            {"namespaces": []},
            "targets[0].namespaces: must have at least one entry; names: ['*'] selects every namespace",
        ),
        ({"namespaces": [{}]}, "targets[0].namespaces[0]: must have names or a selector"),
        ({"namespaces": ["team-a"]}, "targets[0].namespaces[0]: must be a mapping of keys to values, but is 'team-a'"),
        ({"namespaces": [{"names": ["Team_A*"]}]}, "targets[0].namespaces[0].names: 'Team_A*' matches no namespace"),
        ({"namespaces": [{"names": ["[a-z]*"]}]}, "targets[0].namespaces[0].names: '[a-z]*' matches no namespace"),
        ({"exclude": [{"names": [""]}]}, "targets[0].exclude[0].names: '' matches no namespace"),
        (
            {"namespaces": [{"selector": {"matchExpressions": [{"key": "a", "operator": "Equals"}]}}]},
            "targets[0].namespaces[0].selector.matchExpressions[0].operator: must be one of In, NotIn, Exists",
        ),
        (
            {"namespaces": [{"selector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}]},
            "targets[0].namespaces[0].selector.matchExpressions[0].values: In needs at least one value",
        ),
        (
            {"namespaces": [{"selector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}}]},
            "targets[0].namespaces[0].selector.matchExpressions[0].values: Exists takes no values; remove them",
        ),
        ({"existing": "overwrite"}, "targets[0].existing: must be one of report, adoptEmpty, but is 'overwrite'"),
        ({"serviceAccounts": ["De fault"]}, "targets[0].serviceAccounts: 'De fault' is not a valid Kubernetes name"),
    ],
)
def test_what_is_wrong_with_a_target_is_named_by_its_place(write: Write, given: dict[str, Any], problem: str) -> None:
    (found,) = problems(targets(write, given))
    assert problem in found


def test_a_problem_of_a_target_has_its_line(write: Write) -> None:
    path = write("targets:\n- name: a\n  identity: x\n  namespaces:\n  - names: [a]\n  - names: ['A']\n")
    with pytest.raises(ConfigError) as raised:
        load(path)
    (line,) = raised.value.lines
    assert line.startswith("line 6: targets[0].namespaces[1].names: ")


def test_two_targets_that_surely_want_one_secret_are_a_problem(write: Write) -> None:
    both = [{"names": ["a", "b"]}]
    (found,) = problems(targets(write, {"name": "one", "namespaces": both}, {"name": "two", "namespaces": both}))
    assert found.startswith("targets: one and two both want pull-secret in a; ")
    assert problems(targets(write, {"name": "one"}, {"name": "one", "secretName": "pull-secret"}))[0].endswith(
        "name: 'one' is given twice"
    )


def test_where_only_some_namespaces_are_watched_a_target_names_them(write: Write) -> None:
    watched = {"scope": "namespaces", "namespaces": ["a", "b"]}
    for entries in ([{"names": ["team-*"]}], [{"names": ["a", "c"]}], [{"selector": {"matchLabels": {"x": "y"}}}]):
        assert problems(targets(write, {"namespaces": entries, "secretName": "any"}, **watched)) == [
            "targets[0].namespaces: must be exact names that are in the list of namespaces, since no others are watched"
        ]
    load(targets(write, {"namespaces": [{"names": ["a"]}], "secretName": "any"}, **watched))


def test_a_target_of_every_namespace_is_warned_of(write: Write) -> None:
    assert load(targets(write, {"namespaces": [{"names": ["team-*"]}]})).warnings == []
    (warning,) = load(targets(write, {"namespaces": [{"names": ["*"]}]})).warnings
    assert warning.startswith("target everyone selects every namespace, now and in future")


@pytest.mark.parametrize(
    ("removal", "problem"),
    [
        ({"most": -1}, "limits.removal.most: must be 0 or more, but is -1"),
        ({"share": 1.5}, "limits.removal.share: must be between 0 and 1, but is 1.5"),
        ({"grace": 10}, "limits.removal.grace: must have a unit: write 10s, 10m or 10h"),
        ({"mots": 1}, "limits.removal.mots: is not a known key; did you mean most?"),
    ],
)
def test_limits_of_removal_are_checked(write: Write, removal: dict[str, Any], problem: str) -> None:
    assert problems(targets(write, {}, limits={"removal": removal})) == [problem]


def test_limits_per_namespace_are_none_unless_they_are_set(write: Write) -> None:
    none = load(write(yaml.safe_dump({}))).limits.per_namespace
    assert (none.secrets, none.mints_per_minute) == (None, None)
    some = load(
        write(yaml.safe_dump({"limits": {"perNamespace": {"secrets": 200, "mintsPerMinute": 0.5}}}))
    ).limits.per_namespace
    assert (some.secrets, some.mints_per_minute) == (200, 0.5)


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        ({"secrets": 0}, "limits.perNamespace.secrets: must be more than 0, but is 0"),
        ({"secrets": 1.5}, "limits.perNamespace.secrets: must be a whole number, but is 1.5"),
        ({"mintsPerMinute": -1}, "limits.perNamespace.mintsPerMinute: must be more than 0, but is -1.0"),
        ({"secret": 1}, "limits.perNamespace.secret: is not a known key; did you mean secrets?"),
    ],
)
def test_limits_per_namespace_are_checked(write: Write, limits: dict[str, Any], problem: str) -> None:
    assert problems(write(yaml.safe_dump({"limits": {"perNamespace": limits}}))) == [problem]


def test_only_admission_is_asked_unless_it_is_set(write: Write) -> None:
    grants = load(write(yaml.safe_dump({}))).grants
    assert (grants.check, float(grants.recheck), grants.on_revoke) == ("admission", 60, "keep")
    assert not grants.asks_namespaces
    set_by_hand = load(write(yaml.safe_dump({"grants": {"check": "both", "recheck": "5m", "onRevoke": "wipe"}}))).grants
    assert (set_by_hand.check, float(set_by_hand.recheck), set_by_hand.on_revoke) == ("both", 300, "wipe")
    assert set_by_hand.asks_namespaces


@pytest.mark.parametrize(
    ("grants", "problem"),
    [
        ({"check": "never"}, "grants.check: must be one of admission, namespace, both, but is 'never'"),
        (
            {"check": "never", "onRevoke": "wipe"},
            "grants.check: must be one of admission, namespace, both, but is 'never'",
        ),
        ({"check": "both", "recheck": "9s"}, "grants.recheck: must be at least 10s, but is 9s"),
        (
            {"onRevoke": "wipe"},
            "grants.onRevoke: wipe is only used with check: namespace or both; set that, or remove onRevoke",
        ),
        ({"check": "both", "onRevoke": "drop"}, "grants.onRevoke: must be one of keep, wipe, but is 'drop'"),
    ],
)
def test_grants_are_checked(write: Write, grants: dict[str, Any], problem: str) -> None:
    assert problems(write(yaml.safe_dump({"grants": grants}))) == [problem]
