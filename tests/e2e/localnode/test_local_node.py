"""hack/cluster up --node: a real node, of which nothing stays."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hack.localcluster import kubectl, packages
from hack.localcluster.packages import PackagesError

ROOT = Path(__file__).parents[3]
RUN_SECONDS = 30.0
HOLDER = """
import sys, time
from hack.localcluster import NodeCluster
with NodeCluster() as cluster:
    print(cluster.plane.directory, cluster.plane.processes["node"].pid, cluster.plane.address, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A state directory of its own, empty afterwards whatever the test did; the programs are the user's."""
    own = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    yield own
    hack_cluster("down", "--all", environment=own)


def hack_cluster(*arguments: str, environment: dict[str, str]) -> str:
    """What hack/cluster prints on stdout."""
    command = [str(ROOT / "hack" / "cluster"), *arguments]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=100).stdout


def traces() -> dict[str, list[str]]:
    """All that a node could leave on a machine, but for processes that are gone and only not yet asked for."""
    run = [stat.parent for stat in Path("/proc").glob("[0-9]*/stat") if "node" in alive_as(stat.parent)]
    return {
        "interfaces": sorted(path.name for path in Path("/sys/class/net").iterdir()),
        "routes": sorted(Path("/proc/net/route").read_text().splitlines()),
        "mounts": sorted(line.split(" - ")[0].split()[4] for line in mountinfo()),
        "groups": sorted(str(path) for path in Path("/sys/fs/cgroup").glob("**/psu*")),
        "rules": subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout.split("\n*"),
        "processes": sorted(map(str, run)),
        "files": [path for path in ("/run/containerd", "/var/lib/kubelet", "/etc/cni/net.d") if Path(path).exists()],
    }


def mountinfo() -> list[str]:
    """The mounts of this machine."""
    return Path("/proc/self/mountinfo").read_text().splitlines()


def alive_as(process: Path) -> set[str]:
    """{"node"} if it is one of a node's processes, and alive."""
    try:
        command = process.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return set()
    ours = ("containerd", "kubelet", "kube-proxy", "localcluster.sandbox", "kube-scheduler", "kube-controller-manager")
    return {"node"} if any(one in command for one in ours) and "pytest" not in command else set()


def eventually(look: Callable[[], bool]) -> None:
    """Return once it is so."""
    deadline = time.monotonic() + RUN_SECONDS
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def run_kubectl(kubeconfig: str, *arguments: str) -> str:
    """What kubectl prints. Raises CalledProcessError."""
    command = [str(kubectl()), "--kubeconfig", kubeconfig, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def run_a_pod(kubeconfig: str) -> None:
    """Of the image that every node has; returns once it runs."""
    eventually(lambda: "default" in run_kubectl(kubeconfig, "get", "serviceaccounts", "-o", "name"))
    image = ("--image=localhost/pause:local", "--image-pull-policy=Never", "--restart=Never")
    run_kubectl(kubeconfig, "run", "pause", *image)
    run_kubectl(kubeconfig, "wait", "pod/pause", "--for=jsonpath={.status.phase}=Running", "--timeout=25s")


def test_a_node_runs_a_pod_and_down_leaves_no_process_mount_interface_rule_or_group(
    environment: dict[str, str],
) -> None:
    before = traces()
    kubeconfig = hack_cluster("up", "--node", environment=environment).strip()
    run_a_pod(kubeconfig)
    assert traces() != before, "the look sees something"
    hack_cluster("down", environment=environment)
    assert traces() == before
    assert not Path(kubeconfig).parent.exists()


def test_two_nodes_side_by_side_share_nothing(environment: dict[str, str]) -> None:
    one, two = (
        hack_cluster("up", "--node", "--name", name, environment=environment).strip() for name in ("one", "two")
    )
    run_a_pod(one)
    run_a_pod(two)
    servers = {
        run_kubectl(each, "config", "view", "-o", "jsonpath={.clusters[0].cluster.server}") for each in (one, two)
    }
    assert len(servers) == 2
    hack_cluster("down", "--name", "one", environment=environment)
    assert "Ready" in run_kubectl(two, "get", "nodes")


def test_up_replaces_a_cluster_whose_node_died(environment: dict[str, str]) -> None:
    hack_cluster("up", "--node", environment=environment)
    (node,) = (
        int(word.partition("=")[2])
        for word in hack_cluster("status", environment=environment).split()
        if word.startswith("node=")
    )
    os.kill(node, signal.SIGKILL)
    eventually(lambda: "\tnot running\t" in hack_cluster("status", environment=environment))
    kubeconfig = hack_cluster("up", "--node", environment=environment).strip()
    run_a_pod(kubeconfig)


def test_a_cluster_without_a_node_is_not_taken_for_one_that_has_one(environment: dict[str, str]) -> None:
    hack_cluster("up", environment=environment)
    command = [str(ROOT / "hack" / "cluster"), "up", "--node"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "hack/cluster down" in done.stderr


def test_a_killed_run_leaves_no_process_interface_or_mount() -> None:
    before = traces()
    with subprocess.Popen([sys.executable, "-c", HOLDER], cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        directory, node, address = holder.stdout.readline().split()
        holder.kill()
    eventually(lambda: not Path(f"/proc/{node}").exists())
    wire = address.split(".")[2]
    eventually(lambda: not Path(f"/sys/class/net/psu{wire}").exists())
    assert {**traces(), "groups": []} == {**before, "groups": []}, "but for an empty group, which the next node takes"
    subprocess.run(["rm", "-r", directory], check=True)
    for group in Path("/sys/fs/cgroup").glob(f"*/psu{wire}"):
        for below in sorted(group.glob("**/"), key=lambda path: -len(path.parts)):
            below.rmdir()


def test_who_is_not_root_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PackagesError, match="run this as root, say with sudo"):
        packages.check()


def test_what_is_missing_is_named_with_the_step_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(PackagesError, match=r"containerd, iproute2, .*hack/cluster packages"):
        packages.check()
