"""What a namespace with very many Secrets costs its neighbours, and what a limit does; on a local control plane.

python -m hack.figures.neighbours [--secrets N] [--limit N] [--fills N]

One tenant adds all its Secrets while others annotate theirs, one after another. Beside that stands the machine's own
limit, measured while the same number of Secrets is added without a controller.
"""

import concurrent.futures
import json
import secrets as random
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import click
import yaml

from hack.figures.__main__ import issuing, milliseconds
from hack.figures.measure import PREFIX, Measure
from hack.localcluster import ControlPlane
from testing import manifests
from testing.api import Api
from testing.cluster import Cluster
from testing.controller import ControllerProcess
from testing.mounted import MountedTokens

WRITERS = 8


class Tenant:
    """One namespace with many Secrets of one identity."""

    def __init__(self, api: Api, *, count: int, asks: bool) -> None:
        self.namespace = f"bench-many-{random.token_hex(3)}"
        self._api = api
        self._count = count
        identity = f"{random.token_hex(20)}/{random.token_hex(8)}"
        self._annotations = {PREFIX + "identity": identity} if asks else {}
        api.post("/api/v1/namespaces", {"metadata": {"name": self.namespace}})

    def add(self) -> None:
        """Create all Secrets, several at a time."""
        with concurrent.futures.ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(self._create, range(self._count)))

    def remove(self) -> None:
        """Delete all Secrets."""
        self._api.delete(f"/api/v1/namespaces/{self.namespace}/secrets")

    def _create(self, number: int) -> None:
        body = {
            "metadata": {"name": f"secret-{number}", "annotations": self._annotations},
            "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": "{}"},
        }
        self._api.post(f"/api/v1/namespaces/{self.namespace}/secrets", body)


def beside(tenant: Tenant, measure: Measure, *, bare: bool, fills: int) -> tuple[list[float], float]:
    """How long each fill took, or two bare patches, while the tenant added its Secrets; and how long that took."""
    adding = threading.Thread(target=tenant.add)
    began = time.monotonic()
    adding.start()
    took: list[float] = []
    while len(took) < fills:
        took.append((measure.bare() if bare else measure.fill()).seconds)
    adding.join()
    return took, time.monotonic() - began


@click.command(help="Measure what a namespace with very many Secrets costs its neighbours.")
@click.option("--secrets", default=10_000, show_default=True, help="number of Secrets that one tenant adds")
@click.option(
    "--limit", default=200, show_default=True, help="limits.perNamespace.secrets of the first run; the second has none"
)
@click.option("--fills", default=200, show_default=True, help="number of Secrets that others annotate meanwhile")
def main(*, secrets: int, limit: int, fills: int) -> None:
    """Measure everything, in one run."""
    with tempfile.TemporaryDirectory() as temporary, ControlPlane() as plane:
        directory = Path(temporary)
        cluster = Cluster(plane.kubeconfig, directory=directory)
        overlay = directory / "overlay"
        overlay.mkdir()
        (directory / "manifests").symlink_to(manifests.DIRECTORY)
        content = {"resources": ["../manifests"], "components": ["../manifests/components/scope-cluster"]}
        (overlay / "kustomization.yaml").write_text(yaml.safe_dump(content))
        cluster.kubectl("apply", "-f", "-", input=manifests.dump(manifests.render(cluster, overlay)))
        with issuing(cluster) as url, MountedTokens(cluster, directory / "mounted") as mounted:
            config: dict[str, Any] = yaml.safe_load((manifests.DIRECTORY / "config.yaml").read_text())
            config["providers"]["chainguard"] |= {"issuer": url, "tokenFile": str(mounted.oidc_token)}
            config["scope"] = "cluster"
            measure = Measure(cluster)
            singly, seconds = beside(Tenant(cluster.api, count=secrets, asks=False), measure, bare=True, fills=fills)
            click.echo(f"{secrets} Secrets added without a controller in {seconds:.1f} s")
            click.echo(
                f"  two patches beside it (the machine's limit), {len(singly)} one by one: {milliseconds(singly)}"
            )
            for most in (limit, None):
                config["limits"] = {"perNamespace": {"secrets": most}} if most else {}
                place = directory / f"controller-{most}"
                with ControllerProcess(cluster, mounted, directory=place, config=config) as controller:
                    controller.wait_until_ready()
                    tenant = Tenant(cluster.api, count=secrets, asks=True)
                    filled, seconds = beside(tenant, measure, bare=False, fills=fills)
                    click.echo(f"{secrets} Secrets of one namespace added in {seconds:.1f} s, limit: {most or 'none'}")
                    click.echo(
                        f"  another's, from annotation to filled, {len(filled)} one by one: {milliseconds(filled)}"
                    )
                    time.sleep(10)
                    over = controller.metrics().value("refused_claims", reason="OverLimit")
                    events = _events(cluster, tenant.namespace)
                    click.echo(f"  OverLimit: {over:.0f}, told by {events} Event(s)")
                tenant.remove()


def _events(cluster: Cluster, namespace: str) -> int:
    """How many Events OverLimit a namespace has."""
    found = json.loads(cluster.kubectl("get", "events", "-n", namespace, "-o", "json").stdout)["items"]
    return sum(each["reason"] == "OverLimit" for each in found)


if __name__ == "__main__":
    main()
