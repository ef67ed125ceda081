"""A node image for kind where none can be pulled: kind's own files, Debian, and the programs of hack/cluster."""

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
"""As image/import-images knows it."""
FILES = Path(__file__).parent / "image"
CLUSTER = FILES / "cluster.yaml"
"""What kind has to be told about a node of this image."""

BASE = Base(
    label="kind-base",
    suite="bookworm",  # the last whose systemd starts with control groups of version 1 too
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
    """Have the image in Docker; returns its name. Raises BuildError, BinariesError, OSError."""
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
    """Without the modes, as Go lets nobody write what it keeps."""
    if subprocess.run(["cp", "-r", "--no-preserve=mode", source, target], check=False).returncode != 0:
        raise BuildError(f"{source} can't be copied; cp's own words are above")
