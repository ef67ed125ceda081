"""API server, issuer and registry by IPv6 literals, as on clusters that have no other addresses; on loopback."""

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from hack import pki
from testing.controller import ControllerProcess
from testing.exchange import Issuer
from testing.mounted import MountedTokens
from testing.registry import Registry
from testing.wire import Servers, Wire
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.relay import Relay
from tests.e2e.support.tenant import Tenant

pytestmark = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")

HOST = "::1"


Environment = dict[str, str]


@pytest.fixture(params=[True, False], ids=["as kubeadm's", "without key identifiers"])
def pod(
    request: pytest.FixtureRequest, cluster: Cluster, mounted: MountedTokens, tmp_path: Path
) -> Iterator[Environment]:
    """What a Pod's environment says of the API server, and of the directory with its CA; with both certificates."""
    authority = pki.make_authority(key_identifiers=request.param)
    server = pki.make_server(authority, addresses=[HOST])
    pki.write_private(tmp_path / "tls.pem", server.certificate + server.key)
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.load_cert_chain(tmp_path / "tls.pem")
    directory = mounted.with_ca(tmp_path / "serviceaccount", authority.certificate)
    with Relay(*cluster.address(), tls=(ours, ssl.create_default_context(cafile=str(cluster.ca)))) as relay:
        yield {
            "KUBERNETES_SERVICE_HOST": HOST,
            "KUBERNETES_SERVICE_PORT": str(relay.port),
            "PULL_SECRET_UPDATER_SERVICEACCOUNT_DIR": str(directory),
        }


@pytest.fixture
def issuer_url(issuer: Issuer) -> Iterator[str]:
    """Where the issuer is, by IPv6."""
    at = urlsplit(issuer.url)
    with Relay(str(at.hostname), int(at.port or 0)) as relay:
        yield f"http://[{HOST}]:{relay.port}"


@pytest.fixture
def registry() -> Iterator[tuple[str, Registry]]:
    """A registry on [::1], by its name in images, that lets in whoever comes as `_token`."""
    standin = Registry(time.time, lambda user, _: user == "_token", flavour="bearer")
    with socket.create_server((HOST, 0), family=socket.AF_INET6) as listener, Servers() as servers:
        yield urlsplit(servers.serve(Wire(standin, clock=time.time), listener)).netloc, standin


def test_a_cluster_of_ipv6_alone_is_served(
    controller: Callable[..., ControllerProcess],
    tenants: Callable[..., Tenant],
    pod: Environment,
    issuer_url: str,
    registry: tuple[str, Registry],
) -> None:
    name, standin = registry
    running = controller(env=pod, provider={"issuer": issuer_url, "registries": [name], "probe": True})
    tenant = tenants(registry=name)
    tenant.create()
    tenant.filled()
    running.stop()
    assert standin.logins == [True]
