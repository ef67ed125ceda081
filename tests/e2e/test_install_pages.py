"""docs/install.md and docs/platforms.md: each piece of YAML is rendered, or taken by a real API server."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from controller.config import load
from controller.providers import TYPES
from hack.chart import CHART, HelmError, helm
from hack.crds import crds
from testing.cluster import ClusterError
from tests.e2e.support import installed
from tests.e2e.support.charts import EXAMPLES, Object, example, of_kind, offer, render
from tests.e2e.support.cluster import Cluster

PAGES = {name: (installed.ROOT / "docs" / name).read_text() for name in ("install.md", "platforms.md")}
BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [block for page in PAGES.values() for block in BLOCK.findall(page)]
VERSION = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]

OBJECTS: list[Object] = [
    each for block in BLOCKS if block.startswith("apiVersion:") for each in yaml.safe_load_all(block)
]
FILES = {match[1]: block for block in BLOCKS if (match := re.match(r"# production/(\S+)\n", block))}
COPIES = {match[1]: block for block in BLOCKS if (match := re.match(r"# manifests/chart/ci/(\S+)-values", block))}
PIECES = [block for block in BLOCKS if block.startswith("# values.yaml\n")]


def of(kind: str, group: str = "") -> Object:
    """The only object of that kind on the pages."""
    (found,) = [each for each in of_kind(OBJECTS, kind) if each["apiVersion"].startswith(group)]
    return found


VALUES: dict[str, Object] = {
    "Argo CD": of("Application")["spec"]["source"]["helm"]["valuesObject"],
    "Flux": of("HelmRelease")["spec"]["values"],
    **{f"piece {number}": yaml.safe_load(piece) for number, piece in enumerate(PIECES, 1)},
}


@pytest.fixture(scope="module")
def operators(cluster: Cluster) -> Iterator[None]:
    """The kinds of Argo CD and Flux, served by the API server."""
    files = [f"--filename={file}" for file in crds()]
    cluster.kubectl("apply", "--server-side", *files)
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", *files)
    yield
    cluster.kubectl(
        "delete", "--wait=false", *files
    )  # nothing waits for the finalizers of kinds that nobody needs again


def test_every_piece_of_yaml_is_of_a_sort_that_is_tried_below() -> None:
    tried = sum(block.startswith("apiVersion:") for block in BLOCKS) + len(FILES) + len(COPIES) + len(PIECES)
    assert tried == len(BLOCKS)
    assert (len(OBJECTS), sorted(FILES), len(PIECES)) == (7, ["config.yaml", "kustomization.yaml"], 2)


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("each", OBJECTS, ids=lambda each: each["kind"])
def test_a_real_api_server_with_the_kinds_of_argo_cd_and_flux_takes_each_object(cluster: Cluster, each: Object) -> None:
    offer(cluster, [each])


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("kind", ["Application", "HelmRelease", "OCIRepository", "GitRepository"])
def test_it_would_refuse_one_with_a_wrong_key(cluster: Cluster, kind: str) -> None:
    with pytest.raises(ClusterError, match=r'unknown field "spec\.sorce"'):
        offer(cluster, [{**of(kind), "spec": {**of(kind)["spec"], "sorce": {}}}])


@pytest.mark.parametrize("name", COPIES)
def test_the_values_of_a_platform_are_those_of_the_example_that_it_names(name: str) -> None:
    assert yaml.safe_load(COPIES[name]) == example(name)


@pytest.mark.parametrize("name", VALUES)
def test_values_are_a_valid_configuration_and_a_real_api_server_takes_what_the_chart_makes_of_them(
    cluster: Cluster, tmp_path: Path, name: str
) -> None:
    objects = render(VALUES[name], tmp_path=tmp_path, release="pull-secret-updater")
    (config,) = of_kind(objects, "ConfigMap")
    (tmp_path / "config.yaml").write_text(config["data"]["config.yaml"])
    load(tmp_path / "config.yaml")
    (account,) = of_kind(objects, "ServiceAccount")
    assert account["metadata"]["name"] == "pull-secret-updater", "as the pages say"
    offer(cluster, objects)


def test_keys_are_mounted_where_the_configuration_looks_for_them(tmp_path: Path) -> None:
    (keys,) = [values for values in VALUES.values() if "credentials" in values]
    (pod,) = (each["spec"]["template"]["spec"] for each in of_kind(render(keys, tmp_path=tmp_path), "Deployment"))
    mounts = {each["name"]: each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}
    files = {
        f"{mounts[volume['name']]}/{item['path']}"
        for volume in pod["volumes"]
        for source in volume.get("projected", {}).get("sources", ())
        for item in source.get("secret", {}).get("items", ())
    }
    provider = keys["config"]["providers"]["ecr"]
    assert files == {provider["accessKeyId"]["file"], provider["secretAccessKey"]["file"]}


def test_the_overlay_for_kustomize_sets_image_and_configuration_and_a_real_api_server_takes_it(
    cluster: Cluster, tmp_path: Path
) -> None:
    shutil.copytree(installed.MANIFESTS, tmp_path / "manifests", symlinks=True)
    (tmp_path / "production").mkdir()
    for name, content in FILES.items():
        (tmp_path / "production" / name).write_text(content)
    load(tmp_path / "production" / "config.yaml")
    objects = list(yaml.safe_load_all(cluster.kubectl("kustomize", str(tmp_path / "production")).stdout))
    (deployment,) = of_kind(objects, "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"mirror.example.com/platform/pull-secret-updater:{VERSION}"
    (config,) = of_kind(objects, "ConfigMap")
    assert config["data"]["config.yaml"] == FILES["config.yaml"]
    offer(cluster, objects)


def test_the_project_of_argo_cd_allows_what_the_chart_has_outside_of_namespaces_and_no_more(tmp_path: Path) -> None:
    outside = {
        (each["apiVersion"].rpartition("/")[0].rpartition("/")[0] or each["apiVersion"].partition("/")[0], each["kind"])
        for name in EXAMPLES.keys() - {"extras"}  # which brings an object of its own
        for each in render(EXAMPLES[name], tmp_path=tmp_path)
        if "namespace" not in each["metadata"]
    }
    allowed = {(each["group"], each["kind"]) for each in of("AppProject")["spec"]["clusterResourceWhitelist"]}
    assert allowed == outside | {("", "Namespace")}, "the namespace is made by CreateNamespace"


def test_nothing_that_is_installed_is_a_secret_or_a_crd(cluster: Cluster, tmp_path: Path) -> None:
    rendered = [each for file in EXAMPLES.values() for each in render(file, tmp_path=tmp_path)]
    rendered += yaml.safe_load_all(cluster.kubectl("kustomize", str(installed.MANIFESTS)).stdout)
    rendered += [
        each
        for file in (installed.MANIFESTS / "components").rglob("*.yaml")
        for each in yaml.safe_load_all(file.read_text())
    ]
    kinds = {each["kind"] for each in rendered}
    assert "Deployment" in kinds
    assert kinds & {"Secret", "CustomResourceDefinition"} == set()
    assert [each["metadata"]["name"] for each in of_kind(rendered, "Namespace")] == ["pull-secret-updater"]


def test_the_version_is_that_of_the_chart() -> None:
    assert of("Application")["spec"]["source"]["targetRevision"] == VERSION
    assert of("OCIRepository")["spec"]["ref"]["tag"] == VERSION
    named = re.findall(r"pull-secret-updater[:-](\d+\.\d+\.\d+)|--version (\S+)", PAGES["platforms.md"])
    assert len(named) == 7
    assert {one or other for one, other in named} == {VERSION}


def test_the_packaged_chart_installs_from_its_file(cluster: Cluster, tmp_path: Path) -> None:
    helm("package", CHART, "-d", tmp_path)
    package = tmp_path / f"pull-secret-updater-{VERSION}.tgz"
    assert f"./{package.name} " in PAGES["platforms.md"]
    cluster.kubectl("create", "namespace", "pull-secret-updater", check=False)
    where = ("-n", "pull-secret-updater", "--kubeconfig", cluster.kubeconfig)
    shown = helm("install", "packaged", package, "-f", EXAMPLES["chainguard"], "--dry-run=server", *where)
    assert "kind: ValidatingAdmissionPolicy" in shown


def test_without_its_symbolic_link_as_flux_takes_it_from_git_the_chart_says_what_to_do(tmp_path: Path) -> None:
    chart = tmp_path / "chart"
    shutil.copytree(CHART, chart, ignore=shutil.ignore_patterns("policies"))
    with pytest.raises(HelmError, match=r"use the packaged chart \(helm package\)"):
        render(EXAMPLES["chainguard"], tmp_path=tmp_path, chart=chart)


def test_the_table_of_hosts_has_every_type_of_provider() -> None:
    table = PAGES["platforms.md"].partition("| `type` | hosts |\n")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE)) == TYPES.keys()
