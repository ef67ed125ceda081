"""A base image without a registry: Debian and its Python, by debootstrap. For tests; what is released stands on the
official image.
"""

import os
import shutil
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from hack.gomodule import user_cache
from hack.imagebuild import archive
from hack.imagebuild.builders import BuildError

NAME = "localhost/pull-secret-updater-base:trixie"
SUITE = "trixie"
PACKAGES = "ca-certificates,python3,python3-venv"
TRUST = Path("etc/ssl/certs/ca-certificates.crt")
"""Whom this machine trusts, and so the build: it may have to pass a proxy to reach the package index."""


def base() -> Path:
    """The archive of the image NAME, made first if there is none of this week. Raises BuildError."""
    week = "-W".join(map(str, datetime.now(UTC).isocalendar()[:2]))
    target = user_cache() / f"base-{SUITE}-{week}.tar"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        for old in target.parent.glob(f"base-{SUITE}-*.tar"):
            old.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix="base-") as scratch:
            root, new = Path(scratch, "root"), Path(scratch, "base.tar")
            _debootstrap(root)
            archive.of_directory(root, new, name=NAME, config=_config(root))
            new.rename(target)
    return target


def _debootstrap(root: Path) -> None:
    if os.geteuid() != 0:
        raise BuildError("debootstrap needs root: run this with sudo, or name a --base that can be pulled")
    if shutil.which("debootstrap") is None:
        raise BuildError(
            "debootstrap is missing: install it (hack/cluster packages --image-tools), or name a --base to pull"
        )
    command = ["debootstrap", "--force-check-gpg", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(root)]
    if subprocess.run(command, stdout=2, check=False).returncode != 0:
        raise BuildError("debootstrap failed; its own words are above")
    shutil.rmtree(root / "var/cache/apt")
    shutil.rmtree(root / "var/lib/apt/lists")


def _config(root: Path) -> dict[str, list[str]]:
    environment = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    ours = Path("/", TRUST)
    if ours.exists():
        shutil.copyfile(ours, root / TRUST)
        environment += [f"SSL_CERT_FILE=/{TRUST}", f"PIP_CERT=/{TRUST}"]
    return {"Env": environment, "Cmd": ["python3"]}
