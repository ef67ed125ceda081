"""hack/bench: time to fill a Secret, memory, idle CPU, size of the code."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import urllib3
import yaml

from hack.figures.measure import Measure, Timing
from hack.localcluster import ControlPlane
from testing import manifests
from testing.cluster import Cluster
from testing.controller import ControllerProcess
from testing.mounted import MountedTokens

ROOT = Path(__file__).parents[2]


@contextmanager
def issuing(cluster: Cluster) -> Iterator[str]:
    """Run the stand-in issuer as a separate process, so that its CPU time doesn't count; yields its URL."""
    command = [sys.executable, "-m", "testing.issuer", "--kubeconfig", str(cluster.kubeconfig), "--control"]
    issuer = subprocess.Popen([*command, "--lifetime", "3600"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert issuer.stdout is not None  # noqa: S101 -- it was asked for
        yield issuer.stdout.readline().strip()
    finally:
        issuer.terminate()
        issuer.wait(10)


def answer_seconds(url: str) -> list[float]:
    """How long the issuer took for each exchange, by the issuer's clock."""
    exchanges = json.loads(urllib3.request("GET", f"{url}/exchanges").data)
    return [exchange["answeredAt"] - exchange["askedAt"] for exchange in exchanges]


def milliseconds(timings: list[float]) -> str:
    """Median and 99th percentile."""
    cuts = statistics.quantiles(timings, n=100)
    return f"p50 {cuts[49] * 1000:.1f} ms, p99 {cuts[98] * 1000:.1f} ms"


def lines_by_folder() -> Counter[str]:
    """Lines of controller/, by folder."""
    found: Counter[str] = Counter()
    for path in sorted((ROOT / "controller").rglob("*.py")):
        found[str(path.parent.relative_to(ROOT))] += len(path.read_text().splitlines())
    return found


@click.command(help="Measure the controller on a local control plane.")
@click.option("--secrets", default=1000, show_default=True, help="number of Secrets to measure memory with")
@click.option("--fills", default=200, show_default=True, help="number of Secrets to fill one after another")
@click.option("--rest", default=60.0, show_default=True, help="seconds to measure the idle CPU for")
def main(*, secrets: int, fills: int, rest: float) -> None:
    """Measure everything, in one run."""
    with tempfile.TemporaryDirectory() as temporary, ControlPlane() as plane:
        directory = Path(temporary)
        cluster = Cluster(plane.kubeconfig, directory=directory)
        cluster.kubectl("apply", "-f", "-", input=manifests.dump(manifests.render(cluster)))
        with issuing(cluster) as url, MountedTokens(cluster, directory / "mounted") as mounted:
            config = yaml.safe_load((manifests.DIRECTORY / "config.yaml").read_text())
            config["providers"]["chainguard"] |= {"issuer": url, "tokenFile": str(mounted.oidc_token)}
            measure = Measure(cluster)
            bare = [measure.bare().seconds for _ in range(fills)]
            with ControllerProcess(cluster, mounted, directory=directory / "controller", config=config) as controller:
                controller.wait_until_ready()
                time.sleep(5)
                empty = measure.resident_mib(controller.pid)
                before = len(answer_seconds(url))
                filled: list[Timing] = [measure.fill() for _ in range(fills)]
                answers = answer_seconds(url)[before:]
                own = [timing.seconds - answer for timing, answer in zip(filled, answers, strict=True)]
                measure.many(secrets - fills)
                # After 50 Events at once the controller writes one a second, for a minute; it is idle only after that.
                time.sleep(70)
                many = measure.resident_mib(controller.pid)
                share = measure.cpu_share(controller.pid, rest)
    click.echo(f"from annotation to filled Secret, {fills} one by one, without the issuer's time: {milliseconds(own)}")
    click.echo(f"the same, with the issuer's time: {milliseconds([timing.seconds for timing in filled])}")
    click.echo(f"two patches without a controller, each seen on a watch (the machine's limit): {milliseconds(bare)}")
    click.echo(f"ratio of the medians: {statistics.median(own) / statistics.median(bare):.1f}")
    click.echo(f"resident memory with 0 Secrets: {empty:.1f} MiB; with {secrets}: {many:.1f} MiB")
    click.echo(f"idle CPU over {rest:.0f} s with {secrets} Secrets: {share:.2%} of a core")
    for folder, lines in lines_by_folder().items():
        click.echo(f"lines in {folder}: {lines}")


if __name__ == "__main__":
    main(prog_name="hack/bench")
