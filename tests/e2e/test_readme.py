"""README.md is run from top to bottom, as a reader would, in one shell after another."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.core.annotations import Written, render_written
from controller.core.errors import Problem
from hack.localcluster import kubectl
from testing.exchange import Issuer
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.installed import ROOT
from tests.e2e.support.observer import Observer
from tests.e2e.support.tenant import FILL_SECONDS, PREFIX, Tenant, annotation, filled_for, token

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
    assert len(blocks()) == 8, "a block was added: does it belong into the count?"
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
        if "go-template" in block:
            assert f"default/pull-secret identity {identity}\n" in done.stdout
            assert re.search(r"^default/pull-secret expires-at 20\d\d-\S+Z$", done.stdout, re.MULTILINE)
        if "kubectl create secret" in block:
            first = token(observer.wait("default", filled_for(identity), timeout=FILL_SECONDS).secret)
    # One of the last blocks asked for a new token.
    observer.wait(
        "default",
        lambda secret: filled_for(identity)(secret) and token(secret) != first,
        timeout=FILL_SECONDS,
    )
    assert len(issuer.exchanges(identity)) == 2


@pytest.mark.usefixtures("shared_controller")
def test_the_command_for_when_something_is_wrong_shows_every_identity_and_error(
    cluster: Cluster, tenant: Tenant
) -> None:
    further = {"identity.nobody": "x", "registries.nobody": "evil.example"}
    tenant.create(annotations=further | {"multi": "line\nline"})
    tenant.filled()
    tenant.wait(lambda secret: bool(annotation(secret, "error.nobody")), timeout=FILL_SECONDS)
    (command,) = [block for block in blocks() if "go-template" in block]
    environment = {**os.environ, "PATH": f"{Path(kubectl()).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        env={**environment, "KUBECONFIG": str(cluster.kubeconfig)},
        capture_output=True,
        text=True,
        check=True,
    )
    mine = [line for line in done.stdout.splitlines() if line.startswith(f"{tenant.namespace}/pull-secret ")]
    facts = [line.split(" ", 2)[1:] for line in mine]
    assert [key for key, _ in facts] == ["error.nobody", "expires-at", "identity", "identity.nobody"]
    assert dict(facts)["error.nobody"].startswith("ProviderUnknown: ")


def test_the_readme_names_every_annotation_and_reason() -> None:
    text = (ROOT / "README.md").read_text()
    written = render_written("", Written(0, 0, 0, "", "", (), None))
    assert {key for key in written if f"`{key.removeprefix(PREFIX)}`" not in text} == set()
    assert {problem.reason for problem in Problem if f"`{problem.reason}`" not in text} == set()
