"""README.md is run from top to bottom, as a reader would, in one shell after another."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import Metric

from controller.core.annotations import Written, render_written
from controller.telemetry import Census, Telemetry
from hack.localcluster import kubectl
from hack.standin.exchange import Issuer
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.installed import ROOT
from tests.e2e.support.observer import Observer
from tests.e2e.support.tenant import FILL_SECONDS, PREFIX, filled_for, token

BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN_ELSEWHERE = ("hack/demo", "hack/test")
"""By .ci/run, and by whoever runs this."""
LEFT = (
    ("secret/pull-secret", "default"),
    ("pod/hello", "default"),
    ("role/use-pull-identity", "default"),
    ("rolebinding/use-pull-identity", "default"),
    ("deployment/controller", "pull-secret-updater"),
    ("poddisruptionbudget/controller", "pull-secret-updater"),
)


def blocks() -> list[str]:
    """The shell blocks of the README, but for those that are run elsewhere."""
    return [block for block in BLOCK.findall((ROOT / "README.md").read_text()) if not block.startswith(RUN_ELSEWHERE)]


@pytest.fixture
def cleaned(cluster: Cluster) -> Iterator[None]:
    """Removes what the README creates."""
    yield
    for what, namespace in LEFT:
        cluster.kubectl("delete", what, "-n", namespace, "--ignore-not-found", "--wait=false")


@pytest.mark.usefixtures("shared_controller", "cleaned")
def test_every_command_of_the_readme_works_in_its_order(
    cluster: Cluster, observer: Observer, issuer: Issuer, tmp_path: Path
) -> None:
    (identity,) = set(re.findall(r"\b[0-9a-f]{40}/[0-9a-f]{16}\b", "".join(blocks())))
    tools = f"{Path(sys.executable).parent}:{Path(kubectl()).parent}"
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "KUBECONFIG": str(cluster.kubeconfig)}
    assert len(blocks()) == 7, "a block was added: does it belong into the count?"
    first = ""
    for block in blocks():
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        if "kubectl create secret" in block:
            first = token(observer.wait("default", filled_for(identity), timeout=FILL_SECONDS).secret)
    # The last block asked for a new token.
    observer.wait(
        "default",
        lambda secret: filled_for(identity)(secret) and token(secret) != first,
        timeout=FILL_SECONDS,
    )
    assert len(issuer.exchanges(identity)) == 2


def test_the_readme_names_every_metric_and_annotation() -> None:
    text = (ROOT / "README.md").read_text()
    series = {family.name.removeprefix("pull_secret_updater_") for family in _families()}
    assert {name for name in series if name not in text} == set()
    written = render_written("", Written(0, 0, 0, "", "", (), None))
    assert {key for key in written if f"`{key.removeprefix(PREFIX)}`" not in text} == set()


def _families() -> Iterator[Metric]:
    telemetry = Telemetry(providers=["any"], policies=["any"], relist_reasons=["any"])
    telemetry.watch_census(lambda: Census(0, 0, 0.0, None, {}))
    return (family for family in telemetry.registry.collect() if family.name.startswith("pull_secret_updater_"))
