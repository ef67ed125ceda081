"""Whether the admission policies of manifests/ guard this cluster: who may use an identity, and what we may write.

A policy counts as installed when it and its binding of the same name are there, are about every Secret, and have
something to refuse; what each expression means is not judged. What can't be read doesn't count.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

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


class _Rule(msgspec.Struct, frozen=True, rename="camel"):
    resources: list[str] = []
    resource_names: list[str] = []
    operations: list[str] = []

    @property
    def every_secret(self) -> bool:
        """Whether each change of any Secret is looked at, as far as this rule goes."""
        return "secrets" in self.resources and "UPDATE" in self.operations and not self.resource_names


class _Constraints(msgspec.Struct, frozen=True, rename="camel"):
    resource_rules: list[_Rule] = []
    exclude_resource_rules: list[Any] = []
    namespace_selector: dict[str, Any] = {}
    object_selector: dict[str, Any] = {}


class _Expression(msgspec.Struct, frozen=True):
    expression: str = ""


class _PolicySpec(msgspec.Struct, frozen=True, rename="camel"):
    failure_policy: str = "Fail"
    match_constraints: _Constraints = _Constraints()
    match_conditions: list[_Expression] = []
    validations: list[_Expression] = []


class _Policy(msgspec.Struct, frozen=True):
    spec: _PolicySpec


class _BindingSpec(msgspec.Struct, frozen=True, rename="camel"):
    policy_name: str = ""
    validation_actions: list[str] = []
    match_resources: dict[str, Any] | None = None
    param_ref: dict[str, Any] | None = None


class _Binding(msgspec.Struct, frozen=True):
    spec: _BindingSpec


async def installed_policies(client: KubeClient, *, user: str) -> dict[str, bool]:
    """For each of POLICIES whether it guards this cluster from `user`, our own name. Raises ApiError."""
    return {name: await _installed(client, name, user) for name in POLICIES}


async def _installed(client: KubeClient, name: str, user: str) -> bool:
    policy = await _read(client, f"{_GROUP}/validatingadmissionpolicies/{name}", _Policy)
    binding = await _read(client, f"{_GROUP}/validatingadmissionpolicybindings/{name}", _Binding)
    return policy is not None and binding is not None and all(_demands(name, user, policy.spec, binding.spec))


def _demands(name: str, user: str, policy: _PolicySpec, binding: _BindingSpec) -> Iterator[bool]:
    constraints = policy.match_constraints
    yield binding.policy_name == name
    yield _ACTIONS[name] in binding.validation_actions
    # Either could leave out some Secrets; manifests/ has neither.
    yield binding.match_resources is None and binding.param_ref is None
    yield any(rule.every_secret for rule in constraints.resource_rules)
    yield not (constraints.exclude_resource_rules or constraints.namespace_selector or constraints.object_selector)
    yield bool(policy.validations) and all(each.expression.strip() != "true" for each in policy.validations)
    # Who only warns may as well warn less.
    yield policy.failure_policy == "Fail" or name == OTHER_NAME
    # About another user it would leave us free to write anything.
    yield name != OWN_WRITES or any(f"'{user}'" in each.expression for each in policy.match_conditions)


async def _read(client: KubeClient, path: str, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(await client.get_object(path), type=kind)
    except (NotFound, Forbidden, ValueError):
        return None
