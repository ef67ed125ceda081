"""The local control plane itself: everything else in this folder stands on it."""

import os
import platform
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jwt
import pytest

from hack.localcluster import BinariesError, ControlPlane, ControlPlaneError
from hack.localcluster.binaries import find, find_or_build
from tests.e2e.support.hackcluster import hack_cluster, run_kubectl

ROOT = Path(__file__).parents[2]

HOLDER = """
import pathlib, sys, time
from hack.localcluster import ControlPlane
with ControlPlane(pathlib.Path(sys.argv[1])) as cluster:
    print(*(known.pid for known in cluster.processes.values()), flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[ControlPlane]:
    """One for the tests that only look."""
    with ControlPlane() as running:
        yield running


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A state directory of its own, empty afterwards whatever the test did; the programs are the user's."""
    find_or_build()
    own = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    yield own
    hack_cluster("down", "--all", environment=own)


def pids(status: str) -> list[int]:
    """The processes that `hack/cluster status` names."""
    return [int(word.partition("=")[2]) for word in status.split() if word.startswith(("etcd=", "kube-apiserver="))]


def alive(pid: int) -> bool:
    """Whether a process runs; one of which only the exit status is left does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for_end(pid: int) -> None:
    """Return once the process has ended; the test's own timeout bounds the wait."""
    while alive(pid):
        time.sleep(0.02)


def test_up_gives_a_cluster_that_kubectl_can_use_and_down_leaves_no_process(environment: dict[str, str]) -> None:
    kubeconfig = hack_cluster("up", environment=environment).strip()
    assert run_kubectl(kubeconfig, "auth", "whoami").returncode == 0
    assert run_kubectl(kubeconfig, "create", "serviceaccount", "someone").returncode == 0

    status = hack_cluster("status", environment=environment)
    assert status.startswith("default\trunning\thttps://127.0.0.1:")
    assert len(pids(status)) == 2
    assert all(map(alive, pids(status)))

    hack_cluster("down", environment=environment)
    assert not any(map(alive, pids(status)))
    assert not Path(kubeconfig).parent.exists()
    assert hack_cluster("status", environment=environment) == ""


def test_a_second_up_under_way_waits_for_the_first_and_gives_the_same_cluster(environment: dict[str, str]) -> None:
    with ThreadPoolExecutor() as pool:
        both = [pool.submit(hack_cluster, "up", environment=environment) for _ in range(2)]
        paths = {future.result() for future in both}
    assert len(paths) == 1
    running = pids(hack_cluster("status", environment=environment))
    paths.add(hack_cluster("up", environment=environment))
    assert len(paths) == 1
    assert pids(hack_cluster("status", environment=environment)) == running


def test_two_clusters_side_by_side_share_nothing(environment: dict[str, str]) -> None:
    one, two = (hack_cluster("up", "--name", name, environment=environment).strip() for name in ("one", "two"))
    assert run_kubectl(one, "create", "namespace", "only-in-one").returncode == 0
    assert "NotFound" in run_kubectl(two, "get", "namespace", "only-in-one").stderr

    hack_cluster("down", "--name", "one", environment=environment)
    assert run_kubectl(two, "get", "namespaces").returncode == 0


def test_up_replaces_a_cluster_whose_processes_died(environment: dict[str, str]) -> None:
    hack_cluster("up", environment=environment)
    etcd, apiserver = pids(hack_cluster("status", environment=environment))
    os.kill(apiserver, signal.SIGKILL)
    wait_for_end(apiserver)
    assert "\tnot running\t" in hack_cluster("status", environment=environment)

    kubeconfig = hack_cluster("up", environment=environment).strip()
    assert run_kubectl(kubeconfig, "get", "namespaces").returncode == 0
    assert not alive(etcd)


def test_an_up_that_is_interrupted_leaves_nothing(environment: dict[str, str]) -> None:
    with subprocess.Popen([str(ROOT / "hack" / "cluster"), "up"], env=environment, stdout=subprocess.DEVNULL) as up:
        started: list[int] = []
        while len(started) < 2:
            assert up.poll() is None, "it was done before it could be interrupted"
            started = pids(hack_cluster("status", environment=environment))
        up.terminate()
        assert up.wait(timeout=30) == 128 + signal.SIGTERM
    assert not any(map(alive, started))
    assert hack_cluster("status", environment=environment) == ""


def test_down_spares_a_stranger_who_got_the_recorded_pid(environment: dict[str, str]) -> None:
    state = Path(hack_cluster("up", environment=environment).strip()).with_name("state.json")
    _, apiserver = pids(hack_cluster("status", environment=environment))
    with subprocess.Popen(["sleep", "600"]) as stranger:
        state.write_text(state.read_text().replace(f'"pid": {apiserver}', f'"pid": {stranger.pid}'))
        hack_cluster("down", environment=environment)
        assert stranger.poll() is None
        stranger.kill()
    os.kill(apiserver, signal.SIGKILL)  # nothing else knows of it any more


def test_a_killed_test_run_leaves_no_processes(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "cluster")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        started = [int(word) for word in holder.stdout.readline().split()]
        assert len(started) == 2
        assert all(map(alive, started))
        holder.kill()
    for pid in started:
        wait_for_end(pid)


def test_a_cluster_started_in_a_short_lived_thread_outlives_the_thread() -> None:
    cluster = ControlPlane()
    with ThreadPoolExecutor() as pool:
        pool.submit(cluster.start).result()
    try:
        assert run_kubectl(cluster.kubeconfig, "get", "namespaces").returncode == 0
    finally:
        cluster.stop()


def test_clients_verify_the_server_with_its_own_authority(cluster: ControlPlane) -> None:
    ours = ssl.create_default_context(cafile=str(cluster.ca))
    with urllib.request.urlopen(f"{cluster.url}/readyz", context=ours) as answer:
        assert answer.status == 200
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(f"{cluster.url}/readyz", context=ssl.create_default_context())


def test_another_user_has_no_rights_until_rbac_gives_some(cluster: ControlPlane) -> None:
    tenant = cluster.kubeconfig_for("tenant", ["team-a"])
    who = run_kubectl(tenant, "auth", "whoami", "-o", "jsonpath={.status.userInfo.username} {.status.userInfo.groups}")
    assert who.stdout == 'tenant ["team-a","system:authenticated"]'
    assert "Forbidden" in run_kubectl(tenant, "get", "secrets").stderr

    binding = ("create", "rolebinding", "tenant", "--clusterrole=cluster-admin", "--group=team-a")
    assert run_kubectl(cluster.kubeconfig, *binding).returncode == 0
    assert run_kubectl(tenant, "get", "secrets").returncode == 0


def test_a_service_account_token_is_verified_by_the_published_keys(cluster: ControlPlane) -> None:
    assert run_kubectl(cluster.kubeconfig, "create", "serviceaccount", "prover").returncode == 0
    token = cluster.service_account_token("default", "prover", audiences=["issuer.example"], seconds=600)

    keys = jwt.PyJWKSet.from_json(cluster.admin.request("GET", "/openid/v1/jwks").body.decode())
    claims = jwt.decode(token, keys.keys[0], audience="issuer.example", algorithms=["RS256"])
    assert claims["sub"] == "system:serviceaccount:default:prover"
    assert claims["exp"] - claims["iat"] == 600

    with pytest.raises(ControlPlaneError, match="404"):
        cluster.service_account_token("default", "nobody")


@pytest.mark.parametrize("kill", [False, True])
def test_after_an_outage_the_same_address_serves_the_same_data(cluster: ControlPlane, kill: bool) -> None:
    marker = f"before-outage-{kill}".lower()
    assert run_kubectl(cluster.kubeconfig, "create", "namespace", marker).returncode == 0
    url = cluster.url

    cluster.stop_apiserver(kill=kill)
    with pytest.raises(ConnectionRefusedError):
        cluster.admin.request("GET", "/readyz")
    cluster.start_apiserver()

    assert cluster.url == url
    assert run_kubectl(cluster.kubeconfig, "get", "namespace", marker).returncode == 0


def test_extra_flags_win_and_a_wrong_one_is_told_with_the_servers_own_words() -> None:
    broken = ControlPlane(apiserver_flags={"authorization-mode": "Nonsense"})
    with pytest.raises(ControlPlaneError, match="Nonsense"):
        broken.start()
    assert not broken.directory.exists()
    assert broken.processes == {}


def test_a_port_that_is_taken_is_survived(cluster: ControlPlane) -> None:
    with ControlPlane(port=cluster.port) as second:
        assert second.port != cluster.port
        assert run_kubectl(second.kubeconfig, "get", "namespaces").returncode == 0


def test_assets_that_are_named_but_missing_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(BinariesError, match="KUBEBUILDER_ASSETS"):
        find({"KUBEBUILDER_ASSETS": str(tmp_path)})


def test_the_newest_supported_version_of_setup_envtest_is_taken(tmp_path: Path) -> None:
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    for version in ("1.29.9", "1.31.0", "1.100.0", "1.33.2"):
        directory = tmp_path / "kubebuilder-envtest" / "k8s" / f"{version}-linux-{machine}"
        directory.mkdir(parents=True)
        for program in ("etcd", "kube-apiserver"):
            (directory / program).touch(mode=0o755)
    environment = {"XDG_DATA_HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    found = find(environment)
    assert found is not None
    assert found.etcd.parent.name.startswith("1.100.0-")

    for directory in (tmp_path / "kubebuilder-envtest" / "k8s").glob("1.[13]*"):
        (directory / "etcd").chmod(0o644)
    assert find(environment) is None
