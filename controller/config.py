"""The configuration: file, environment and flags become one frozen Config, or one error that names every problem.

Fields are camelCase in the file and snake_case in code. Every field has a default, so an empty file works. An unknown
key is a problem, because a misspelt one would otherwise do nothing in silence.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal

import msgspec
import yaml

from controller.core.conversion import Seconds, convert, fields_of, one_of, shown
from controller.core.schedule import RefreshWindow
from controller.core.targetconfig import DNS_LABEL, DNS_NAME, TargetSettings, target_problems
from controller.net.transport import is_ca_file
from controller.providers import TYPES, accept_the_same
from controller.providers.contract import MissingExtra
from controller.providers.settings import ProviderSettings, common_problems, text_problem

Scope = Literal["name", "namespaces", "cluster"]

_PROVIDER_NAME_LENGTH = 40
_RESERVED_NAME = "arn"
"""With a provider of this name, RBAC could not tell its identities, `arn:...`, from AWS roles without a provider."""
_MAX_FILE_BYTES = 1024 * 1024
_MAX_KEYS = 10_000
_SHORTEST_MAX_LIFETIME_SECONDS = 60
_SHORTEST_RECHECK_SECONDS = 10


class Refreshing(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """When to refresh: between these shares of a token's life, which counts at most `max_lifetime`."""

    from_: float = msgspec.field(name="from", default=0.50)
    to: float = 0.65
    max_lifetime: Seconds = Seconds(12 * 3600)

    @property
    def window(self) -> RefreshWindow:
        """The same for core."""
        return RefreshWindow(self.from_, self.to, float(self.max_lifetime))


class Removal(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """When a target's Secrets are removed from namespaces that it no longer selects."""

    most: int = 10
    share: float = 0.2
    """More at once than `most`, and this share of a target's or more, and none is removed until `most` is raised."""
    grace: Seconds = Seconds(600)
    """Since labels flap."""


class NamespaceLimits(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How much one namespace may have; None for any number, since no default suits every cluster."""

    secrets: int | None = None
    """Secrets that are served, the oldest first."""
    mints_per_minute: float | None = None
    """Per provider; beyond it the namespace's mints wait, and those of others don't."""


class Limits(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How much at once; mints and writes each per provider."""

    mints_per_second: float = 20.0
    mint_concurrency: int = 16
    write_concurrency: int = 32
    removal: Removal = Removal()
    per_namespace: NamespaceLimits = NamespaceLimits()


class AskingAccounts(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Whether ServiceAccounts may ask for a Secret, by annotations of their own; and what these are called."""

    enabled: bool = False
    names: tuple[str, ...] = ("pull-secret",)

    @property
    def asking(self) -> tuple[str, ...]:
        """Those that may; none where it isn't enabled."""
        return self.names if self.enabled else ()


class Granting(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Who says that an identity may be used, and what happens when that is taken back."""

    check: Literal["admission", "namespace", "both"] = "admission"
    """Whoever writes the Secret, when it is written; its namespace, before each mint; or both."""
    recheck: Seconds = Seconds(60)
    """How long a yes about a namespace is good."""
    on_revoke: Literal["keep", "wipe"] = "keep"
    """Leave the token until its end, or take it out of the Secret."""

    @property
    def asks_namespaces(self) -> bool:
        """Whether namespaces need grants."""
        return self.check != "admission"

    def __str__(self) -> str:
        """In words."""
        asked = "asked before each mint whether the namespace may use the identity"
        by = f"{asked}, beside whoever writes the Secret" if self.check == "both" else asked
        end = "taken out of the Secret" if self.on_revoke == "wipe" else "kept until its end"
        return f"{by}; a yes is good for {self.recheck:g} s; after a no the token is {end}"


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Everything that the operator decides."""

    scope: Scope = "name"
    secret_names: tuple[str, ...] = ("pull-secret",)
    """Watched in scope `name`, in all namespaces."""
    namespaces: tuple[str, ...] = ()
    """Watched in scope `namespaces`."""
    require_policies: bool = False
    """Don't start where the admission policies are missing."""
    policy_prefix: str = "pull-secret-updater"
    """How the names of the admission policies begin in this cluster: with several installations, each has its own."""
    per_secret_metrics: bool = False
    """One series per Secret more; off, because it grows with them."""
    providers: Mapping[str, ProviderSettings] = {}
    targets: tuple[TargetSettings, ...] = ()
    service_accounts: AskingAccounts = AskingAccounts()
    grants: Granting = Granting()
    refresh: Refreshing = Refreshing()
    limits: Limits = Limits()

    @property
    def warnings(self) -> list[str]:
        """What works, but perhaps not as it was meant."""
        pairs = itertools.combinations(self.providers.items(), 2)
        return [
            f"providers {one} and {other} take the same identities, so a Secret is filled only if its annotations name "
            "the provider, or registries that only one of them has; set default: true on the one for all others"
            for (one, a), (other, b) in pairs
            if accept_the_same(a.type, b.type) and not (a.default or b.default)
        ] + [
            f"target {target.name} selects every namespace, now and in future, but those of the system and "
            "the controller's own"
            for target in self.targets
            if any(entry.is_everything for entry in target.namespaces)
        ]

    @property
    def watches(self) -> int:
        """How many watches the API server gets."""
        return {"name": len(self.secret_names), "namespaces": len(self.namespaces), "cluster": 1}[self.scope]

    @property
    def watched(self) -> str:
        """Which Secrets, in words."""
        match self.scope:
            case "name":
                return f"Secrets called {', '.join(self.secret_names)} in all namespaces"
            case "namespaces":
                return f"pull Secrets in the namespaces {', '.join(self.namespaces)}"
            case "cluster":
                return "pull Secrets in all namespaces"


class ConfigError(Exception):
    """Everything that is wrong with the configuration, a line each: `path: problem`, in the order of the file."""

    def __init__(self, problems: list[str], lines: Mapping[str, int]) -> None:
        self.problems = [text for _, text in sorted((self._line(lines, text), text) for text in problems)]
        super().__init__("\n".join(self.problems))
        self.lines = [f"line {line}: {text}" if (line := self._line(lines, text)) else text for text in self.problems]
        """The same, each with its line where it has one."""

    @staticmethod
    def _line(lines: Mapping[str, int], problem: str) -> int:
        """The line of the key that a problem is about, or of the nearest around it; 0 if there is none."""
        path = problem.partition(": ")[0]
        while path not in lines and path:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return lines.get(path, 0)


def load(path: Path | None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read the file, put `overrides` (by the keys of the file) over it, and check the whole. Raises ConfigError."""
    content, lines = _read(path) if path is not None else ({}, {})
    return check(content, lines, overrides)


def check(content: Any, lines: Mapping[str, int], overrides: Mapping[str, Any] | None = None) -> Config:
    """The same of what `parse` has found in a file. Raises ConfigError."""
    problems: list[str] = []
    content = {} if content is None else content
    if not isinstance(content, Mapping):
        raise ConfigError([f"the file: must be a mapping of keys to values, but is {shown(content)}"], {})
    twice = [key for key, value in (overrides or {}).items() if key in content and content[key] != value]
    problems += [f"{key}: a flag or the environment sets it to another value; set it in one place" for key in twice]
    values = {"providers": {"chainguard": {"type": "chainguard"}}, **content, **(overrides or {})}
    providers = _providers(values.pop("providers"), problems)
    converted = convert(Config, values, "", problems) or Config()
    config = msgspec.structs.replace(converted, providers=providers)
    wrong = {problem.partition(":")[0] for problem in problems}
    wrong |= {path.rpartition("[")[0] for path in wrong if path.endswith("]")}  # a list is wrong where an item is
    problems += [p for p in _config_problems(config, values, wrong) if p.partition(":")[0] not in wrong]
    for name, settings in providers.items():
        problems += [p for p in _provider_problems(name, settings) if p.partition(":")[0] not in wrong]
    if problems:
        overridden = (overrides or {}).keys() - content.keys()
        raise ConfigError(problems, {key: lines[key] for key in lines if key.split(".")[0] not in overridden})
    return config


def _read(path: Path) -> tuple[Any, dict[str, int]]:
    """What is in the file, and the line of each key by its path. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            return parse(file, str(path))
    except OSError as error:
        raise ConfigError([f"{path}: can't be read: {error.strerror}"], {}) from error


def parse(file: IO[bytes], name: str) -> tuple[Any, dict[str, int]]:
    """The YAML in an open file, and the line of each key by its path. Raises ConfigError, which says `name`."""
    text = file.read(_MAX_FILE_BYTES + 1)
    if len(text) > _MAX_FILE_BYTES:
        raise ConfigError([f"{name}: is larger than 1 MiB"], {})
    try:
        loader = _Loader(text.decode())
        node = loader.get_single_node()
        return ({}, {}) if node is None else (loader.construct_document(node), dict(_lines(node, "")))
    except UnicodeDecodeError as error:
        raise ConfigError([f"{name}: is not text in UTF-8"], {}) from error
    except RecursionError as error:
        raise ConfigError([f"{name}: is nested too deeply"], {}) from error
    except yaml.YAMLError as error:
        mark, reason = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(
            [f"{name}: is not valid YAML{where}: {reason or 'it has a character that YAML forbids'}"], {}
        ) from error


def _lines(node: yaml.Node, path: str) -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = f"{path}.{key.value}" if path else str(key.value)
            yield inner, key.start_mark.line + 1
            if value.start_mark.index >= key.start_mark.index:  # an alias leads back, perhaps to itself
                yield from _lines(value, inner)
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield f"{path}[{index}]", item.start_mark.line + 1
            if item.start_mark.index >= node.start_mark.index:
                yield from _lines(item, f"{path}[{index}]")


class _Loader(yaml.SafeLoader):
    """Gives each problem its place, and refuses what YAML takes and nobody means.

    Of a key that is given twice YAML would take the last, and the other would silently do nothing.
    """

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, LookupError, AttributeError) as error:  # a date that doesn't exist, say, or !!bool maybe
            problem = "a value is not what it looks like; put it in quotes if it is text"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from error

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > _MAX_KEYS:  # merge keys in merge keys multiply
            raise yaml.MarkedYAMLError(problem="a mapping has too many keys", problem_mark=node.start_mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key is not text", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value} is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def _providers(value: Any, problems: list[str]) -> dict[str, ProviderSettings]:
    if not isinstance(value, Mapping) or not value:
        problems.append(f"providers: must be a mapping of names to at least one provider, but is {shown(value)}")
        return {}
    providers: dict[str, ProviderSettings] = {}
    for name, content in value.items():
        path = f"providers.{name}"
        if not isinstance(name, str) or not DNS_LABEL.fullmatch(name) or len(name) > _PROVIDER_NAME_LENGTH:
            problems.append(f"{path}: the name must be a DNS label of at most {_PROVIDER_NAME_LENGTH} characters")
        if name == _RESERVED_NAME:
            problems.append(f"{path}: a provider can't be called {name}, since AWS identities begin with it; rename it")
        if not isinstance(content, Mapping):
            problems.append(f"{path}: must be a mapping of keys to values, but is {shown(content)}")
        elif not isinstance(type_ := content.get("type"), str) or type_ not in TYPES:
            problems.append(f"{path}.type: {one_of(sorted(TYPES), type_)}")
        elif (settings := convert(TYPES[type_].SETTINGS, content, path, problems)) is not None:
            providers[str(name)] = settings
    return providers


def _config_problems(config: Config, values: Mapping[str, Any], wrong: Collection[str]) -> Iterator[str]:
    """What is wrong across fields; nothing that follows from a key which is `wrong` itself."""
    for key, used_in, names in (
        ("secretNames", "name", config.secret_names),
        ("namespaces", "namespaces", config.namespaces),
    ):
        if "scope" not in wrong and config.scope == used_in and not names:
            yield f"{key}: must name at least one {'Secret' if used_in == 'name' else 'namespace'} in scope {used_in}"
        if "scope" not in wrong and config.scope != used_in and values.get(key):
            yield f"{key}: is only used in scope {used_in}; set scope, or remove it"
        yield from (f"{key}: {shown(n)} is not a valid Kubernetes name" for n in names if not DNS_NAME.fullmatch(n))
        # Each would get a watch of its own.
        yield from (f"{key}: {shown(name)} is given twice" for name, times in Counter(names).items() if times > 1)
    refresh = config.refresh
    if refresh.max_lifetime < _SHORTEST_MAX_LIFETIME_SECONDS:
        yield f"refresh.maxLifetime: must be at least 1m, but is {refresh.max_lifetime:g}s"
    if not {"refresh.from", "refresh.to"} & set(wrong) and not 0.1 <= refresh.from_ <= refresh.to <= 0.8:
        # Later than 80 % leaves an outage of the issuer too little time; earlier than 10 % is a mint storm.
        yield f"refresh: from {refresh.from_:g} and to {refresh.to:g} must be shares with 0.1 <= from <= to <= 0.8"
    for (one, a), (other, b) in itertools.combinations(config.providers.items(), 2):
        if a.default and b.default and accept_the_same(a.type, b.type):
            yield f"providers.{other}.default: {one} is the default for the same identities already; remove one"
    if not DNS_NAME.fullmatch(config.policy_prefix):
        yield f"policyPrefix: {shown(config.policy_prefix)} is not a valid Kubernetes name"
    yield from _limits_problems(config.limits)
    yield from _grants_problems(config.grants, wrong)
    asking = config.service_accounts.names
    yield from (
        f"serviceAccounts.names: {shown(n)} is not a valid Kubernetes name" for n in asking if not DNS_NAME.fullmatch(n)
    )
    if config.service_accounts.enabled and not asking:
        yield "serviceAccounts.names: must name at least one ServiceAccount"
    watched = None if config.scope != "name" or {"scope", "secretNames"} & set(wrong) else config.secret_names
    places = config.namespaces if config.scope == "namespaces" and "scope" not in wrong else None
    yield from target_problems(config.targets, watched=watched, namespaces=places, providers=config.providers)


def _limits_problems(limits: Limits) -> Iterator[str]:
    for field in fields_of(Limits):
        limit = getattr(limits, field.name)
        if isinstance(limit, int | float) and not limit > 0:  # NaN too
            yield f"limits.{field.encode_name}: must be more than 0, but is {limit}"
    for field in fields_of(NamespaceLimits):
        limit = getattr(limits.per_namespace, field.name)
        if limit is not None and not limit > 0:
            yield f"limits.perNamespace.{field.encode_name}: must be more than 0, but is {limit}"
    if limits.removal.most < 0:
        yield f"limits.removal.most: must be 0 or more, but is {limits.removal.most}"
    if not 0 <= limits.removal.share <= 1:
        yield f"limits.removal.share: must be between 0 and 1, but is {limits.removal.share:g}"


def _grants_problems(grants: Granting, wrong: Collection[str]) -> Iterator[str]:
    if grants.recheck < _SHORTEST_RECHECK_SECONDS:
        yield f"grants.recheck: must be at least 10s, but is {grants.recheck:g}s"
    if grants.on_revoke == "wipe" and not grants.asks_namespaces and "grants.check" not in wrong:
        yield "grants.onRevoke: wipe is only used with check: namespace or both; set that, or remove onRevoke"


def _provider_problems(name: str, settings: ProviderSettings) -> Iterator[str]:
    path = f"providers.{name}"
    yield from (f"{path}.{problem}" for problem in common_problems(settings))
    if settings.ca_file and not is_ca_file(Path(settings.ca_file)):
        # A missing file is reported when it is needed, like a missing proof: this may be another machine.
        yield f"{path}.caFile: can't be read, or has no certificate in PEM format"
    for field in fields_of(type(settings)):
        if problem := text_problem(field, getattr(settings, field.name)):
            yield f"{path}.{field.encode_name}: {problem}"
    try:
        yield from (f"{path}.{problem}" for problem in settings.problems())
    except MissingExtra as error:
        yield f"{path}.type: {settings.type} {error}"
