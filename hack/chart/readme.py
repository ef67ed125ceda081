"""README.md of the chart: a table of all values, from the comments and defaults in values.yaml.

python -m hack.chart.readme writes it.
"""

import itertools
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from hack.chart.helm import CHART

FILE = CHART / "README.md"

_INTRODUCTION = """\
# The chart of pull-secret-updater

Keeps image pull Secrets filled with short-lived registry tokens. The project's README says what it does, and how to ask
for a token. `config` is the controller's own configuration, as it is; RBAC, admission policies, projected tokens and
mounts follow from it, so there is one place to change. In the project's repository, `manifests/chart/ci/` has values
for EKS, GKE, AKS, on-prem and others.

    helm upgrade --install pull-secret-updater . --namespace pull-secret-updater --create-namespace --values values.yaml

Uninstalling removes all of it and leaves the Secrets with their tokens. The chart has no CRD, no Secret, and no hook
but those of `helm test`.

| value | default | |
|---|---|---|
"""


class Leaf(NamedTuple):
    """One value."""

    path: str
    default: Any
    sentence: str


def leaves() -> Iterator[Leaf]:
    """All values, in the order of the file, each with the comment above it. Raises ValueError for one without."""
    text = (CHART / "values.yaml").read_text()
    lines = text.splitlines()
    whole = yaml.compose(text)
    for path, default, line in _nodes(whole, ()) if whole is not None else ():
        above = itertools.takewhile(lambda text: text.startswith("# "), (text.lstrip() for text in lines[:line][::-1]))
        sentence = " ".join(text.removeprefix("# ") for text in reversed(list(above)))
        if not sentence:
            raise ValueError(f"values.yaml says nothing about {'.'.join(path)}")
        yield Leaf(".".join(path), default, sentence)


def _nodes(node: yaml.Node, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, int]]:
    """Path, value and line of each leaf; a mapping in braces is one leaf."""
    if isinstance(node, yaml.MappingNode) and node.value and not node.flow_style:
        for key, value in node.value:
            inner = (*path, key.value)
            if isinstance(value, yaml.MappingNode) and value.value and not value.flow_style:
                yield from _nodes(value, inner)
            else:
                yield inner, yaml.SafeLoader("").construct_document(value), key.start_mark.line


def readme() -> str:
    """The whole."""
    rows = (
        f"| `{leaf.path}` | `{json.dumps(leaf.default)}` | {leaf.sentence.replace('|', chr(92) + '|')} |\n"
        for leaf in leaves()
    )
    return _INTRODUCTION + "".join(rows)


def main() -> None:
    """Write the file."""
    FILE.write_text(readme())


if __name__ == "__main__":
    main()
