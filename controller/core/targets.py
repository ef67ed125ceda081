"""Fan-out, the pure part: which namespaces a target selects, and what follows for the Secrets and accounts there.

A target asks for one Secret in each namespace that it selects. The controller makes that Secret filled and annotated,
so from its first moment it is a managed Secret like any other; the target only gives its inputs, and takes it away.
Where two targets want the same Secret, the first by name has it.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from controller.core.annotations import render_inputs
from controller.core.model import Claim, Key, ManagedSecret, Ref, View

SYSTEM_NAMESPACES = frozenset({"kube-system", "kube-public", "kube-node-lease"})
"""Selected only by their exact name, like the controller's own namespace."""

EMPTY_CONTENTS = frozenset(
    content + end for content in (b"{}", b'{"auths":{}}', b'{"auths": {}}') for end in (b"", b"\n")
)
"""What a Secret without a credential holds. The policy own-writes knows the same six."""

ASKED = "serviceaccount/"
"""Begins the name of a target that is a ServiceAccount's own wish; no configured one has a slash."""

Operator = Literal["In", "NotIn", "Exists", "DoesNotExist"]


_ROUNDED_DOWN = 1 - 1e-9
"""A fifth of 55 is 11, and not a bit more."""

_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_SERVICE_ACCOUNT = "system:serviceaccount:"


def installation_of(user: str | None) -> str:
    """What the label `created-by` says of whoever the API server knows by this name: `<namespace>.<ServiceAccount>`.

    So two installations never touch each other's Secrets. Raises ValueError for a name that no label can hold.
    """
    if user is None:
        raise ValueError("the API server didn't say what it is")
    name = user.removeprefix(_SERVICE_ACCOUNT).replace(":", ".")
    if not _LABEL_VALUE.fullmatch(name):
        raise ValueError(f"{name} has more than the 63 letters, digits, dots and hyphens that a label can hold")
    return name


@dataclass(frozen=True, slots=True)
class Namespace:
    """What is known of a namespace."""

    name: str
    labels: Mapping[str, str]
    opted_out: bool = False
    """By its annotation `targets: none`."""
    is_ending: bool = False
    """It is being deleted, so nothing can be created in it."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on labels, as Kubernetes means it (LabelSelectorRequirement): NotIn is true without the label."""

    key: str
    operator: Operator
    values: frozenset[str] = frozenset()

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether labels meet it."""
        match self.operator:
            case "In":
                return labels.get(self.key) in self.values
            case "NotIn":
                return self.key not in labels or labels[self.key] not in self.values
            case "Exists":
                return self.key in labels
            case "DoesNotExist":
                return self.key not in labels


@dataclass(frozen=True, slots=True)
class Selection:
    """Namespaces with one of these names, if any are given, and with labels that meet every requirement."""

    names: tuple[str, ...] = ()
    """Whole names; `*` and `?` stand for others."""
    requirements: tuple[Requirement, ...] = ()

    def matches(self, namespace: Namespace) -> bool:
        """Whether it selects a namespace."""
        named = not self.names or any(fnmatch.fnmatchcase(namespace.name, name) for name in self.names)
        return named and all(requirement.holds(namespace.labels) for requirement in self.requirements)

    @property
    def exact_names(self) -> tuple[str, ...] | None:
        """The namespaces, where they are known without looking at the cluster; else None."""
        is_exact = self.names and not self.requirements and not any(set(name) & set("*?") for name in self.names)
        return self.names if is_exact else None


@dataclass(frozen=True, slots=True)
class Target:
    """One Secret in every namespace that is selected by one of `selections` and by none of `exclude`."""

    name: str
    secret_name: str
    identity: str
    provider: str | None
    registries: tuple[str, ...] | None
    service_account: str | None
    selections: tuple[Selection, ...]
    exclude: tuple[Selection, ...] = ()
    service_accounts: tuple[str, ...] = ()
    """Whose imagePullSecrets get the Secret."""
    adopts_empty: bool = False
    """Take over a Secret of the right type that is in the way, if it holds no credential and nobody else owns it."""
    deletes: bool = True
    """Delete the Secret once the namespace is no longer selected; else leave it to the namespace as it is."""

    def selects(self, namespace: Namespace, *, reserved: Collection[str]) -> bool:
        """Whether the Secret should be in a namespace; `reserved` ones only if named exactly."""
        if namespace.is_ending or namespace.opted_out:
            return False
        matching = [selection for selection in self.selections if selection.matches(namespace)]
        if namespace.name in reserved:
            matching = [selection for selection in matching if namespace.name in selection.names]
        return bool(matching) and not any(selection.matches(namespace) for selection in self.exclude)

    @property
    def inputs(self) -> dict[str, str | None]:
        """The annotations by which its Secrets ask for a token; None for one that must be missing."""
        return render_inputs(
            target=self.name,
            identity=self.identity,
            provider=self.provider,
            registries=self.registries,
            service_account=self.service_account,
        )

    def wanted(self, namespace: str) -> View:
        """The claim of its Secret before that exists."""
        ref = Ref(namespace, self.secret_name)
        secret = ManagedSecret(
            ref=ref,
            uid="",
            resource_version="",
            right_type=True,
            immutable=False,
            readable=True,
            hosts=(),
            broken_hosts=(),
            unreadable=(),
            plain=True,
            paused=None,
            refresh=None,
            claims=(self._claim(_BARE),),
            target=self.name,
        )
        return View(Key(*ref, ""), secret, secret.claims[0])

    def assign(self, secret: ManagedSecret) -> ManagedSecret:
        """A Secret of ours as it is to be: with this target's inputs, whatever its annotations say.

        Annotations that say something else are `owed` to it, and written with its next token.
        """
        asked = {claim.name: claim for claim in secret.claims}
        before = asked.get("", _BARE)
        said = render_inputs(
            target=secret.target or None,
            identity=before.identity or None,
            provider=before.provider,
            registries=before.registries,
            service_account=before.service_account,
        )
        owed_before = dict(secret.owed)
        owed = {key: value for key, value in self.inputs.items() if value != said[key] or key in owed_before}
        if not owed:
            return secret
        claims = asked | {"": self._claim(before)}
        return replace(
            secret,
            target=self.name,
            claims=tuple(claims[name] for name in sorted(claims)),
            owed=tuple(sorted(owed.items())),
        )

    def gives(self, claim: Claim) -> bool:
        """Whether a claim asks for what this target gives, and nothing else."""
        asked = render_inputs(
            target=self.name,
            identity=claim.identity or None,
            provider=claim.provider,
            registries=claim.registries,
            service_account=claim.service_account,
        )
        return asked == self.inputs

    def _claim(self, before: Claim) -> Claim:
        return replace(
            before,
            identity=self.identity,
            provider=self.provider,
            registries=self.registries,
            service_account=self.service_account,
        )


_BARE = Claim(
    name="",
    identity="",
    provider=None,
    registries=None,
    service_account=None,
    issued_at=None,
    expires_at=None,
    issued_for=None,
    fingerprint=None,
    managed_hosts=(),
    refreshed_for=None,
    error=None,
    present_fingerprint=None,
    credential_exp=None,
)


class Targets:
    """All targets of the configuration."""

    def __init__(self, targets: Iterable[Target], *, own_namespace: str) -> None:
        self._targets = {target.name: target for target in sorted(targets, key=lambda target: target.name)}
        self._reserved = SYSTEM_NAMESPACES | {own_namespace}

    def __iter__(self) -> Iterator[Target]:
        """In the order of their names."""
        return iter(self._targets.values())

    def get(self, name: str) -> Target | None:
        """The target of that name."""
        return self._targets.get(name)

    def chosen(self, namespace: Namespace) -> dict[str, Target]:
        """By the Secret's name the target that has it in this namespace."""
        return {target.secret_name: target for target in reversed(self._selecting(namespace))}

    def outdone(self, namespace: Namespace) -> list[Target]:
        """The targets that select this namespace, and whose Secret another one has."""
        chosen = self.chosen(namespace)
        return [target for target in self._selecting(namespace) if chosen[target.secret_name] is not target]

    def _selecting(self, namespace: Namespace) -> list[Target]:
        return [target for target in self._targets.values() if target.selects(namespace, reserved=self._reserved)]

    @property
    def secret_names(self) -> frozenset[str]:
        """Of all Secrets that they ask for."""
        return frozenset(target.secret_name for target in self._targets.values())

    @property
    def service_account_names(self) -> tuple[str, ...]:
        """Of all ServiceAccounts that get a Secret."""
        return tuple(sorted({name for target in self._targets.values() for name in target.service_accounts}))

    @property
    def exact_namespaces(self) -> frozenset[str] | None:
        """Every namespace that may be selected, where that is known without a look at the cluster; else None."""
        return exact_namespaces(self._targets.values())


def exact_namespaces(targets: Iterable[Target]) -> frozenset[str] | None:
    """See Targets."""
    names: set[str] = set()
    for selection in (selection for target in targets for selection in (*target.selections, *target.exclude)):
        if selection.exact_names is None:
            return None
        names.update(selection.exact_names)
    return frozenset(names)


def is_removable(secret: ManagedSecret) -> bool:
    """Whether a target's Secret holds nothing but the target's token, so that nothing is lost with it."""
    if not secret.plain or [claim.name for claim in secret.claims] != [""]:
        return False
    return set(secret.hosts) <= set(secret.claims[0].managed_hosts)


@dataclass(frozen=True, slots=True)
class Brake:
    """More than `most` Secrets of a target to remove at once, and `share` of them or more, count as a mistake.

    Until somebody confirms it.
    """

    most: int = 10
    share: float = 0.2

    def holds(self, *, leaving: int, of: int) -> bool:
        """Whether `leaving` of the `of` Secrets that a target has made are too many."""
        return leaving > self.most and leaving >= self.share * of * _ROUNDED_DOWN


@dataclass(frozen=True, slots=True)
class Stranger:
    """A Secret that is where a target's Secret should be, or, without a UID, the place where none is."""

    ref: Ref
    uid: str = ""
    resource_version: str = ""
    created_by: str | None = None
    """The installation whose target has made it."""
    is_empty: bool = False
    """It is a pull Secret without a credential, and nobody else owns or manages it."""


def asked_by(
    name: str,
    *,
    secret_name: str | None,
    identity: str,
    provider: str | None,
    registries: tuple[str, ...] | None,
    service_account: str | None,
) -> Target:
    """What a ServiceAccount of that name asks for: a Secret beside it, which it names, and which it proves itself."""
    return Target(
        name=ASKED + name,
        secret_name=secret_name or "pull-secret",
        identity=identity,
        provider=provider,
        registries=registries,
        service_account=service_account or name,
        selections=(),
        service_accounts=(name,),
    )


@dataclass(frozen=True, slots=True)
class Account:
    """What is known of a ServiceAccount."""

    ref: Ref
    uid: str
    resource_version: str
    pull_secrets: tuple[str, ...]
    attached: tuple[str, ...]
    """Those of `pull_secrets` that we added."""
    attached_by_others: tuple[str, ...] = ()
    """What other installations have written of theirs, as it is."""
    asks: Target | None = None
    """The Secret that it asks for by annotations of its own."""

    def with_attached(self, wanted: Collection[str]) -> Account:
        """A step towards all of `wanted` and nothing else of ours: it adds one at most, as the policy has it.

        What others added keeps its place.
        """
        kept = [name for name in self.pull_secrets if name not in self.attached or name in wanted]
        added = sorted(set(wanted) - set(kept))[:1]
        ours = sorted({name for name in self.attached if name in kept} | set(added))
        return replace(self, pull_secrets=(*kept, *added), attached=tuple(ours))

    def missing_in(self, other: Account) -> bool:
        """Whether the other lacks one of these pull Secrets."""
        return not set(self.pull_secrets) <= set(other.pull_secrets)

    def lost(self) -> Sequence[str]:
        """What we added, and somebody took away."""
        return [name for name in self.attached if name not in self.pull_secrets]
