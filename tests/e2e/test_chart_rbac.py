"""What the ServiceAccount of each example of the chart may do, as the API server itself says, and what it refuses.

Every right is in golden/chart-rbac.md. UPDATE_GOLDEN=1 hack/test tests/e2e/test_chart_rbac.py writes that file anew.
"""

import json
import os
import re
import ssl
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from testing.api import Api
from tests.e2e.support.charts import EXAMPLES, Object, example, of_kind, render
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.tenant import eventually

GOLDEN = Path(__file__).parent / "golden" / "chart-rbac.md"
RENEW = "UPDATE_GOLDEN=1 hack/test tests/e2e/test_chart_rbac.py"
INTRODUCTION = f"""\
# What the chart lets the controller do

By configuration, those of `manifests/chart/ci`. Each row is what the API server answers to a SelfSubjectRulesReview of
the release's ServiceAccount, without what every ServiceAccount may do. The admission policies narrow it further.
RELEASE stands for namespace and name of the release. Written by `{RENEW}`.
"""
KINDS = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "FlowSchema")
LISTED = ("team-a", "team-b")
"""Namespaces that examples name."""
ELSEWHERE = "rbac-elsewhere"
NAMES = [name for name in EXAMPLES if name != "off"]  # which installs nothing
RBAC_SECONDS = 60.0


class Right(NamedTuple):
    """One row of the table."""

    group: str
    resource: str
    names: str
    verbs: str
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What the API server has to know of an example's ServiceAccount, installed."""

    objects: list[Object]
    namespace: str
    account: str

    @property
    def prefix(self) -> str:
        """Begins the names of its objects outside of namespaces."""
        names = (str(each["metadata"]["name"]) for each in of_kind(self.objects, "ClusterRole"))
        return next(name.removesuffix("-events") for name in names if name.endswith("-events"))

    @property
    def places(self) -> tuple[str, ...]:
        """Where it is asked for its rights."""
        return (self.namespace, *LISTED, ELSEWHERE)


Releases = dict[str, Release]


@pytest.fixture(scope="module")
def releases(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Releases]:
    """Each example's, in a namespace of its own."""
    found: Releases = {}
    for name in NAMES:
        namespace = example(name).get("namespaceOverride", f"rbac-{name}")
        rendered = render(EXAMPLES[name], tmp_path=tmp_path_factory.mktemp(name), namespace=namespace)
        objects = of_kind(rendered, *KINDS)
        (account,) = of_kind(objects, "ServiceAccount")
        found[name] = Release(objects=objects, namespace=namespace, account=account["metadata"]["name"])
    places = sorted({place for release in found.values() for place in release.places})
    spaces = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": place}} for place in places]
    nobody = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody", "namespace": ELSEWHERE}}
    cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(spaces))
    everything = yaml.safe_dump_all([nobody, *(each for release in found.values() for each in release.objects)])
    cluster.kubectl("apply", "-f", "-", input=everything)
    yield found
    cluster.kubectl("delete", "--wait=false", "-f", "-", input=everything)
    own = [f"namespace/{place}" for place in places if place.startswith("rbac-")]
    cluster.kubectl("delete", "--wait=false", *own)


def answered(api: Api, namespace: str) -> set[Right]:
    """What the API server says that this user may do there."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    status = api.post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", review)["status"]
    assert not status["incomplete"]
    return {right for rule in status["resourceRules"] for right in rights_of(rule, where=namespace)} | {
        Right("", path, "", " ".join(sorted(rule["verbs"])), namespace)
        for rule in status["nonResourceRules"]
        for path in rule["nonResourceURLs"]
    }


def rights_of(rule: Object, *, where: str) -> Iterator[Right]:
    """The rows of a rule, of a role or of an answer."""
    for group in rule["apiGroups"]:
        for resource in rule["resources"]:
            names = ", ".join(sorted(rule.get("resourceNames", ())))
            yield Right(group, resource, names, " ".join(sorted(rule["verbs"])), where)


def granted(release: Release, namespace: str) -> set[Right]:
    """What the chart's roles say."""
    bound = {each["roleRef"]["name"] for each in of_kind(release.objects, "ClusterRoleBinding", "RoleBinding")}
    every = of_kind(release.objects, "ClusterRole", "Role")
    roles = [each for each in every if each["metadata"]["name"] in bound]
    here = (each for each in roles if each["metadata"].get("namespace", namespace) == namespace)
    return {right for role in here for rule in role["rules"] for right in rights_of(rule, where=namespace)}


@pytest.fixture(scope="module")
def rights(cluster: Cluster, releases: Releases) -> dict[str, set[Right]]:
    """By example what the API server says, once it has taken notice of every role and binding."""
    nobody = Api(cluster.service_account_kubeconfig(ELSEWHERE, "nobody"))

    def own(api: Api, place: str) -> set[Right]:
        return answered(api, place) - answered(nobody, place)

    found = {}
    for name, release in releases.items():
        api = Api(cluster.service_account_kubeconfig(release.namespace, release.account))
        rows = set()
        for place in release.places:
            wanted = granted(release, place)
            is_known = partial(lambda api, place, wanted: own(api, place) == wanted, api, place, wanted)
            eventually(is_known, timeout=RBAC_SECONDS, what=f"the rights of {name} in {place}")
            rows |= own(api, place)
        found[name] = rows
    return found


def table(rows: set[Right], release: Release) -> str:
    """In Markdown."""
    places = defaultdict(set)
    for row in rows:
        places[row._replace(where="", names=row.names.replace(release.prefix, "RELEASE"))].add(row.where)
    lines = ["| where | group | resource | names | verbs |", "|---|---|---|---|---|"]
    for row, where in sorted(places.items()):
        at = "everywhere" if where == set(release.places) else ", ".join(sorted(where))
        lines.append(f"| {at} | {row.group or 'core'} | {row.resource} | {row.names or 'all'} | {row.verbs} |")
    return "\n".join(lines)


def test_the_api_server_gives_each_example_the_rights_in_the_golden_file_and_no_other(
    releases: Releases, rights: dict[str, set[Right]]
) -> None:
    same = defaultdict(list)
    for name, rows in rights.items():
        same[table(rows, releases[name])].append(name)
    assert len(same) >= 8
    text = INTRODUCTION + "".join(f"\n## {', '.join(names)}\n\n{rows}\n" for rows, names in same.items())
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(text)
    assert GOLDEN.read_text() == text, f"if that is meant: {RENEW}"


Ask = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def ask(cluster: Cluster, releases: Releases, rights: object) -> Ask:
    """ask(name, method, path): status and message that the API server answers the ServiceAccount of an example."""
    del rights  # RBAC is in force by then
    tls = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=str(cluster.ca)))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), tls)
    tokens = {
        name: cluster.service_account_token(release.namespace, release.account) for name, release in releases.items()
    }

    def ask(name: str, method: str, path: str, **headers: str) -> tuple[int, str]:
        sent = {"Authorization": f"Bearer {tokens[name]}", "Content-Type": "application/json", **headers}
        body = None if method in ("GET", "DELETE") else b"{}"
        request = urllib.request.Request(cluster.url + path, method=method, data=body, headers=sent)
        try:
            with opener.open(request, timeout=30) as answer:
                return answer.status, ""
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)["message"]

    return ask


POLICIES = "/apis/admissionregistration.k8s.io/v1"
ADMINS = "system:masters"
PATCH = {"Content-Type": "application/merge-patch+json"}
FORBIDDEN: dict[str, tuple[str, str, dict[str, str]]] = {
    "create a Secret of any name": ("POST", "/api/v1/namespaces/{namespace}/secrets", {}),
    "replace a Secret": ("PUT", "/api/v1/namespaces/team-a/secrets/pull-secret", {}),
    "delete a Secret of another name": ("DELETE", "/api/v1/namespaces/team-a/secrets/other", {}),
    "delete all Secrets of a namespace": ("DELETE", "/api/v1/namespaces/team-a/secrets", {}),
    "run a Pod": ("POST", "/api/v1/namespaces/{namespace}/pods", {}),
    "run a command in a Pod": ("POST", "/api/v1/namespaces/{namespace}/pods/any/exec?command=sh", {}),
    "get a longer token of its own": ("POST", "/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token", {}),
    "act as a cluster admin": ("GET", "/api/v1/nodes", {"Impersonate-User": "x", "Impersonate-Group": ADMINS}),
    "read a ConfigMap": ("GET", "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication", {}),
    "read Events": ("GET", "/api/v1/events", {}),
    "give itself a role": ("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", {}),
    "change a role of its own": ("PATCH", "/apis/rbac.authorization.k8s.io/v1/clusterroles/{prefix}-events", PATCH),
    "change its policy": ("PATCH", POLICIES + "/validatingadmissionpolicies/{prefix}-own-writes", PATCH),
    "switch off its policy": ("DELETE", POLICIES + "/validatingadmissionpolicybindings/{prefix}-own-writes", {}),
}


def test_twelve_calls_and_more_are_tried() -> None:
    assert len(FORBIDDEN) >= 12


@pytest.mark.parametrize("call", FORBIDDEN)
def test_no_example_may(call: str, ask: Ask, releases: Releases) -> None:
    """Each call is really made, with the token of each example's ServiceAccount."""
    method, path, headers = FORBIDDEN[call]
    for name, release in releases.items():
        user = f"system:serviceaccount:{release.namespace}:{release.account}"
        at = path.format(namespace=release.namespace, account=release.account, prefix=release.prefix)
        status, message = ask(name, method, at, **headers)
        assert (status, f'User "{user}" cannot' in message) == (403, True), (name, status, message)


def test_every_example_may_read_its_secret(ask: Ask) -> None:
    """So a 403 above is no matter of the token."""
    for name in NAMES:
        status, _ = ask(name, "GET", "/api/v1/namespaces/team-a/secrets/pull-secret")
        assert status in (200, 404), name


def test_only_scope_cluster_may_list_the_secrets_of_the_cluster(ask: Ask) -> None:
    allowed = {name for name in NAMES if ask(name, "GET", "/api/v1/secrets?limit=1")[0] == 200}
    assert allowed == {name for name in NAMES if example(name)["config"].get("scope") == "cluster"}


def test_only_the_other_scopes_may_read_a_secret_of_another_name(ask: Ask) -> None:
    allowed = {name for name in NAMES if ask(name, "GET", "/api/v1/namespaces/team-a/secrets/other")[0] != 403}
    assert allowed == {name for name in NAMES if example(name)["config"].get("scope", "name") != "name"}


def test_what_is_aggregated_to_the_admins_of_namespaces_is_what_kubernetes_role_for_them_selects(
    cluster: Cluster, releases: Releases
) -> None:
    roles = of_kind(releases["cluster"].objects, "ClusterRole")
    (own,) = (each for each in roles if each["metadata"]["name"].endswith("-use"))
    admin = cluster.api.get("/apis/rbac.authorization.k8s.io/v1/clusterroles/admin")
    (selector,) = admin["aggregationRule"]["clusterRoleSelectors"]
    assert selector["matchLabels"].items() <= own["metadata"]["labels"].items()
    (rule,) = own["rules"]
    assert rule == {"apiGroups": ["pull-secret-updater.chainguard.dev"], "resources": ["identities"], "verbs": ["use"]}


def test_with_its_flow_schema_the_controllers_requests_are_served_by_it(cluster: Cluster, releases: Releases) -> None:
    release = releases["network"]
    (schema,) = of_kind(release.objects, "FlowSchema")
    path = f"/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/{schema['metadata']['name']}"
    uid = cluster.api.get(path)["metadata"]["uid"]
    own = cluster.service_account_kubeconfig(release.namespace, release.account)

    def is_served_by_it() -> bool:
        look = ("get", "secret", "pull-secret", "--namespace=team-a", "-v=8")
        headers = cluster.kubectl(*look, kubeconfig=own, check=False).stderr
        return bool(re.search(f"X-Kubernetes-Pf-Flowschema-Uid: {uid}", headers, re.IGNORECASE))

    eventually(is_served_by_it, timeout=RBAC_SECONDS, what="the API server uses the new FlowSchema")
