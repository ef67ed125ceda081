"""Everything in the cluster itself, as a user has it: the controller from manifests/, and the stand-ins as Pods."""

import base64
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from hack import pki
from tests.e2e.support import leaks
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.installed import MANIFESTS, POLICY_PROBE, wait_for_policies
from tests.e2e.support.tenant import eventually

ROOT = Path(__file__).parents[3]
STANDINS = ROOT / "testing" / "image" / "manifests.yaml"
NAMESPACE = "pull-secret-updater"
IMAGE = ("localhost/pull-secret-updater", "test")
"""The controller's image as the node has it: name and tag."""
REGISTRY = "127.0.0.1:5080"
"""The private registry, by the name that a node's container runtime pulls from: its own loopback."""
AUDIENCE = "private-registry"
CONTROLLERS = f"/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=app.kubernetes.io/name%3Dpull-secret-updater"
START_SECONDS = 60.0
TARGET_LABEL = "e2e-target"
"""Namespaces with this label get a Secret from a target, and their ServiceAccount default names it."""
TARGET_IDENTITY = "0123456789abcdef" * 2 + "01234567"

Pod = dict[str, Any]


class InCluster:
    """One installation, from `install` to `remove`."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self.cluster = cluster
        self._directory = directory
        self._texts: list[tuple[str, str]] = []
        self._decisions: list[str] = []
        """Of token servers that are gone, in JSON."""

    def install(self) -> None:
        """All of it, ready. Raises ClusterError, AssertionError."""
        authority = self._install_standins()
        self._install_controller(authority.certificate)

    def remove(self) -> None:
        """All of it."""
        delete = ("delete", "--ignore-not-found", "--wait=false")
        # Unchecked, since the installation may have failed halfway, and that is what is to be told.
        self.cluster.kubectl(*delete, "-k", str(self._directory / "overlay"), check=False)
        self.cluster.kubectl(*delete, "-f", str(STANDINS), check=False)
        self.cluster.kubectl(*delete, "namespace", POLICY_PROBE, check=False)

    def exchanges(self, identity: str) -> list[dict[str, Any]]:
        """What the issuer was asked for this identity, and answered."""
        # Through the API server, which reaches the Pods of any cluster.
        path = "/api/v1/namespaces/standins/services/https:issuer:https/proxy/exchanges"
        everything: Any = self.cluster.api.get(path)
        return [one for one in everything if one["identity"] == identity]

    def decisions(self, repository: str = "") -> list[dict[str, Any]]:
        """Whom the registry's token server let in and whom not, oldest first; of all repositories if none is named."""
        lines = [*self._decisions, *self.log("standins", "deployment/registry", "auth").splitlines()]
        return [one for one in map(json.loads, lines) if repository in ("", one["repository"])]

    def requests(self, repository: str) -> list[str]:
        """What the registry itself was asked for of this repository: the lines of its access log."""
        lines = self.log("standins", "deployment/registry", "registry").splitlines()
        return [line for line in lines if f"/v2/{repository}/" in line and 'HTTP/1.1"' in line]

    def log(self, namespace: str, what: str, container: str) -> str:
        """What it printed so far."""
        return self.cluster.kubectl("logs", "--namespace", namespace, what, "--container", container).stdout

    def controllers(self) -> list[Pod]:
        """The Pods of the controller's Deployment, but for those that are about to go."""
        return [pod for pod in self.cluster.api.items(CONTROLLERS) if "deletionTimestamp" not in pod["metadata"]]

    def keep_log(self) -> None:
        """Before its Pod goes: what it printed is looked through at the end."""
        self._texts.append(("log", self.log(NAMESPACE, "deployment/controller", "controller")))

    def replace_controller(self) -> float:
        """Delete its Pod; returns the seconds from the making of the next one to its being ready, as they are seen.

        The old one is gone by then: a kubelet may take seconds to tell one that it should.
        """
        self.keep_log()
        (old,) = self.controllers()
        known = {old["metadata"]["uid"]}
        watch = self.cluster.api.watch(f"{CONTROLLERS}&watch=true&timeoutSeconds={START_SECONDS:.0f}")
        self.cluster.api.delete(f"/api/v1/namespaces/{NAMESPACE}/pods/{old['metadata']['name']}")
        made_at = ready_at = 0.0
        for event in watch:
            if event["object"]["metadata"]["uid"] not in known:
                made_at = made_at or time.monotonic()
                ready_at = ready_at or (time.monotonic() if is_ready(event["object"]) else 0.0)
            elif event["type"] == "DELETED":
                known.clear()
            if ready_at and not known:
                return ready_at - made_at
        raise AssertionError(f"the controller was not replaced within {START_SECONDS:.0f} s")

    @contextmanager
    def controller_away(self) -> Iterator[None]:
        """While this lasts there is no controller."""
        self.keep_log()
        which = ("--namespace", NAMESPACE, "deployment/controller")
        self.cluster.kubectl("scale", *which, "--replicas=0")
        self._wait_for_none(CONTROLLERS)
        try:
            yield
        finally:
            self.cluster.kubectl("scale", *which, "--replicas=1")
            self.cluster.kubectl("rollout", "status", *which, "--timeout=60s")

    def replace_registry(self) -> None:
        """Delete its Pod; returns once the next one is ready."""
        self._keep_decisions()
        self.cluster.kubectl("delete", "pod", "--namespace=standins", "--selector=app=registry")
        self._wait_for("registry")

    @contextmanager
    def registry_away(self) -> Iterator[None]:
        """While this lasts there is no registry."""
        which = ("--namespace=standins", "deployment/registry")
        self._keep_decisions()
        self.cluster.kubectl("scale", *which, "--replicas=0")
        self._wait_for_none("/api/v1/namespaces/standins/pods?labelSelector=app%3Dregistry")
        try:
            yield
        finally:
            self.cluster.kubectl("scale", *which, "--replicas=1")
            self._wait_for("registry")

    def measure(self) -> dict[str, float]:
        """Of the controller's process: resident MiB, the most there were, and CPU seconds since its start."""
        look = (
            "import re; s = open('/proc/1/status').read(); t = open('/proc/1/stat').read().split(); "
            "print(*re.findall(r'Vm(?:RSS|HWM):\\s+(\\d+)', s), int(t[13]) + int(t[14]))"
        )
        python = "/opt/pull-secret-updater/bin/python"
        where = ("exec", "--namespace", NAMESPACE, "deployment/controller", "--", python, "-c", look)
        most, resident, ticks = map(int, self.cluster.kubectl(*where).stdout.split())
        seconds = ticks / os.sysconf("SC_CLK_TCK")
        return {"resident": resident / 1024, "most": most / 1024, "cpu": seconds}

    def find_leaks(self, tokens: list[str], canary: str) -> list[str]:
        """Where a credential of this session can be read that should not be. Must be empty."""
        self.keep_log()
        events = leaks.events_as_texts(self.cluster.api.items("/api/v1/events"))
        return leaks.find([*self._texts, *events], tokens=tokens, canary=canary)

    def _keep_decisions(self) -> None:
        self._decisions += self.log("standins", "deployment/registry", "auth").splitlines()

    def _install_standins(self) -> pki.Pair:
        documents = list(yaml.safe_load_all(STANDINS.read_text()))
        first = [one for one in documents if one["kind"] in ("Namespace", "Service")]
        self.cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(first))
        address = self.cluster.api.get("/api/v1/namespaces/standins/services/issuer")["spec"]["clusterIP"]
        authority = pki.make_authority()
        server = pki.make_server(authority, addresses=[address])
        files = {"ca.crt": authority.certificate, "tls.crt": server.certificate, "tls.key": server.key}
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "issuer-tls", "namespace": "standins"},
            "type": "kubernetes.io/tls",
            "data": {name: base64.b64encode(content).decode() for name, content in files.items()},
        }
        self.cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump_all([secret, *documents]))
        for name in ("issuer", "registry"):
            self._wait_for(name)
        return authority

    def _wait_for(self, deployment: str) -> None:
        where = ("--namespace", "standins", f"deployment/{deployment}", "--timeout=60s")
        self.cluster.kubectl("rollout", "status", *where)

    def _wait_for_none(self, pods: str) -> None:
        eventually(lambda: not self.cluster.api.items(pods), timeout=START_SECONDS, what=f"no {pods}")

    def _install_controller(self, issuer_ca: bytes) -> None:
        """manifests/ with what a user's overlay changes: the image, the configuration, and components for a target."""
        overlay = self._directory / "overlay"
        overlay.mkdir()
        address = self.cluster.api.get("/api/v1/namespaces/standins/services/issuer")["spec"]["clusterIP"]
        configuration = yaml.safe_load((MANIFESTS / "config.yaml").read_text())
        configuration["providers"]["chainguard"] |= {
            "issuer": f"https://{address}:8443",
            "caFile": "/etc/pull-secret-updater/issuer-ca.crt",
            "tokenAudience": AUDIENCE,
            "registries": [REGISTRY],
        }
        selector = {"matchLabels": {TARGET_LABEL: "yes"}}
        target = {"name": "e2e", "identity": TARGET_IDENTITY, "namespaces": [{"selector": selector}]}
        configuration["targets"] = [{**target, "serviceAccounts": ["default"]}]
        name, tag = IMAGE
        base = Path(os.path.relpath(MANIFESTS, overlay))
        may_use = [{"op": "replace", "path": "/rules/0/resourceNames", "value": [TARGET_IDENTITY]}]
        kustomization = {
            "resources": [str(base)],
            "components": [str(base / "components" / name) for name in ("targets", "service-accounts")],
            "patches": [
                {
                    "target": {"kind": "ClusterRole", "name": "pull-secret-updater-identities"},
                    "patch": yaml.safe_dump(may_use),
                }
            ],
            "images": [{"name": "registry.example.com/pull-secret-updater", "newName": name, "newTag": tag}],
            "configMapGenerator": [
                {
                    "name": "config",
                    "namespace": NAMESPACE,
                    "behavior": "replace",
                    "files": ["config.yaml", "issuer-ca.crt"],
                }
            ],
        }
        (overlay / "config.yaml").write_text(yaml.safe_dump(configuration))
        (overlay / "issuer-ca.crt").write_bytes(issuer_ca)
        (overlay / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        self.cluster.kubectl("apply", "-k", str(overlay))
        wait_for_policies(self.cluster)
        self.cluster.kubectl("rollout", "status", "--namespace", NAMESPACE, "deployment/controller", "--timeout=60s")


def is_ready(pod: Pod) -> bool:
    """Whether it is, and is not about to go."""
    conditions = pod["status"].get("conditions", [])
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]


def restart_kubelet(cluster: Cluster) -> None:
    """Kill the node's kubelet, which its supervisor starts again; returns when it has told so."""
    api = cluster.api

    def starts() -> int:
        events = api.items("/api/v1/namespaces/default/events?fieldSelector=reason%3DStarting")
        return sum(int(one.get("count") or 1) for one in events if one.get("message") == "Starting kubelet.")

    before = starts()
    kill = (
        "import os, pathlib, signal; "
        "[os.kill(int(p.parent.name), signal.SIGKILL) for p in pathlib.Path('/proc').glob('[0-9]*/comm') "
        "if p.read_text().strip() == 'kubelet']"
    )
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "kill-kubelet", "namespace": "standins"},
        "spec": {
            "hostPID": True,
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "containers": [
                {
                    "name": "kill",
                    "image": "localhost/pull-secret-updater-standin:test",
                    "imagePullPolicy": "Never",
                    "command": ["python", "-c", kill],
                    "securityContext": {"privileged": True, "runAsUser": 0},
                }
            ],
        },
    }
    api.post("/api/v1/namespaces/standins/pods", pod)
    eventually(lambda: starts() > before, timeout=START_SECONDS, what="the kubelet's next start")
    cluster.kubectl("delete", "pod", "--namespace=standins", "kill-kubelet", "--grace-period=0", "--force")
