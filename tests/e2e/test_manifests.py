"""What manifests/ installs: names stated once, the rights of the controller and no others, a Pod under `restricted`."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller import config
from testing.api import Api, ApiError
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.installed import overlay

MANIFESTS = Path(__file__).parents[2] / "manifests"
POLICIES = ["pull-secret-updater-use-identity", "pull-secret-updater-own-writes", "pull-secret-updater-other-name"]
ON_SECRETS = ("get", "list", "patch", "watch")
EVENTS = ("", "events", (), ("create", "patch"))

Object = dict[str, Any]
Rule = tuple[str, str, tuple[str, ...], tuple[str, ...]]
"""API group, resource, names, verbs."""


def render(cluster: Cluster, directory: Path) -> list[Object]:
    return list(yaml.safe_load_all(cluster.kubectl("kustomize", str(directory)).stdout))


def pick(objects: list[Object], kind: str, name: str | None = None) -> Object:
    """The only one of this kind (and name)."""
    (found,) = [each for each in objects if each["kind"] == kind and name in {None, each["metadata"]["name"]}]
    return found


def environment(objects: list[Object]) -> dict[str, str]:
    (container,) = pick(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each["value"] for each in container.get("env", ())}


def rules(role: Object) -> set[Rule]:
    """Of a Role, or of what a SelfSubjectRulesReview answers under the same keys."""
    return {
        (group, resource, tuple(sorted(rule.get("resourceNames", ()))), tuple(sorted(rule["verbs"])))
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


@pytest.fixture(scope="module")
def base(cluster: Cluster) -> list[Object]:
    """manifests/, rendered."""
    return render(cluster, MANIFESTS)


@pytest.fixture(scope="module")
def as_controller(cluster: Cluster, manifests: object) -> Path:
    """A kubeconfig of the controller's own ServiceAccount."""
    return cluster.service_account_kubeconfig("pull-secret-updater", "controller")


def accepted(cluster: Cluster, objects: list[Object]) -> None:
    """The API server takes each of them, of a policy also every expression, and warns of none."""
    apply = ("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--filename=-")
    result = cluster.kubectl(*apply, input=yaml.safe_dump_all(objects))
    assert len(result.stdout.splitlines()) == len(objects)
    # kubectl itself complains that a dry run can't take over what was applied without --server-side before.
    assert [line for line in result.stderr.splitlines() if "failed to migrate kubectl.kubernetes.io" not in line] == []


@pytest.mark.usefixtures("manifests")
def test_the_api_server_accepts_every_object_without_a_warning(cluster: Cluster, base: list[Object]) -> None:
    accepted(cluster, base)


def test_cluster_scoped_objects_get_no_namespace_and_all_others_the_controllers(base: list[Object]) -> None:
    namespaced = {"ServiceAccount", "ConfigMap", "Deployment", "PodDisruptionBudget", "Service"}
    for each in base:
        expected = "pull-secret-updater" if each["kind"] in namespaced else None
        assert each["metadata"].get("namespace") == expected, each["kind"]


def test_the_controllers_configuration_is_valid_and_requires_the_policies(base: list[Object]) -> None:
    loaded = config.load(MANIFESTS / "config.yaml")
    assert (loaded.scope, loaded.secret_names, loaded.require_policies) == ("name", ("pull-secret",), True)
    assert pick(base, "ConfigMap")["data"]["config.yaml"] == (MANIFESTS / "config.yaml").read_text()
    assert re.fullmatch(r"config-[a-z0-9]{10}", pick(base, "ConfigMap")["metadata"]["name"])


def test_the_issuers_token_is_where_the_configuration_looks_for_it_with_the_audience_it_names(
    base: list[Object],
) -> None:
    settings = yaml.safe_load((MANIFESTS / "config.yaml").read_text())["providers"]["chainguard"]
    pod = pick(base, "Deployment")["spec"]["template"]["spec"]
    mounts = {each["name"]: each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}
    (projected,) = next(each for each in pod["volumes"] if each["name"] == "oidc-token")["projected"]["sources"]
    token = projected["serviceAccountToken"]
    assert f"{mounts['oidc-token']}/{token['path']}" == settings["tokenFile"]
    assert (token["audience"], token["expirationSeconds"]) == (settings["audience"], 7200)


def test_one_line_sets_the_image(base: list[Object]) -> None:
    (image,) = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text())["images"]
    (container,) = pick(base, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"{image['newName']}:{image['newTag']}"


def test_a_name_changed_at_its_source_is_followed_everywhere(cluster: Cluster, tmp_path: Path) -> None:
    directory = overlay(tmp_path, "scope-namespaces")
    for file, old, new in (
        ("namespace.yaml", "  name: pull-secret-updater", "  name: elsewhere"),
        (
            "rbac.yaml",
            "kind: ServiceAccount\nmetadata: {name: controller,",
            "kind: ServiceAccount\nmetadata: {name: filler,",
        ),
    ):
        path = tmp_path / "manifests" / file
        assert path.read_text().count(old) == 1
        path.write_text(path.read_text().replace(old, new))
    named, namespaces = render(cluster, tmp_path / "manifests"), render(cluster, directory)

    for each in (*named, *namespaces):
        assert each["metadata"].get("namespace") in {None, "elsewhere", "team-a", "team-b"}
        for subject in each.get("subjects", ()):
            assert (subject["namespace"], subject["name"]) == ("elsewhere", "filler")
    pod = pick(named, "Deployment")["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "filler"
    assert pod["volumes"][0]["configMap"]["name"] == pick(named, "ConfigMap")["metadata"]["name"]
    (condition,) = pick(named, "ValidatingAdmissionPolicy", POLICIES[1])["spec"]["matchConditions"]
    assert condition["expression"] == "request.userInfo.username == 'system:serviceaccount:elsewhere:filler'"
    assert environment(named) == {}
    for objects in (named, namespaces):
        user, *_ = pick(objects, "ValidatingAdmissionPolicy", POLICIES[2])["spec"]["variables"]
        assert user["expression"] == "'system:serviceaccount:elsewhere:filler'.split(':')"


def test_what_the_configuration_watches_is_what_rbac_allows(base: list[Object]) -> None:
    ((_, _, names, _),) = rules(pick(base, "ClusterRole", "pull-secret-updater-secrets"))
    assert names == config.load(MANIFESTS / "config.yaml").secret_names


def test_a_configuration_that_says_something_else_than_a_component_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text((MANIFESTS / "config.yaml").read_text().replace("# secretNames:", "secretNames:"))
    scope = environment(render(cluster, overlay(tmp_path, "scope-cluster")))["PULL_SECRET_UPDATER_SCOPE"]
    with pytest.raises(config.ConfigError, match="secretNames: is only used in scope name; set scope, or remove it"):
        config.load(file, {"scope": scope})
    file.write_text("scope: name\n" + file.read_text())
    with pytest.raises(config.ConfigError, match="scope: a flag or the environment sets it to another value"):
        config.load(file, {"scope": scope})


@pytest.mark.usefixtures("manifests")
def test_scope_cluster_reads_secrets_of_any_name_and_warns_of_none(cluster: Cluster, tmp_path: Path) -> None:
    objects = render(cluster, overlay(tmp_path, "scope-cluster"))
    assert rules(pick(objects, "ClusterRole", "pull-secret-updater-secrets")) == {("", "secrets", (), ON_SECRETS)}
    assert environment(objects) == {"PULL_SECRET_UPDATER_SCOPE": "cluster"}
    accepted(cluster, objects)


@pytest.mark.usefixtures("manifests")
def test_scope_namespaces_reads_secrets_of_the_listed_namespaces_only(cluster: Cluster, tmp_path: Path) -> None:
    objects = render(cluster, overlay(tmp_path, "scope-namespaces"))
    by_cluster = {rule for each in objects if each["kind"] == "ClusterRole" for rule in rules(each)}
    assert {resource for _, resource, _, _ in by_cluster} == {
        "events", "validatingadmissionpolicies", "validatingadmissionpolicybindings",
    }  # fmt: skip
    listed = environment(objects)["PULL_SECRET_UPDATER_NAMESPACE"]
    roles = [each for each in objects if each["kind"] == "Role"]
    assert [each["metadata"]["namespace"] for each in roles] == listed.split() == ["team-a", "team-b"]
    assert all(rules(each) == {("", "secrets", (), ON_SECRETS)} for each in roles)
    bindings = [each for each in objects if each["kind"] == "RoleBinding"]
    assert [each["metadata"]["namespace"] for each in bindings] == listed.split()
    assert all(
        each["roleRef"]["name"] == roles[0]["metadata"]["name"]
        and each["subjects"] == [{"kind": "ServiceAccount", "name": "controller", "namespace": "pull-secret-updater"}]
        for each in bindings
    )
    assert environment(objects) == {
        "PULL_SECRET_UPDATER_SCOPE": "namespaces",
        "PULL_SECRET_UPDATER_NAMESPACE": listed,
    }
    accepted(cluster, [each for each in objects if each["metadata"].get("namespace") not in listed.split()])


@pytest.mark.usefixtures("manifests")
def test_the_pod_is_admitted_under_restricted_and_a_laxer_one_is_not(cluster: Cluster, base: list[Object]) -> None:
    template = pick(base, "Deployment")["spec"]["template"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**template["metadata"], "name": "dry", "namespace": "pull-secret-updater"},
        "spec": template["spec"],
    }
    create = ("create", "--dry-run=server", "--filename=-")
    result = cluster.kubectl(*create, input=json.dumps(pod))
    assert result.stderr == ""

    pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    refused = cluster.kubectl(*create, input=json.dumps(pod), check=False)
    assert 'violates PodSecurity "restricted' in refused.stderr


def granted(cluster: Cluster, kubeconfig: Path, namespace: str) -> set[Rule]:
    """What this user may do in the namespace, as the API server sums it up."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    answer = Api(kubeconfig).post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", review)
    return rules({"rules": answer["status"]["resourceRules"]})


def test_the_controller_may_do_what_is_declared_and_nothing_more(
    cluster: Cluster, as_controller: Path, namespace: str
) -> None:
    cluster.kubectl("create", "serviceaccount", "nobody", f"--namespace={namespace}")
    everybody = granted(cluster, cluster.service_account_kubeconfig(namespace, "nobody"), namespace)
    policies = tuple(sorted(POLICIES))
    for where in (namespace, "pull-secret-updater", "kube-system"):
        assert granted(cluster, as_controller, where) - everybody == {
            ("", "secrets", ("pull-secret",), ON_SECRETS),
            EVENTS,
            ("admissionregistration.k8s.io", "validatingadmissionpolicies", policies, ("get",)),
            ("admissionregistration.k8s.io", "validatingadmissionpolicybindings", policies, ("get",)),
        }


@pytest.mark.parametrize(
    ("verb", "resource", "name"),
    [
        ("create", "secrets", ""),
        ("update", "secrets", "pull-secret"),
        ("delete", "secrets", "pull-secret"),
        ("deletecollection", "secrets", ""),
        ("get", "secrets", "other"),
        ("list", "events", ""),
        ("create", "serviceaccounts/token", "default"),
        ("impersonate", "users", "admin"),
        ("get", "configmaps", "config"),
    ],
)
def test_the_controller_may_not(as_controller: Path, namespace: str, verb: str, resource: str, name: str) -> None:
    kind, _, subresource = resource.partition("/")
    asked = {"namespace": namespace, "verb": verb, "resource": kind, "subresource": subresource, "name": name}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": asked},
    }
    answer = Api(as_controller).post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
    assert answer["status"]["allowed"] is False


def test_the_controller_lists_and_watches_the_secrets_of_its_name_in_all_namespaces(as_controller: Path) -> None:
    api = Api(as_controller)
    selected = "/api/v1/secrets?fieldSelector=metadata.name=pull-secret"
    assert all(each["metadata"]["name"] == "pull-secret" for each in api.items(selected))
    assert list(api.watch(f"{selected}&watch=1&timeoutSeconds=1&resourceVersion=0&limit=1")) is not None


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/secrets",
        "/api/v1/secrets?fieldSelector=metadata.name=other",
        "/api/v1/secrets?fieldSelector=type=kubernetes.io/dockerconfigjson",
        "/api/v1/secrets?labelSelector=metadata.name=pull-secret",
        "/api/v1/secrets?watch=1&timeoutSeconds=1",
        "/api/v1/namespaces/kube-system/secrets",
        "/api/v1/namespaces/kube-system/secrets/other",
    ],
)
def test_the_controllers_token_reads_no_secret_of_another_name(as_controller: Path, path: str) -> None:
    with pytest.raises(ApiError) as refused:
        Api(as_controller).get(path)
    assert refused.value.status == 403


def test_the_controller_reads_its_policies_and_bindings_and_no_others(as_controller: Path, base: list[Object]) -> None:
    api, group = Api(as_controller), "/apis/admissionregistration.k8s.io/v1"
    for name in POLICIES:
        assert api.get(f"{group}/validatingadmissionpolicies/{name}")["spec"]["failurePolicy"]
        action = "Warn" if name.endswith("other-name") else "Deny"
        binding = api.get(f"{group}/validatingadmissionpolicybindings/{name}")
        assert (binding["spec"]["policyName"], binding["spec"]["validationActions"]) == (name, [action])
    with pytest.raises(ApiError) as refused:
        api.get(f"{group}/validatingadmissionpolicies/other")
    assert refused.value.status == 403
    assert sorted(each["metadata"]["name"] for each in base if each["kind"] == "ValidatingAdmissionPolicy") == sorted(
        POLICIES
    )
