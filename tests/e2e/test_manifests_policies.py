"""What the admission policies of manifests/ refuse and let pass, as real calls by the users they are about."""

import base64
import contextlib
import json
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from testing.api import Api, ApiError
from tests.e2e.support import installed
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.tenant import eventually

SECURITY = Path(__file__).parents[2] / "docs" / "security.md"
OURS = "pull-secret-updater.chainguard.dev/"
INPUTS = (
    "identity",
    "identity.ecr",
    "provider",
    "registries",
    "registries.ecr",
    "service-account",
    "refresh",
    "paused",
)
WRITTEN = (
    "issued-at", "expires-at", "refresh-at", "issued-for", "registries-managed", "fingerprint", "refreshed-for",
    "error",
)  # fmt: skip
PULL = "kubernetes.io/dockerconfigjson"
KEY = ".dockerconfigjson"
GROUP = "/apis/admissionregistration.k8s.io/v1"
BINDINGS = f"{GROUP}/validatingadmissionpolicybindings"

CONTROLLER = "system:serviceaccount:pull-secret-updater:controller"

pytestmark = pytest.mark.usefixtures("manifests")


def encoded(content: object) -> str:
    return base64.b64encode(json.dumps(content).encode()).decode()


def secret(name: str = "pull-secret", kind: str = PULL, /, **annotations: str) -> dict[str, Any]:
    """A Secret with these of our annotations, `_` for `-` in their keys."""
    ours = {OURS + key.replace("_", "-"): value for key, value in annotations.items()}
    return {"metadata": {"name": name, "annotations": ours}, "type": kind, "data": {KEY: encoded({}), "other": "eA=="}}


def annotated(**values: str | None) -> dict[str, Any]:
    """A merge patch of our annotations, by key without prefix."""
    return {"metadata": {"annotations": {OURS + key: value for key, value in values.items()}}}


def path(namespace: str, name: str = "") -> str:
    return f"/api/v1/namespaces/{namespace}/secrets" + (f"/{name}" if name else "")


def refusal(call: Callable[[], object]) -> str:
    """The API server's sentence, of a call that it answers with 403."""
    with pytest.raises(ApiError) as refused:
        call()
    assert refused.value.status == 403, refused.value
    return str(refused.value)


def may_use(identity: str) -> dict[str, Any]:
    """The rule that docs/security.md tells to grant."""
    return {"apiGroups": [OURS[:-1]], "resources": ["identities"], "resourceNames": [identity], "verbs": ["use"]}


def allow(cluster: Cluster, namespace: str, user: str, rule: dict[str, Any]) -> None:
    """Grant the rule by a Role; returns when the API server goes by it."""
    rbac, name = "rbac.authorization.k8s.io", f"test-{secrets.token_hex(4)}"
    group = f"/apis/{rbac}/v1/namespaces/{namespace}"
    cluster.api.post(f"{group}/roles", {"metadata": {"name": name}, "rules": [rule]})
    binding = {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": rbac, "kind": "Role", "name": name},
        "subjects": [{"apiGroup": rbac, "kind": "User", "name": user}],
    }
    cluster.api.post(f"{group}/rolebindings", binding)
    resource, _, subresource = rule["resources"][0].partition("/")
    asked = {
        "namespace": namespace,
        "group": rule["apiGroups"][0],
        "resource": resource,
        "subresource": subresource,
        "name": rule.get("resourceNames", [""])[0],
        "verb": rule["verbs"][0],
    }
    review = {"spec": {"user": user, "resourceAttributes": asked}}

    def allowed() -> bool:
        answer = cluster.api.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        return bool(answer["status"]["allowed"])

    eventually(allowed, timeout=10, what=f"{user} may {rule}")


@pytest.fixture
def user(cluster: Cluster, namespace: str) -> str:
    """The user name of a ServiceAccount `tenant` with all rights on the namespace's Secrets and no others."""
    cluster.kubectl("create", "serviceaccount", "tenant", f"--namespace={namespace}")
    name = f"system:serviceaccount:{namespace}:tenant"
    allow(cluster, namespace, name, {"apiGroups": [""], "resources": ["secrets"], "verbs": ["*"]})
    return name


@pytest.fixture
def kubeconfig(cluster: Cluster, namespace: str, user: str) -> Path:
    """Of that user."""
    return cluster.service_account_kubeconfig(namespace, "tenant")


@pytest.fixture
def as_tenant(kubeconfig: Path) -> Api:
    """Calls by that user."""
    return Api(kubeconfig)


@pytest.fixture
def as_controller(cluster: Cluster, namespace: str) -> Api:
    """Calls by the controller's ServiceAccount.

    It may use any identity in the namespace here, so that a change of an input is refused by own-writes alone.
    """
    allow(cluster, namespace, CONTROLLER, {"apiGroups": [OURS[:-1]], "resources": ["identities"], "verbs": ["use"]})
    return Api(cluster.service_account_kubeconfig("pull-secret-updater", "controller"))


# --- own-writes ---


def fill(created: dict[str, Any]) -> dict[str, Any]:
    """A merge patch as the controller writes it."""
    metadata = {
        "resourceVersion": created["metadata"]["resourceVersion"],
        "annotations": {OURS + key: "x" for key in WRITTEN} | {f"{OURS}{key}.ecr": "x" for key in WRITTEN},
    }
    return {"metadata": metadata, "data": {KEY: encoded({"auths": {"cgr.dev": {"auth": "eDp5"}}})}}


def test_the_controller_fills_a_secret_and_fills_it_again(cluster: Cluster, as_controller: Api, namespace: str) -> None:
    created = cluster.api.post(path(namespace), secret(identity="a/b"))
    filled = as_controller.patch(path(namespace, "pull-secret"), fill(created))
    assert filled["metadata"]["annotations"][OURS + "expires-at"] == "x"
    as_controller.patch(path(namespace, "pull-secret"), fill(filled) | {"data": {KEY: encoded({"auths": {}})}})
    as_controller.patch(path(namespace, "pull-secret"), annotated(error=None))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"metadata": {"labels": {"a": "b"}}}, id="label"),
        pytest.param({"metadata": {"finalizers": ["example.com/a"]}}, id="finalizer"),
        pytest.param(
            {"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "a", "uid": "a"}]}},
            id="owner",
        ),
        pytest.param({"immutable": True}, id="immutable"),
        pytest.param({"metadata": {"annotations": {"example.com/a": "b"}}}, id="another annotation"),
        pytest.param(annotated(errors="x"), id="an annotation that only begins like ours"),
        *(pytest.param(annotated(**{key: "changed"}), id=f"sets {key}") for key in INPUTS),
        pytest.param(annotated(identity=None), id="removes identity"),
        pytest.param(annotated(refresh=None), id="removes refresh"),
        pytest.param({"data": {"other": "eQ=="}}, id="changes another data key"),
        pytest.param({"data": {"other": None}}, id="removes another data key"),
        pytest.param({"data": {"new": "eQ=="}}, id="adds a data key"),
        pytest.param({"stringData": {"new": "y"}}, id="adds a data key as stringData"),
    ],
)
def test_the_controller_changes_nothing_but_what_it_writes(
    cluster: Cluster, as_controller: Api, namespace: str, change: dict[str, Any]
) -> None:
    cluster.api.post(path(namespace), secret(identity="a/b", refresh="1"))
    message = refusal(lambda: as_controller.patch(path(namespace, "pull-secret"), change))
    assert "pull-secret-updater-own-writes" in message


THIEVES = {
    "emptied": {"managedFields": [{}]},
    "emptied by a list of none": {"managedFields": []},
    "another's": {
        "managedFields": [
            {
                "manager": "pull-secret-updater",
                "operation": "Update",
                "apiVersion": "v1",
                "time": "2026-01-02T03:04:05Z",
                "fieldsType": "FieldsV1",
                "fieldsV1": {"f:metadata": {"f:annotations": {}}},
            }
        ]
    },
    "unreadable": {
        "managedFields": [
            {
                "manager": "x",
                "operation": "Update",
                "apiVersion": "v9",
                "fieldsType": "FieldsV1",
                "fieldsV1": {"f:x": {}},
            }
        ]
    },
}


@pytest.mark.parametrize("metadata", THIEVES.values(), ids=THIEVES.keys())
@pytest.mark.parametrize(
    "change",
    [
        {"metadata": {"labels": {"a": "b"}}},
        {"metadata": {"labels": {"there": "changed"}}},
        {"metadata": {"annotations": {"example.com/a": "b"}}},
        {"data": {"new": "eQ=="}},
        {"data": {"other": "eQ=="}},
    ],
    ids=str,
)
def test_who_has_stolen_the_controllers_token_can_not_hide_what_it_sends(
    cluster: Cluster, as_controller: Api, namespace: str, metadata: dict[str, Any], change: dict[str, Any]
) -> None:
    body = secret(identity="a/b")
    body["metadata"]["labels"] = {"there": "x"}
    cluster.api.post(path(namespace), body)
    sent = {**change, "metadata": {**metadata, **change.get("metadata", {})}}
    assert "own-writes" in refusal(lambda: as_controller.patch(path(namespace, "pull-secret"), sent))
    # Nor in two steps.
    with contextlib.suppress(ApiError):
        as_controller.patch(path(namespace, "pull-secret"), {"metadata": metadata})
    assert "own-writes" in refusal(lambda: as_controller.patch(path(namespace, "pull-secret"), change))
    as_controller.patch(path(namespace, "pull-secret"), annotated(error="x"))


@pytest.fixture
def mutated(cluster: Cluster, namespace: str) -> Iterator[None]:
    """Admission adds a label, an annotation and a data key to every update, and changes them each time."""
    name = f"test-{secrets.token_hex(4)}"
    stamp = "object.metadata.resourceVersion"
    spec = {
        "failurePolicy": "Fail",
        "reinvocationPolicy": "Never",
        "matchConstraints": {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "resourceRules": [
                {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["secrets"]}
            ],
        },
        "mutations": [
            {
                "patchType": "ApplyConfiguration",
                "applyConfiguration": {
                    "expression": (
                        f"Object{{metadata: Object.metadata{{labels: {{'stamp': {stamp}}}, "
                        f"annotations: {{'example.com/stamp': {stamp}}}}}, data: {{'stamp': 'eA=='}}}}"
                    )
                },
            }
        ],
    }
    cluster.api.post(f"{GROUP}/mutatingadmissionpolicies", {"metadata": {"name": name}, "spec": spec})
    binding = {"metadata": {"name": name}, "spec": {"policyName": name}}
    cluster.api.post(f"{GROUP}/mutatingadmissionpolicybindings", binding)
    try:
        probe = secret("probe")
        cluster.api.post(path(namespace), probe)

        def enforced() -> bool:
            changed = cluster.api.patch(path(namespace, "probe"), {"metadata": {"labels": {"n": secrets.token_hex(2)}}})
            return "stamp" in changed["metadata"]["labels"]

        eventually(enforced, timeout=20, what="the mutating policy is in force")
        yield
    finally:
        cluster.api.delete(f"{GROUP}/mutatingadmissionpolicybindings/{name}")
        cluster.api.delete(f"{GROUP}/mutatingadmissionpolicies/{name}")


@pytest.mark.usefixtures("mutated")
def test_what_other_peoples_admission_adds_to_a_refresh_does_not_make_it_refused(
    cluster: Cluster, as_controller: Api, namespace: str
) -> None:
    current = cluster.api.post(path(namespace), secret(identity="a/b"))
    stamps = set()
    for number in range(3):
        change = fill(current) | {"data": {KEY: encoded({"auths": {"cgr.dev": {"auth": "eDp5", "n": number}}})}}
        current = as_controller.patch(path(namespace, "pull-secret"), change)
        stamps.add(current["metadata"]["labels"]["stamp"])
        assert "stamp" in current["data"]
    assert len(stamps) == 3
    # And what the controller itself sends is judged as ever.
    refusal(lambda: as_controller.patch(path(namespace, "pull-secret"), {"metadata": {"labels": {"a": "b"}}}))
    refusal(lambda: as_controller.patch(path(namespace, "pull-secret"), {"metadata": {"labels": {"stamp": "b"}}}))


def test_the_controller_changes_no_secret_that_asks_for_no_identity(
    cluster: Cluster, as_controller: Api, namespace: str
) -> None:
    created = cluster.api.post(path(namespace), secret(paused="true"))
    message = refusal(lambda: as_controller.patch(path(namespace, "pull-secret"), fill(created)))
    assert "only pull Secrets that ask for an identity" in message


@pytest.fixture
def before_the_policies(cluster: Cluster, namespace: str) -> Iterator[None]:
    """use-identity spares this one namespace, as if what is created in it were older than the policy."""
    binding = f"{BINDINGS}/pull-secret-updater-use-identity"
    other = {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": [namespace]}
    cluster.api.patch(binding, {"spec": {"matchResources": {"namespaceSelector": {"matchExpressions": [other]}}}})
    try:
        yield
    finally:
        cluster.api.patch(binding, {"spec": {"matchResources": None}})


@pytest.mark.usefixtures("before_the_policies")
@pytest.mark.parametrize("kind", ["Opaque", "kubernetes.io/basic-auth", "example.com/helm"])
def test_the_controller_changes_no_secret_of_another_type(
    cluster: Cluster, as_controller: Api, namespace: str, kind: str
) -> None:
    def created() -> dict[str, Any] | None:
        try:
            body = secret("pull-secret", kind, identity="a/b")
            return cluster.api.post(path(namespace), body | {"stringData": {"username": "a", "password": "b"}})
        except ApiError:
            return None

    there = eventually(created, timeout=10, what="the policy spares the namespace")
    assert there is not None
    message = refusal(lambda: as_controller.patch(path(namespace, "pull-secret"), fill(there)))
    assert "only pull Secrets that ask for an identity" in message


def test_the_controller_creates_deletes_and_replaces_nothing(
    cluster: Cluster, as_controller: Api, namespace: str
) -> None:
    cluster.api.post(path(namespace), secret(identity="a/b"))
    cluster.api.post(path(namespace), secret("other", identity="a/b"))
    refusal(lambda: as_controller.post(path(namespace), secret("fresh", identity="a/b")))
    refusal(lambda: as_controller.delete(path(namespace, "pull-secret")))
    refusal(lambda: as_controller.delete(path(namespace)))
    refusal(lambda: as_controller.get(path(namespace, "other")))
    refusal(lambda: as_controller.patch(path(namespace, "other"), annotated(error="x")))


# --- use-identity ---


def test_a_tenant_without_use_may_not_create_a_secret_that_asks_for_an_identity(as_tenant: Api, namespace: str) -> None:
    as_tenant.post(path(namespace), secret("plain"))
    message = refusal(lambda: as_tenant.post(path(namespace), secret(identity="a/b")))
    assert f"you may not use a/b in namespace {namespace}" in message


@pytest.mark.parametrize("key", INPUTS)
@pytest.mark.parametrize("value", ["changed", None])
def test_a_tenant_without_use_may_not_touch_an_input(
    cluster: Cluster, as_tenant: Api, namespace: str, key: str, value: str | None
) -> None:
    body = secret(**dict.fromkeys(INPUTS, "a")) | {"type": PULL}
    cluster.api.post(path(namespace), body)
    message = refusal(lambda: as_tenant.patch(path(namespace, "pull-secret"), annotated(**{key: value})))
    assert "you may not use " in message


def test_a_tenant_may_use_what_it_was_granted_and_nothing_else(
    cluster: Cluster, as_tenant: Api, namespace: str, user: str
) -> None:
    allow(cluster, namespace, user, may_use("abc/def"))
    as_tenant.post(path(namespace), secret())
    where = path(namespace, "pull-secret")
    as_tenant.patch(where, annotated(identity="abc/def"))
    as_tenant.patch(where, annotated(refresh="now", paused="true"))
    assert "you may not use other" in refusal(lambda: as_tenant.patch(where, annotated(identity="other")))
    assert "you may not use x:abc/def" in refusal(lambda: as_tenant.patch(where, annotated(provider="x")))
    message = refusal(lambda: as_tenant.patch(where, annotated(**{"identity.ecr": "role"})))
    assert re.search(r"you may not use all of .*ecr:role", message)


def test_a_grant_for_one_provider_is_for_that_provider(
    cluster: Cluster, as_tenant: Api, namespace: str, user: str
) -> None:
    allow(cluster, namespace, user, may_use("ecr:role"))
    as_tenant.post(path(namespace), secret("suffixed", **{"identity.ecr": "role"}))
    as_tenant.post(path(namespace), secret("named", identity="role", provider="ecr"))
    refusal(lambda: as_tenant.post(path(namespace), secret("inferred", identity="role")))
    refusal(lambda: as_tenant.post(path(namespace), secret("another", **{"identity.gar": "role"})))


def test_a_grant_is_for_its_namespace(cluster: Cluster, as_tenant: Api, namespace: str, user: str) -> None:
    allow(cluster, "pull-secret-updater", user, may_use(f"only-there/{namespace}"))
    refusal(lambda: as_tenant.post(path(namespace), secret(identity=f"only-there/{namespace}")))


def test_who_may_not_use_an_identity_may_still_write_what_is_no_input(
    cluster: Cluster, as_tenant: Api, namespace: str
) -> None:
    created = cluster.api.post(path(namespace), secret(identity="a/b"))
    where = path(namespace, "pull-secret")
    as_tenant.patch(where, {"metadata": {"labels": {"a": "b"}}, "data": {"other": "eQ=="}})
    as_tenant.patch(where, {"metadata": {"annotations": created["metadata"]["annotations"]}})
    as_tenant.patch(where, annotated(identity=None))
    refusal(lambda: as_tenant.patch(where, annotated(identity="a/b")))


def test_a_re_apply_that_changes_nothing_passes_without_use(cluster: Cluster, kubeconfig: Path, namespace: str) -> None:
    manifest = json.dumps({"apiVersion": "v1", "kind": "Secret", **secret(identity="a/b")})
    for arguments in (["apply"], ["apply", "--server-side", "--force-conflicts"]):
        command = [*arguments, f"--namespace={namespace}", "--filename=-"]
        cluster.kubectl(*command, input=manifest)
        cluster.kubectl(*command, input=manifest, kubeconfig=kubeconfig)


@pytest.mark.parametrize(("count", "refused"), [(1, False), (3, False), (8, False), (9, True)])
def test_a_cluster_admin_may_use_up_to_eight_identities_in_one_secret(
    cluster: Cluster, namespace: str, count: int, refused: bool
) -> None:
    body = secret(**{f"identity.p{index}": "a/b" for index in range(count)})
    if refused:
        assert "at most 8 identities" in refusal(lambda: cluster.api.post(path(namespace), body))
    else:
        cluster.api.post(path(namespace), body)


def test_a_tenant_needs_use_for_every_one_of_eight_identities(
    cluster: Cluster, as_tenant: Api, namespace: str, user: str
) -> None:
    for index in range(7):
        allow(cluster, namespace, user, may_use(f"p{index}:a/b"))
    as_tenant.post(path(namespace), secret("seven", **{f"identity.p{index}": "a/b" for index in range(7)}))
    # CEL walks the annotations in an order drawn anew for each request: no draw may leave one out.
    dry, eight = f"{path(namespace)}?dryRun=All", secret("eight", **{f"identity.p{index}": "a/b" for index in range(8)})
    for _ in range(30):
        assert "p7:a/b" in refusal(lambda: as_tenant.post(dry, eight))


def may_create_tokens(service_account: str) -> dict[str, Any]:
    """The right that a ServiceAccount's own users have."""
    return {
        "apiGroups": [""],
        "resources": ["serviceaccounts/token"],
        "resourceNames": [service_account],
        "verbs": ["create"],
    }


def test_a_service_account_may_be_named_by_who_may_create_its_tokens_or_use_the_identity_and_by_nobody_else(
    cluster: Cluster, as_tenant: Api, namespace: str, user: str
) -> None:
    dry, proven = f"{path(namespace)}?dryRun=All", secret(identity="a/b", service_account="builder")
    told = f"you may not use a/b in namespace {namespace}, nor create tokens of the ServiceAccount builder"
    assert told in refusal(lambda: as_tenant.post(dry, proven))
    allow(cluster, "pull-secret-updater", user, may_create_tokens("builder"))
    allow(cluster, namespace, user, may_create_tokens("another"))
    assert told in refusal(lambda: as_tenant.post(dry, proven))
    allow(cluster, namespace, user, may_create_tokens("builder"))
    as_tenant.post(dry, proven)
    as_tenant.post(dry, secret(identity="c/d", service_account="builder"))
    assert "you may not use a/b" in refusal(lambda: as_tenant.post(dry, secret(identity="a/b", service_account="x")))
    allow(cluster, namespace, user, may_use("a/b"))
    as_tenant.post(dry, secret(identity="a/b", service_account="x"))


def test_who_may_only_create_tokens_may_not_let_the_controller_prove(
    cluster: Cluster, as_tenant: Api, namespace: str, user: str
) -> None:
    allow(cluster, namespace, user, may_create_tokens("builder"))
    as_tenant.post(path(namespace), secret(identity="a/b", service_account="builder"))
    where = path(namespace, "pull-secret")
    as_tenant.patch(where, annotated(identity="c/d", refresh="now"))
    for change in ({"service-account": None}, {"service-account": ""}, {"service-account": "x"}, {"identity.ecr": "x"}):
        assert "you may not use " in refusal(lambda change=change: as_tenant.patch(where, annotated(**change)))  # type: ignore[misc]
    as_tenant.patch(where, annotated(**{"identity.ecr": "x", "service-account.ecr": "builder"}))
    assert "you may not use " in refusal(lambda: as_tenant.patch(where, annotated(**{"service-account.ecr": None})))


def test_each_of_eight_identities_may_be_allowed_by_either_right(
    cluster: Cluster, as_tenant: Api, namespace: str, user: str
) -> None:
    """With both rights asked for at each, it takes the most of the policy's cost budget that it can."""
    for index in range(8):
        allow(cluster, namespace, user, may_use(f"p{index}:a/b"))
    allow(cluster, namespace, user, may_create_tokens("builder"))
    identities, dry = {f"identity.p{index}": "a/b" for index in range(8)}, f"{path(namespace)}?dryRun=All"
    for other in range(8):
        accounts = {f"service-account.p{index}": "builder" if index < other else "x" for index in range(8)}
        as_tenant.post(dry, secret(**identities, **accounts))
    large = secret(**identities, **{f"service-account.p{index}": "x" * 253 for index in range(8)})
    large["metadata"]["annotations"] |= {f"example.com/{index}": "x" * 200 for index in range(1000)}
    as_tenant.post(dry, large)
    no_use = {**identities, "identity.p7": "c/d", "service-account.p6": "builder", "service-account.p8": "builder"}
    for _ in range(10):
        eight = secret(**no_use)
        assert "p7:c/d" in refusal(lambda eight=eight: as_tenant.post(dry, eight))  # type: ignore[misc]


def test_a_secret_of_the_wrong_type_is_refused_and_the_message_says_what_to_do(
    cluster: Cluster, namespace: str
) -> None:
    where = f"--namespace={namespace}"
    cluster.kubectl("create", "secret", "generic", "pull-secret", where)
    refused = cluster.kubectl("annotate", "secret", "pull-secret", where, f"{OURS}identity=a/b", check=False)
    assert refused.returncode != 0
    assert "create it again with --type=kubernetes.io/dockerconfigjson" in refused.stderr


def of_security_page() -> list[str]:
    """The page's blocks of YAML."""
    return re.findall(r"```yaml\n(.*?)```", SECURITY.read_text(), flags=re.DOTALL)


def test_the_patch_of_the_security_page_sets_the_audiences_of_tenants_proof(cluster: Cluster, tmp_path: Path) -> None:
    (patch,) = (yaml.safe_load(block) for block in of_security_page() if block.startswith("patches:"))
    overlay = installed.overlay(tmp_path, "tenant-proof")
    kustomization = yaml.safe_load((overlay / "kustomization.yaml").read_text())
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(kustomization | patch))
    rendered = yaml.safe_load_all(installed.render(overlay, cluster=cluster))
    (policy,) = (
        each
        for each in rendered
        if each["kind"] == "ValidatingAdmissionPolicy" and each["metadata"]["name"].endswith("tenant-proof")
    )
    assert policy["spec"]["variables"][0]["expression"] == "['issuer.enforce.dev', 'sts.amazonaws.com']"


def test_the_role_and_the_checks_of_the_security_page_do_what_it_says(cluster: Cluster, namespace: str) -> None:
    page = SECURITY.read_text()
    for block in of_security_page():
        if block.startswith("patches:"):
            continue
        create = ("create", "--dry-run=server", "--filename=-")
        cluster.kubectl(*create, input=block.replace("namespace: team-a", f"namespace: {namespace}"))
        role = next(yaml.safe_load_all(block))
        assert role["kind"] == "NetworkPolicy" or role["rules"] == [
            {**may_use(""), "resourceNames": role["rules"][0]["resourceNames"]}
        ]
    commands = re.findall(r"^    kubectl (.*)$", page, flags=re.MULTILINE)
    shown, _, refused, _ = (
        cluster.kubectl(f"--namespace={namespace}", *command.split(), check=False) for command in commands
    )
    assert shown.stdout.count("/pull-secret-updater-") == 6
    assert "'pull-secret-updater-own-writes'" in refused.stderr


# --- other-name ---


@pytest.mark.parametrize(("name", "warned"), [("pull-secret", False), ("regcred", True)])
def test_who_annotates_a_secret_that_is_not_watched_is_warned(
    cluster: Cluster, namespace: str, name: str, warned: bool
) -> None:
    where = f"--namespace={namespace}"
    cluster.api.post(path(namespace), secret(name))
    result = cluster.kubectl("annotate", "secret", name, where, f"{OURS}identity=a/b")
    told = f"may not watch Secrets named {name} in namespace {namespace}; this one will not be filled"
    assert (told in result.stderr) is warned
    again = cluster.kubectl("label", "secret", name, where, "a=b")
    assert again.stderr == ""


def test_what_is_watched_is_what_rbac_allows_whatever_the_number_of_names(cluster: Cluster, namespace: str) -> None:
    rule = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["regcred", "more"], "verbs": ["watch"]}
    allow(cluster, namespace, CONTROLLER, rule)
    for name in ("regcred", "more"):
        body = json.dumps({"apiVersion": "v1", "kind": "Secret", **secret(name, identity="a/b")})
        created = cluster.kubectl("create", f"--namespace={namespace}", "--filename=-", input=body)
        assert created.stderr == ""


@pytest.mark.parametrize(
    "key", ["idenity", "Identity", "identities", "provider.ecr", "refresh.ecr", "paused.ecr", "errors", "identity-ecr"]
)
def test_an_annotation_that_means_nothing_is_warned_of(cluster: Cluster, namespace: str, key: str) -> None:
    where = f"--namespace={namespace}"
    cluster.api.post(path(namespace), secret(identity="a/b"))
    result = cluster.kubectl("annotate", "secret", "pull-secret", where, f"{OURS}{key}=x")
    assert f"pull-secret-updater does not know {OURS}{key}; annotations that it reads are identity" in result.stderr
    assert cluster.kubectl("label", "secret", "pull-secret", where, "a=b").stderr == ""


@pytest.mark.parametrize("key", [*INPUTS, *WRITTEN, *(f"{key}.ecr" for key in WRITTEN), "service-account.ecr"])
def test_no_annotation_that_means_something_is_warned_of(cluster: Cluster, namespace: str, key: str) -> None:
    cluster.api.post(path(namespace), secret())
    result = cluster.kubectl("annotate", "secret", "pull-secret", f"--namespace={namespace}", f"{OURS}{key}=x")
    assert result.stderr == ""
