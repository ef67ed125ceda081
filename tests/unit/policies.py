"""The admission policies of manifests/ in a FakeApi, as an API server shows them once they are installed."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.unit.fake_api import FakeApi, Object

DIRECTORY = Path(__file__).parents[2] / "manifests" / "policies"
SHIPPED_USER = "system:serviceaccount:pull-secret-updater:controller"
_GROUP = "/apis/admissionregistration.k8s.io/v1"


def install(api: FakeApi, *policies: str, user: str | None = None) -> None:
    """Policies and bindings, by name, for the controller that the server knows or for another user."""
    for policy in policies:
        (file,) = DIRECTORY.rglob(f"{policy.removeprefix('pull-secret-updater-')}.yaml")
        text = file.read_text()
        for each in yaml.safe_load_all(text.replace(SHIPPED_USER, user or api.user)):
            if each["kind"] == "ValidatingAdmissionPolicy":
                constraints = each["spec"]["matchConstraints"]
                constraints |= {"matchPolicy": "Equivalent", "namespaceSelector": {}, "objectSelector": {}}
                constraints["resourceRules"][0]["scope"] = "*"
            api.objects[path(each["kind"], policy)] = each


def path(kind: str, name: str) -> str:
    """Where the API serves it."""
    plural = {"ValidatingAdmissionPolicy": "validatingadmissionpolicies"}.get(kind, f"{kind.lower()}s")
    return f"{_GROUP}/{plural}/{name}"


def policy_spec(api: FakeApi, name: str) -> Object:
    """The installed policy's, to tamper with."""
    spec: Object = api.objects[path("ValidatingAdmissionPolicy", name)]["spec"]
    return spec


def binding_spec(api: FakeApi, name: str) -> Object:
    """The installed binding's, to tamper with."""
    spec: Object = api.objects[path("ValidatingAdmissionPolicyBinding", name)]["spec"]
    return spec
