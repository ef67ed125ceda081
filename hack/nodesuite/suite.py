"""pytest, on what was set up for it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def suite(kubeconfig: Path, *arguments: str) -> int:
    """Of Pods that pull, on a cluster whose node has both images. Returns pytest's exit code."""
    return _run_pytest("tests/e2e/node", "--kubeconfig", str(kubeconfig.resolve()), *arguments)


def local(images: Path) -> int:
    """About this machine's node, and the images in this directory. Returns pytest's exit code."""
    return _run_pytest("tests/e2e/localnode", "--images", str(images))


def _run_pytest(*arguments: str) -> int:
    """When we are to end, it first takes down what it has set up."""
    with subprocess.Popen([sys.executable, "-m", "pytest", *arguments], cwd=ROOT) as child:
        try:
            return child.wait()
        except BaseException as error:
            if not isinstance(error, KeyboardInterrupt):  # which the terminal sends to it too
                child.terminate()
            child.wait()
            raise
