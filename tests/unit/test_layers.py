"""Folders are layers: imports point down only, by the table of docs/development.md, and decisions stay pure.

Each rule is a sentence, and each has a piece of code below that breaks it, so that no rule can fall asleep.
"""

from __future__ import annotations

import ast
import re
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


def read_layers(document: str) -> dict[str, tuple[str, ...]]:
    """The table "may import" of a document: each row's module, and the modules that it may import."""
    table = document.partition("may import\n")[2].partition("\n\n")[0]
    rows = [re.split(r" {2,}", line.strip()) for line in table.splitlines()]
    modules = {path.removesuffix(".py").replace("/", "."): allowed for path, _, allowed in rows}
    by_last_name = {module.rpartition(".")[2]: module for module in modules} | {"controller": "controller"}
    return {
        module: () if allowed == "nothing" else tuple(by_last_name[name] for name in allowed.split())
        for module, allowed in modules.items()
    }


LAYERS = read_layers((ROOT / "docs" / "development.md").read_text())
OURS = ("controller", "hack", "testing", "tests")


def layer_rule(layer: str, allowed: tuple[str, ...]) -> Rule:
    """What one row of the table demands."""
    return Rule(
        f"{layer} imports, of ours, only {' and '.join([layer, *allowed])}: see the table in docs/development.md",
        lambda module: within(module, layer),
        lambda _, use: (
            use.imported
            and use.is_of(*OURS)
            and not use.is_of(layer, *allowed)
            and use.name != "controller.__version__"
        ),
    )


SHARED = tuple(f"controller.providers.{name}" for name in ("settings", "contract", "exchange", "proof", "token"))
"""What all providers share, a file by subject."""


def is_provider(module: str) -> bool:
    """One of the issuers' files; the package itself is the table that names them all."""
    return within(module, "controller.providers") and module not in ("controller.providers", *SHARED)


RULES = [
    *(layer_rule(layer, allowed) for layer, allowed in LAYERS.items()),
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
        "a provider's file is complete in itself: it imports no other provider, only what all share (settings.py, "
        "contract.py, exchange.py, proof.py, token.py) and what the types of one vendor share (aws.py)",
        is_provider,
        lambda module, use: (
            use.imported
            and use.is_of("controller.providers")
            and not use.is_of(*SHARED, "controller.providers.aws", module)
        ),
    ),
    Rule(
        "what all providers share knows none of them",
        lambda module: module in SHARED,
        lambda _, use: use.imported and use.is_of("controller.providers") and not use.is_of(*SHARED),
    ),
    Rule(
        "an SDK is an extra, and there only where a provider needs it: import it inside the function that does",
        lambda module: within(module, "controller") and module != "controller.providers.aws",
        lambda _, use: use.imported and use.at_start and use.is_of(*SDKS),
    ),
    Rule(
        "reflector and reconciler don't know each other: they meet in the store and the queue",
        lambda module: module in ("controller.kube.reflector", "controller.engine.reconciler"),
        lambda _, use: use.imported and use.is_of("controller.kube.reflector", "controller.engine.reconciler"),
    ),
    Rule(
        "the official client costs about 20 MiB: import kubernetes inside the function that needs it",
        lambda module: within(module, "controller"),
        lambda _, use: use.imported and use.at_start and use.is_of("kubernetes"),
    ),
    Rule(
        "the wall clock is read in one place, so that tests can set it, and in one more by the commands of a person: "
        "take `now` as an argument or a clock",
        lambda module: within(module, "controller") and module not in ("controller.app", "controller.cli.cluster"),
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
    for folder in ("controller", "testing", "hack")
    for path in sorted((ROOT / folder).rglob("*.py"))
}


@pytest.mark.parametrize("module", MODULES)
def test_every_module_keeps_to_its_layer(module: str) -> None:
    path = MODULES[module]
    found = violations(module, path.read_text(), is_package=path.name == "__init__.py")
    assert not found, "\n".join(found)


def test_every_module_has_one_row_in_the_table() -> None:
    rows = {module: [layer for layer in LAYERS if within(module, layer)] for module in MODULES}
    imports = [use for use in uses_of(MODULES["controller"].read_text(), package="controller") if use.imported]
    assert (rows.pop("controller"), imports) == ([], []), "the root of the package holds the version, and no more"
    assert {module: found for module, found in rows.items() if len(found) != 1} == {}


def test_every_row_of_the_table_is_there() -> None:
    assert [layer for layer in LAYERS if not any(within(module, layer) for module in MODULES)] == []


def test_imports_of_the_product_point_down_the_table() -> None:
    order = [layer for layer in LAYERS if within(layer, "controller")]
    for layer in order:
        assert [above for above in LAYERS[layer] if above not in order[order.index(layer) + 1 :]] == [], layer


def test_no_layer_may_import_what_it_does_not() -> None:
    for layer, allowed in LAYERS.items():
        used = {
            each
            for module, path in MODULES.items()
            if within(module, layer)
            for use in uses_of(path.read_text(), package=module.rpartition(".")[0])
            for each in allowed
            if use.imported and use.is_of(each)
        }
        assert used == set(allowed), f"{layer}: strike what it doesn't import from the table"


def test_the_modules_that_rules_name_exist() -> None:
    named = {
        *("controller.app", "controller.core.queue", "controller.kube.reflector", "controller.engine.reconciler"),
        *("controller.providers.aws", *SHARED),
    }
    assert named <= MODULES.keys(), "a module moved: its rule above binds nothing any more"


@pytest.mark.parametrize(
    ("module", "source", "why"),
    [
        ("controller.core.policy", "from controller.kube import client", "core imports, of ours, only"),
        ("controller.core.policy", "from controller.engine import minter", "core imports, of ours, only"),
        ("controller.core.policy", "from ..kube import client", "core imports, of ours, only"),
        ("controller.core.policy", "import controller.config as c", "core imports, of ours, only"),
        ("controller.core.policy", "def f():\n    import controller.app", "core imports, of ours, only"),
        ("controller.core.policy", "from testing import wire", "core imports, of ours, only"),
        ("controller.net.urls", "from controller.kube import errors", "net imports, of ours, only"),
        ("controller.kube.client", "from controller.observe.metrics import Metrics", "kube imports, of ours, only"),
        ("controller.kube.guard", "from controller.providers import TYPES", "kube imports, of ours, only"),
        ("controller.observe.health", "from controller.kube import reflector", "observe imports, of ours, only"),
        ("controller.providers.ecr", "from controller.kube.client import x", "providers imports, of ours, only"),
        ("controller.providers.settings", "import controller.kube", "providers imports, of ours, only"),
        ("controller.engine.minter", "from controller import config", "engine imports, of ours, only"),
        ("controller.config", "from controller.engine import rate", "config imports, of ours, only"),
        ("controller.app", "from controller.cli import main", "app imports, of ours, only"),
        ("controller.cli.run", "from controller.engine import rate", "cli imports, of ours, only"),
        ("controller.__main__", "from controller import app", "__main__ imports, of ours, only"),
        ("testing.wire", "from controller.core import model", "testing imports, of ours, only"),
        ("hack.pki", "from tests.unit import fakes", "hack imports, of ours, only"),
        *(("controller.core.policy", f"import {name}", "core is pure") for name in IMPURE),
        ("controller.core.queue", "from time import monotonic", "core is pure"),
        ("controller.core.policy", "import logging.handlers", "core is pure"),
        ("controller.core.policy", "import asyncio", "queue.py alone"),
        ("controller.core.store", "from asyncio import Lock", "queue.py alone"),
        ("controller.providers.ecr", "from controller.providers.chainguard import x", "complete in itself"),
        ("controller.providers.ecr", "from . import chainguard", "complete in itself"),
        ("controller.providers.probe", "from controller.providers import chainguard", "complete in itself"),
        *((module, "from controller.providers import chainguard", "knows none of them") for module in SHARED),
        ("controller.providers.exchange", "from controller.providers.aws import Keys", "knows none of them"),
        ("controller.providers.aws", "from controller.providers import ecr", "complete in itself"),
        ("controller.providers.ecr", "from controller.providers.aws import Keys", "an SDK is an extra"),
        ("controller.providers.google", "import google.auth.crypt", "an SDK is an extra"),
        ("controller.kube.reflector", "from controller.engine.reconciler import Reconciler", "don't know each other"),
        ("controller.kube.reflector", "from ..engine import reconciler", "don't know each other"),
        ("controller.engine.reconciler", "import controller.kube.reflector", "don't know each other"),
        ("controller.kube.auth", "from kubernetes.aio import config", "20 MiB"),
        ("controller.app", "try:\n    import kubernetes\nexcept ImportError:\n    pass", "20 MiB"),
        ("controller.engine.minter", "import time\nx = time.time()", "read in one place"),
        ("controller.engine.minter", "from time import time as now", "read in one place"),
        ("controller.engine.minter", "import time as t\ndef f(clock=t.time_ns): ...", "read in one place"),
        ("controller.engine.minter", "import datetime\nx = datetime.datetime.now(datetime.UTC)", "read in one place"),
        ("controller.engine.minter", "from datetime import datetime as d\nx = d.utcnow()", "read in one place"),
        ("controller.engine.minter", "import datetime as dt\nx = dt.date.today()", "read in one place"),
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
            "from controller.providers.contract import Provider\nfrom controller.net.transport import Transport",
        ),
        ("controller.providers.token", "from controller.providers.exchange import is_sendable"),
        ("controller.providers.ecr", "def f():\n    from controller.providers import aws\n    return aws"),
        ("controller.providers.ecr", "if TYPE_CHECKING:\n    from controller.providers.aws import Keys"),
        ("controller.providers.aws", "from botocore.auth import SigV4Auth"),
        ("controller.kube.auth", "def load():\n    from kubernetes.aio import config\n    return config"),
        ("controller.kube.auth", "from controller.kube import client"),
        ("controller.engine.minter", "import time\nx = time.monotonic()"),
        ("controller.app", "import time\nclock = time.time"),
        ("controller.engine.minter", "def f(time, datetime): return time.timer + datetime.datetime.nowhere"),
    ],
)
def test_what_is_allowed_passes(module: str, source: str) -> None:
    assert violations(module, source) == []


def test_the_table_of_providers_may_name_them_all() -> None:
    source = "from controller.providers.chainguard import Chainguard\nfrom .ecr import Ecr"
    assert violations("controller.providers", source, is_package=True) == []
