"""Whether the admission policies of manifests/ guard this cluster.

They decide which users may use an identity, and what the controller itself may write. A policy guards the cluster when
its whole spec and that of its binding are those of manifests/policies, which this package contains: a single foreign
match condition can switch a policy off. Three things may be different: white space (Kustomize adds some), our own user
name, and the list of audiences in the policy tenant-proof, which is the operator's.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from importlib import resources
from typing import Any

import msgspec
import yaml

from controller.kube.client import KubeClient
from controller.kube.errors import Forbidden, NotFound

PREFIX = "pull-secret-updater"
USE_IDENTITY = "pull-secret-updater-use-identity"
OWN_WRITES = "pull-secret-updater-own-writes"
OTHER_NAME = "pull-secret-updater-other-name"
TARGETS = "pull-secret-updater-targets"
SERVICE_ACCOUNTS = "pull-secret-updater-service-accounts"
ASK = "pull-secret-updater-ask"
TENANT_PROOF = "pull-secret-updater-tenant-proof"
POLICIES = (USE_IDENTITY, OWN_WRITES, OTHER_NAME)
"""Always; the others only where what they guard is configured."""

_COMPONENTS = {
    TARGETS: "targets",
    SERVICE_ACCOUNTS: "service-accounts",
    ASK: "service-accounts",
    TENANT_PROOF: "tenant-proof",
}
"""Which component of manifests/ brings the others."""

_TEXTS = re.compile(r"\[\s*('[^'\\]*'\s*(,\s*'[^'\\]*'\s*)*)?\]")
"""A list in CEL of texts without escapes."""

_GROUP = "/apis/admissionregistration.k8s.io/v1"
_RESOURCES = {"policy": "validatingadmissionpolicies", "binding": "validatingadmissionpolicybindings"}
_KINDS = {"ValidatingAdmissionPolicy": "policy", "ValidatingAdmissionPolicyBinding": "binding"}
_USER = "system:serviceaccount:pull-secret-updater:controller"
"""As manifests/policies has it; Kustomize puts in the one that is configured there."""

_Spec = dict[str, Any]


class _Object(msgspec.Struct, frozen=True):
    kind: str
    spec: _Spec


async def policy_problems(
    client: KubeClient, *, user: str, policies: Sequence[str] = POLICIES, prefix: str = PREFIX
) -> dict[str, str | None]:
    """For each policy why it doesn't guard this cluster from `user`, our own name; None if it does.

    In the cluster their names begin with `prefix`. Says what heals it, too. Raises ApiError.
    """
    return {name: await _problem(client, name, user, policies, prefix) for name in policies}


async def _problem(client: KubeClient, name: str, user: str, policies: Sequence[str], prefix: str) -> str | None:
    there, targets = prefix + name.removeprefix(PREFIX), TARGETS in policies
    for what, resource in _RESOURCES.items():
        try:
            body = await client.get_object(f"{_GROUP}/{resource}/{there}")
            found = msgspec.json.decode(body, type=_Object).spec
        except NotFound:
            return f"the {what} is missing; {_applying(name)} creates it"
        except Forbidden as error:
            return f"the {what} can't be read: {error}; {_applying(name)} grants that"
        except (ValueError, RecursionError) as error:
            return f"the {what} can't be read: {type(error).__name__}"
        wanted = _wanted(name, what, user=user, targets=targets)
        if (name, what) == (TENANT_PROOF, "policy"):
            _take_audiences(wanted, found)
        if what == "binding":
            wanted["policyName"] = there
        place = _difference(wanted, found, "spec")
        if place is not None:
            return (
                f"the {what} differs in {place} from the one that this version was built with, for the user {user}; "
                f"since apply keeps what others added: kubectl replace --save-config -k manifests/"
            )
    return None


def _applying(name: str) -> str:
    """The command that installs a policy, and the right to read it."""
    if name in POLICIES:
        return "kubectl apply -k manifests/"
    return f"kubectl apply -k of an overlay with components/{_COMPONENTS[name]}"


def _wanted(name: str, what: str, *, user: str, targets: bool) -> _Spec:
    """The spec that guards this cluster: ours, for our own user name, and with targets or without."""
    built_with = json.dumps(_built_with(name)[what])
    spec: _Spec = json.loads(built_with.replace(f"'{_USER}'", json.dumps(f"'{user}'")[1:-1]))
    if (name, what) == (OWN_WRITES, "policy"):
        spec["variables"][0]["expression"] = str(targets).lower()
    return spec


def _take_audiences(wanted: _Spec, found: _Spec) -> None:
    """Expect the audiences that are there, if they are a list of texts and nothing that could be true of any."""
    variables = found.get("variables")
    first = variables[0] if isinstance(variables, list) and variables else None
    expression = first.get("expression") if isinstance(first, dict) else None
    if isinstance(expression, str) and _TEXTS.fullmatch(expression):
        wanted["variables"][0]["expression"] = expression


@functools.cache
def _built_with(name: str) -> dict[str, _Spec]:
    """The specs of a policy and its binding, as the API server shows them once they are installed."""
    short = name.removeprefix(f"{PREFIX}-")
    directory = resources.files("controller.kube") / "policies"
    file = (directory if name in POLICIES else directory / _COMPONENTS[name]) / f"{short}.yaml"
    objects = [msgspec.convert(each, _Object) for each in yaml.safe_load_all(file.read_text(encoding="utf-8"))]
    specs = {_KINDS[each.kind]: each.spec for each in objects}
    constraints = specs["policy"]["matchConstraints"]
    constraints |= {"matchPolicy": "Equivalent", "namespaceSelector": {}, "objectSelector": {}}
    constraints["resourceRules"] = [{"scope": "*", **rule} for rule in constraints["resourceRules"]]
    return specs


def _difference(wanted: Any, found: Any, place: str) -> str | None:
    """The first place where two specs differ in more than white space; None if there is none.

    No string of ours changes its meaning with the amount of white space in it, and none has a comment.
    """
    match wanted, found:
        case dict(), dict():
            inner = [
                (wanted.get(key), found.get(key), f"{place}.{key}") for key in sorted(wanted.keys() | found.keys())
            ]
        case list(), list() if len(wanted) == len(found):
            inner = [(*pair, f"{place}[{index}]") for index, pair in enumerate(zip(wanted, found, strict=True))]
        case str(), str():
            return None if wanted.split() == found.split() else place
        case _:
            return None if wanted == found else place
    return next((deeper for each in inner if (deeper := _difference(*each)) is not None), None)
