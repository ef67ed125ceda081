"""The end-to-end tests: the real command, a real API server, and a stand-in for the token issuer.

Everything runs as it would in a cluster: in-cluster mode, as the controller's own ServiceAccount, with the RBAC and the
admission policies of manifests/. `--kubeconfig FILE` takes an existing cluster in place of one of our own.

One cluster and one controller serve the session; a test owns its namespaces and its identities and judges by those
alone. See support/controllers.py for the order.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.localcluster import ControlPlane
from testing.controller import ControllerProcess
from testing.exchange import AUDIENCE, Issuer
from testing.issuer import IssuerThread
from testing.mounted import MountedTokens
from testing.tokens import PublishedKeys
from tests.e2e.support import installed
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.controllers import Controllers
from tests.e2e.support.observer import Observer
from tests.e2e.support.requests import AuditLog
from tests.e2e.support.soak import Soak
from tests.e2e.support.tenant import Tenant

NEED_A_NODE = [Path(__file__).parent / name for name in ("node", "localnode")]


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--kubeconfig FILE`: an existing cluster, as its admin. `--images`, `--base` are for tests/e2e/localnode."""
    parser.addoption("--kubeconfig", type=Path, default=None, help="run on this cluster in place of a local one")
    parser.addoption("--images", type=Path, default=None, help="where hack/e2e-node has built the images")
    parser.addoption("--base", default=None, help="the image that they are built on, as for hack/image")


def pytest_configure() -> None:
    """SIGTERM ends a run as Ctrl-C does: through what takes everything down."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """What needs images and a node is for who names it, as hack/e2e-node does."""
    if collection_path not in NEED_A_NODE:
        return None
    named = [(config.invocation_params.dir / arg.partition("::")[0]).resolve() for arg in config.args]
    return None if any(path.is_relative_to(collection_path) for path in named) else True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without a controller first; then the shared one; what needs no cluster while the soak goes on; own ones last."""
    turns = ("shared_controller", "", "soak", "controller")

    def turn(item: pytest.Item) -> int:
        names = set(getattr(item, "fixturenames", ()))
        used = max((index for index, name in enumerate(turns) if name in names), default=-1)
        return used if used >= 0 or "cluster" in names else turns.index("")

    items.sort(key=turn)
    if config.getoption("--kubeconfig"):
        # Who asked for what is read in the API server's audit log, which only a cluster of our own lets us have.
        audited = [item for item in items if "audit" in getattr(item, "fixturenames", ())]
        items[:] = [item for item in items if item not in audited]
        config.hook.pytest_deselected(items=audited)
    for item in items:
        if "cluster" in getattr(item, "fixturenames", ()):
            # With xdist's `--dist loadgroup` all these go to one worker, and the rest to whoever is free.
            item.add_marker(pytest.mark.xdist_group("cluster"))


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane of our own, with an audit log of the controller's requests; or the one that was given."""
    directory = tmp_path_factory.mktemp("cluster")
    if given := request.config.getoption("--kubeconfig"):
        yield Cluster(given, directory=directory)
        return
    policy = directory / "audit-policy.yaml"
    policy.write_text(AuditLog.policy())
    flags = {"audit-log-path": "audit.log", "audit-policy-file": str(policy)}
    with ControlPlane(apiserver_flags=flags) as plane:
        known = Cluster(plane.kubeconfig, directory=directory, audit_log=plane.directory / "audit.log")
        known.logs += [plane.directory / f"{name}.log" for name in ("kube-apiserver", "etcd", "audit")]
        yield known


@pytest.fixture(scope="session")
def manifests(cluster: Cluster) -> Iterator[str]:
    """manifests/ but for what needs nodes, applied and enforced. Yields what was applied, as YAML."""
    if cluster.kubectl("get", "deployment", "-n", "pull-secret-updater", "-o", "name", check=False).stdout:
        pytest.exit("a pull-secret-updater is installed in this cluster already: it would work against the tests", 2)
    existed = cluster.kubectl("get", "namespace", "pull-secret-updater", check=False).returncode == 0
    rendered = installed.render(cluster=cluster)
    installed.install(cluster, rendered)
    yield rendered
    if not existed and cluster.audit_log is None:
        cluster.kubectl("delete", "--ignore-not-found", "--wait=false", "-f", "-", input=rendered)


@pytest.fixture(scope="module")
def whole_cluster(cluster: Cluster, manifests: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """manifests/ with the component scope-cluster, for Secrets of any name: of one name a namespace has only one."""
    overlay = tmp_path_factory.mktemp("overlay").resolve()
    base = os.path.relpath(installed.MANIFESTS, overlay)
    content = {"resources": [base], "components": [str(Path(base, "components", "scope-cluster"))]}
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(content))
    installed.install(cluster, installed.render(overlay, cluster=cluster))
    yield
    installed.install(cluster, manifests)


@pytest.fixture(scope="session")
def issuer(cluster: Cluster) -> Iterator[Issuer]:
    """The stand-in for Chainguard's issuer; it trusts the cluster's own ServiceAccount tokens."""
    with IssuerThread(Issuer(PublishedKeys(cluster.api.get, audience=AUDIENCE))) as running:
        yield running


@pytest.fixture(scope="session")
def observer(cluster: Cluster) -> Iterator[Observer]:
    """Sees every version of every pull Secret."""
    with Observer(cluster.api) as running:
        yield running


@pytest.fixture(scope="session")
def mounted(cluster: Cluster, manifests: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedTokens]:
    """The files of the Pod that a node would run."""
    with MountedTokens(cluster, tmp_path_factory.mktemp("mounted") / "files") as fresh:
        yield fresh


@pytest.fixture(scope="session")
def controllers(
    cluster: Cluster, mounted: MountedTokens, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Controllers]:
    """All controllers of the session. At its end nothing that they, or anyone, printed may hold a credential."""
    everyone = Controllers(cluster, issuer, mounted, directory=tmp_path_factory.mktemp("controllers"))
    try:
        yield everyone
        everyone.stop()
    finally:
        everyone.end()
    assert everyone.find_leaks() == []


@pytest.fixture(scope="session")
def soak(cluster: Cluster, observer: Observer, issuer: Issuer, controllers: Controllers) -> Iterator[Soak]:
    """What takes two minutes to see; begins with the shared controller and goes on beside the other tests."""
    controllers.shared()
    with Soak(cluster, observer, issuer) as going_on:
        controllers.at_end_of_shared(going_on.leave)
        yield going_on


@pytest.fixture
def shared_controller(request: pytest.FixtureRequest, controllers: Controllers) -> ControllerProcess:
    """The running controller that most tests share: don't stop it, and judge only by your own namespaces."""
    running = controllers.shared()
    if any("soak" in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue("soak")
    return running


@pytest.fixture
def controller(controllers: Controllers) -> Iterator[Callable[..., ControllerProcess]]:
    """Starts a controller of the test's own; see Controllers.start. The next start, or the end, stops it."""
    yield controllers.start
    controllers.stop()


@pytest.fixture
def tenants(cluster: Cluster, observer: Observer) -> Iterator[Callable[..., Tenant]]:
    """Makes namespaces, each with an identity of its own; their Secrets go when the test ends."""
    made: list[Tenant] = []

    def make(**options: Any) -> Tenant:
        made.append(Tenant(cluster, observer, **options))
        return made[-1]

    yield make
    for tenant in made:
        tenant.leave()


@pytest.fixture
def tenant(tenants: Callable[[], Tenant]) -> Tenant:
    """One fresh namespace with an identity of its own."""
    return tenants()


@pytest.fixture
def namespaces(tenants: Callable[[], Tenant]) -> Callable[[], str]:
    """Makes fresh namespaces, by name."""
    return lambda: tenants().namespace


@pytest.fixture
def namespace(tenant: Tenant) -> str:
    """The name of one fresh namespace."""
    return tenant.namespace


@pytest.fixture
def audit(cluster: Cluster) -> AuditLog:
    """Every request that the controller made."""
    return cluster.audit()
