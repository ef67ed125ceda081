"""Who may import whom. The folders of controller/ are layers: imports point down only, and decisions stay pure.

Each rule is a sentence, and each has a piece of code below that breaks it, so that no rule can fall asleep.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

IMPURE = ("aiohttp", "kubernetes", "prometheus_client", "logging", "structlog", "time", "random")
WALL_CLOCKS = (
    *("time.time", "time.time_ns"),
    *(f"datetime.datetime.{name}" for name in ("now", "utcnow", "today")),
    "datetime.date.today",
)


SDKS = ("botocore", "google", "azure", "jwt", "cryptography", "controller.providers.aws")
"""What an extra brings, and our own module around it."""


@dataclass(frozen=True, slots=True)
class Use:
    """A dotted name that a module imports, or reaches through an import."""

    name: str
    line: int
    imported: bool
    at_start: bool
    """As the module is loaded, not when a function is called."""

    def is_of(self, *packages: str) -> bool:
        """Whether it is one of the packages or in one."""
        return any(self.name == package or self.name.startswith(f"{package}.") for package in packages)


@dataclass(frozen=True, slots=True)
class Rule:
    """In the modules that it `binds`, it forbids a use."""

    sentence: str
    binds: Callable[[str], bool]
    forbids: Callable[[str, Use], bool]


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def is_provider(module: str) -> bool:
    """One of the issuers' files; the package itself is the table that names them all, and base.py what they share."""
    return within(module, "controller.providers") and module != "controller.providers"


RULES = [
    Rule(
        "core decides with what it is given: of ours it imports only core, so that it can be tested alone",
        lambda module: within(module, "controller.core"),
        lambda _, use: use.imported and use.is_of("controller") and not use.is_of("controller.core"),
    ),
    Rule(
        f"core is pure: no I/O, clock, randomness or logging, so it imports none of {', '.join(IMPURE)}; pass `now` in",
        lambda module: within(module, "controller.core"),
        lambda _, use: use.imported and use.is_of(*IMPURE),
    ),
    Rule(
        "in core, queue.py alone waits: only it may import asyncio",
        lambda module: within(module, "controller.core") and module != "controller.core.queue",
        lambda _, use: use.imported and use.is_of("asyncio"),
    ),
    Rule(
        "a provider never touches the API server: it is handed `proof(audience)` and imports none of controller.kube",
        lambda module: within(module, "controller.providers"),
        lambda _, use: use.imported and use.is_of("controller.kube"),
    ),
    Rule(
        "a provider's file is complete in itself: it imports no other provider; what all share is in base.py, what the "
        "types of one vendor share in aws.py",
        is_provider,
        lambda module, use: (
            use.imported
            and use.is_of("controller.providers")
            and not use.is_of("controller.providers.base", "controller.providers.aws", module)
        ),
    ),
    Rule(
        "an SDK is an extra, and there only where a provider needs it: import it inside the function that does",
        lambda module: module != "controller.providers.aws",
        lambda _, use: use.imported and use.at_start and use.is_of(*SDKS),
    ),
    Rule(
        "reflector and reconciler don't know each other: they meet in the store and the queue",
        lambda module: module in ("controller.kube.reflector", "controller.reconciler"),
        lambda _, use: use.imported and use.is_of("controller.kube.reflector", "controller.reconciler"),
    ),
    Rule(
        "the official client costs about 20 MiB: import kubernetes inside the function that needs it",
        lambda _: True,
        lambda _, use: use.imported and use.at_start and use.is_of("kubernetes"),
    ),
    Rule(
        "the wall clock is read in one place, so that tests can set it: take `now` as an argument or a clock",
        lambda module: module not in ("controller.app", "controller.clock"),
        lambda _, use: use.name in WALL_CLOCKS,
    ),
]


def dotted(node: ast.expr) -> str | None:
    """`a.b.c` of an expression, None if it is anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (owner := dotted(node.value)):
        return f"{owner}.{node.attr}"
    return None


def imports_of(node: ast.Import | ast.ImportFrom, *, package: str) -> dict[str, str]:
    """The names that an import statement binds, each with the full name of what it means."""
    if isinstance(node, ast.Import):
        return {alias.asname or alias.name: alias.name for alias in node.names}
    parents = package.split(".")[: -(node.level - 1) or None] if node.level else []
    base = ".".join([*parents, *([node.module] if node.module else [])])
    return {alias.asname or alias.name: f"{base}.{alias.name}" for alias in node.names}


def is_for_types(node: ast.AST) -> bool:
    """A block that is never run: `if TYPE_CHECKING:`."""
    return isinstance(node, ast.If) and dotted(node.test) == "TYPE_CHECKING" and not node.orelse


def uses_of(source: str, *, package: str) -> Iterator[Use]:
    """What the source of a module in `package` imports, and what it reaches through that."""
    tree = ast.parse(source)
    deferred = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or is_for_types(outer)
        for inner in ast.walk(outer)
    }
    meanings: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            bound = imports_of(node, package=package)
            meanings |= bound
            yield from (Use(name, node.lineno, True, id(node) not in deferred) for name in bound.values())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name) and (name := dotted(node)):
            first, _, rest = name.partition(".")
            meaning = meanings.get(first, first)
            full = f"{meaning}.{rest}" if rest else meaning
            yield Use(full, node.lineno, False, id(node) not in deferred)


def violations(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """What is wrong with a module, each as a line that says where, what and why."""
    package = module if is_package else module.rpartition(".")[0]
    return [
        f"{module}, line {use.line}: uses {use.name}, but {rule.sentence}"
        for use in uses_of(source, package=package)
        for rule in RULES
        if rule.binds(module) and rule.forbids(module, use)
    ]


MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "controller").rglob("*.py"))
}


@pytest.mark.parametrize("module", MODULES)
def test_every_module_keeps_to_its_layer(module: str) -> None:
    path = MODULES[module]
    found = violations(module, path.read_text(), is_package=path.name == "__init__.py")
    assert not found, "\n".join(found)


def test_the_modules_that_rules_name_exist() -> None:
    named = {"controller.core.queue", "controller.core.store", "controller.kube.reflector", "controller.reconciler"}
    assert named <= MODULES.keys(), "a module moved: its rule above binds nothing any more"


@pytest.mark.parametrize(
    ("module", "source", "why"),
    [
        ("controller.core.policy", "from controller.kube import client", "of ours it imports only core"),
        ("controller.core.policy", "from controller import minter", "of ours it imports only core"),
        ("controller.core.policy", "from ..kube import client", "of ours it imports only core"),
        ("controller.core.policy", "import controller.config as c", "of ours it imports only core"),
        ("controller.core.policy", "def f():\n    import controller.app", "of ours it imports only core"),
        *(("controller.core.policy", f"import {name}", "core is pure") for name in IMPURE),
        ("controller.core.queue", "from time import monotonic", "core is pure"),
        ("controller.core.policy", "import logging.handlers", "core is pure"),
        ("controller.core.policy", "import asyncio", "queue.py alone"),
        ("controller.core.store", "from asyncio import Lock", "queue.py alone"),
        ("controller.providers.ecr", "from controller.kube.proof import proof", "never touches the API server"),
        ("controller.providers.base", "import controller.kube", "never touches the API server"),
        ("controller.providers.ecr", "from controller.providers.chainguard import x", "complete in itself"),
        ("controller.providers.ecr", "from . import chainguard", "complete in itself"),
        ("controller.providers.base", "from controller.providers import chainguard", "complete in itself"),
        ("controller.providers.aws", "from controller.providers import ecr", "complete in itself"),
        ("controller.providers.ecr", "from controller.providers.aws import Keys", "an SDK is an extra"),
        ("controller.providers.google", "import google.auth.crypt", "an SDK is an extra"),
        ("controller.kube.reflector", "from controller.reconciler import Reconciler", "don't know each other"),
        ("controller.kube.reflector", "from .. import reconciler", "don't know each other"),
        ("controller.reconciler", "import controller.kube.reflector", "don't know each other"),
        ("controller.kube.auth", "from kubernetes.aio import config", "20 MiB"),
        ("controller.app", "try:\n    import kubernetes\nexcept ImportError:\n    pass", "20 MiB"),
        ("controller.minter", "import time\nx = time.time()", "read in one place"),
        ("controller.minter", "from time import time as now", "read in one place"),
        ("controller.minter", "import time as t\ndef f(clock=t.time_ns): ...", "read in one place"),
        ("controller.minter", "import datetime\nx = datetime.datetime.now(datetime.UTC)", "read in one place"),
        ("controller.minter", "from datetime import datetime as d\nx = d.utcnow()", "read in one place"),
        ("controller.minter", "import datetime as dt\nx = dt.date.today()", "read in one place"),
    ],
)
def test_each_rule_finds_what_breaks_it(module: str, source: str, why: str) -> None:
    found = violations(module, source)
    assert any(why in line for line in found), found
    assert all(line.startswith(f"{module}, line ") for line in found)


def test_every_rule_is_broken_by_an_example_above() -> None:
    cases = next(mark for mark in test_each_rule_finds_what_breaks_it.pytestmark).args[1]  # type: ignore[attr-defined]
    for rule in RULES:
        assert any(why in rule.sentence for _, _, why in cases), rule.sentence


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("controller.core.queue", "import asyncio"),
        ("controller.core.policy", "from controller.core.model import Key\nfrom . import schedule"),
        ("controller.core.annotations", "import datetime\nx = datetime.datetime.fromtimestamp(0, datetime.UTC)"),
        (
            "controller.providers.ecr",
            "from controller.providers.base import Provider\nfrom controller.http import Transport",
        ),
        ("controller.providers.ecr", "def f():\n    from controller.providers import aws\n    return aws"),
        ("controller.providers.ecr", "if TYPE_CHECKING:\n    from controller.providers.aws import Keys"),
        ("controller.providers.aws", "from botocore.auth import SigV4Auth"),
        ("controller.kube.auth", "def load():\n    from kubernetes.aio import config\n    return config"),
        ("controller.kube.auth", "from controller.kube import client"),
        ("controller.minter", "import time\nx = time.monotonic()"),
        ("controller.app", "import time\nclock = time.time"),
        ("controller.minter", "def f(time, datetime): return time.timer + datetime.datetime.nowhere"),
    ],
)
def test_what_is_allowed_passes(module: str, source: str) -> None:
    assert violations(module, source) == []


def test_the_table_of_providers_may_name_them_all() -> None:
    source = "from controller.providers.chainguard import Chainguard\nfrom .ecr import Ecr"
    assert violations("controller.providers", source, is_package=True) == []
