"""Base images without a registry: Debian, from debootstrap. Only for tests; releases use the official image."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hack.gomodule import user_cache
from hack.imagebuild import archive
from hack.imagebuild.archive import MACHINE
from hack.imagebuild.builders import BuildError

TRUST = Path("etc/ssl/certs/ca-certificates.crt")
"""The CAs that this machine trusts, for the build too: it may need a proxy to reach the package index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A Debian release with some of its packages."""

    label: str
    """Begins the name of its file in the user's cache."""
    suite: str
    packages: tuple[str, ...]
    architecture: str = MACHINE
    """For another than this machine's, the kernel must be able to run its programs, such as by QEMU."""

    @property
    def name(self) -> str:
        """The image's name."""
        return f"localhost/pull-secret-updater-{self.label}:{self.suite}-{self.architecture}"

    def made(self) -> Path:
        """The archive of the image; builds it first if there is none from this week. Raises BuildError."""
        week = "-W".join(map(str, datetime.now(UTC).isocalendar()[:2]))
        packages = hashlib.sha256(" ".join(self.packages).encode()).hexdigest()[:8]
        prefix = f"{self.label}-{self.suite}-{self.architecture}"
        target = user_cache() / f"{prefix}-{packages}-{week}.tar"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            for old in target.parent.glob(f"{prefix}-*.tar"):
                old.unlink(missing_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{self.label}-") as scratch:
                root, new = Path(scratch, "root"), Path(scratch, "base.tar")
                self._debootstrap(root)
                config = {"Env": _environment(root)}
                archive.of_directory(root, new, name=self.name, config=config, architecture=self.architecture)
                new.rename(target)
        return target

    def _debootstrap(self, root: Path) -> None:
        if os.geteuid() != 0:
            raise BuildError("debootstrap needs root; use sudo, or name an image that can be pulled")
        if shutil.which("debootstrap") is None:
            raise BuildError(
                "debootstrap is not installed; run hack/cluster packages --image-tools, or name an image to pull"
            )
        options = ["--force-check-gpg", "--variant=minbase", f"--arch={self.architecture}"]
        options += [f"--include={','.join(self.packages)}"]
        if subprocess.run(["debootstrap", *options, self.suite, str(root)], stdout=2, check=False).returncode != 0:
            raise BuildError("debootstrap failed; see its output above")
        shutil.rmtree(root / "var/cache/apt")
        shutil.rmtree(root / "var/lib/apt/lists")


def _environment(root: Path) -> list[str]:
    environment = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    ours = Path("/", TRUST)
    if ours.exists():
        shutil.copyfile(ours, root / TRUST)
        environment += [f"SSL_CERT_FILE=/{TRUST}", f"PIP_CERT=/{TRUST}"]
    return environment


def python(architecture: str = MACHINE) -> Base:
    """Replaces the official Python image."""
    packages = ("ca-certificates", "python3", "python3-venv")
    return Base(label="base", suite="trixie", packages=packages, architecture=architecture)
