"""A release with the real image."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from controller import __version__
from tests.e2e.support.checkouts import committed

IMAGE = f"pull-secret-updater-{__version__}.oci.tar"


@pytest.mark.timeout(1200)  # two builds of the image, from nothing
def test_the_image_has_the_same_bytes_each_time_that_it_is_built(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    base: str | None = request.config.getoption("--base")
    source = tmp_path / "source"
    source.mkdir()
    committed(source, message="All of it")
    made = []
    for number in (1, 2):
        checkout, target = tmp_path / f"checkout-{number}", tmp_path / f"release-{number}"
        subprocess.run(["git", "clone", "--quiet", source, checkout], check=True)
        command = [sys.executable, "-m", "hack.releases", __version__, "--output", str(target)]
        done = subprocess.run(
            [*command, *(("--base", base) if base else ())],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout)},
            umask=(0o022, 0o077)[number - 1],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        made.append(target)
    one, two = ((target / "SHA256SUMS").read_text() for target in made)
    assert one == two
    (inventory,) = made[0].glob("pull-secret-updater-*-linux-*.spdx.json")
    names = {package["name"] for package in json.loads(inventory.read_text())["packages"]}
    assert {"aiohttp", "msgspec", "pull-secret-updater"} <= names
    provenance = json.loads((made[0] / "provenance.json").read_text())
    named = [each["name"] for each in provenance["predicate"]["buildDefinition"]["resolvedDependencies"]]
    assert "base image" in named
    with tarfile.open(made[0] / IMAGE) as tar:
        assert "oci-layout" in tar.getnames()


def test_a_base_that_cant_be_pulled_is_not_replaced_by_another(tmp_path: Path) -> None:
    committed(tmp_path, message="All of it")
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-m", "hack.releases", __version__, "--output", str(tmp_path / "build" / "out")],
        cwd=tmp_path,
        env={**os.environ, **nowhere, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "can't be pulled" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "build" / "out").exists()
