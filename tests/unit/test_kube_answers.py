"""What an error says of the API server's reason, and that it says no more. The answers are those of a real 1.37."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from controller.kube.answers import error_from, read_status

CONTROLLER = "system:serviceaccount:pull-secret-updater:controller"
CANNOT = f'is forbidden: User "{CONTROLLER}" cannot'
OURS = "pull-secret-updater-own-writes"
DENIED = (
    f"secrets \"pull-secret\" is forbidden: ValidatingAdmissionPolicy '{OURS}' with binding '{OURS}' denied request: "
)


def told(code: int, reason: str, message: str, *fields: str) -> str:
    """The text of the error."""
    details: dict[str, Any] = {"causes": [{"reason": "FieldValueInvalid", "field": field} for field in fields]}
    status = {"kind": "Status", "code": code, "reason": reason, "message": message, "details": details}
    return str(error_from("patch secret", code, read_status(msgspec.json.encode(status))))


WHERE = 'in the namespace "t-1"'
POLICIES = "validatingadmissionpolicies"
NO = 'admission webhook "no.example.com" denied the request'


@pytest.mark.parametrize(
    ("code", "message", "says"),
    [
        (
            403,
            f'secrets {CANNOT} list resource "secrets" in API group "" at the cluster scope',
            "cannot list secrets at the cluster scope",
        ),
        (
            403,
            f'secrets "a" {CANNOT} patch resource "secrets" in API group "" {WHERE}: RBAC: role not found',
            "cannot patch secrets in the namespace t-1",
        ),
        (
            403,
            f'{POLICIES}.x.k8s.io "y" {CANNOT} get resource "{POLICIES}" in API group "x.k8s.io" at the cluster scope',
            f"cannot get {POLICIES} at the cluster scope",
        ),
        (403, f"{DENIED}the controller may not", f"denied by ValidatingAdmissionPolicy {OURS}"),
        (422, f"{DENIED}the controller may not", f"denied by ValidatingAdmissionPolicy {OURS}"),
        (400, f"{NO}: because", "denied by admission webhook no.example.com"),
        (403, f"{NO} without explanation", "denied by admission webhook no.example.com"),
        (
            500,
            'Internal error occurred: failed calling webhook "down.example.com": failed to call webhook: Post "https://x',
            "admission webhook down.example.com can't be called",
        ),
    ],
)
def test_a_refusal_names_who_refused_or_what_is_not_allowed(code: int, message: str, says: str) -> None:
    assert told(code, "Some", message) == f"patch secret: {code} Some, {says}"


def test_an_invalid_object_names_its_fields() -> None:
    message = 'Secret "pull-secret" is invalid: type: Invalid value: "Opaque": field is immutable'
    assert told(422, "Invalid", message, "type") == "patch secret: 422 Invalid, invalid: type"
    fields = ("metadata.labels", "metadata.annotations", "data[.dockerconfigjson]", "type")
    assert told(422, "Invalid", "x", *fields) == f"patch secret: 422 Invalid, invalid: {', '.join(fields[:3])}"


CANARY = "eyJhbGciOiJub25lIn0"


@pytest.mark.parametrize(
    "message",
    [
        "",
        "a message",
        f"{DENIED}{CANARY}",
        f"{CANARY} {DENIED}",
        f"x\n{DENIED}",
        f"secrets is forbidden: ValidatingAdmissionPolicy '{CANARY}' denied request",
        f'secrets is forbidden: User "{CANARY}" cannot list resource "secrets" in API group "" at the cluster scope',
        f'secrets is forbidden: User "a" cannot {CANARY} resource "secrets" in API group "" at the cluster scope',
        f'secrets is forbidden: User "a" cannot list resource "{CANARY}" in API group "" at the cluster scope',
        f'secrets is forbidden: User "a" cannot list resource "secrets" in API group "" in the namespace "{CANARY}"',
        f'admission webhook "{CANARY}" denied the request',
        f'admission webhook "no.example.com" denied the request: {CANARY}',
        f"{CANARY} cannot list secrets",
        'secrets is forbidden: User "a" cannot list resource "secrets"' * 100_000,
    ],
)
def test_nothing_else_of_a_message_is_repeated(message: str) -> None:
    text = told(403, "Forbidden", message, CANARY, f"data.{CANARY} x", "data\n")
    assert CANARY not in text
    assert len(text) < 400
    assert text.isprintable()
