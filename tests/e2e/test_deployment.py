"""The Deployment of manifests/, run as a node would run it: its own arguments, environment and configuration."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from testing.controller import CONFIG, ControllerProcess
from testing.exchange import Issuer
from tests.e2e.support import installed
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.tenant import Tenant

Start = Callable[..., ControllerProcess]
Tenants = Callable[[], Tenant]
ROLES = {"Role", "RoleBinding"}


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """What `kubectl apply -k` of a directory would send."""

    objects: list[dict[str, Any]]

    def container(self) -> dict[str, Any]:
        """Of the Deployment's Pod."""
        (deployment,) = [each for each in self.objects if each["kind"] == "Deployment"]
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        return dict(container)

    def configuration(self) -> dict[str, Any]:
        """The file in the Pod, but for its provider, which the tests lead to the stand-in."""
        (data,) = [each["data"] for each in self.objects if each["kind"] == "ConfigMap"]
        return {key: value for key, value in yaml.safe_load(data[Path(CONFIG).name]).items() if key != "providers"}

    def run(self, start: Start) -> ControllerProcess:
        """As the Pod of the Deployment."""
        container = self.container()
        assert CONFIG in container["args"], "the file is where the stand-in for the Pod looks for it"
        env = {each["name"]: each["value"] for each in container.get("env", ())}
        return start(args=tuple(container["args"]), env=env, config=self.configuration())


def render(cluster: Cluster, directory: Path) -> Rendered:
    """With kubectl's own Kustomize."""
    return Rendered(objects=list(yaml.safe_load_all(cluster.kubectl("kustomize", str(directory)).stdout)))


def test_the_deployment_as_it_is_rendered_fills_secrets_of_its_name(
    cluster: Cluster, controller: Start, tenant: Tenant
) -> None:
    running = render(cluster, installed.MANIFESTS).run(controller)
    started = json.loads(next(line for line in running.log().splitlines() if "controller started" in line))
    assert started["scope"] == "name"
    tenant.create()
    tenant.filled()


def test_with_the_component_scope_namespaces_it_fills_secrets_of_any_name_there_and_none_elsewhere(
    cluster: Cluster, controller: Start, tenants: Tenants, issuer: Issuer, tmp_path: Path
) -> None:
    first, second, elsewhere = tenants(), tenants(), tenants()
    rendered = render(cluster, for_namespaces(tmp_path, first.namespace, second.namespace))
    roles = [each for each in rendered.objects if each["kind"] in ROLES]
    assert {each["metadata"]["namespace"] for each in roles} == {first.namespace, second.namespace}
    cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(roles))
    rendered.run(controller)
    elsewhere.create()
    for tenant in (first, second):
        tenant.create(name="registry-credential")
        tenant.filled(name="registry-credential")
    assert issuer.exchanges(elsewhere.identity) == []


def test_the_environment_says_what_flags_would(controller: Start, tenant: Tenant) -> None:
    env = {"CONFIG": CONFIG, "SCOPE": "name", "SECRET_NAME": "another pull-secret", "LOG_FORMAT": "console"}
    running = controller(args=("run",), env={f"PULL_SECRET_UPDATER_{key}": value for key, value in env.items()})
    tenant.create()
    tenant.filled()
    (started,) = [line for line in running.log().splitlines() if "controller started" in line]
    assert not started.startswith("{"), "console, not JSON"


def for_namespaces(tmp_path: Path, *names: str) -> Path:
    """An overlay with the component scope-namespaces, edited for these namespaces as its first comment tells."""
    overlay = installed.overlay(tmp_path, "scope-namespaces")
    component = tmp_path / "manifests" / "components" / "scope-namespaces"
    for old, new in zip(("team-a", "team-b"), names, strict=True):
        for file in component.rglob("kustomization.yaml"):
            file.write_text(file.read_text().replace(old, new))
        (component / old).rename(component / new)
    return overlay
