"""What docs/tenancy.md shows: its files and commands, somebody who follows them, and what others have installed."""

import os
import re
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from hack.localcluster import kubectl
from tests.e2e.support import installed
from tests.e2e.support.cluster import Cluster

PAGE = (installed.ROOT / "docs" / "tenancy.md").read_text()
NAMESPACES = ("team-a", "team-b", "crusoe-system")
"""Those of the page. Each reader has others, since a namespace that was deleted stays for a while."""


def blocks(language: str, section: str | None = None) -> list[str]:
    """The blocks in a language, under one heading or on the whole page, as they stand."""
    text = PAGE
    if section is not None:
        (text,) = re.findall(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


class Reader:
    """Somebody who follows the page, in a directory beside a copy of manifests/."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self.directory = directory
        self.names = {name: f"e2e-{secrets.token_hex(5)}" for name in NAMESPACES}
        """By the page's name of a namespace, ours."""
        self._kubeconfig = cluster.kubeconfig
        shutil.copytree(installed.MANIFESTS, directory / "manifests")
        for path in (directory / "manifests" / "components" / "targets-named").glob("team-?/kustomization.yaml"):
            path.write_text(self._renamed(path.read_text()))

    def write(self, folder: str) -> list[str]:
        """The page's files in a folder; their names."""
        (self.directory / folder).mkdir()
        for text in blocks("yaml"):
            if text.startswith(f"# {folder}/"):
                (self.directory / text.splitlines()[0].removeprefix("# ")).write_text(self._renamed(text))
        return sorted(path.name for path in (self.directory / folder).iterdir())

    def config(self, folder: str) -> dict[str, Any]:
        """The configuration in a folder."""
        found: dict[str, Any] = yaml.safe_load((self.directory / folder / "config.yaml").read_text())
        return found

    def give(self, block: str) -> str:
        """Run one shell block; what it printed. All its commands must succeed."""
        tools = f"{Path(sys.executable).parent}:{Path(kubectl()).parent}"
        environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "KUBECONFIG": str(self._kubeconfig)}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self._renamed(block)],
            cwd=self.directory,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _renamed(self, text: str) -> str:
        for name, ours in self.names.items():
            text = text.replace(name, ours)
        return text


def image_repositories() -> dict[str, Any]:
    """Flux's ImageRepository, with what the page uses of it: the same group, version, fields, defaults and patterns."""
    reference = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
    duration = {"type": "string", "pattern": r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"}
    kind = {"type": "string", "default": "generic", "enum": ["generic", "aws", "azure", "gcp"]}
    fields = {"image": {"type": "string"}, "interval": duration, "provider": kind, "secretRef": reference}
    spec = {"type": "object", "required": ["image", "interval"], "properties": fields}
    schema = {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}
    names = {"plural": "imagerepositories", "singular": "imagerepository", "kind": "ImageRepository"}
    group = "image.toolkit.fluxcd.io"
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"imagerepositories.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": names,
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
        },
    }


ROTATOR = """
apiVersion: v1
kind: Secret
metadata: {name: crusoe-secrets}
stringData: {CRUSOE_ACCESS_KEY: %s, CRUSOE_SECRET_KEY: %s}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: crusoe-registry-token-rotator}
spec:
  schedule: 0 */6 * * *
  jobTemplate:
    spec:
      template:
        spec: {restartPolicy: OnFailure, containers: [{name: token-rotator, image: rotator.example/rotator}]}
"""
"""What the rotator's chart has in its namespace, for an access key and a secret key."""
