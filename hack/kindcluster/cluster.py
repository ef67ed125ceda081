"""A kind cluster, managed through kind's command line."""

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hack.imagebuild.builders import BuildError
from hack.imagebuild.image import DEBOOTSTRAP

NAME = "pull-secret-updater"
CONTEXT = f"kind-{NAME}"
"""The context in kubectl's configuration."""
NO_CLUSTER = (
    "kind could not create the cluster; see its output above. If it could not pull its node image: `docker save` one "
    "where you can pull it (https://github.com/kubernetes-sigs/kind/releases), `docker load` it here, and name it with "
    f"--image; or build one here: --image {DEBOOTSTRAP}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KindCluster:
    """Our cluster; each method raises BuildError if kind fails."""

    program: str

    def ensure(self, options: Callable[[], Sequence[str]]) -> bool:
        """Create it, with these options of `kind create cluster`, if there is none; returns whether it did."""
        if NAME in self._output("get", "clusters").split():
            return False
        self.create(*options())
        return True

    def create(self, *options: str) -> None:
        """Create it, and wait until the control plane is ready; on failure, leave nothing."""
        try:
            self._run("create", "cluster", "--name", NAME, "--wait", "2m", *options, otherwise=NO_CLUSTER)
        except (KeyboardInterrupt, SystemExit):  # kind was killed halfway; otherwise it cleans up itself
            self.delete()
            raise

    def delete(self) -> None:
        """Delete it. Fine if there is none."""
        self._run(
            "delete", "cluster", "--name", NAME, otherwise="kind could not delete the cluster; see its output above"
        )

    def load(self, *archives: Path) -> None:
        """Load images from archives, as `docker save` writes them, into the node."""
        words = ["load", "image-archive", "--name", NAME, *map(str, archives)]
        self._run(*words, otherwise="kind could not load the images; see its output above")

    def write_kubeconfig(self, path: Path) -> None:
        """Write an administrator's kubeconfig to a file that only this user can read."""
        path.touch(mode=0o600)
        path.write_text(self._output("get", "kubeconfig", "--name", NAME))

    def _run(self, *words: str, otherwise: str) -> None:
        if subprocess.run([self.program, *words], check=False).returncode != 0:
            raise BuildError(otherwise)

    def _output(self, *words: str) -> str:
        done = subprocess.run([self.program, *words], stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            raise BuildError(f"kind {' '.join(words)} failed with exit code {done.returncode}; see its output above")
        return done.stdout
