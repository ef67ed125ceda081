"""Repositories with one commit: the files of this checkout as they are, committed or not."""

import os
import shutil
import subprocess
from pathlib import Path

from tests.e2e.support.installed import ROOT

COMMITTED = 1_700_000_000
"""When everything in them was committed, in seconds since the epoch."""


def git(checkout: Path, *arguments: str) -> None:
    """Run git there, as somebody who needs no configuration."""
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false", "-c", "init.defaultBranch=main")
    date = f"{COMMITTED} +0000"
    environment = {**os.environ, "GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
    subprocess.run(["git", "-C", str(checkout), *who, *arguments], env=environment, capture_output=True, check=True)


def committed(target: Path, *, message: str) -> None:
    """Make one in a directory that is empty."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_symlink() or (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name, follow_symlinks=False)
    git(target, "init", "--quiet")
    git(target, "add", "--all")
    git(target, "commit", "--quiet", "--message", message)
