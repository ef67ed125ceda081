"""What a node needs of the machine's own packages."""

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
"""What makes images, and a base for them, where there is no Docker; by a file of each package."""


class PackagesError(Exception):
    """A node can't run here; the message says what to do."""


def check() -> None:
    """Raises PackagesError unless a node can run here."""
    _check_root("a node has namespaces, mounts and network interfaces of its own: run this as root, say with sudo")
    if absent := sorted(set(missing())):
        raise PackagesError(f"missing on this machine: {', '.join(absent)}. `hack/cluster packages` installs them")


def missing() -> Iterator[str]:
    """The Debian packages of what isn't there yet."""
    yield from (package for program, package in PROGRAMS.items() if shutil.which(program) is None)
    if not any((path / "ptp").exists() for path in CNI_DIRECTORIES):
        yield NETWORK_PLUGINS


def install(*, image_tools: bool) -> list[str]:
    """Have apt-get install what is missing, and remove nothing for it; returns what that was. Raises PackagesError."""
    tools = [package for file, package in IMAGE_TOOLS.items() if image_tools and not Path(file).exists()]
    wanted = sorted({*missing(), *tools})
    if not wanted:
        return []
    _check_root("apt-get needs root: run this with sudo")
    if shutil.which("apt-get") is None:
        raise PackagesError(f"no apt-get here: install what your system calls {', '.join(wanted)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # --no-remove: Docker's own containerd.io, say, must not make way for Debian's containerd.
    for command in (["update", "--quiet"], ["install", "--quiet", "--yes", "--no-remove", "--no-install-recommends"]):
        arguments = wanted if command[0] == "install" else []
        if subprocess.run(["apt-get", *command, *arguments], env=environment, check=False).returncode != 0:
            raise PackagesError(f"apt-get {command[0]} failed; its own words are above")
    return wanted


def _check_root(sentence: str) -> None:
    if os.geteuid() != 0:
        raise PackagesError(sentence)
