"""The image that hack/image built, and what it says of it."""

import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import Marker

from controller import __version__
from hack.imagebuild import archive, sbom
from hack.nodesuite.images import Images

ROOT = Path(__file__).parents[3]
LOCK = ROOT / "hack" / "requirements" / "runtime.txt"
HOME = "/opt/pull-secret-updater/"
"""Where all of ours is; what else there is came with the base."""
PINNED = re.compile(r"^([a-z0-9.-]+)==(\S+)(?: ; (.+?))? \\$", re.MULTILINE)


@pytest.fixture(scope="module")
def images(request: pytest.FixtureRequest) -> Images:
    """Where they are."""
    directory: Path | None = request.config.getoption("--images")
    if directory is None:
        pytest.exit("these tests need the images: run hack/e2e-node", 2)
    return Images(directory)


@pytest.fixture(scope="module")
def opened(images: Images) -> Iterator[tarfile.TarFile]:
    """The archive."""
    with tarfile.open(images.controller) as tar:
        yield tar


def read(tar: tarfile.TarFile, name: str) -> Any:
    """A JSON file of the archive."""
    file = tar.extractfile(name)
    assert file is not None
    return json.load(file)


def files(tar: tarfile.TarFile) -> list[tarfile.TarInfo]:
    """What is on top of the base."""
    layer = archive.open_layer(tar, read(tar, "manifest.json")[0]["Layers"][-1])
    with tarfile.open(fileobj=layer) as content:
        return content.getmembers()


def locked(python: str) -> dict[str, str]:
    """Version by name, of what the lock has for this version of Python."""
    environment = {"python_full_version": python, "sys_platform": "linux", "platform_python_implementation": "CPython"}
    found = PINNED.findall(LOCK.read_text())
    return {name: version for name, version, marker in found if not marker or Marker(marker).evaluate(environment)}


def test_the_sbom_is_spdx_and_names_every_locked_package_in_its_version(images: Images) -> None:
    assert json.loads(images.sbom.read_text())["spdxVersion"] == "SPDX-2.3"
    packages = [one for one in json.loads(images.sbom.read_text())["packages"] if HOME in one.get("sourceInfo", "")]
    ours = {one["name"].lower(): one["versionInfo"] for one in packages}
    (python,) = {match[1] for one in packages if (match := re.search(r"/python(3\.\d+)/", one["sourceInfo"]))}
    assert locked(f"{python}.0") | {"pull-secret-updater": __version__} == ours, "and nothing that has no hash there"
    assert any(one.kind == "deb" and one.name.startswith("libssl") for one in sbom.read(images.sbom)), "the base's too"


def test_it_runs_the_command_as_a_user_without_a_name(opened: tarfile.TarFile) -> None:
    config = read(opened, read(opened, "manifest.json")[0]["Config"])["config"]
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["/opt/pull-secret-updater/bin/pull-secret-updater"]
    assert config["Cmd"] == ["run"]
    assert any(each.startswith("PATH=/opt/pull-secret-updater/bin:") for each in config["Env"]), "for kubectl exec"
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert config["Labels"]["org.opencontainers.image.base.name"]
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", config["Labels"]["org.opencontainers.image.revision"])


def test_nobody_can_change_what_it_runs(opened: tarfile.TarFile) -> None:
    for one in files(opened):
        assert (one.uid, one.gid) == (0, 0), one.name
        assert one.issym() or not one.mode & 0o022, f"{one.name} can be written by others"
        assert not one.mode & 0o6000, f"{one.name} changes who runs it"


def test_what_only_a_developer_needs_is_not_in_it(opened: tarfile.TarFile) -> None:
    packages = {one.name.split("/")[5] for one in files(opened) if one.name.count("/") > 5}
    assert "controller" in packages
    assert not packages & {"kubernetes", "pip", "setuptools", "pytest", "hack", "tests"}


def test_it_is_small(images: Images) -> None:
    assert archive.layer_sizes(images.controller)[-1] < 100e6
