"""Whether the admission policies of manifests/ guard this cluster: who may use an identity, and what we may write.

A policy counts as installed when it and its binding of the same name are there and do what they are for. What can't
be read doesn't count.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from controller.core.errors import Forbidden, NotFound
from controller.kube.client import KubeClient

USE_IDENTITY = "pull-secret-updater-use-identity"
OWN_WRITES = "pull-secret-updater-own-writes"
OTHER_NAME = "pull-secret-updater-other-name"
POLICIES = (USE_IDENTITY, OWN_WRITES, OTHER_NAME)

_GROUP = "/apis/admissionregistration.k8s.io/v1"
_ACTIONS = {USE_IDENTITY: "Deny", OWN_WRITES: "Deny", OTHER_NAME: "Warn"}

T = TypeVar("T")


class _Condition(msgspec.Struct, frozen=True):
    expression: str = ""


class _PolicySpec(msgspec.Struct, frozen=True, rename="camel"):
    match_conditions: list[_Condition] = []


class _Policy(msgspec.Struct, frozen=True):
    spec: _PolicySpec


class _BindingSpec(msgspec.Struct, frozen=True, rename="camel"):
    policy_name: str = ""
    validation_actions: list[str] = []


class _Binding(msgspec.Struct, frozen=True):
    spec: _BindingSpec


async def installed_policies(client: KubeClient, *, user: str) -> dict[str, bool]:
    """For each of POLICIES whether it guards this cluster from `user`, our own name. Raises ApiError."""
    return {name: await _installed(client, name, user) for name in POLICIES}


async def _installed(client: KubeClient, name: str, user: str) -> bool:
    policy = await _read(client, f"{_GROUP}/validatingadmissionpolicies/{name}", _Policy)
    binding = await _read(client, f"{_GROUP}/validatingadmissionpolicybindings/{name}", _Binding)
    if policy is None or binding is None:
        return False
    if name == OWN_WRITES and not any(f"'{user}'" in each.expression for each in policy.spec.match_conditions):
        return False
    return binding.spec.policy_name == name and _ACTIONS[name] in binding.spec.validation_actions


async def _read(client: KubeClient, path: str, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(await client.get_object(path), type=kind)
    except (NotFound, Forbidden, ValueError):
        return None
