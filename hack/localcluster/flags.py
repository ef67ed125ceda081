"""The flags of a control plane's programs; paths are relative to its directory."""

from hack.localcluster.wire import SERVICES, Wire

ETCD = {
    "data-dir": "etcd",
    # Relative names, since a socket's path may have at most 108 bytes, and test directories are long.
    "listen-client-urls": "unix://etcd.sock:0",
    "advertise-client-urls": "unix://etcd.sock:0",
    "listen-peer-urls": "unix://peer.sock:0",
    "initial-advertise-peer-urls": "unix://peer.sock:0",
    "initial-cluster": "default=unix://peer.sock:0",
    "unsafe-no-fsync": "true",  # nothing here must survive a power cut
    "log-level": "warn",
}

APISERVER = {
    "etcd-servers": "unix://etcd.sock:0",
    "bind-address": "127.0.0.1",
    "advertise-address": "127.0.0.1",
    "endpoint-reconciler-type": "none",  # loopback is not a valid endpoint, and needs none
    "cert-dir": "certs",
    "client-ca-file": "ca.crt",
    "tls-cert-file": "apiserver.crt",
    "tls-private-key-file": "apiserver.key",
    "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
    "service-account-key-file": "sa.pub",
    "service-account-signing-key-file": "sa.key",
    "service-cluster-ip-range": SERVICES,
    "authorization-mode": "RBAC",
    "disable-admission-plugins": "ServiceAccount",  # it waits for what kube-controller-manager makes
    "allow-privileged": "true",
}


def for_nodes(wire: Wire) -> dict[str, str]:
    """Flags on top of APISERVER: listen on the wire, with the admission and authorisation that a node needs."""
    return {
        "bind-address": wire.host,
        "advertise-address": wire.host,
        "endpoint-reconciler-type": "lease",
        "authorization-mode": "Node,RBAC",
        "disable-admission-plugins": "",
        "enable-admission-plugins": "NodeRestriction",
        "kubelet-client-certificate": "admin.crt",
        "kubelet-client-key": "admin.key",
        "kubelet-preferred-address-types": "InternalIP",
    }


MANAGERS = {
    "kube-controller-manager": {
        "kubeconfig": "kube-controller-manager.kubeconfig",
        "service-account-private-key-file": "sa.key",
        "root-ca-file": "ca.crt",
        "use-service-account-credentials": "true",
        "leader-elect": "false",
        "secure-port": "0",
    },
    "kube-scheduler": {
        "kubeconfig": "kube-scheduler.kubeconfig",
        "leader-elect": "false",
        "secure-port": "0",
    },
}
"""What Pods need besides the API server; each program is the user `system:<name>`."""


def render(values: dict[str, str]) -> list[str]:
    """The flags as arguments."""
    return [f"--{name}={value}" for name, value in values.items()]
