"""The checks of `doctor`, as one table: the command, docs/checks.md and the tests read it.

An id is never given to another check.
"""

from __future__ import annotations

from dataclasses import dataclass

PAGE = "docs/checks.md"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at."""

    id: str
    group: str
    title: str
    """What is true if all is good."""
    why: str
    """What goes wrong without it."""
    cure: str
    pre: bool = False
    """It needs no installation."""

    @property
    def page(self) -> str:
        """Where it is explained."""
        return f"{PAGE}#{self.id.lower()}"


CHECKS = (
    Check(
        "PSU-101",
        "cluster",
        "the API server accepts who asks",
        "Without it nothing else can be looked at.",
        "check the kubeconfig's server and credential",
        pre=True,
    ),
    Check(
        "PSU-102",
        "cluster",
        "the API server is of Kubernetes 1.30 or later",
        "Older ones have no ValidatingAdmissionPolicy in its stable version, so nothing would guard identities.",
        "upgrade the cluster",
        pre=True,
    ),
    Check(
        "PSU-103",
        "cluster",
        "this machine's clock agrees with the API server's",
        "Issuers refuse proofs that begin in the future, and a refresh by a wrong clock comes too late. It is the "
        "clock of the machine or Pod that runs the command.",
        "set the clock by NTP",
        pre=True,
    ),
    Check(
        "PSU-104",
        "cluster",
        "the API server serves admission policies",
        "A flag of the API server can switch them off; then anyone who may write a Secret may use any identity.",
        "remove admissionregistration.k8s.io/v1=false from the API server's --runtime-config",
        pre=True,
    ),
    Check(
        "PSU-201",
        "install",
        "the Deployment is there, and all its replicas are available",
        "A Pod that isn't ready has lost its watch, can't read its credential, or doesn't start; tokens then expire.",
        "read kubectl logs and kubectl describe of the controller's Pod; to install it: kubectl apply -k manifests/",
    ),
    Check(
        "PSU-202",
        "install",
        "the controller is of the same version as this command",
        "Another version may know other reasons, annotations and policies than this command does.",
        "install the command of the controller's version, or upgrade the controller",
    ),
    Check(
        "PSU-203",
        "install",
        "the configuration is valid",
        "The controller doesn't start with a configuration that it doesn't understand.",
        "correct the ConfigMap; pull-secret-updater check-config FILE names every problem",
    ),
    Check(
        "PSU-204",
        "install",
        "the controller's namespace enforces the Pod Security Standard `restricted`",
        "Whoever runs a Pod in that namespace can be the controller; a privileged one could also read its node.",
        "kubectl label namespace NAMESPACE pod-security.kubernetes.io/enforce=restricted",
    ),
    Check(
        "PSU-301",
        "rights",
        "the controller may get, list, watch and patch the Secrets it watches",
        "Without one of these it sees or fills no Secret.",
        "apply the roles of manifests/rbac.yaml, with the names of secretNames in them",
    ),
    Check(
        "PSU-302",
        "rights",
        "the controller may create and patch Events",
        "Without that, users aren't told by `kubectl events` why their Secret is empty.",
        "apply the role pull-secret-updater-events of manifests/rbac.yaml",
    ),
    Check(
        "PSU-303",
        "rights",
        "the controller may read its admission policies",
        "Without that it can't tell whether they guard the cluster, and with requirePolicies it doesn't start.",
        "apply the role pull-secret-updater-policies of manifests/rbac.yaml",
    ),
    Check(
        "PSU-304",
        "rights",
        "the controller may read no more Secrets than it watches",
        "A controller that can read all Secrets of a cluster is worth attacking for all of them.",
        "bind it to the roles of manifests/rbac.yaml alone",
    ),
    Check(
        "PSU-401",
        "policies",
        "the policy use-identity is in force, as it was built",
        "It decides who may use an identity.",
        "kubectl apply -k manifests/",
    ),
    Check(
        "PSU-402",
        "policies",
        "the policy own-writes is in force, as it was built",
        "It keeps the controller, or whoever steals its token, from writing anything but tokens.",
        "kubectl apply -k manifests/",
    ),
    Check(
        "PSU-403",
        "policies",
        "the policy other-name is in force, as it was built",
        "It tells a user who gives a Secret a name that isn't watched, which would stay empty in silence.",
        "kubectl apply -k manifests/",
    ),
    Check(
        "PSU-404",
        "policies",
        "a write that must be refused is refused",
        "A policy can be installed and yet not be asked, as behind an API server of another version. Nothing is "
        "written: it is a dry run.",
        "apply the policies of manifests/ and wait a few seconds until the API server has compiled them",
    ),
    Check(
        "PSU-501",
        "identity",
        "the Deployment mounts a token for the audience of each provider",
        "A token for another audience is never sent. On EKS and AKS a webhook may add one to the Pod.",
        "add a projected serviceAccountToken with that audience to the Deployment, as the chart does",
    ),
    Check(
        "PSU-502",
        "identity",
        "the cluster's issuer is one that a token issuer can know",
        "Token issuers look up who signed a proof by the cluster's issuer URL, which must be a public https URL, "
        "unless the keys are uploaded.",
        "set --service-account-issuer of the API server to a public https URL, or upload the keys to the vendor",
        pre=True,
    ),
    Check(
        "PSU-503",
        "identity",
        "a token of the controller's ServiceAccount has that issuer and a published key",
        "After a rotation of keys, or with several issuers, token issuers refuse every proof.",
        "make /openid/v1/jwks and the first --service-account-issuer those that the API server signs with",
    ),
    Check(
        "PSU-601",
        "Secrets",
        "every Secret that asks for a token has a valid one",
        "Pods that name such a Secret can't pull.",
        "pull-secret-updater explain NAME -n NAMESPACE",
    ),
    Check(
        "PSU-602",
        "Secrets",
        "nobody else writes what the controller writes",
        "Each revert leaves the Secret without its token until the controller has restored it.",
        "make the other writer leave data and our annotations alone, as docs/gitops.md shows",
    ),
    Check(
        "PSU-603",
        "Secrets",
        "kubelets can read every filled Secret",
        "One malformed entry of somebody else makes a kubelet ignore the whole Secret.",
        "correct or remove the entries that the Secret's annotation `error` names",
    ),
    Check(
        "PSU-604",
        "Secrets",
        "every pull Secret that a Pod names is there",
        "A kubelet pulls without it, which fails for private images.",
        "create the Secret, or correct imagePullSecrets of the Pod or its ServiceAccount",
    ),
    Check(
        "PSU-605",
        "Secrets",
        "every Secret with a token is used by a Pod or a ServiceAccount",
        "A token that nobody uses is only a risk.",
        "name it in imagePullSecrets, or delete the Secret",
    ),
)
