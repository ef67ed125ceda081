"""What hack/release makes: the same bytes for the same commit, signed, and fit to be installed."""

import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller import __version__
from hack.chart import helm
from hack.chart.helm import KUBE_VERSION
from hack.releases import ReleaseError
from hack.releases.changelog import section
from hack.releases.oci import Image
from hack.releases.signature import COSIGN
from hack.releases.source import Source
from tests.e2e.support.checkouts import committed, git
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.installed import ROOT
from tests.e2e.support.tenant import eventually

REPOSITORY = "ghcr.io/acme/pull-secret-updater"
CHART = f"pull-secret-updater-{__version__}.tgz"
IMAGE = f"pull-secret-updater-{__version__}.oci.tar"
BASE = f"docker.io/library/python:3.13-slim@sha256:{'5' * 64}"
LOCK = ROOT / "hack" / "requirements" / "runtime.txt"
WHEEL = f"pull_secret_updater-{__version__}-py3-none-any.whl"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one commit: the files as they are here."""
    target = tmp_path_factory.mktemp("checkout")
    committed(target, message="All of it\n\nIssue: 7")
    return target


Change = Callable[[dict[str, bytes]], None]


def image(target: Path, *, architecture: str, revision: str = "", change: Change | None = None) -> Path:
    """A small image in OCI's layout: Debian, as far as Syft can tell, with one package.

    `change` may change the files of the archive before it is written.
    """
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for name, text in {
            "etc/os-release": "ID=debian\nVERSION_ID=13\n",
            "var/lib/dpkg/status": f"Package: zlib1g\nStatus: install ok installed\nArchitecture: {architecture}\n"
            "Version: 1.3\n\n",
        }.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    blobs: dict[str, bytes] = {}

    def descriptor(content: bytes, kind: str) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        blobs[digest] = content
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(content)}

    described = descriptor(layer.getvalue(), "layer.v1.tar")
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {
            "Labels": {"org.opencontainers.image.revision": revision, "org.opencontainers.image.base.name": BASE},
        },
        "rootfs": {"type": "layers", "diff_ids": [described["digest"]]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor(json.dumps(config).encode(), "config.v1+json"),
        "layers": [described],
    }
    index = {"schemaVersion": 2, "manifests": [descriptor(json.dumps(manifest).encode(), "manifest.v1+json")]}
    files = {
        **{f"blobs/sha256/{digest}": content for digest, content in blobs.items()},
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": json.dumps(index).encode(),
    }
    if change:
        change(files)
    with tarfile.open(target, mode="w") as tar:
        for name, content in files.items():
            _add(tar, name, content)
    return target


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


@pytest.fixture(scope="module")
def images(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One for each of two machines."""
    directory, commit = tmp_path_factory.mktemp("images"), head(checkout)
    return [image(directory / f"{each}.tar", architecture=each, revision=commit) for each in ("arm64", "amd64")]


def head(checkout: Path) -> str:
    done = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a pair of keys of cosign."""
    directory = tmp_path_factory.mktemp("keys")
    cosign("generate-key-pair", directory=directory)
    return directory


def cosign(*arguments: str, directory: Path) -> None:
    command = [str(COSIGN.find_or_build() / "cosign"), *arguments]
    subprocess.run(command, cwd=directory, env={**os.environ, "COSIGN_PASSWORD": ""}, capture_output=True, check=True)


def release(
    checkout: Path, *arguments: str | Path, version: str = __version__, umask: int = 0o022, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run hack/release in a checkout, with the virtual environment that runs us."""
    return subprocess.run(
        [sys.executable, "-m", "hack.releases", version, "--repository", REPOSITORY, *map(str, arguments)],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout), "COSIGN_PASSWORD": "", **environment},
        umask=umask,
        capture_output=True,
        text=True,
        check=False,
    )


def of(images: Sequence[Path]) -> list[str]:
    return [word for each in images for word in ("--image", str(each))]


@pytest.fixture(scope="module")
def made(checkout: Path, images: list[Path], keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a signed release, for two machines."""
    target = tmp_path_factory.mktemp("release")
    done = release(checkout, *of(images), "--key", keys / "cosign.key", "--output", target)
    assert done.returncode == 0, done.stderr
    return target


def index_digest(archive: Path) -> str:
    with tarfile.open(archive) as tar:
        content = tar.extractfile("index.json")
        assert content is not None
        (entry,) = json.load(content)["manifests"]
    return str(entry["digest"])


def test_the_same_commit_gives_the_same_bytes_elsewhere_later_and_under_another_umask(
    checkout: Path, images: list[Path], made: Path, tmp_path: Path
) -> None:
    other = tmp_path / "a-longer-name-of-the-directory"
    subprocess.run(["git", "clone", "--quiet", checkout, other], check=True)
    done = release(other, *of(images[::-1]), "--output", tmp_path / "again", umask=0o077, TZ="Asia/Tokyo", LANG="C")
    assert done.returncode == 0, done.stderr
    again = {file.name: file.read_bytes() for file in (tmp_path / "again").iterdir()}
    unsigned = {file.name: file.read_bytes() for file in made.iterdir() if not file.name.endswith(".sigstore.json")}
    assert sorted(again) == sorted(unsigned)
    assert [name for name in again if again[name] != unsigned[name]] == []


def test_all_files_are_there_and_the_sums_and_the_provenance_list_the_same(made: Path) -> None:
    about = {"SHA256SUMS", "provenance.json"}
    files = {file.name for file in made.iterdir()}
    listed = dict(line.split("  ")[::-1] for line in (made / "SHA256SUMS").read_text().splitlines())
    assert files == listed.keys() | about | {f"{name}.sigstore.json" for name in about}
    assert listed == {name: hashlib.sha256((made / name).read_bytes()).hexdigest() for name in listed}
    assert sorted(listed) == sorted(
        [
            *("CHANGELOG.md", "install.yaml", IMAGE, CHART, WHEEL, WHEEL.replace(".whl", ".spdx.json")),
            f"pull_secret_updater-{__version__}.tar.gz",
            f"pull-secret-updater-{__version__}-linux-amd64.spdx.json",
            f"pull-secret-updater-{__version__}-linux-arm64.spdx.json",
        ]
    )
    statement = json.loads((made / "provenance.json").read_text())
    assert {each["name"]: each["digest"]["sha256"] for each in statement["subject"]} == listed


def test_the_provenance_names_the_commit_the_locks_and_the_base_of_the_images(made: Path, checkout: Path) -> None:
    statement = json.loads((made / "provenance.json").read_text())
    definition = statement["predicate"]["buildDefinition"]
    lock = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    assert (statement["_type"], statement["predicateType"]) == (
        "https://in-toto.io/Statement/v1",
        "https://slsa.dev/provenance/v1",
    )
    assert {"name": "source", "digest": {"gitCommit": head(checkout)}} in definition["resolvedDependencies"]
    assert {"name": "hack/requirements/runtime.txt", "digest": {"sha256": lock}} in definition["resolvedDependencies"]
    assert definition["externalParameters"] == {"version": __version__}
    named = {"name": "base image", "uri": f"docker://{BASE}", "digest": {"sha256": "5" * 64}}
    assert [each for each in definition["resolvedDependencies"] if each["name"] == "base image"] == [named]


def test_the_images_index_lists_each_machine_and_all_that_it_lists_is_there(made: Path) -> None:
    with tarfile.open(made / IMAGE) as tar:
        blobs = {entry.name: (tar.extractfile(entry) or io.BytesIO()).read() for entry in tar}
    assert all(
        hashlib.sha256(content).hexdigest() == name.removeprefix("blobs/sha256/")
        for name, content in blobs.items()
        if name.startswith("blobs/")
    )
    index = json.loads(blobs[f"blobs/{index_digest(made / IMAGE).replace(':', '/')}"])
    assert [each["platform"]["architecture"] for each in index["manifests"]] == ["amd64", "arm64"]
    for each in index["manifests"]:
        manifest = json.loads(blobs[f"blobs/{each['digest'].replace(':', '/')}"])
        assert each["size"] == len(json.dumps(manifest).encode())
        assert {f"blobs/{part['digest'].replace(':', '/')}" for part in (manifest["config"], *manifest["layers"])} <= {
            *blobs
        }


def test_the_chart_installs_the_image_by_the_digest_that_a_registry_will_have(made: Path, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text("config: {providers: {chainguard: {type: chainguard, registries: [cgr.dev]}}}")
    text = helm("template", "psu", made / CHART, "-f", str(values), "--kube-version", KUBE_VERSION)
    (deployment,) = [each for each in yaml.safe_load_all(text) if each and each["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"{REPOSITORY}@{index_digest(made / IMAGE)}"
    annotations = yaml.safe_load(helm("show", "chart", made / CHART))["annotations"]
    assert yaml.safe_load(annotations["artifacthub.io/images"])[0]["image"] == container["image"]
    assert (made / CHART).stat().st_size < 60 * 1024


def test_a_real_api_server_takes_install_yaml_which_names_the_image_by_digest(cluster: Cluster, made: Path) -> None:
    objects = list(yaml.safe_load_all((made / "install.yaml").read_text()))
    (deployment,) = [each for each in objects if each["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"{REPOSITORY}@{index_digest(made / IMAGE)}"
    # In a namespace that is there: a dry run makes none for what follows.
    for each in objects:
        if each["metadata"].get("namespace"):
            each["metadata"]["namespace"] = "default"
    done = cluster.kubectl(
        *("apply", "--dry-run=server", "--validate=strict", "-f", "-"), input=yaml.safe_dump_all(objects)
    )
    assert done.stdout.count("(server dry run)") == len(objects)


def test_the_wheel_runs_and_says_its_version(made: Path, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(tmp_path)]
    subprocess.run([*pip, str(made / WHEEL)], check=True)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "controller", "--version"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert __version__ in done.stdout
    assert (tmp_path / "controller/kube/policies/use-identity.yaml").is_file()


def test_the_sboms_name_the_packages_of_the_image_and_the_tested_ones_of_the_wheel(made: Path) -> None:
    def versions(name: str) -> dict[str, str]:
        document = json.loads((made / name).read_text())
        assert document["spdxVersion"] == "SPDX-2.3"
        assert document["creationInfo"]["created"] == "2023-11-14T22:13:20Z"
        return {package["name"]: package.get("versionInfo", "") for package in document["packages"]}

    locked = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", LOCK.read_text(), re.MULTILINE))
    assert versions(f"pull-secret-updater-{__version__}-linux-arm64.spdx.json")["zlib1g"] == "1.3"
    found = versions(WHEEL.replace(".whl", ".spdx.json"))
    assert found["pull-secret-updater"] == __version__
    assert {name: found.get(name) for name in locked} == locked


def test_the_changelog_has_the_commits_by_issue(made: Path, checkout: Path, tmp_path: Path) -> None:
    assert (made / "CHANGELOG.md").read_text() == f"## {__version__} (2023-11-14)\n\n### Issue 7\n\n- All of it\n"
    later = tmp_path / "later"
    subprocess.run(["git", "clone", "--quiet", checkout, later], check=True)
    git(later, "tag", "v0.0.1")
    for message in ("One\n\nIssue: 12", "Two", "Three\n\nIssue: 9", "Four\n\nIssue: 9\nIssue: 12"):
        git(later, "commit", "--quiet", "--allow-empty", "--message", message)
    found = section(later, version="1.0.0", date="2024-01-01", since=None)
    assert found == (
        "## 1.0.0 (2024-01-01)\n\n"
        "### Issue 9\n\n- Four\n- Three\n\n### Issue 12\n\n- Four\n- One\n\n### Other changes\n\n- Two\n"
    )


PAGE = (ROOT / "docs" / "releases.md").read_text()
(VERIFY,) = re.findall(r"^```sh\n(cosign.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def verify(directory: Path, key: Path) -> subprocess.CompletedProcess[str]:
    """Run the page's commands, as a reader would: with the files and the key in one directory."""
    shutil.copy(key, directory / "cosign.pub")
    tools = f"{COSIGN.find_or_build()}:{os.environ['PATH']}"
    environment: Mapping[str, str] = {**os.environ, "PATH": tools}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", VERIFY],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def received(made: Path, tmp_path: Path) -> Path:
    """A copy of the release that may be changed."""
    return Path(shutil.copytree(made, tmp_path / "received"))


def test_the_pages_commands_verify_what_was_signed(received: Path, keys: Path) -> None:
    done = verify(received, keys / "cosign.pub")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Verified OK") == 2


def test_another_key_verifies_nothing(received: Path, tmp_path: Path) -> None:
    cosign("generate-key-pair", directory=tmp_path)
    assert verify(received, tmp_path / "cosign.pub").returncode != 0


@pytest.mark.parametrize("name", [CHART, IMAGE, WHEEL, "install.yaml", "SHA256SUMS", "provenance.json.sigstore.json"])
def test_a_changed_byte_in_any_file_is_found(name: str, received: Path, keys: Path) -> None:
    content = bytearray((received / name).read_bytes())
    content[len(content) // 2] ^= 1
    (received / name).write_bytes(content)
    assert verify(received, keys / "cosign.pub").returncode != 0


def test_a_file_that_was_put_in_with_a_digest_of_its_own_is_found(received: Path, keys: Path) -> None:
    (received / "install.yaml").write_text("kind: Pod\n")
    digest = hashlib.sha256((received / "install.yaml").read_bytes()).hexdigest()
    sums = re.sub(r"^\w+  install", f"{digest}  install", (received / "SHA256SUMS").read_text(), flags=re.MULTILINE)
    (received / "SHA256SUMS").write_text(sums)
    assert verify(received, keys / "cosign.pub").returncode != 0


def test_another_version_than_the_files_say_is_refused_and_the_message_names_the_files(
    checkout: Path, images: list[Path], tmp_path: Path
) -> None:
    done = release(checkout, *of(images), "--output", tmp_path, version="v9.9.9")  # as a tag is called
    assert done.returncode == 1
    assert "this isn't 9.9.9 yet" in done.stderr
    for where in ("controller/__init__.py", "Dockerfile", "manifests/kustomization.yaml", "manifests/chart/Chart.yaml"):
        assert f"{where}" in done.stderr
    assert f"says {__version__}" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_not_committed_are_refused(checkout: Path, images: list[Path], tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    subprocess.run(["git", "clone", "--quiet", checkout, changed], check=True)
    (changed / "README.md").write_text("something else")
    done = release(changed, *of(images), "--output", tmp_path / "out")
    assert done.returncode == 1
    assert "commit or stash these changes first" in done.stderr
    assert "README.md" in done.stderr


def test_a_directory_with_files_is_not_written_to(checkout: Path, images: list[Path], tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    done = release(checkout, *of(images), "--output", tmp_path)
    assert done.returncode == 1
    assert "isn't empty" in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


def test_two_images_of_one_machine_are_refused(checkout: Path, images: list[Path], tmp_path: Path) -> None:
    done = release(checkout, *of([images[0], images[0]]), "--output", tmp_path / "out")
    assert done.returncode == 1
    assert "are of linux/arm64" in done.stderr


def test_an_archive_of_something_else_is_refused_with_the_command_that_writes_one(
    checkout: Path, tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "docker.tar", mode="w") as tar:
        _add(tar, "manifest.json", b"[]")
    done = release(checkout, "--image", tmp_path / "docker.tar", "--output", tmp_path / "out")
    assert done.returncode == 1
    assert "hack/image --save FILE --format oci" in done.stderr


def _same_length(files: dict[str, bytes], kind: str) -> None:
    """Put other bytes in the place of the blob that has these."""
    (name,) = [name for name, content in files.items() if name.startswith("blobs/") and kind.encode() in content]
    files[name] = files[name].replace(b"linux", b"lunix") if kind == "diff_ids" else files[name][::-1]


def _out_of_the_layout(files: dict[str, bytes]) -> None:
    files["blobs/sha256/../../x"] = files["index.json"]
    index = json.loads(files["index.json"])
    index["manifests"][0]["digest"] = "sha256:../../x"
    files["index.json"] = json.dumps(index).encode()


def _longer_than_listed(files: dict[str, bytes]) -> None:
    index = json.loads(files["index.json"])
    index["manifests"][0]["size"] += 1
    files["index.json"] = json.dumps(index).encode()


def _without_its_layer(files: dict[str, bytes]) -> None:
    del files[next(name for name, content in files.items() if b"zlib1g" in content)]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (partial(_same_length, kind="zlib1g"), "build the image again"),
        (partial(_same_length, kind="diff_ids"), "build the image again"),
        (_longer_than_listed, "build the image again"),
        (_out_of_the_layout, "`$.manifests[0].digest`"),
        (_without_its_layer, "hack/image --save FILE --format oci"),
    ],
)
def test_an_archive_whose_blobs_are_not_what_it_lists_is_refused(change: Change, told: str, tmp_path: Path) -> None:
    archive = image(tmp_path / "image.tar", architecture="amd64", change=change)
    with pytest.raises(ReleaseError, match=re.escape(told)) as refused:
        Image.of(archive)
    assert str(archive) in str(refused.value)


@pytest.mark.parametrize("architecture", ["", "amd64\n", "../amd64"])
def test_an_image_of_a_machine_that_is_no_word_is_refused(architecture: str, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=r"\$\.architecture"):
        Image.of(image(tmp_path / "image.tar", architecture=architecture))


def test_an_image_of_another_commit_is_refused(checkout: Path, tmp_path: Path) -> None:
    archive = image(tmp_path / "image.tar", architecture="amd64", revision="f" * 40)
    done = release(checkout, *of([archive]), "--output", tmp_path / "out")
    assert done.returncode == 1
    assert f"{archive} was built from commit {'f' * 40}" in done.stderr
    assert head(checkout) in done.stderr


def test_a_release_that_could_not_be_signed_leaves_no_file_that_looks_like_one(
    checkout: Path, images: list[Path], keys: Path, tmp_path: Path
) -> None:
    signing = ("--key", keys / "cosign.key", "--output", tmp_path / "out")
    done = release(checkout, *of(images), *signing, COSIGN_PASSWORD="wrong")
    assert (done.returncode, list(tmp_path.iterdir())) == (1, [])
    assert "cosign sign-blob failed" in done.stderr


def test_a_release_that_is_stopped_leaves_nothing(checkout: Path, images: list[Path], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hack.releases", __version__, *of(images), "--output", str(tmp_path / "out")]
    with subprocess.Popen(command, cwd=checkout, env={**os.environ, "PYTHONPATH": str(checkout)}) as process:
        eventually(lambda: list(tmp_path.glob(".out-*/made/*.oci.tar")), timeout=60, what="an image")
        process.terminate()
    assert process.returncode == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "repository", ["ghcr.io", "oci://ghcr.io/acme/x", "ghcr.io/acme/x:1.0", "ghcr.io/Acme/x", "ghcr.io/a\nb: c", ""]
)
def test_a_repository_that_no_image_can_have_is_refused(repository: str, checkout: Path, tmp_path: Path) -> None:
    done = release(checkout, "--repository", repository, "--output", tmp_path / "out")
    assert done.returncode == 1
    assert "is no name of an image" in done.stderr


@pytest.mark.parametrize("since", ["v9.9.9", "--output=written"])
def test_a_wrong_beginning_of_the_changelog_is_told_before_anything_is_made(
    since: str, checkout: Path, tmp_path: Path
) -> None:
    done = release(checkout, "--image", checkout / "README.md", f"--since={since}", "--output", tmp_path / "out")
    assert done.returncode == 1
    assert "git log failed" in done.stderr
    assert since in done.stderr
    assert list(checkout.glob("written*")) == []


def test_without_git_the_message_says_that_it_is_needed(checkout: Path, tmp_path: Path) -> None:
    done = release(checkout, "--output", tmp_path / "out", PATH=str(tmp_path))
    assert done.returncode == 1
    assert "git isn't on PATH; install it" in done.stderr


def test_a_link_out_of_the_repository_is_not_packaged(checkout: Path, tmp_path: Path) -> None:
    linking = tmp_path / "linking"
    subprocess.run(["git", "clone", "--quiet", checkout, linking], check=True)
    (linking / "manifests/chart/passwd").symlink_to("/etc/passwd")
    git(linking, "add", "manifests/chart/passwd")
    git(linking, "commit", "--quiet", "--message", "A link")
    with pytest.raises(ReleaseError, match="link out of the repository"):
        Source.of(linking).export(tmp_path / "exported")
