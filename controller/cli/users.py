"""Who uses pull Secrets: the Pods and ServiceAccounts that name them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from controller.cli.cluster import Cluster
from controller.core.model import Ref

_PULL_FAILURES = ("ImagePullBackOff", "ErrImagePull")


class _Reference(msgspec.Struct, frozen=True):
    name: str = ""


class _Meta(msgspec.Struct, frozen=True):
    name: str
    namespace: str


class _PodSpec(msgspec.Struct, frozen=True, rename="camel"):
    image_pull_secrets: list[_Reference] = []


class _Waiting(msgspec.Struct, frozen=True):
    reason: str = ""


class _State(msgspec.Struct, frozen=True):
    waiting: _Waiting | None = None


class _Container(msgspec.Struct, frozen=True):
    state: _State = _State()


class _PodStatus(msgspec.Struct, frozen=True, rename="camel"):
    container_statuses: list[_Container] = []
    init_container_statuses: list[_Container] = []


class _Pod(msgspec.Struct, frozen=True):
    metadata: _Meta
    spec: _PodSpec = _PodSpec()
    status: _PodStatus = _PodStatus()


class _Account(msgspec.Struct, frozen=True, rename="camel"):
    metadata: _Meta
    image_pull_secrets: list[_Reference] = []


_pod_decoder = msgspec.json.Decoder(_Pod)
_account_decoder = msgspec.json.Decoder(_Account)


@dataclass(frozen=True, slots=True)
class Users:
    """By Secret, the names of those that name it."""

    pods: Mapping[Ref, list[str]]
    failing: Mapping[Ref, list[str]]
    """Those of `pods` that can't pull an image."""
    accounts: Mapping[Ref, list[str]]

    @property
    def named(self) -> set[Ref]:
        """All Secrets that are named."""
        return {*self.pods, *self.accounts}


async def read_users(cluster: Cluster, *, namespace: str | None) -> Users:
    """In one namespace or all. Raises ApiError."""
    within = "/api/v1" if namespace is None else f"/api/v1/namespaces/{namespace}"
    pods: dict[Ref, list[str]] = defaultdict(list)
    failing: dict[Ref, list[str]] = defaultdict(list)
    accounts: dict[Ref, list[str]] = defaultdict(list)
    for pod in map(_pod_decoder.decode, await cluster.list(f"{within}/pods")):
        for reference in pod.spec.image_pull_secrets:
            ref = Ref(pod.metadata.namespace, reference.name)
            pods[ref].append(pod.metadata.name)
            if _fails(pod):
                failing[ref].append(pod.metadata.name)
    for account in map(_account_decoder.decode, await cluster.list(f"{within}/serviceaccounts")):
        for reference in account.image_pull_secrets:
            accounts[Ref(account.metadata.namespace, reference.name)].append(account.metadata.name)
    return Users(pods, failing, accounts)


def _fails(pod: _Pod) -> bool:
    containers = (*pod.status.container_statuses, *pod.status.init_container_statuses)
    return any(each.state.waiting and each.state.waiting.reason in _PULL_FAILURES for each in containers)
