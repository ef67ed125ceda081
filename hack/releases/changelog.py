"""What changed since the last release, from the commits."""

from collections import defaultdict
from pathlib import Path

from hack.releases.errors import ReleaseError
from hack.releases.source import git

_OTHER = "Other changes"


def section(checkout: Path, *, version: str, date: str, since: str | None) -> str:
    """The changelog's section: each commit's first line, by the issue that its trailer `Issue:` names.

    Since the commit `since`, or else since the last tag, or else since the beginning. Raises ReleaseError.
    """
    first = since or _last_tag(checkout, version)
    commits = git(
        checkout,
        "log",
        "--no-merges",
        "--format=%s%x1f%(trailers:key=Issue,valueonly,separator=%x2C)%x1e",
        "--end-of-options",
        f"{first}..HEAD" if first else "HEAD",
    )
    found: dict[str, list[str]] = defaultdict(list)
    for commit in filter(None, map(str.strip, commits.split("\x1e"))):
        subject, _, issues = commit.partition("\x1f")
        for issue in filter(None, issues.split(",")) if issues else ("",):
            found[f"Issue {issue.strip()}" if issue else _OTHER].append(f"- {subject}")
    if not found:
        raise ReleaseError(f"nothing changed since {first}")
    titles = sorted(found, key=lambda title: (title == _OTHER, len(title), title))
    parts = [f"### {title}\n\n" + "\n".join(found[title]) for title in titles]
    return f"## {version} ({date})\n\n" + "\n\n".join(parts) + "\n"


def _last_tag(checkout: Path, version: str) -> str | None:
    try:
        return git(checkout, "describe", "--tags", "--abbrev=0", "--match=v*", f"--exclude=v{version}").strip()
    except ReleaseError:  # there is none
        return None
