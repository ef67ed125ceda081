"""Runs pytest on what was set up for it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def suite(kubeconfig: Path, *arguments: str) -> int:
    """Run the tests with Pods that pull, on a cluster whose node has both images. Returns pytest's exit code."""
    return _run_pytest("tests/e2e/node", "--kubeconfig", str(kubeconfig.resolve()), *arguments)


def local(images: Path, *, base: str | None) -> int:
    """Run the tests of the local node, and of the images in this directory. Returns pytest's exit code."""
    named = ("--base", base) if base else ()
    return _run_pytest("tests/e2e/localnode", "--images", str(images), *named)


def _run_pytest(*arguments: str) -> int:
    """Run pytest; if we are told to stop, let it clean up first."""
    with subprocess.Popen([sys.executable, "-m", "pytest", *arguments], cwd=ROOT) as child:
        try:
            return child.wait()
        except BaseException as error:
            if not isinstance(error, KeyboardInterrupt):  # the terminal sends that to pytest too
                child.terminate()
            child.wait()
            raise
