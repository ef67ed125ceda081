"""The controller as it is installed: its Deployment, and the configuration that this gives it."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from controller import config
from controller.cli.cluster import Cluster
from controller.kube.errors import ApiError, Forbidden, NotFound

LABELS = "app.kubernetes.io/name=pull-secret-updater"
STANDARD_NAMESPACE = "pull-secret-updater"
_CONFIG_KEY = "config.yaml"
_VERSION = re.compile(r"v?\d+(\.\d+)*([-+.].*)?")


class _Meta(msgspec.Struct, frozen=True):
    name: str
    namespace: str = ""
    labels: dict[str, str] = {}


class _Token(msgspec.Struct, frozen=True):
    audience: str = ""


class _Source(msgspec.Struct, frozen=True, rename="camel"):
    service_account_token: _Token | None = None


class _Projected(msgspec.Struct, frozen=True):
    sources: list[_Source] = []


class _ConfigMapName(msgspec.Struct, frozen=True):
    name: str = ""


class _Volume(msgspec.Struct, frozen=True, rename="camel"):
    config_map: _ConfigMapName | None = None
    projected: _Projected | None = None


class _Container(msgspec.Struct, frozen=True):
    image: str = ""
    args: list[str] = []


class _PodSpec(msgspec.Struct, frozen=True, rename="camel"):
    containers: list[_Container]
    service_account_name: str = "default"
    volumes: list[_Volume] = []


class _Template(msgspec.Struct, frozen=True):
    spec: _PodSpec


class _Spec(msgspec.Struct, frozen=True):
    template: _Template
    replicas: int = 1


class _Status(msgspec.Struct, frozen=True, rename="camel"):
    available_replicas: int = 0


class _Deployment(msgspec.Struct, frozen=True):
    metadata: _Meta
    spec: _Spec
    status: _Status = _Status()


class _ConfigMap(msgspec.Struct, frozen=True):
    data: dict[str, str] = {}


class NotInstalled(Exception):
    """There is no Deployment of ours where one may look; the text says where that is."""


@dataclass(frozen=True, slots=True)
class Installation:
    """See the module."""

    namespace: str
    name: str
    service_account: str
    image: str
    wanted: int
    """Replicas."""
    available: int
    audiences: frozenset[str]
    """Of the tokens that the Pod has as files."""
    config: config.Config | None
    problems: Sequence[str]
    """What is wrong with the configuration."""
    unreadable: str | None
    """Why the configuration can't be read."""

    version: str | None
    """Of the controller, by its image's tag or the Deployment's label; None if neither says one."""

    @property
    def user(self) -> str:
        """Who the controller is to the API server."""
        return f"system:serviceaccount:{self.namespace}:{self.service_account}"


async def find(cluster: Cluster, *, namespace: str | None) -> Installation:
    """The installation in a namespace, or the only one there is. Raises NotInstalled, ApiError."""
    found = await _deployments(cluster, namespace)
    if not found:
        where = f"the namespace {namespace}" if namespace else "any namespace"
        raise NotInstalled(f"no Deployment with the label {LABELS} in {where}")
    if len(found) > 1:
        places = ", ".join(sorted(f"{one.metadata.namespace}/{one.metadata.name}" for one in found))
        raise NotInstalled(f"there are several installations ({places}): choose one with --install-namespace")
    return await _read(cluster, found[0])


async def _deployments(cluster: Cluster, namespace: str | None) -> list[_Deployment]:
    query = {"labelSelector": LABELS}
    within = "/apis/apps/v1/namespaces/{}/deployments"
    path = within.format(namespace) if namespace else "/apis/apps/v1/deployments"
    try:
        raws = await cluster.list(path, query=query)
    except Forbidden:
        if namespace:
            raise
        raws = await cluster.list(within.format(STANDARD_NAMESPACE), query=query)
    return [msgspec.json.decode(raw, type=_Deployment) for raw in raws]


async def _read(cluster: Cluster, deployment: _Deployment) -> Installation:
    pod = deployment.spec.template.spec
    sources = [source for volume in pod.volumes if volume.projected for source in volume.projected.sources]
    tokens = [source.service_account_token for source in sources if source.service_account_token]
    names = [volume.config_map.name for volume in pod.volumes if volume.config_map]
    settings: config.Config | None = None
    problems: Sequence[str] = ()
    unreadable: str | None = None
    try:
        text = await _config_text(cluster, deployment.metadata.namespace, names)
        settings = config.check(*config.parse(io.BytesIO(text.encode()), _CONFIG_KEY))
    except config.ConfigError as error:
        problems = error.lines
    except NotFound as error:
        problems = [str(error)]
    except ApiError as error:
        unreadable = str(error)
    return Installation(
        namespace=deployment.metadata.namespace,
        name=deployment.metadata.name,
        service_account=pod.service_account_name,
        image=pod.containers[0].image,
        wanted=deployment.spec.replicas,
        available=deployment.status.available_replicas,
        audiences=frozenset(token.audience for token in tokens),
        config=settings,
        problems=problems,
        unreadable=unreadable,
        version=_version(pod.containers[0].image, deployment.metadata.labels),
    )


def _version(image: str, labels: Mapping[str, str]) -> str | None:
    tag = image.partition("@")[0].rpartition("/")[2].partition(":")[2]
    candidates = (tag, labels.get("app.kubernetes.io/version", ""))
    return next((each.removeprefix("v") for each in candidates if _VERSION.fullmatch(each)), None)


async def _config_text(cluster: Cluster, namespace: str, names: Sequence[str]) -> str:
    """The file in the first of these ConfigMaps that has one. Raises ApiError."""
    for name in names:
        raw = await cluster.get(f"/api/v1/namespaces/{namespace}/configmaps/{name}")
        data: Mapping[str, str] = msgspec.json.decode(raw, type=_ConfigMap).data
        if _CONFIG_KEY in data:
            return data[_CONFIG_KEY]
    raise NotFound(f"no ConfigMap of the Deployment has the key {_CONFIG_KEY}")
