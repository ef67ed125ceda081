"""What the linters of workflows (hack/workflows.py) don't ask for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

DIRECTORY = Path(__file__).parents[2] / ".github" / "workflows"
WORKFLOWS = {file.stem: file.read_text() for file in sorted(DIRECTORY.iterdir())}


def test_there_is_one_for_lint_one_for_tests_and_one_for_kind() -> None:
    assert WORKFLOWS.keys() >= {"lint", "test", "kind"}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_job_ends_by_itself(name: str) -> None:
    for job in yaml.safe_load(WORKFLOWS[name])["jobs"].values():
        assert 0 < job["timeout-minutes"] <= 120


def test_an_action_is_the_same_commit_everywhere_and_its_version_stands_beside_it() -> None:
    used = {line for text in WORKFLOWS.values() for line in re.findall(r"uses: (.*)", text)}
    pinned = {match[1]: line for line in used if (match := re.fullmatch(r"(\S+)@[0-9a-f]{40} # v\d+\.\d+\.\d+", line))}
    assert len(pinned) == len(used)


def test_what_builds_may_neither_write_nor_sign() -> None:
    jobs = [job for text in WORKFLOWS.values() for job in yaml.safe_load(text)["jobs"].values()]
    trusted = [job for job in jobs if "write" in job["permissions"].values()]
    assert len(trusted) == 1
    commands = "".join(step.get("run", "") for step in trusted[0]["steps"])
    for builds in ("hack/release", "hack/image", "hack/test", "hack/kind"):
        assert builds not in commands
