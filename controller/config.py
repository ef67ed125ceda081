"""The configuration: file, environment and flags become one frozen Config, or one error that names every problem.

Fields are camelCase in the file and snake_case in code. Every field has a default, so an empty file works. An unknown
key is a problem, because a misspelt one would otherwise do nothing in silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec
import yaml

from controller.core.dockerconfig import normalise
from controller.core.schedule import RefreshWindow
from controller.http import is_ca_file, is_endpoint, is_safe_url
from controller.providers import TYPES
from controller.providers.base import NO_ENDPOINT, URL, MissingExtra, ProviderSettings, Seconds, fields_of

S = TypeVar("S", bound=msgspec.Struct)
Scope = Literal["name", "namespaces", "cluster"]

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_PROVIDER_NAME_LENGTH = 40
_LONGEST_SECONDS = 366 * 24 * 3600
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:\d{1,5})?(/[a-z0-9._/-]+)?")


class Refreshing(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """When to refresh: between these shares of a token's life, which counts at most `max_lifetime`."""

    from_: float = msgspec.field(name="from", default=0.50)
    to: float = 0.65
    max_lifetime: Seconds = Seconds(12 * 3600)

    @property
    def window(self) -> RefreshWindow:
        """The same for core."""
        return RefreshWindow(self.from_, self.to, float(self.max_lifetime))


class Limits(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How much at once; each per provider."""

    mints_per_second: float = 20.0
    mint_concurrency: int = 16
    write_concurrency: int = 32


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Everything that the operator decides."""

    scope: Scope = "name"
    secret_names: tuple[str, ...] = ("pull-secret",)
    """Watched in scope `name`, in all namespaces."""
    namespaces: tuple[str, ...] = ()
    """Watched in scope `namespaces`."""
    require_policies: bool = False
    """Don't start where the admission policies are missing."""
    per_secret_metrics: bool = False
    """One series per Secret more; off, because it grows with them."""
    providers: Mapping[str, ProviderSettings] = {}
    refresh: Refreshing = Refreshing()
    limits: Limits = Limits()


class ConfigError(Exception):
    """Everything that is wrong with the configuration, a line each: `path: problem`."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load(path: Path | None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read the file, put `overrides` (by the keys of the file) over it, and check the whole. Raises ConfigError."""
    content: Any = None
    if path is not None:
        try:
            content = yaml.load(path.read_text(), Loader=_Loader)  # noqa: S506 -- a SafeLoader
        except OSError as error:
            raise ConfigError([f"{path}: can't be read: {error.strerror}"]) from error
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            line = f" in line {mark.line + 1}" if mark else ""
            reason = error.problem if isinstance(error, _DuplicateKey) else "is not YAML"
            raise ConfigError([f"{path}: {reason}{line}"]) from error
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ConfigError(["$: must be a mapping of keys to values"])
    problems: list[str] = []
    values = {"providers": {"chainguard": {"type": "chainguard"}}, **content, **(overrides or {})}
    providers = _providers(values.pop("providers"), problems)
    config = msgspec.structs.replace(_convert(Config, values, "", problems), providers=providers)
    problems += _config_problems(config)
    problems += _unused(config.scope, values)
    for name, settings in providers.items():
        problems += _provider_problems(name, settings)
    if problems:
        raise ConfigError(sorted(problems))
    return config


class _DuplicateKey(yaml.MarkedYAMLError):
    """Of two values for one key YAML would take the last, and the other would do nothing in silence."""


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key, _ in node.value:
            if keys.count(key.value) > 1:
                raise _DuplicateKey(problem=f"{key.value}: stands there twice", problem_mark=key.start_mark)
        return super().construct_mapping(node, deep=deep)


def _providers(value: Any, problems: list[str]) -> dict[str, ProviderSettings]:
    if not isinstance(value, dict) or not value:
        problems.append("providers: must be a mapping of names to at least one provider")
        return {}
    providers: dict[str, ProviderSettings] = {}
    for name, content in value.items():
        path = f"providers.{name}"
        if not isinstance(name, str) or not _DNS_LABEL.fullmatch(name) or len(name) > _PROVIDER_NAME_LENGTH:
            problems.append(f"{path}: the name must be a DNS label of at most {_PROVIDER_NAME_LENGTH} characters")
        named = content.get("type") if isinstance(content, dict) else None
        type_ = TYPES.get(named) if isinstance(named, str) else None
        if type_ is None:
            problems.append(f"{path}.type: must be one of {', '.join(sorted(TYPES))}")
        else:
            providers[str(name)] = _convert(type_.SETTINGS, content, f"{path}.", problems)
    return providers


def _convert(struct: type[S], content: Any, prefix: str, problems: list[str]) -> S:
    """Convert field by field, where msgspec would stop at the first problem; a field with one gets its default."""
    if not isinstance(content, dict):
        problems.append(f"{prefix.rstrip('.') or '$'}: must be a mapping of keys to values")
        return struct()
    fields = {field.encode_name: field for field in fields_of(struct)}
    problems += [f"{prefix}{key}: is not a known key" for key in content if key not in fields]
    values: dict[str, Any] = {}
    for key, field in fields.items():
        if key not in content:
            continue
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            values[field.name] = _convert(field.type, content[key], f"{prefix}{key}.", problems)
            continue
        try:
            values[field.name] = msgspec.convert(content[key], field.type, dec_hook=_decode)
        except msgspec.ValidationError as error:
            problems.append(f"{prefix}{key}{_problem(error, field.type)}")
    return struct(**values)


def _problem(error: msgspec.ValidationError, type_: Any) -> str:
    """What is wrong, and where inside the value."""
    text, _, inner = str(error).partition(" - at `$")
    if get_origin(type_) is Literal:
        text = f"must be one of {', '.join(get_args(type_))}"
    return f"{inner.rstrip('`')}: {text[:1].lower()}{text[1:]}"


def _decode(type_: type, value: Any) -> Any:
    if type_ is not Seconds:
        raise NotImplementedError(type_)
    seconds: int | float
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value
    elif isinstance(value, str) and value and (match := _DURATION.fullmatch(value)):
        seconds = sum(int(part or 0) * unit for part, unit in zip(match.groups(), (3600, 60, 1), strict=True))
    else:
        raise ValueError("expected a duration such as 90s, 15m or 12h")
    if not 0 < seconds <= _LONGEST_SECONDS:
        raise ValueError("must be more than 0 and at most 366 days")
    return Seconds(seconds)


def _config_problems(config: Config) -> Iterator[str]:
    if config.scope == "name" and not config.secret_names:
        yield "secretNames: must name at least one Secret in scope name"
    if config.scope == "namespaces" and not config.namespaces:
        yield "namespaces: must name at least one namespace in scope namespaces"
    for key, names in (("secretNames", config.secret_names), ("namespaces", config.namespaces)):
        yield from (f"{key}: {name!r} is no name of Kubernetes" for name in names if not _DNS_NAME.fullmatch(name))
        # Each would get a watch of its own.
        yield from (f"{key}: {name!r} stands there twice" for name in sorted(set(names)) if names.count(name) > 1)
    if not 0.1 <= config.refresh.from_ <= config.refresh.to <= 0.8:
        # Later than 80 % leaves an outage of the issuer too little time; earlier than 10 % is a mint storm.
        yield "refresh: from and to must be shares of the life with 0.1 <= from <= to <= 0.8"
    for key, limit in msgspec.to_builtins(config.limits).items():
        if not limit > 0:  # NaN too
            yield f"limits.{key}: must be more than 0"


def _unused(scope: Scope, values: Mapping[str, Any]) -> Iterator[str]:
    """What was given and would do nothing in silence; of `secretNames` the default says nothing."""
    for key, used_in in (("secretNames", "name"), ("namespaces", "namespaces")):
        if values.get(key) and scope != used_in:
            yield f"{key}: is only used in scope {used_in}; set scope, or remove it"


def _provider_problems(name: str, settings: ProviderSettings) -> Iterator[str]:
    path = f"providers.{name}"
    if not settings.registries:
        yield f"{path}.registries: must name at least one host"
    for host in settings.registries:
        if not _HOST.fullmatch(host) or normalise(host) != host:
            yield f"{path}.registries: {host!r} must be a lower-case host without scheme, such as cgr.dev"
    if not 0 < settings.timeout_seconds <= 60:
        yield f"{path}.timeoutSeconds: must be more than 0 and at most 60"
    if settings.ca_file and not is_ca_file(Path(settings.ca_file)):
        # A file that isn't there is told when it is needed, like a missing proof: here may be another machine.
        yield f"{path}.caFile: can't be read, or holds no certificate in PEM"
    for field in fields_of(type(settings)):
        if problem := _text_problem(field, getattr(settings, field.name)):
            yield f"{path}.{field.encode_name}: {problem}"
    try:
        yield from (f"{path}.{problem}" for problem in TYPES[settings.type].problems(settings))
    except MissingExtra as error:
        yield f"{path}.type: {settings.type} {error}"


def _text_problem(field: msgspec.structs.FieldInfo, value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    if field.name == "proxy":
        return None if is_endpoint(value) else NO_ENDPOINT
    if _is_url(field.type):
        return _url_problem(value)
    # Where empty is the default, the provider says what is missing.
    return "must not be empty; leave it out" if not value and field.default != "" else None


def _is_url(type_: Any) -> bool:
    """Url, or Url | None."""
    return any(URL in get_args(part) for part in (type_, *get_args(type_)))


def _url_problem(url: str) -> str | None:
    if not is_endpoint(url):
        return NO_ENDPOINT
    return None if is_safe_url(url) else "must be https, unless its host is loopback"
