"""The values of Crusoe's chart crusoe-registry-token-rotator become values of ours.

Promises: `config` in the result passes our own check; a value that can't be taken over has a comment that says why, or
is named as unknown; the same input gives the same bytes. What the input doesn't set has the default of Crusoe's chart.

Page: https://github.com/crusoecloud/crusoe-registry-token-rotator-helm-charts, version 1.0.0.
"""

from __future__ import annotations

import io
import textwrap
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from controller import config
from controller.cli.crusoechart import DEFAULTS, Unusable, read
from controller.core.conversion import shown
from controller.core.dockerconfig import normalise
from controller.core.targetconfig import DNS_LABEL, DNS_NAME

_NO_MEANING: Mapping[str, str] = {
    "image.repository": "it is the rotator's image",
    "image.tag": "it is a version of the rotator",
    "image.imagePullSecrets": "it is for the rotator's image; `imagePullSecrets` is for the controller's",
    "imagePullSecrets": "it is for the rotator's image; set it again if the controller's image needs one",
    "schedule": "a token is replaced between 50 % and 65 % of its life; the annotation `refresh` asks for one at once",
    "successfulJobsHistoryLimit": "there are no Jobs",
    "failedJobsHistoryLimit": "there are no Jobs; what fails is an Event at the Secret, and a metric",
}

_ORIGINS: Mapping[str, str] = {
    "providers.crusoe.lifetime": "token.expirationHours",
    "providers.crusoe.alias": "token.alias",
    "refresh.maxLifetime": "token.expirationHours",
    "secretNames": "targetSecret.name",
    "targets[0].secretName": "targetSecret.name",
    "targets[0].namespaces[0].names": "targetSecret.namespaces",
}
"""Where a value of our configuration comes from, for its problems; the rest can be filled in."""

_NO_USER = "fill-in@crusoe.invalid"
_NO_REGISTRY = "fill-in.crusoe.invalid"
"""In place of what only a person can know: well-formed, and reserved by RFC 2606 so that nobody has it."""

_WIDTH = 110
"""Characters of a line of comment."""

_PUSHED = "where you have pushed the controller's image"

_LIFETIME_HOURS = 12
"""Of a token at most, unless refresh.maxLifetime says more."""
_MOST_HOURS = 366 * 24


@dataclass(frozen=True, slots=True)
class Translation:
    """What the command prints."""

    text: str
    """Values of our chart, in YAML."""
    unknown: tuple[str, ...]
    """Keys that their chart doesn't have, in the order of the file, each with a hint if one is near."""
    tasks: tuple[str, ...]
    """What a person has to fill in."""


def translate(theirs: Any) -> Translation:
    """Translate what is in their file of values. Raises Unusable."""
    given, unknown = read(theirs)
    ours = _Ours(given)
    lines = [*ours.heading(), *_commented(ours.values, ours.comments), *ours.closing()]
    text = "".join(f"{line}\n" for line in lines)
    return Translation(text, tuple(unknown), tuple(ours.tasks))


class _Ours:
    """Our values, built part by part, with a comment for each that needs one."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given
        self.values: dict[str, Any] = {}
        self.comments: defaultdict[str, list[str]] = defaultdict(list)
        """By the path of the value that they stand above."""
        self.tasks: list[str] = []
        self._dropped = {key: why for key, why in _NO_MEANING.items() if key in given}
        self.values["config"] = self._config()
        self._credentials()
        self._place()
        self._workload()

    def heading(self) -> Iterator[str]:
        """The lines above the values."""
        yield "# Values of the chart pull-secret-updater, from those of the chart crusoe-registry-token-rotator."
        if self.tasks:
            yield "# What only you know is marked FILL IN."
        if self._dropped:
            yield "#"
            yield "# Not needed any more:"
        for key, why in self._dropped.items():
            yield f"# - {key}: {why}"
        yield ""

    def closing(self) -> Iterator[str]:
        """The lines below the values."""
        if "image" not in self.values:
            yield f"# FILL IN {_PUSHED}:"
            yield "# image: {registry: registry.example.com, repository: pull-secret-updater}"

    def _value(self, key: str) -> Any:
        return self._given.get(key, DEFAULTS[key])

    def _name(self, key: str, *, may_be_empty: bool = False) -> str:
        """The value of a key that is a name in Kubernetes."""
        name = self._value(key)
        if not DNS_NAME.fullmatch(name) and not (may_be_empty and not name):
            raise Unusable(f"{key} must be a valid Kubernetes name, but is {shown(name)}")
        return str(name)

    def _config(self) -> dict[str, Any]:
        """The controller's own file; with a value that passes its check for each that is to be filled in."""
        name = self._name("targetSecret.name")
        user = self._value("targetSecret.registryUsername")
        registry = normalise(self._value("targetSecret.registryUrl"))
        provider = {"type": "crusoe", "user": user, "registries": [registry], **self._token()}
        target = {
            "name": "crusoe",
            "identity": user,
            "secretName": name,
            "namespaces": [{"names": self._namespaces()}],
        }
        ours = {"secretNames": [name], "providers": {"crusoe": provider}, "targets": [target], **self._longest()}
        problems = _problems(ours)
        self._comment(
            "config.secretNames", "Was targetSecret.name. The controller may read Secrets of this name alone."
        )
        self._comment(
            "config.targets[0].secretName",
            "Was targetSecret.name. The rotator's Secrets are in the way: suspend its CronJob, then delete them, and "
            "the controller makes its own at once.",
        )
        self._comment("config.targets[0].namespaces", "Was targetSecret.namespaces.")
        if any(problem.startswith("providers.crusoe.registries") for problem in problems):
            provider["registries"] = [_NO_REGISTRY]
            self._task(
                "config.providers.crusoe.registries",
                f"the registry's host, as in the names of the images{self._unfit('targetSecret.registryUrl')}",
            )
        self._comment("config.providers.crusoe.registries", "Was targetSecret.registryUrl.")
        if any(problem.startswith("providers.crusoe.user") for problem in problems):
            provider["user"] = target["identity"] = _NO_USER
            self._task(
                "config.providers.crusoe.user",
                f"the e-mail of the user whose key it is{self._unfit('targetSecret.registryUsername')}",
            )
            self._task("config.targets[0].identity", "the same e-mail")
        self._comment("config.providers.crusoe.user", "Was targetSecret.registryUsername.")
        for problem in _problems(ours):
            path, _, what = problem.partition(": ")
            raise Unusable(f"{_ORIGINS.get(path, path)}: {what}")
        return ours

    def _namespaces(self) -> list[str]:
        """Exact names: a glob would select more than one namespace in our configuration."""
        names = list(dict.fromkeys(self._value("targetSecret.namespaces"))) or DEFAULTS["targetSecret.namespaces"]
        for name in names:
            if not DNS_LABEL.fullmatch(name):
                raise Unusable(f"targetSecret.namespaces: {shown(name)} is not a valid name of a namespace")
        return list(names)

    def _hours(self) -> int:
        hours = self._value("token.expirationHours")
        if not 1 <= hours <= _MOST_HOURS:
            raise Unusable(f"token.expirationHours must be from 1 to {_MOST_HOURS}, but is {shown(hours)}")
        return int(hours)

    def _token(self) -> dict[str, str]:
        where, alias = "config.providers.crusoe", self._value("token.alias")
        self._comment(
            f"{where}.lifetime",
            "Was token.expirationHours, which the rotator never sees: its tokens live for 12 hours, whatever is set.",
        )
        lifetime = {"lifetime": f"{self._hours()}h"}
        if alias in ("", DEFAULTS["token.alias"]):
            why = "is the same in every cluster by default" if alias else "is empty"
            self.comments[f"{where}.lifetime"] += [
                f"token.alias {why}. FILL IN one of this cluster alone, and the controller deletes its old tokens:",
                "alias: pull-secret-updater-CLUSTER",
            ]
            self.tasks.append(f"{where}.alias: a name of this cluster alone, if old tokens are to be deleted")
            return lifetime
        self._comment(
            f"{where}.alias",
            "Was token.alias. It must be of this cluster alone, since the controller deletes old tokens of this alias.",
        )
        return {**lifetime, "alias": alias}

    def _longest(self) -> dict[str, Any]:
        if self._hours() <= _LIFETIME_HOURS:
            return {}
        self._comment("config.refresh", "Without it no token lives for more than 12 hours, and none needs to.")
        return {"refresh": {"maxLifetime": f"{self._hours()}h"}}

    def _credentials(self) -> None:
        secret = self._name("crusoeCredentialsSecretName")
        keys = {"CRUSOE_ACCESS_KEY": "accessKey", "CRUSOE_SECRET_KEY": "secretKey"}
        self.values["credentials"] = [{"provider": "crusoe", "existingSecret": secret, "keys": keys}]
        self._comment(
            "credentials", "Was crusoeCredentialsSecretName. The Secret must be in the controller's namespace."
        )

    def _place(self) -> None:
        if namespace := self._name("namespace", may_be_empty=True):
            self.values["namespaceOverride"] = namespace
            self._comment(
                "namespaceOverride",
                "Was namespace. The Secret of the key is there. A namespace for the controller alone, with a copy of "
                "that Secret, is safer: whoever may run Pods beside the controller can act as it.",
            )
        for key in ("nameOverride", "fullnameOverride"):
            if name := self._value(key):
                self.values[key] = name
                self._comment(
                    key, f"Was {key}. It must not lead to the names of the rotator's release while that is installed."
                )

    def _workload(self) -> None:
        if name := self._name("rbac.serviceAccount.name", may_be_empty=True):
            self.values["serviceAccount"] = {"name": name}
            self._comment(
                "serviceAccount",
                "Was rbac.serviceAccount.name. While the rotator is installed, it must be another one than its.",
            )
        if "rbac.create" in self._given:
            self.values["rbac"] = {"create": self._given["rbac.create"]}
            self._comment("rbac", "As it was, but the rotator's chart makes its roles whatever this says.")
        parts = {part: self._given.get(f"resources.{part}") for part in ("limits", "requests")}
        if any(value not in (None, DEFAULTS[f"resources.{part}"]) for part, value in parts.items()):
            self.values["resources"] = {part: dict(value) for part, value in parts.items() if value}
            self._comment("resources", "As they were, but the rotator's chart doesn't apply them.")
        elif any(parts.values()):
            self._dropped["resources"] = "they are the rotator's defaults; the controller has its own"
        policy = self._given.get("image.pullPolicy")
        if policy == DEFAULTS["image.pullPolicy"]:
            self._dropped["image.pullPolicy"] = f"{policy} is for the tag latest; the controller's image has a version"
        elif policy is not None:
            if policy not in ("IfNotPresent", "Never"):
                raise Unusable(f"image.pullPolicy must be Always, IfNotPresent or Never, but is {shown(policy)}")
            self.values["image"] = {"pullPolicy": policy}
            self._comment("image", "As it was.")
        self._dropped = {key: self._dropped[key] for key in sorted(self._dropped, key=_rank)}
        if "image" in self.values:
            self._comment("image", f"FILL IN registry and repository too: {_PUSHED}")
        self.tasks.append(f"image.registry, image.repository: {_PUSHED}")

    def _comment(self, path: str, text: str) -> None:
        self.comments[path].append(text)

    def _task(self, path: str, text: str) -> None:
        self.comments[path].append(f"FILL IN {text}.")
        self.tasks.append(f"{path}: {text}")

    def _unfit(self, key: str) -> str:
        """What is wrong with a value that is there."""
        value = self._value(key)
        return f"; {key} is {shown(value)}, which is none" if value else ""


def _rank(key: str) -> int:
    """The place of a key in their chart."""
    return next(index for index, known in enumerate(DEFAULTS) if known.startswith(key))


def _problems(ours: Mapping[str, Any]) -> list[str]:
    """What our own check says about it."""
    try:
        config.load(None, ours)
    except config.ConfigError as error:
        return error.problems
    return []


def _commented(values: Mapping[str, Any], comments: Mapping[str, list[str]]) -> Iterator[str]:
    """The values as YAML, each comment above its own."""
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=float("inf"))
    _, lines = config.parse(io.BytesIO(text.encode()), "the values")
    above: defaultdict[int, list[str]] = defaultdict(list)
    for path, texts in comments.items():
        above[lines[path]] += texts
    for number, line in enumerate(text.splitlines(), start=1):
        indent = line[: len(line) - len(line.lstrip())]
        for comment in above[number]:
            wrapped = textwrap.wrap(comment, _WIDTH, break_long_words=False, break_on_hyphens=False)
            yield from (f"{indent}# {part}" for part in wrapped)
        yield line
