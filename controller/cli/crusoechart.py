"""Crusoe's chart crusoe-registry-token-rotator: the keys of its values, with their defaults, and a file of them read.

Page: https://github.com/crusoecloud/crusoe-registry-token-rotator-helm-charts, version 1.0.0 and before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from controller.core.conversion import did_you_mean, shown

DEFAULTS: Mapping[str, Any] = {
    "image.repository": "ghcr.io/crusoecloud/crusoe-registry-token-rotator",
    "image.tag": "latest",
    "image.pullPolicy": "Always",
    "image.imagePullSecrets": [],
    "imagePullSecrets": [],
    "nameOverride": "",
    "fullnameOverride": "",
    "schedule": "0 */6 * * *",
    "successfulJobsHistoryLimit": 3,
    "failedJobsHistoryLimit": 1,
    "namespace": "crusoe-system",
    "resources.limits": {"cpu": "100m", "memory": "128Mi"},
    "resources.requests": {"cpu": "50m", "memory": "64Mi"},
    "rbac.create": True,
    "rbac.serviceAccount.name": "",
    "crusoeCredentialsSecretName": "crusoe-secrets",
    "token.expirationHours": 12,
    "token.alias": "k8s-cronjob-token-api",
    "targetSecret.name": "crusoe-image-pull-secrets",
    "targetSecret.namespaces": ["default"],
    "targetSecret.registryUrl": "",
    "targetSecret.registryUsername": "",
}
"""Every key of their chart, also of its earlier versions."""

_BRANCHES = {key[: match.start()] for key in DEFAULTS for match in re.finditer(r"\.", key)}


class Unusable(Exception):
    """The values can't be translated; the text is a sentence that says why."""


def read(content: Any) -> tuple[dict[str, Any], list[str]]:
    """Each value that a file sets, by its path, and the keys that the chart doesn't have. Raises Unusable."""
    content = {} if content is None else content
    if not isinstance(content, Mapping):
        raise Unusable(f"must be a mapping of keys to values, but is {shown(content)}")
    unknown: list[str] = []
    return dict(_leaves(content, "", unknown)), unknown


def _leaves(content: Mapping[Any, Any], prefix: str, unknown: list[str]) -> Iterator[tuple[str, Any]]:
    """Each value that is set, by its path; null is none, as in Helm. Adds the other keys to `unknown`."""
    for key, value in content.items():
        path = f"{prefix}{key}"
        if isinstance(key, str) and "." not in key and path in _BRANCHES:
            if value is not None and not isinstance(value, Mapping):
                raise Unusable(f"{path} must be a mapping of keys to values, but is {shown(value)}")
            yield from _leaves(value or {}, f"{path}.", unknown)
        elif not isinstance(key, str) or "." in key or path not in DEFAULTS:
            unknown.append(f"{prefix}{shown(key).strip(chr(39))}{did_you_mean(path, DEFAULTS)}")
        elif value is not None:
            yield path, _checked(path, value)


def _checked(path: str, value: Any) -> Any:
    """The value, if it is of the kind that their chart takes there. Raises Unusable."""
    match DEFAULTS[path]:
        case bool():
            kind, fits = "true or false", isinstance(value, bool)
        case int():
            value = int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value) else value
            kind, fits = "a whole number", isinstance(value, int) and not isinstance(value, bool)
        case str():
            kind, fits = "text", isinstance(value, str)
        case list() if path.endswith("imagePullSecrets"):
            kind, fits = "a list", isinstance(value, list)
        case list():
            kind, fits = "a list of texts", isinstance(value, list) and all(isinstance(item, str) for item in value)
        case _:
            kind, fits = (
                "a mapping of texts to quantities",
                isinstance(value, Mapping)
                and all(
                    isinstance(key, str) and isinstance(item, str | int | float) and not isinstance(item, bool)
                    for key, item in value.items()
                ),
            )
    if not fits:
        raise Unusable(f"{path} must be {kind}, but is {shown(value)}")
    return value.strip() if isinstance(value, str) else value
