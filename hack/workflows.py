"""Lints .github/workflows: by actionlint (built from its pinned Go module), and by zizmor, without the Internet.

python -m hack.workflows
"""

import subprocess
import sys
from pathlib import Path

from hack.gomodule import GoPrograms

ROOT = Path(__file__).parents[1]
ACTIONLINT = GoPrograms(
    name="actionlint",
    module=ROOT / "hack" / "tools" / "actionlint",
    packages={"actionlint": "github.com/rhysd/actionlint/cmd/actionlint"},
    estimate="half a minute on 2 cores",
)


def main() -> int:
    """0 if neither has found anything; what they find is on stdout. Raises BinariesError."""
    directory = ROOT / ".github" / "workflows"
    # Without shellcheck and pyflakes, which it would take from PATH: the result must be the same everywhere.
    actionlint = [str(ACTIONLINT.find_or_build() / "actionlint"), "-shellcheck=", "-pyflakes="]
    zizmor = [str(Path(sys.executable).parent / "zizmor"), "--offline", "--no-config", "--pedantic", "--quiet"]
    commands = ([*actionlint, *map(str, sorted(directory.glob("*.yaml")))], [*zizmor, str(directory)])
    return max(subprocess.run(command, check=False).returncode for command in commands)


if __name__ == "__main__":
    sys.exit(main())
