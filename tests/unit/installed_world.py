"""A cluster with the controller in it, as an ApiTable: all is good, until a test changes an answer."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

from controller import __version__
from controller.core.annotations import PREFIX, render_instant
from controller.kube.admission import POLICIES, _built_with
from tests.unit.api_table import ApiTable, Refusal

NOW = 1_800_000_000.5
NS = "pull-secret-updater"
ISSUER = "https://issuer.example"
ADMISSION = "/apis/admissionregistration.k8s.io/v1"
DEPLOYMENTS = "GET /apis/apps/v1/deployments"
CONFIGMAP = f"GET /api/v1/namespaces/{NS}/configmaps/config"
REVIEWS = "POST /apis/authorization.k8s.io/v1/subjectaccessreviews"
TOKEN = f"POST /api/v1/namespaces/{NS}/serviceaccounts/controller/token"
DRY_RUN = f"POST /api/v1/namespaces/{NS}/secrets"
DENIED = (
    "secrets \"x\" is forbidden: ValidatingAdmissionPolicy 'pull-secret-updater-other-name' with binding "
    "'pull-secret-updater-other-name' denied request: no"
)

World = dict[str, Any]


def part(content: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


def jwt(*, issuer: str = ISSUER, kid: str = "key-1") -> str:
    return f"{part({'kid': kid})}.{part({'iss': issuer, 'sub': f'system:serviceaccount:{NS}:controller'})}.signature"


def secret(name: str = "pull-secret", **ours: str) -> dict[str, Any]:
    written = {
        "identity": "an-identity",
        "issued-at": render_instant(NOW - 600),
        "expires-at": render_instant(NOW + 3000),
        "refresh-at": render_instant(NOW + 1200),
        "issued-for": "0123456789abcdef",
        "fingerprint": "fedcba9876543210",
        "registries-managed": "cgr.dev",
        **ours,
    }
    metadata = {"name": name, "namespace": "team-a", "uid": name, "resourceVersion": "1"}
    return {"metadata": {**metadata, "annotations": {PREFIX + key: value for key, value in written.items() if value}}}


def deployment(*, available: int = 1, version: str = __version__, audience: str = "issuer.enforce.dev") -> World:
    token = {"serviceAccountToken": {"audience": audience, "path": "oidc-token"}}
    volumes = [{"configMap": {"name": "config"}}, {"projected": {"sources": [token]}}]
    containers = [{"image": f"registry.example:5000/pull-secret-updater:{version}"}]
    pod = {"serviceAccountName": "controller", "containers": containers, "volumes": volumes}
    return {
        "metadata": {"name": "controller", "namespace": NS},
        "spec": {"replicas": 1, "template": {"spec": pod}},
        "status": {"availableReplicas": available},
    }


def pod(*names: str) -> World:
    spec = {"imagePullSecrets": [{"name": name} for name in names]}
    return {"metadata": {"name": "web", "namespace": "team-a"}, "spec": spec}


def review(*refused: str, wide: bool = False) -> Callable[[Any, Any], World]:
    """Allows all that is named, but for these resources; with `wide` also what has no name."""

    def answer(_: Any, body: Any) -> World:
        attributes = body["spec"]["resourceAttributes"]
        nameless = attributes["resource"] == "secrets" and not attributes["name"]
        return {"status": {"allowed": attributes["resource"] not in refused and (wide or not nameless)}}

    return answer


def healthy() -> World:
    """The answers of a cluster in which all is good."""
    specs = {name: _built_with(name) for name in POLICIES}
    return {
        "POST /apis/authentication.k8s.io/v1/selfsubjectreviews": {"status": {"userInfo": {"username": "admin"}}},
        "GET /version": {"gitVersion": "v1.37.2"},
        f"GET {ADMISSION}": {"resources": [{"name": "validatingadmissionpolicies"}]},
        DEPLOYMENTS: [deployment()],
        CONFIGMAP: {"data": {"config.yaml": "providers: {chainguard: {type: chainguard}}"}},
        f"GET /api/v1/namespaces/{NS}": {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}},
        REVIEWS: review(),
        **{
            f"GET {ADMISSION}/{resource}/{name}": {"kind": "Any", "spec": copy.deepcopy(specs[name][what])}
            for what, resource in (
                ("policy", "validatingadmissionpolicies"),
                ("binding", "validatingadmissionpolicybindings"),
            )
            for name in POLICIES
        },
        DRY_RUN: Refusal(403, DENIED),
        "GET /.well-known/openid-configuration": {"issuer": ISSUER},
        "GET /openid/v1/jwks": {"keys": [{"kid": "key-1"}]},
        TOKEN: {"status": {"token": jwt()}},
        "GET /api/v1/secrets": [secret()],
        "GET /api/v1/events": [],
        "GET /api/v1/pods": [pod("pull-secret")],
        "GET /api/v1/serviceaccounts": [],
    }


def table(changed: World) -> ApiTable:
    return ApiTable(lambda: NOW, {**healthy(), **changed})
