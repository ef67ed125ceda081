"""The configuration of targets, and everything that can be wrong with it; what it means is in core/targets.py."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from controller.core.conversion import one_of, shown
from controller.core.targets import Operator, Requirement, Selection, Target, exact_namespaces

DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
NAMESPACE_GLOB = re.compile(r"[a-z0-9*?]([-a-z0-9*?]{0,61}[a-z0-9*?])?")
NAME_LENGTH = 40


class Expression(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A LabelSelectorRequirement of Kubernetes."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()


class LabelSelector(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A LabelSelector of Kubernetes: all of it must hold."""

    match_labels: Mapping[str, str] = {}
    match_expressions: tuple[Expression, ...] = ()


class NamespaceEntry(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Namespaces with one of these names, if any are given, and with these labels."""

    names: tuple[str, ...] = ()
    selector: LabelSelector = LabelSelector()

    @property
    def is_everything(self) -> bool:
        """Whether every namespace matches."""
        return self.selector == LabelSelector() and any(set(name) == {"*"} for name in self.names)

    def __str__(self) -> str:
        """In words."""
        labels = [f"{key}={value}" for key, value in self.selector.match_labels.items()]
        labels += [
            " ".join((e.key, e.operator, *((f"({', '.join(e.values)})",) if e.values else ())))
            for e in self.selector.match_expressions
        ]
        named = f"called {' or '.join(self.names)}" if self.names else ""
        labelled = f"with {', '.join(labels)}" if labels else ""
        return " and ".join(filter(None, (named, labelled)))


class TargetSettings(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One Secret in many namespaces; see core/targets.py."""

    name: str
    identity: str
    provider: str | None = None
    registries: tuple[str, ...] | None = None
    service_account: str | None = None
    secret_name: str = "pull-secret"  # noqa: S105 -- a name
    namespaces: tuple[NamespaceEntry, ...] = ()
    exclude: tuple[NamespaceEntry, ...] = ()
    service_accounts: tuple[str, ...] = ()
    existing: Literal["report", "adoptEmpty"] = "report"
    removal: Literal["delete", "leave"] = "delete"

    def __str__(self) -> str:
        """In words."""
        selected = "; ".join(map(str, self.namespaces))
        excluded = f"; but none {'; nor '.join(map(str, self.exclude))}" if self.exclude else ""
        attached = f", for ServiceAccounts {', '.join(self.service_accounts)}" if self.service_accounts else ""
        return f"{self.secret_name} of {self.identity}, in namespaces {selected}{excluded}{attached}"

    @property
    def target(self) -> Target:
        """The same for core."""
        return Target(
            name=self.name,
            secret_name=self.secret_name,
            identity=self.identity,
            provider=self.provider,
            registries=self.registries,
            service_account=self.service_account,
            selections=tuple(map(_selection, self.namespaces)),
            exclude=tuple(map(_selection, self.exclude)),
            service_accounts=self.service_accounts,
            adopts_empty=self.existing == "adoptEmpty",
            deletes=self.removal == "delete",
        )


def target_problems(
    targets: Sequence[TargetSettings],
    *,
    watched: Collection[str] | None,
    namespaces: Collection[str] | None,
    providers: Collection[str],
) -> Iterator[str]:
    """What is wrong with them, each as `targets[0].key: problem`.

    `watched` are the only names that a Secret may have, and `namespaces` the only places; None for any.
    """
    names = Counter(target.name for target in targets)
    for index, target in enumerate(targets):
        found = [*_problems(target, providers), *_selection_problems(target)]
        if names[target.name] > 1:
            found.append(f"name: {shown(target.name)} is given twice")
        if watched is not None and target.secret_name not in watched:
            found.append(f"secretName: {shown(target.secret_name)} is not watched; add it to secretNames")
        if namespaces is not None and not set(exact_namespaces([target.target]) or ("",)) <= set(namespaces):
            found.append(
                "namespaces: must be exact names that are in the list of namespaces, since no others are watched"
            )
        yield from (f"targets[{index}].{problem}" for problem in found)
    for one, other in itertools.combinations(targets, 2):
        if one.secret_name == other.secret_name and (both := _surely_in_both(one.target, other.target)):
            yield (
                f"targets: {one.name} and {other.name} both want {one.secret_name} in {both}; give one of them another "
                "secretName, or exclude the namespace from it"
            )


def _problems(target: TargetSettings, providers: Collection[str]) -> Iterator[str]:
    if not DNS_LABEL.fullmatch(target.name) or len(target.name) > NAME_LENGTH:
        yield f"name: must be a DNS label of at most {NAME_LENGTH} characters"
    if not target.identity or target.identity != target.identity.strip():
        yield "identity: must be the identity to act as, without white space around it"
    if target.provider is not None and target.provider not in providers:
        yield f"provider: {one_of(sorted(providers), target.provider)}"
    if target.registries is not None and not target.registries:
        yield "registries: must have at least one host; leave it out for all of the provider"
    for key, names in (("secretName", (target.secret_name,)), ("serviceAccounts", target.service_accounts)):
        bad = [shown(name) for name in names if not DNS_NAME.fullmatch(name)]
        yield from (f"{key}: {name} is not a valid Kubernetes name" for name in bad)


def _selection_problems(target: TargetSettings) -> Iterator[str]:
    if not target.namespaces:
        yield "namespaces: must have at least one entry; names: ['*'] selects every namespace"
    for key, entries in (("namespaces", target.namespaces), ("exclude", target.exclude)):
        for number, entry in enumerate(entries):
            yield from (f"{key}[{number}]{problem}" for problem in _entry_problems(entry))


def _entry_problems(entry: NamespaceEntry) -> Iterator[str]:
    if not entry.names and entry.selector == LabelSelector():
        yield ": must have names or a selector; names: ['*'] selects every namespace"
    for name in entry.names:
        if not NAMESPACE_GLOB.fullmatch(name):
            yield f".names: {shown(name)} matches no namespace: names have lower-case letters, digits and hyphens"
    for number, expression in enumerate(entry.selector.match_expressions):
        path = f".selector.matchExpressions[{number}].values"
        if expression.operator in ("In", "NotIn") and not expression.values:
            yield f"{path}: {expression.operator} needs at least one value"
        if expression.operator in ("Exists", "DoesNotExist") and expression.values:
            yield f"{path}: {expression.operator} takes no values; remove them"


def _surely_in_both(one: Target, other: Target) -> str | None:
    """A namespace that both select by its exact name, whatever its labels."""
    exact = [
        {name for selection in target.selections for name in selection.exact_names or ()} for target in (one, other)
    ]
    return min(exact[0] & exact[1], default=None)


def _selection(entry: NamespaceEntry) -> Selection:
    labels = (Requirement(key, "In", frozenset({value})) for key, value in entry.selector.match_labels.items())
    expressions = (Requirement(e.key, e.operator, frozenset(e.values)) for e in entry.selector.match_expressions)
    return Selection(entry.names, (*labels, *expressions))
