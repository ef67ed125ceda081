"""A node image for kind, if none can be pulled: kind's own files, Debian, and the programs of hack/cluster."""

import shutil
import subprocess
import tempfile
from pathlib import Path

from hack.gomodule import GoPrograms
from hack.imagebuild.builders import Builder, BuildError
from hack.imagebuild.debian import Base
from hack.localcluster.binaries import built, kubeadm, kubectl, kubernetes_version, node_programs

KIND = GoPrograms(
    name="kind",
    module=Path(__file__).parents[1] / "tools" / "kind",
    packages={"kind": "sigs.k8s.io/kind"},
    estimate="half a minute",
)
NAME = "localhost/pull-secret-updater-kind-node:test"
CONTROL_PLANE = "localhost/pull-secret-updater-control-plane:test"
"""The name that image/import-images uses."""
FILES = Path(__file__).parent / "image"
CLUSTER = FILES / "cluster.yaml"
"""The configuration that kind needs for a node with this image."""

BASE = Base(
    label="kind-base",
    suite="bookworm",  # the last release whose systemd still starts on control groups version 1
    packages=(
        "ca-certificates",
        "conntrack",
        "containerd",
        "containernetworking-plugins",
        "iproute2",
        "iptables",
        "jq",
        "mount",
        "procps",
        "runc",
        "systemd",
    ),
)


def build(docker: Builder) -> str:
    """Build the image in Docker; returns its name. Raises BuildError, BinariesError, OSError."""
    docker.load(BASE.made())
    with tempfile.TemporaryDirectory(prefix="kind-node-") as scratch:
        control_plane, node = Path(scratch, "control-plane"), Path(scratch, "node")
        programs = node_programs().find_or_build()
        shutil.copytree(built().apiserver.parent, control_plane)
        for name in ("kube-controller-manager", "kube-proxy", "kube-scheduler", "pause"):
            shutil.copy(programs / name, control_plane)
        file = FILES / "control-plane.Dockerfile"
        docker.build(control_plane, file=file, tag=CONTROL_PLANE, arguments={"BASE": BASE.name})

        shutil.copytree(FILES, node)
        _copy(KIND.source("sigs.k8s.io/kind") / "images" / "base" / "files", node / "kind")
        shutil.copytree(kubeadm().find_or_build(), node / "programs")
        for program in (programs / "kubelet", kubectl()):
            shutil.copy(program, node / "programs")
        docker.save(CONTROL_PLANE, node / "control-plane.tar")
        arguments = {"BASE": BASE.name, "VERSION": kubernetes_version()}
        docker.build(node, file=FILES / "Dockerfile", tag=NAME, arguments=arguments)
    return NAME


def _copy(source: Path, target: Path) -> None:
    """Copy without the modes, since Go makes its files read-only."""
    if subprocess.run(["cp", "-r", "--no-preserve=mode", source, target], check=False).returncode != 0:
        raise BuildError(f"can't copy {source}; see cp's output above")
