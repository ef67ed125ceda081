"""hack/cluster up --node: a real node, of which nothing stays."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.imagebuild import archive
from hack.localcluster import NodeCluster, packages
from hack.localcluster.binaries import node_programs
from hack.localcluster.packages import PackagesError
from hack.localcluster.sandbox import TUNABLES
from hack.localcluster.wire import Wire
from tests.e2e.support.hackcluster import hack_cluster, run_kubectl
from tests.e2e.support.installed import ROOT
from tests.e2e.support.tenant import eventually

RUN_SECONDS = 30.0
HOLDER = """
import sys, time
from hack.localcluster import NodeCluster
with NodeCluster() as cluster:
    print(cluster.plane.directory, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A state directory of its own, empty afterwards whatever the test did; the programs are the user's."""
    own = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    yield own
    hack_cluster("down", "--all", environment=own)


def traces() -> dict[str, list[str]]:
    """All that a node could leave on a machine."""
    return {
        "interfaces": sorted(path.name for path in Path("/sys/class/net").iterdir()),
        "routes": sorted(Path("/proc/net/route").read_text().splitlines()),
        "mounts": sorted(line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()),
        "groups": sorted(str(path) for path in Path("/sys/fs/cgroup").glob("**/psu*")),
        "rules": rules(),
        "processes": sorted(process.name for process in Path("/proc").glob("[0-9]*") if is_of_a_node(process)),
        "files": [path for path in ("/run/containerd", "/var/lib/kubelet", "/etc/cni/net.d") if Path(path).exists()],
        "tunables": [f"{name}={Path('/proc/sys', name).read_text().strip()}" for name in TUNABLES],
    }


def rules() -> list[str]:
    """Of iptables, without times and counters."""
    saved = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout
    return [re.sub(r"\[\d+:\d+\]", "", line) for line in saved.splitlines() if not line.startswith("#")]


def is_of_a_node(process: Path) -> bool:
    """Whether it runs, and is one of those that a node has. A machine may have containers of its own."""
    try:
        command = process.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    marks = ("import sandbox; ", "containerd --config containerd.toml", "-namespace k8s.io", "/kube-", "/kubelet ")
    return any(mark in command for mark in marks)


def node_of(name: str, environment: dict[str, str]) -> int:
    """The first process of the node of this cluster."""
    (line,) = [one for one in hack_cluster("status", environment=environment).splitlines() if one.startswith(name)]
    (node,) = [word.partition("=")[2] for word in line.split() if word.startswith("node=")]
    return int(node)


def run_a_pod(kubeconfig: str, image: str = "localhost/pause:local") -> None:
    """Of an image that the node has, by default the one that each has; returns once it runs."""
    account = ("get", "serviceaccount", "default")
    eventually(
        lambda: run_kubectl(kubeconfig, *account).returncode == 0, timeout=RUN_SECONDS, what="the ServiceAccount"
    )
    options = (f"--image={image}", "--image-pull-policy=Never", "--restart=Never")
    ran = run_kubectl(kubeconfig, "run", "pause", *options)
    assert ran.returncode == 0, ran.stderr
    waited = run_kubectl(kubeconfig, "wait", "pod/pause", "--for=jsonpath={.status.phase}=Running", "--timeout=25s")
    assert waited.returncode == 0, waited.stderr


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


@pytest.mark.parametrize("place", ["/var/lib", "/var/log", "/run"])
def test_a_node_whose_directory_is_where_it_has_others_of_its_own_runs_a_pod(
    environment: dict[str, str], place: str
) -> None:
    with tempfile.TemporaryDirectory(dir=place, prefix="psu-") as state:
        there = {**environment, "XDG_STATE_HOME": state}
        try:
            run_a_pod(hack_cluster("up", "--node", environment=there).strip())
        finally:
            hack_cluster("down", environment=there)


def test_an_image_that_is_loaded_can_be_run(environment: dict[str, str], tmp_path: Path) -> None:
    kubeconfig = hack_cluster("up", "--node", environment=environment).strip()
    (tmp_path / "root").mkdir()
    shutil.copy(node_programs().find_or_build() / "pause", tmp_path / "root")
    image = tmp_path / "image.tar"
    archive.of_directory(tmp_path / "root", image, name="localhost/loaded:1", config={"Entrypoint": ["/pause"]})
    hack_cluster("load", str(image), environment=environment)
    run_a_pod(kubeconfig, "localhost/loaded:1")


def test_two_nodes_side_by_side_share_nothing(environment: dict[str, str]) -> None:
    one, two = (
        hack_cluster("up", "--node", "--name", name, environment=environment).strip() for name in ("one", "two")
    )
    run_a_pod(one)
    run_a_pod(two)
    view = ("config", "view", "-o", "jsonpath={.clusters[0].cluster.server}")
    servers = {run_kubectl(each, *view).stdout for each in (one, two)}
    assert len(servers) == 2
    hack_cluster("down", "--name", "one", environment=environment)
    assert "Ready" in run_kubectl(two, "get", "nodes").stdout


def test_up_replaces_a_cluster_whose_node_died(environment: dict[str, str]) -> None:
    hack_cluster("up", "--node", environment=environment)
    os.kill(node_of("default", environment), signal.SIGKILL)

    def died() -> bool:
        return "\tnot running\t" in hack_cluster("status", environment=environment)

    eventually(died, timeout=RUN_SECONDS, what="its end")
    kubeconfig = hack_cluster("up", "--node", environment=environment).strip()
    run_a_pod(kubeconfig)


def test_a_cluster_without_a_node_is_not_taken_for_one_that_has_one(environment: dict[str, str]) -> None:
    hack_cluster("up", environment=environment)
    command = [str(ROOT / "hack" / "cluster"), "up", "--node"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "hack/cluster down" in done.stderr


def test_a_wire_that_goes_with_its_node_while_it_is_being_removed_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire(255, "nobody's")
    assert not Path("/sys/class/net", wire.name).exists()
    monkeypatch.setattr(Path, "exists", lambda _: True)  # as seen a moment ago
    wire.remove()


def test_after_a_killed_run_only_an_empty_group_is_there_which_the_next_node_takes() -> None:
    before = {**traces(), "groups": []}
    with subprocess.Popen([sys.executable, "-c", HOLDER], cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        directory = holder.stdout.readline().strip()
        holder.kill()
    eventually(lambda: {**traces(), "groups": []} == before, timeout=RUN_SECONDS, what="the end of all of it")
    shutil.rmtree(directory)
    with NodeCluster() as another:
        run_a_pod(str(another.plane.kubeconfig))
    assert traces() == before


def test_what_is_left_of_a_dead_cluster_is_removed_without_harm_to_the_one_that_got_its_number(
    environment: dict[str, str],
) -> None:
    hack_cluster("up", "--node", "--name", "dead", environment=environment)
    os.kill(node_of("dead", environment), signal.SIGKILL)
    with NodeCluster() as alive:
        hack_cluster("down", "--name", "dead", environment=environment)
        run_a_pod(str(alive.plane.kubeconfig))


def test_who_is_not_root_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PackagesError, match="needs root; use sudo"):
        packages.check()


def test_what_is_missing_is_named_with_the_step_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(PackagesError, match=r"containerd, iproute2, .*hack/cluster packages"):
        packages.check()
