"""What a target costs, and how soon a namespace has its Secret; on a local control plane, with the policies in force.

python -m hack.figures.targets [--namespaces N] [--new N]

Beside each figure stands the machine's own limit, measured in the same run: Secrets created by a server-side apply
without a controller, as many at once, and one seen on a watch.
"""

import concurrent.futures
import secrets
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import yaml

from hack.figures.__main__ import answer_seconds, issuing, milliseconds
from hack.figures.measure import PREFIX, Measure
from hack.localcluster import ControlPlane
from testing import manifests
from testing.api import Api
from testing.cluster import Cluster
from testing.controller import ControllerProcess
from testing.mounted import MountedTokens

IDENTITY = f"{'ab' * 20}/{'cd' * 8}"
LABEL = "bench"
WRITERS = 8
"""As many namespaces as the controller works on at once."""

_OVERLAY = {
    "resources": ["../manifests"],
    "components": ["../manifests/components/targets"],
    "patches": [
        {
            "target": {"kind": "ClusterRole", "name": "pull-secret-updater-identities"},
            "patch": yaml.safe_dump([{"op": "replace", "path": "/rules/0/resourceNames", "value": [IDENTITY]}]),
        }
    ],
}


class Namespaces:
    """Makes namespaces, and waits for what is in them."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._run = secrets.token_hex(3)
        self._made = 0

    def make(self, *, label: str = LABEL) -> str:
        """One more, by its name."""
        self._made += 1
        name = f"bench-{self._run}-{self._made}"
        self._api.post("/api/v1/namespaces", {"metadata": {"name": name, "labels": {label: "yes"}}})
        return name

    def many(self, count: int, *, label: str = LABEL) -> list[str]:
        """So many, at once."""
        with concurrent.futures.ThreadPoolExecutor(WRITERS) as pool:
            return list(pool.map(lambda _: self.make(label=label), range(count)))

    def apply(self, name: str) -> None:
        """Create a Secret as the controller does, by a server-side apply."""
        metadata = {"name": "pull-secret", "annotations": {PREFIX + "expires-at": "never"}}
        data = {".dockerconfigjson": "e30="}
        kind = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson"}
        path = f"/api/v1/namespaces/{name}/secrets/pull-secret?fieldManager=bench"
        self._api.apply(path, {**kind, "metadata": metadata, "data": data})


def bare_seconds(found: Namespaces, measure: Measure, names: list[str]) -> float:
    """From the first apply until the watch has shown all of them."""
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(found.apply, names))
    return max(measure.seen(name, "expires-at") for name in names) - began


@click.command(help="Measure what a target costs, on a local control plane.")
@click.option("--namespaces", default=500, show_default=True, help="number of namespaces that are there at the start")
@click.option("--new", default=200, show_default=True, help="number of namespaces to create one after another")
def main(*, namespaces: int, new: int) -> None:
    """Measure everything, in one run."""
    with tempfile.TemporaryDirectory() as temporary, ControlPlane() as plane:
        directory = Path(temporary)
        cluster = Cluster(plane.kubeconfig, directory=directory)
        shutil.copytree(manifests.DIRECTORY, directory / "manifests")
        overlay = directory / "overlay"
        overlay.mkdir()
        (overlay / "kustomization.yaml").write_text(yaml.safe_dump(_OVERLAY))
        cluster.kubectl("apply", "-f", "-", input=manifests.dump(manifests.render(cluster, overlay)))
        with issuing(cluster) as url, MountedTokens(cluster, directory / "mounted") as mounted:
            config: dict[str, Any] = yaml.safe_load((manifests.DIRECTORY / "config.yaml").read_text())
            config["providers"]["chainguard"] |= {"issuer": url, "tokenFile": str(mounted.oidc_token)}
            selector = {"matchLabels": {LABEL: "yes"}}
            config["targets"] = [{"name": "bench", "identity": IDENTITY, "namespaces": [{"selector": selector}]}]
            found, measure = Namespaces(cluster.api), Measure(cluster)
            limit = bare_seconds(found, measure, found.many(namespaces, label="other"))
            singly = []
            for _ in range(new):
                name = found.make(label="other")
                began = time.monotonic()
                found.apply(name)
                singly.append(measure.seen(name, "expires-at") - began)
            names = found.many(namespaces)
            began = time.monotonic()
            with ControllerProcess(cluster, mounted, directory=directory / "controller", config=config) as controller:
                ended = max(measure.seen(name, "expires-at", within=120) for name in names)
                began_work = min(measure.seen(name, "expires-at") for name in names)
                mints = len(answer_seconds(url))
                served = []
                for _ in range(new):
                    asked_at = time.monotonic()
                    name = found.make()
                    served.append(measure.seen(name, "expires-at") - asked_at)
                memory = measure.resident_mib(controller.pid)
    click.echo(f"{namespaces} namespaces at the start: all filled {ended - began:.1f} s after the process was started,")
    click.echo(f"  {ended - began_work:.1f} s after the first of them; mints: {mints}")
    click.echo(f"  the same writes without a controller (the machine's limit): {limit:.1f} s")
    click.echo(f"a new namespace, until its Secret is seen filled, {new} one by one: {milliseconds(served)}")
    click.echo(f"  a Secret applied without a controller, until it is seen: {milliseconds(singly)}")
    click.echo(f"  ratio of the medians: {statistics.median(served) / statistics.median(singly):.1f}")
    click.echo(f"resident memory with {namespaces + new} of them: {memory:.1f} MiB")


if __name__ == "__main__":
    main()
