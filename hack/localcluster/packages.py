"""The machine's packages that a node needs."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from hack.localcluster.nodefiles import CNI_DIRECTORIES

PROGRAMS = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "mount": "mount",
}
"""The Debian package of each program."""
NETWORK_PLUGINS = "containernetworking-plugins"
IMAGE_TOOLS = {
    "/usr/bin/buildah": "buildah",
    "/usr/sbin/debootstrap": "debootstrap",
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
}
"""Tools to build images and their base without Docker; each package by one of its files."""


class PackagesError(Exception):
    """A node can't run here; the message says what to do."""


def check() -> None:
    """Raises PackagesError unless a node can run here."""
    _check_root("a node creates namespaces, mounts and network interfaces, which needs root; use sudo")
    if absent := sorted(set(missing())):
        raise PackagesError(
            f"missing on this machine: {', '.join(absent)}; run `hack/cluster packages` to install them"
        )


def missing() -> Iterator[str]:
    """The Debian packages that are missing."""
    yield from (package for program, package in PROGRAMS.items() if shutil.which(program) is None)
    if not any((path / "ptp").exists() for path in CNI_DIRECTORIES):
        yield NETWORK_PLUGINS


def install(*, image_tools: bool) -> list[str]:
    """Install what is missing with apt-get, and remove nothing; returns the packages. Raises PackagesError."""
    tools = [package for file, package in IMAGE_TOOLS.items() if image_tools and not Path(file).exists()]
    wanted = sorted({*missing(), *tools})
    if not wanted:
        return []
    _check_root("apt-get needs root; use sudo")
    if shutil.which("apt-get") is None:
        raise PackagesError(f"no apt-get here; install your system's packages for {', '.join(wanted)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # --no-remove: for example, Debian's containerd must not replace Docker's containerd.io.
    for command in (["update", "--quiet"], ["install", "--quiet", "--yes", "--no-remove", "--no-install-recommends"]):
        arguments = wanted if command[0] == "install" else []
        if subprocess.run(["apt-get", *command, *arguments], env=environment, check=False).returncode != 0:
            raise PackagesError(f"apt-get {command[0]} failed; see its output above")
    return wanted


def _check_root(sentence: str) -> None:
    if os.geteuid() != 0:
        raise PackagesError(sentence)
