"""Everything the demo needs, set up step by step, and taken down whatever happens.

On a user's cluster, the demo changes and removes nothing that was already there, and leaves nothing behind.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from controller.kube.admission import POLICIES
from hack.localcluster import ControlPlane
from hack.localcluster.binaries import find_or_build
from hack.story.screen import Screen
from hack.story.secret import PREFIX, SecretWatch
from testing import manifests
from testing.api import ApiError
from testing.behaviour import Behaviour
from testing.cluster import Cluster
from testing.controller import ControllerProcess
from testing.exchange import Issuer
from testing.issuer import IssuerThread
from testing.mounted import AUDIENCE, USER, MountedTokens
from testing.tokens import PublishedKeys

DEMO_NAMESPACE = "pull-secret-demo"
TOKEN_SECONDS = 30
POLICY_SECONDS = 30.0
TENANT = "mallory"
RIGHTS = "everything-with-secrets"
RBAC = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": RIGHTS, "namespace": DEMO_NAMESPACE}}
GROUP = "rbac.authorization.k8s.io"
SCENERY: list[manifests.Manifest] = [
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": DEMO_NAMESPACE}},
    {**RBAC, "kind": "Role", "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["*"]}]},
    {
        **RBAC,
        "kind": "RoleBinding",
        "roleRef": {"apiGroup": GROUP, "kind": "Role", "name": RIGHTS},
        "subjects": [{"apiGroup": GROUP, "kind": "User", "name": TENANT}],
    },
]
"""The demo's namespace, and a tenant with all rights on the Secrets in it."""
MISPLACED = {
    "metadata": {"name": "probe", "annotations": {f"{PREFIX}identity": "probe"}},
    "type": "Opaque",
}
"""A Secret that the policy use-identity refuses to everyone."""


class StageError(Exception):
    """The demo can't run on this cluster; the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What has been set up when the demo begins."""

    cluster: Cluster
    kubeconfig: Path
    """An admin's kubeconfig, with the demo's namespace as default."""
    issuer: Issuer
    controller: ControllerProcess
    restart: Callable[[], ControllerProcess]
    """Start another, which is ready when it returns."""
    watch: SecretWatch


@contextmanager
def set_up(screen: Screen, *, kubeconfig: Path | None, directory: Path) -> Iterator[Stage]:
    """Set up the stage, on the cluster of `kubeconfig` or a new one. Our private files stay in `directory`.

    Raises:
        StageError, BinariesError, ControlPlaneError, ClusterError, ControllerError: it can't be set up.
        UntrueError: a claim about what was set up is false.
    """
    with ExitStack() as stack:
        cluster = _cluster(screen, stack, kubeconfig=kubeconfig, directory=directory)
        _install(screen, stack, cluster, given=kubeconfig is not None)
        mounted = stack.enter_context(MountedTokens(cluster, directory / "mounted"))
        issuer = _issuer(screen, stack, cluster, mounted)
        names = (f"controller{number or ''}" for number in itertools.count())

        def start() -> ControllerProcess:
            return _controller(screen, stack, cluster, mounted, issuer, directory=directory / next(names))

        controller = start()
        watch = stack.enter_context(SecretWatch(cluster.api, DEMO_NAMESPACE))
        yield Stage(
            cluster=cluster,
            kubeconfig=cluster.kubeconfig_in(DEMO_NAMESPACE),
            issuer=issuer,
            controller=controller,
            restart=start,
            watch=watch,
        )


def _cluster(screen: Screen, stack: ExitStack, *, kubeconfig: Path | None, directory: Path) -> Cluster:
    if kubeconfig is None:
        programs = find_or_build()  # shows its own progress if it has to build
        with screen.working("starting etcd and kube-apiserver") as took:
            plane = stack.enter_context(ControlPlane(binaries=programs))
            seconds = took()
        kubeconfig, started = plane.kubeconfig, f"started in {seconds}"
    else:
        started = "your cluster"
    cluster = Cluster(kubeconfig, directory=directory)
    cluster.address()
    version = cluster.api.get("/version")["gitVersion"]
    rbac = "rbac.authorization.k8s.io" in {group["name"] for group in cluster.api.get("/apis")["groups"]}
    screen.claim(f"the Kubernetes API server {version} is running at {cluster.url}", holds=rbac, detail=started)
    return cluster


def _install(screen: Screen, stack: ExitStack, cluster: Cluster, *, given: bool) -> None:
    """Apply manifests/, a namespace for the demo, and a tenant in it with all rights on Secrets."""
    with screen.working("applying manifests/") as took:
        if given:
            _refuse_to_meddle(cluster)
        wanted = manifests.render(cluster)
        new = manifests.missing(cluster, wanted)
        if given:  # before we create them, so that nothing stays if we are interrupted
            stack.callback(_remove, screen, cluster, new)
        cluster.kubectl("apply", "--filename=-", input=manifests.dump([*new, *SCENERY]))
        enforced = _within(POLICY_SECONDS, lambda: _refuses_misplaced(cluster))
    screen.claim(
        f"manifests/ is applied without the Deployment, {len(wanted)} objects; the admission policies are enforced",
        holds=enforced,
        detail=took(),
    )


def _issuer(screen: Screen, stack: ExitStack, cluster: Cluster, mounted: MountedTokens) -> Issuer:
    trust = PublishedKeys(cluster.api.get, audience=AUDIENCE)
    issuer = Issuer(trust, subject=USER, default=Behaviour(lifetime_seconds=TOKEN_SECONDS))
    stack.enter_context(IssuerThread(issuer))
    # This also fetches the keys, so that the first fill doesn't include it.
    bearer = asyncio.run(trust.claims(mounted.oidc_token.read_text()))
    screen.claim(
        "a stand-in for the token issuer is running; it verifies its callers with the API server's keys",
        holds=bearer["sub"] == USER,
    )
    return issuer


def _controller(
    screen: Screen,
    stack: ExitStack,
    cluster: Cluster,
    mounted: MountedTokens,
    issuer: Issuer,
    *,
    directory: Path,
) -> ControllerProcess:
    config = yaml.safe_load((manifests.DIRECTORY / "config.yaml").read_text())
    config["providers"]["chainguard"] |= {"issuer": issuer.url, "tokenFile": str(mounted.oidc_token)}
    with screen.working("starting the controller") as took:
        controller = stack.enter_context(ControllerProcess(cluster, mounted, directory=directory, config=config))
        controller.wait_until_ready()
        metrics = controller.metrics()
    screen.claim(
        f"the controller runs as {USER} with only its RBAC",
        holds=config["requirePolicies"] is True and metrics.value("policy_installed") == len(POLICIES),
        detail=took(),
    )
    return controller


def _refuse_to_meddle(cluster: Cluster) -> None:
    """Raises StageError if another controller would interfere, or ours would write into others' Secrets."""
    deployments = "/apis/apps/v1/deployments?labelSelector=app.kubernetes.io%2Fname%3Dpull-secret-updater"
    if cluster.api.items(deployments):
        raise StageError(
            "pull-secret-updater is already installed in this cluster and would interfere; use another cluster"
        )
    for secret in cluster.api.items("/api/v1/secrets?fieldSelector=metadata.name%3Dpull-secret"):
        if any(key.startswith(f"{PREFIX}identity") for key in secret["metadata"].get("annotations", {})):
            where = f"{secret['metadata']['namespace']}/pull-secret"
            raise StageError(
                f"the Secret {where} already asks for an identity: the stand-in would fill it; use another cluster"
            )
    if cluster.kubectl("get", "namespace", DEMO_NAMESPACE, check=False).returncode == 0:
        raise StageError(f"the namespace {DEMO_NAMESPACE} already exists; delete it, or wait for the other demo to end")


def _refuses_misplaced(cluster: Cluster) -> bool:
    """Whether the policy already refuses what it forbids to everyone: a new policy takes a moment to work."""
    try:
        cluster.api.post(f"/api/v1/namespaces/{DEMO_NAMESPACE}/secrets?dryRun=All", MISPLACED)
    except ApiError as error:
        return "ValidatingAdmissionPolicy" in str(error)
    return False


def _remove(screen: Screen, cluster: Cluster, applied: list[manifests.Manifest]) -> None:
    with screen.working("removing what was applied"):
        # Deleting a namespace deletes what is in it, but not on a cluster without kube-controller-manager.
        contents = ("secrets,events", "--all", f"--namespace={DEMO_NAMESPACE}")
        cluster.kubectl("delete", *contents)
        ours = [*SCENERY, *applied]
        manifests.remove(cluster, ours)
    screen.claim("everything that was applied has been removed", holds=manifests.missing(cluster, ours) == ours)


def _within(seconds: float, look: Callable[[], bool]) -> bool:
    """Whether `look` returned true within this time."""
    deadline = time.monotonic() + seconds
    while not look():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
