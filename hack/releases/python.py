"""The wheel and the source distribution."""

import os
import subprocess
import sys
from pathlib import Path

from hack.releases import tarball
from hack.releases.errors import ReleaseError


def build(source: Path, target: Path, *, epoch: int) -> tuple[Path, Path]:
    """Build both from the files in `source`: the source distribution, and the wheel from that. Raises ReleaseError.

    They have the same bytes for the same files: https://reproducible-builds.org/docs/source-date-epoch/
    """
    # No isolation: setuptools is in our own lock, so nothing is fetched. The umask decides on modes in the wheel.
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target), str(source)]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, umask=0o022, check=False)
    if done.returncode != 0:
        raise ReleaseError(f"building the wheel failed:\n{done.stdout}{done.stderr}")
    (wheel,) = target.glob("*.whl")
    (sdist,) = target.glob("pull_secret_updater-*.tar.gz")
    tarball.pack_again(sdist, epoch=epoch)
    return wheel, sdist
