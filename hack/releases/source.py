"""The commit that a release is made from."""

import io
import re
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import yaml

from hack.releases.errors import ReleaseError


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A commit that is checked out without changes."""

    checkout: Path
    commit: str
    """Its hash, 40 hexadecimal digits."""
    epoch: int
    """When it was committed, in seconds since the epoch: the time of everything in the release."""

    @classmethod
    def of(cls, checkout: Path) -> "Source":
        """The commit that is checked out there. Raises ReleaseError."""
        if changes := git(checkout, "status", "--porcelain").rstrip():
            raise ReleaseError(f"a release is made from a commit; commit or stash these changes first:\n{changes}")
        commit, epoch = git(checkout, "log", "-1", "--format=%H %ct").split()
        return cls(checkout=checkout, commit=commit, epoch=int(epoch))

    def export(self, target: Path) -> None:
        """Write the commit's files to `target`: with modes that no umask has changed, and with the commit's time."""
        packed = subprocess.run(
            ["git", "-C", str(self.checkout), "archive", "--format=tar", self.commit], capture_output=True, check=True
        )
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as tar:
            try:
                tar.extractall(target, filter=_plain)  # noqa: S202 - `_plain` refuses what leads out
            except tarfile.FilterError as error:
                raise ReleaseError(f"the commit has a link out of the repository: {error}") from error


def _plain(entry: tarfile.TarInfo, path: str) -> tarfile.TarInfo:
    tarfile.data_filter(entry, path)  # refuses links out of the repository: what they lead to would be packaged
    executable = entry.isdir() or entry.mode & 0o100
    return entry.replace(mode=0o755 if executable else 0o644, deep=False)


def check_version(checkout: Path, version: str) -> None:
    """Raises ReleaseError unless every file that names our version says this one."""
    wrong = [f"{where} says {found}" for where, found in versions(checkout).items() if found != version]
    if wrong:
        raise ReleaseError(f"this isn't {version} yet: {'; '.join(wrong)}. Change it there, and commit")


def versions(checkout: Path) -> dict[str, str]:
    """What each file says our version is."""
    chart = yaml.safe_load((checkout / "manifests/chart/Chart.yaml").read_text())
    kustomization = yaml.safe_load((checkout / "manifests/kustomization.yaml").read_text())
    return {
        "controller/__init__.py": _found(r'__version__ = "(.+)"', checkout / "controller/__init__.py"),
        "Dockerfile, VERSION": _found(r"ARG VERSION=(.+)", checkout / "Dockerfile"),
        "manifests/kustomization.yaml, newTag": kustomization["images"][0]["newTag"],
        "manifests/chart/Chart.yaml, version": chart["version"],
        "manifests/chart/Chart.yaml, appVersion": chart["appVersion"],
    }


def git(checkout: Path, *arguments: str) -> str:
    """What git prints. Raises ReleaseError."""
    command = ["git", "-C", str(checkout), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ReleaseError("git isn't on PATH; install it, since a release is made from a commit") from error
    if done.returncode != 0:
        raise ReleaseError(f"git {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout


def _found(pattern: str, file: Path) -> str:
    found = re.search(f"^{pattern}$", file.read_text(), re.MULTILINE)
    return found[1] if found else "nothing"
