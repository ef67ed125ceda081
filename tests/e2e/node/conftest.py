"""Pods that pull, on any cluster whose node has our two images: hack/e2e-node puts them there, and so does hack/kind.

The controller is installed from manifests/, and its issuer and the registry are Pods (support/incluster.py). Tokens
live for 60 seconds. From the first test on, a Pod is created every ten seconds for ten minutes, and the other tests go
on beside that; those of test_trouble.py wait for its end.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.support import kubelet
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.incluster import REGISTRY, InCluster
from tests.e2e.support.observer import Observer
from tests.e2e.support.pods import Outcome, Pods, Stream
from tests.e2e.support.tenant import Tenant, token

EVERY_SECONDS = 10.0
COUNT = 60
FIRST_FILL_SECONDS = 30.0


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """The one that was given."""
    given: Path | None = request.config.getoption("--kubeconfig")
    if given is None:
        pytest.exit("these tests need a cluster with a node that has our images: run hack/e2e-node", 2)
    return Cluster(given, directory=tmp_path_factory.mktemp("cluster"))


@pytest.fixture(scope="session")
def world(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InCluster]:
    """Controller, issuer and registry."""
    if cluster.kubectl("get", "deployment", "-n", "pull-secret-updater", "-o", "name", check=False).stdout:
        pytest.exit("a pull-secret-updater is installed in this cluster already: it would work against the tests", 2)
    installed = InCluster(cluster, tmp_path_factory.mktemp("installed"))
    try:
        installed.install()
        yield installed
    finally:
        installed.remove()


@pytest.fixture(scope="session")
def make_tenant(cluster: Cluster, observer: Observer, world: InCluster) -> Iterator[Callable[[], Tenant]]:
    """Makes namespaces, each with an identity of its own.

    At the end neither a controller's log nor an Event may hold a credential.
    """
    made: list[Tenant] = []

    def make() -> Tenant:
        made.append(Tenant(cluster, observer, registry=REGISTRY))
        return made[-1]

    yield make
    try:
        tokens = [one for one in (token(secret, REGISTRY) for secret in observer.secrets()) if one]
        assert tokens, "something was minted"
        assert world.find_leaks(tokens, kubelet.claims(tokens[0])["canary"]) == []
    finally:
        for tenant in made:
            tenant.leave()


@pytest.fixture
def tenant(make_tenant: Callable[[], Tenant]) -> Tenant:
    """One fresh namespace with an identity of its own."""
    return make_tenant()


@pytest.fixture
def pods(cluster: Cluster, tenant: Tenant) -> Pods:
    """Of the tenant's namespace."""
    return Pods(cluster, tenant.namespace)


@pytest.fixture(scope="session")
def steady(cluster: Cluster, make_tenant: Callable[[], Tenant]) -> Iterator[tuple[Tenant, Stream]]:
    """A Pod every ten seconds for ten minutes, each of which asks the registry."""
    tenant = make_tenant()
    pods = Pods(cluster, tenant.namespace)
    tenant.create()
    tenant.filled(timeout=FIRST_FILL_SECONDS)
    with Stream(pods, "hello/first", every_seconds=EVERY_SECONDS, count=COUNT) as stream:
        yield tenant, stream


@pytest.fixture(autouse=True)
def beside_it(steady: tuple[Tenant, Stream]) -> None:
    """It begins with the first test, whichever that is."""
    del steady


@pytest.fixture(scope="session")
def outcomes(steady: tuple[Tenant, Stream]) -> list[Outcome]:
    """What became of all those Pods; ready when the last one is. Who asks for it may break things."""
    return steady[1].outcomes(finish=True)


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Prints a figure for whoever reads the run."""

    def say(sentence: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n  {sentence} ")

    return say
