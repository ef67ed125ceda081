"""A cluster of kind, by the words of its command line."""

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hack.imagebuild.builders import BuildError
from hack.imagebuild.image import DEBOOTSTRAP

NAME = "pull-secret-updater"
CONTEXT = f"kind-{NAME}"
"""In kubectl's own configuration."""
NO_CLUSTER = (
    "kind made no cluster; its own words are above. If it could not pull its node image: `docker save` one where "
    "it can be had (https://github.com/kubernetes-sigs/kind/releases), `docker load` it here, and name it with "
    f"--image; or have one made here: --image {DEBOOTSTRAP}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KindCluster:
    """The one that we make; each method raises BuildError if kind can't do it."""

    program: str

    def ensure(self, options: Callable[[], Sequence[str]]) -> bool:
        """Have it; whether it had to be made. Only then it asks for the options of `kind create cluster`."""
        if NAME in self._output("get", "clusters").split():
            return False
        self.create(*options())
        return True

    def create(self, *options: str) -> None:
        """Make it, with a control plane that is ready, or leave nothing."""
        try:
            self._run("create", "cluster", "--name", NAME, "--wait", "2m", *options, otherwise=NO_CLUSTER)
        except (KeyboardInterrupt, SystemExit):  # kind was killed in the middle; else it removes it by itself
            self.delete()
            raise

    def delete(self) -> None:
        """Fine if there is none."""
        self._run("delete", "cluster", "--name", NAME, otherwise="kind did not delete the cluster")

    def load(self, *archives: Path) -> None:
        """Give the node the images of archives, as `docker save` writes them."""
        words = ["load", "image-archive", "--name", NAME, *map(str, archives)]
        self._run(*words, otherwise="kind did not take the images; its own words are above")

    def write_kubeconfig(self, path: Path) -> None:
        """An administrator's, to a file that nobody else may read."""
        path.touch(mode=0o600)
        path.write_text(self._output("get", "kubeconfig", "--name", NAME))

    def _run(self, *words: str, otherwise: str) -> None:
        if subprocess.run([self.program, *words], check=False).returncode != 0:
            raise BuildError(otherwise)

    def _output(self, *words: str) -> str:
        done = subprocess.run([self.program, *words], stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            raise BuildError(f"kind {' '.join(words)} ended with {done.returncode}; its own words are above")
        return done.stdout
