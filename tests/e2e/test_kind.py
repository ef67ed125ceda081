"""hack/kind, where there is no Docker or no node image. With both it runs tests/e2e/node, which is no part of this."""

import subprocess
from pathlib import Path

import pytest

from hack.imagebuild.builders import BuildError
from hack.kindcluster.cluster import NAME, KindCluster

ROOT = Path(__file__).parents[2]


def stub(directory: Path, script: str) -> str:
    """A program that does what this line of shell says."""
    path = directory / "program"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_without_docker_it_says_what_to_get_and_what_works_without(tmp_path: Path) -> None:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "DOCKER_HOST": f"unix://{tmp_path}/none"}
    done = subprocess.run([ROOT / "hack" / "kind", "up"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "https://docs.docker.com/engine/install" in done.stderr
    assert "hack/e2e-node" in done.stderr


def test_without_a_node_image_it_says_where_to_get_one(tmp_path: Path) -> None:
    cluster = KindCluster(program=stub(tmp_path, 'test "$1" = get'))
    with pytest.raises(BuildError, match=r"docker load.*--image debootstrap"):
        cluster.create()


def test_a_cluster_that_is_there_is_used(tmp_path: Path) -> None:
    cluster = KindCluster(program=stub(tmp_path, f'test "$1" = get && echo other {NAME}'))
    assert not cluster.ensure(lambda: pytest.fail("a node image was made for nothing"))


def test_a_cluster_of_another_name_is_not_used(tmp_path: Path) -> None:
    script = f'echo "$*" >> {tmp_path}/said; test "$1" = create || echo {NAME}-2'
    assert KindCluster(program=stub(tmp_path, script)).ensure(lambda: ["--image", "some"])
    _, created = (tmp_path / "said").read_text().splitlines()
    assert created == f"create cluster --name {NAME} --wait 2m --image some"


def test_the_kubeconfig_is_nobody_elses_to_read(tmp_path: Path) -> None:
    KindCluster(program=stub(tmp_path, "echo known")).write_kubeconfig(tmp_path / "kubeconfig")
    assert (tmp_path / "kubeconfig").read_text() == "known\n"
    assert (tmp_path / "kubeconfig").stat().st_mode & 0o077 == 0
