"""Configuration of a node's services. Paths are those in the sandbox; relative ones are in the node's directory."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hack.localcluster.sandbox import SERVICES
from hack.localcluster.wire import Wire

NODE_NAME = "local-node"
PAUSE_IMAGE = "localhost/pause:local"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
CNI_DIRECTORIES = (Path("/usr/lib/cni"), Path("/usr/libexec/cni"), Path("/opt/cni/bin"))
"""Where Debian, Fedora, and everyone else install the network plugins."""

CONTAINERD = """\
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt"]  # it would create a directory outside of these
[grpc]
address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
# Without CAP_SYS_RESOURCE a process may not make itself less likely to be killed, and every sandbox would fail.
restrict_oom_score_adj = true
disable_apparmor = true  # its profile would remain in the machine's kernel
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{cni}"
conf_dir = "{directory}/cni"
"""

KUBELET: Mapping[str, Any] = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    "authentication": {
        "anonymous": {"enabled": False},
        "webhook": {"enabled": True},
        "x509": {"clientCAFile": "ca.crt"},
    },
    "authorization": {"mode": "Webhook"},
    "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
    "volumePluginDir": "/var/lib/kubelet/volume-plugins",
    "resolvConf": "resolv.conf",
    # The node uses a part of this machine, and leaves the rest alone.
    "cgroupDriver": "cgroupfs",
    "cgroupsPerQOS": False,
    "enforceNodeAllocatable": [],
    "failSwapOn": False,
    "failCgroupV1": False,
    "evictionHard": {},
    "localStorageCapacityIsolation": False,
}


def write(directory: Path, wire: Wire, *, programs: Path) -> None:
    """Write all files except `kubelet.kubeconfig` and `kube-proxy.kubeconfig`, which belong next to them."""
    plugins = next((path for path in CNI_DIRECTORIES if (path / "ptp").exists()), CNI_DIRECTORIES[0])
    (directory / "containerd.toml").write_text(
        CONTAINERD.format(socket=CONTAINERD_SOCKET, pause=PAUSE_IMAGE, cni=plugins, directory=directory)
    )
    (directory / "kubelet.json").write_text(json.dumps(KUBELET))
    (directory / "resolv.conf").write_text("")  # nothing in the cluster needs DNS names from outside
    (directory / "cni").mkdir()
    (directory / "cni" / "10-pods.conflist").write_text(json.dumps(network(wire)))
    services = {
        "containerd": ["containerd", "--config", "containerd.toml"],
        "kubelet": [
            str(programs / "kubelet"),
            "--config=kubelet.json",
            "--kubeconfig=kubelet.kubeconfig",
            f"--hostname-override={NODE_NAME}",
            f"--node-ip={wire.node}",
        ],
        "kube-proxy": [
            str(programs / "kube-proxy"),
            "--kubeconfig=kube-proxy.kubeconfig",
            f"--hostname-override={NODE_NAME}",
            f"--cluster-cidr={wire.pods}",
            "--proxy-mode=iptables",
            "--conntrack-max-per-core=0",
        ],
    }
    (directory / SERVICES).write_text(json.dumps(services))


def network(wire: Wire) -> dict[str, Any]:
    """Each Pod has its own wire, so every packet passes kube-proxy's rules; a bridge would need br_netfilter."""
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": wire.pods}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": "/run/cni-addresses",
    }
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "ptp", "ipMasq": False, "ipam": addresses}]}
