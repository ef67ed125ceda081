"""docker, podman and buildah, as far as we need them: build an image, load an archive, save one."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hack.imagebuild.archive import MACHINE

Format = Literal["docker", "oci"]
"""Of an archive: as `docker save` writes it, or OCI's image layout."""
_MANIFESTS: Mapping[Format, str] = {"docker": "v2s2", "oci": "oci"}
"""buildah's name of the kind of manifest that each of them has."""


class BuildError(Exception):
    """An image can't be built; the message says what to do, or the tool has printed why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    """One of the three tools. It decides where it keeps images, unless `environment` says otherwise."""

    name: str
    environment: Mapping[str, str] = field(default_factory=dict)

    def build(
        self,
        context: Path,
        *,
        file: Path,
        tag: str,
        arguments: Mapping[str, str],
        architecture: str = MACHINE,
        epoch: int | None = None,
    ) -> None:
        """Build `file` with the files of `context` and name it `tag`. Raises BuildError.

        For another architecture than this machine's, the kernel must be able to run its programs, such as by QEMU.

        With `epoch`, in seconds, all that the build adds has that time: the same files then give the same image.
        """
        values = [word for key, value in arguments.items() for word in ("--build-arg", f"{key}={value}")]
        options = ["--file", str(file), "--tag", tag, "--platform", f"linux/{architecture}", *values]
        if self.name == "buildah":
            # chroot needs only what root has in a container, or a user in a namespace; pip needs the network.
            options += ["--isolation", "chroot", "--network", "host", "--layers=false"]
        if epoch is not None:  # https://docs.docker.com/build/ci/github-actions/reproducible-builds/
            options += ["--build-arg", f"SOURCE_DATE_EPOCH={epoch}"]
            options += [] if self.name == "docker" else ["--timestamp", str(epoch)]
        if self.name != "docker":
            options += ["--pull=missing"] if self.name == "podman" else ["--pull-never"]
        self._run("build", *options, str(context))

    def has(self, image: str, *, architecture: str = MACHINE) -> bool:
        """Whether the image is here, or could be pulled. If it is here, it may be of another architecture."""
        look = ("inspect", "--type", "image") if self.name == "buildah" else ("image", "inspect")
        return self._succeeds(*look, image) or self._succeeds("pull", "--platform", f"linux/{architecture}", image)

    def load(self, archive: Path) -> None:
        """Load an image from an archive, under the name it has there. Raises BuildError."""
        self._run(*(["pull", f"docker-archive:{archive}"] if self.name == "buildah" else ["load", "-i", str(archive)]))

    def save(self, tag: str, archive: Path, *, form: Format = "docker") -> None:
        """Write an image to an archive, as `docker save` does or in OCI's image layout. Raises BuildError."""
        archive.unlink(missing_ok=True)  # podman and buildah would add to an existing archive
        match self.name:
            case "buildah":
                self._run("push", "--quiet", "--format", _MANIFESTS[form], tag, f"{form}-archive:{archive}:{tag}")
            case "podman":
                self._run("save", "--quiet", "--format", f"{form}-archive", "-o", str(archive), tag)
            case _:  # since version 25 Docker's own archive has OCI's layout too
                self._run("save", "-o", str(archive), tag)

    def _succeeds(self, *arguments: str) -> bool:
        command = [self.name, *arguments]
        return subprocess.run(command, capture_output=True, env=self._environment(), check=False).returncode == 0

    def _run(self, *arguments: str) -> None:
        # The tool's output is progress; stdout is for our result.
        done = subprocess.run([self.name, *arguments], stdout=2, env=self._environment(), check=False)
        if done.returncode != 0:
            raise BuildError(
                f"{self.name} {arguments[0]} failed with exit code {done.returncode}; see its output above"
            )

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **self.environment}


ALL = ("docker", "podman", "buildah")
NONE = f"none of {', '.join(ALL)} works here. Start Docker, or install buildah: hack/cluster packages --image-tools"


def find(names: Sequence[str] = ALL, *, otherwise: str = NONE) -> Builder:
    """The first tool that works here. If none does, raises BuildError with the sentence `otherwise`."""
    for name in names:
        if shutil.which(name) and subprocess.run([name, "info"], capture_output=True, check=False).returncode == 0:
            return Builder(name=name)
    raise BuildError(otherwise)


def with_own_store(builder: Builder, directory: Path) -> Builder:
    """The same, but with images only in `directory`, so that none stays. Docker always uses its daemon's store."""
    if builder.name == "docker":
        return builder
    store = directory / "storage.conf"
    driver = "vfs"  # slower than overlay, but works on every file system
    store.write_text(f'[storage]\ndriver = "{driver}"\ngraphroot = "{directory}/images"\nrunroot = "{directory}/run"\n')
    return Builder(name=builder.name, environment={"CONTAINERS_STORAGE_CONF": str(store)})
