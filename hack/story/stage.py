"""Everything the story needs, set up step by step, and taken down whatever happens.

On a cluster that was given, what is there already is neither changed nor removed, and nothing of ours stays.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from controller.kube.admission import POLICIES
from hack.localcluster import ControlPlane
from hack.localcluster.binaries import find_or_build
from hack.standin import manifests
from hack.standin.api import ApiError
from hack.standin.behaviour import Behaviour
from hack.standin.cluster import Cluster
from hack.standin.controller import ControllerProcess
from hack.standin.exchange import Issuer
from hack.standin.issuer import IssuerThread
from hack.standin.mounted import AUDIENCE, USER, MountedTokens
from hack.standin.tokens import PublishedKeys
from hack.story.screen import Screen
from hack.story.secret import PREFIX, SecretWatch

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
"""The namespace of the story, and a tenant with all rights on the Secrets in it."""
MISPLACED = {
    "metadata": {"name": "probe", "annotations": {f"{PREFIX}identity": "probe"}},
    "type": "Opaque",
}
"""What the policy use-identity refuses whoever asks."""


class StageError(Exception):
    """The story can't be told on this cluster; the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What is there when the story begins."""

    kubeconfig: Path
    """Of an admin, whose default namespace is the demo's."""
    issuer: Issuer
    controller: ControllerProcess
    watch: SecretWatch


@contextmanager
def set_up(screen: Screen, *, kubeconfig: Path | None, directory: Path) -> Iterator[Stage]:
    """The stage, on the cluster of `kubeconfig` or one of our own. Secrets of ours stay in `directory`.

    Raises:
        StageError, BinariesError, ControlPlaneError, ClusterError, ControllerError: it can't be set up.
        UntrueError: what was set up does not hold.
    """
    with ExitStack() as stack:
        cluster = _cluster(screen, stack, kubeconfig=kubeconfig, directory=directory)
        _install(screen, stack, cluster, given=kubeconfig is not None)
        mounted = stack.enter_context(MountedTokens(cluster, directory / "mounted"))
        issuer = _issuer(screen, stack, cluster, mounted)
        controller = _controller(screen, stack, cluster, mounted, issuer, directory=directory / "controller")
        watch = stack.enter_context(SecretWatch(cluster.api, DEMO_NAMESPACE))
        yield Stage(kubeconfig=cluster.kubeconfig_in(DEMO_NAMESPACE), issuer=issuer, controller=controller, watch=watch)


def _cluster(screen: Screen, stack: ExitStack, *, kubeconfig: Path | None, directory: Path) -> Cluster:
    if kubeconfig is None:
        programs = find_or_build()  # tells about itself where it has to build
        with screen.working("starting etcd and kube-apiserver") as took:
            plane = stack.enter_context(ControlPlane(binaries=programs))
            seconds = took()
        kubeconfig, started = plane.kubeconfig, f"started in {seconds}"
    else:
        started = "the one you gave"
    cluster = Cluster(kubeconfig, directory=directory)
    cluster.address()
    version = cluster.api.get("/version")["gitVersion"]
    rbac = "rbac.authorization.k8s.io" in {group["name"] for group in cluster.api.get("/apis")["groups"]}
    screen.claim(f"a Kubernetes API server, {version}, at {cluster.url}", holds=rbac, detail=started)
    return cluster


def _install(screen: Screen, stack: ExitStack, cluster: Cluster, *, given: bool) -> None:
    """manifests/, a namespace for the story, and a tenant in it with all rights on Secrets."""
    with screen.working("applying manifests/") as took:
        if given:
            _refuse_to_meddle(cluster)
        wanted = manifests.render(cluster)
        new = manifests.missing(cluster, wanted)
        if given:  # before they are made, so that nothing stays if we are interrupted meanwhile
            stack.callback(_remove, screen, cluster, new)
        cluster.kubectl("apply", "--filename=-", input=manifests.dump([*new, *SCENERY]))
        enforced = _within(POLICY_SECONDS, lambda: _refuses_misplaced(cluster))
    screen.claim(
        f"manifests/ applied, all but the Deployment: {len(wanted)} objects; the admission policies are enforced",
        holds=enforced,
        detail=took(),
    )


def _issuer(screen: Screen, stack: ExitStack, cluster: Cluster, mounted: MountedTokens) -> Issuer:
    trust = PublishedKeys(cluster.api.get, audience=AUDIENCE)
    issuer = Issuer(trust, subject=USER, default=Behaviour(lifetime_seconds=TOKEN_SECONDS))
    stack.enter_context(IssuerThread(issuer))
    # Also fetches the keys, so that the first fill isn't measured with it.
    bearer = asyncio.run(trust.claims(mounted.oidc_token.read_text()))
    screen.claim(
        "a stand-in for the token issuer, which verifies its callers with the API server's own keys",
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
        f"the controller, as {USER} with its RBAC alone",
        holds=config["requirePolicies"] is True and metrics.value("policy_installed") == len(POLICIES),
        detail=f"ready in {took()}",
    )
    return controller


def _refuse_to_meddle(cluster: Cluster) -> None:
    """Raises StageError where another controller would join in, or ours would write into Secrets of others."""
    deployments = "/apis/apps/v1/deployments?labelSelector=app.kubernetes.io%2Fname%3Dpull-secret-updater"
    if cluster.api.items(deployments):
        raise StageError("a pull-secret-updater is installed in this cluster already: it would join in")
    for secret in cluster.api.items("/api/v1/secrets?fieldSelector=metadata.name%3Dpull-secret"):
        if any(key.startswith(f"{PREFIX}identity") for key in secret["metadata"].get("annotations", {})):
            where = f"{secret['metadata']['namespace']}/pull-secret"
            raise StageError(f"the Secret {where} asks for an identity already: it would get a token of the stand-in")
    if cluster.kubectl("get", "namespace", DEMO_NAMESPACE, check=False).returncode == 0:
        raise StageError(f"the namespace {DEMO_NAMESPACE} is there already: delete it, or wait for the other demo")


def _refuses_misplaced(cluster: Cluster) -> bool:
    """Whether the API server refuses, by policy, what that forbids to everybody: a new one takes a moment to work."""
    try:
        cluster.api.post(f"/api/v1/namespaces/{DEMO_NAMESPACE}/secrets?dryRun=All", MISPLACED)
    except ApiError as error:
        return "ValidatingAdmissionPolicy" in str(error)
    return False


def _remove(screen: Screen, cluster: Cluster, applied: list[manifests.Manifest]) -> None:
    with screen.working("removing what was applied"):
        # A namespace takes along what is in it; only, a cluster without controllers has nobody to see to that.
        contents = ("secrets,events", "--all", f"--namespace={DEMO_NAMESPACE}")
        cluster.kubectl("delete", *contents)
        ours = [*SCENERY, *applied]
        manifests.remove(cluster, ours)
    screen.claim("what was applied is removed again", holds=manifests.missing(cluster, ours) == ours)


def _within(seconds: float, look: Callable[[], bool]) -> bool:
    """Whether it was so at some time within so many seconds."""
    deadline = time.monotonic() + seconds
    while not look():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
