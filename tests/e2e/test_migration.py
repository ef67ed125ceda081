"""docs/migration.md is run as a reader would, on Secrets as the old writers leave them."""

import base64
import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from testing.controller import ControllerProcess
from testing.mounted import NAMESPACE
from testing.tokens import SigningKey
from tests.e2e.support import kubelet
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.controllers import Controllers
from tests.e2e.support.migration import (
    EXTERNAL,
    JOB,
    JOBS_OBJECTS,
    OLD_CONTROLLERS_OBJECTS,
    PAGE,
    Reader,
    blocks,
    definition,
)
from tests.e2e.support.observer import Secret
from tests.e2e.support.tenant import FILL_SECONDS, PREFIX, Tenant, eventually

OTHERS = {"quay.io": {"auth": "dXNlcjpwYXNz", "email": "a@b"}}
LEFT_SECONDS = 60
"""Of the old token's life; a reader's time for the takeover."""


@pytest.fixture
def reader(cluster: Cluster, tenant: Tenant) -> Reader:
    """A reader in the tenant's namespace."""
    return Reader(cluster, tenant)


@pytest.fixture
def old_token() -> str:
    """A token that ends soon."""
    return SigningKey().sign({"aud": "cgr.dev", "sub": "old", "exp": int(time.time()) + LEFT_SECONDS})


def docker_registry(token: str, *more: str) -> tuple[str, ...]:
    """The command that jobs of this kind use."""
    login = ("--docker-server=https://cgr.dev", "--docker-username=_token", f"--docker-password={token}")
    return ("create", "secret", "docker-registry", "pull-secret", *login, *more)


def somebody_adds(tenant: Tenant) -> Secret:
    """A label, and another registry; the Secret after that."""
    tenant.set_config({"auths": {**tenant.config()["auths"], **OTHERS}})
    return tenant.patch({"metadata": {"labels": {"team": "a"}}})


def assert_taken_over_in_place(tenant: Tenant, before: Secret) -> Secret:
    """The Secret has a token of the identity, is the same Secret, and never was without a token that is good."""
    after = tenant.filled().secret
    kept = ("uid", "creationTimestamp", "labels", "ownerReferences")
    assert {key: after["metadata"].get(key) for key in kept} == {key: before["metadata"].get(key) for key in kept}
    auths = tenant.config()["auths"]
    assert auths.keys() == {*OTHERS, "cgr.dev"}
    assert {host: auths[host] for host in OTHERS} == OTHERS
    since = [one for one in tenant.history() if one.number >= int(before["metadata"]["resourceVersion"])]
    assert [one.deleted for one in since] == [False] * len(since)
    for version in since:
        assert kubelet.claims(kubelet.credentials(version.secret)["cgr.dev"][1])["exp"] > version.at
    return after


def assert_job_is_gone(reader: Reader) -> None:
    """With all that it was allowed."""
    left = reader.kubectl("get", "cronjob,role,rolebinding,serviceaccount", "-o", "name").stdout.split()
    assert [name for name in left if name.endswith(f"/{JOB}")] == []


@pytest.mark.usefixtures("shared_controller")
def test_an_identity_is_tried_where_nothing_can_break(cluster: Cluster, reader: Reader) -> None:
    (block,) = reader.blocks("Try the identity first")
    try:
        assert "condition met" in reader.give(block)
    finally:
        cluster.api.delete(f"/api/v1/namespaces/{reader.trial}/secrets/pull-secret")


@pytest.mark.usefixtures("shared_controller")
def test_the_secret_of_a_job_that_recreates_it_is_taken_over_in_place(
    tenant: Tenant, reader: Reader, old_token: str
) -> None:
    reader.kubectl("apply", "-f", "-", input=JOBS_OBJECTS)
    for _run in range(2):
        reader.kubectl("delete", "secret", "pull-secret", "--ignore-not-found")
        reader.kubectl(*docker_registry(old_token))
    before = somebody_adds(tenant)
    stop, annotate, delete = reader.blocks("A CronJob that deletes and recreates the Secret")
    reader.give(stop)
    assert reader.kubectl("get", "cronjob", JOB, "-o", "jsonpath={.spec.suspend}").stdout == "true"
    assert tenant.secret()["data"] == before["data"]
    reader.give(annotate)
    reader.give(delete)
    assert_taken_over_in_place(tenant, before)
    assert_job_is_gone(reader)


@pytest.mark.usefixtures("shared_controller")
def test_the_secret_of_a_job_that_applies_it_is_taken_over_without_its_copy(
    tenant: Tenant, reader: Reader, old_token: str
) -> None:
    reader.kubectl("apply", "-f", "-", input=JOBS_OBJECTS)
    rendered = reader.kubectl(*docker_registry(old_token, "--dry-run=client", "-o", "yaml")).stdout
    reader.kubectl("apply", "-f", "-", input=rendered)
    before = somebody_adds(tenant)
    assert kubelet.KEY in before["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"]
    (block,) = reader.blocks("A CronJob whose schedule ignores the lifetime")
    reader.give(block)
    after = assert_taken_over_in_place(tenant, before)
    assert [key for key in after["metadata"]["annotations"] if not key.startswith(PREFIX)] == []
    assert_job_is_gone(reader)


@pytest.mark.parametrize("encodings", [1, 2], ids=["encoded once", "encoded twice, as some versions did"])
def test_the_secret_of_the_go_controller_is_taken_over_in_place(
    *,
    cluster: Cluster,
    controllers: Controllers,
    controller: Callable[..., ControllerProcess],
    tenant: Tenant,
    reader: Reader,
    old_token: str,
    encodings: int,
) -> None:
    controllers.stop()
    cluster.kubectl("apply", "-f", "-", input=OLD_CONTROLLERS_OBJECTS)
    auth = f"_token:{old_token}".encode()
    for _ in range(encodings):
        auth = base64.b64encode(auth)
    before = tenant.create(config={"auths": {"cgr.dev": {"auth": auth.decode()}}}, labels={"team": "a"})
    stop, check = reader.blocks("The Go pull-secret-updater")
    assert "pull-secret-updater-secrets" in reader.give(stop)  # what ours has, and was applied before in this run
    assert cluster.kubectl("get", "deployment", "-n", NAMESPACE, "-o", "name").stdout == ""
    assert (
        cluster.kubectl("get", "clusterrole,clusterrolebinding", "-o", "name").stdout.count("/pull-secret-updater\n")
        == 0
    )
    controller()
    assert tenant.namespace in reader.give(check)
    after = tenant.filled(timeout=FILL_SECONDS).secret
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["metadata"]["labels"] == {"team": "a"}
    entry = tenant.config()["auths"]["cgr.dev"]
    assert base64.b64decode(entry["auth"]).decode() == f"{entry['username']}:{entry['password']}"
    eventually(lambda: len(tenant.history()) == 2, timeout=FILL_SECONDS, what="one write, and its version seen")


@pytest.fixture
def external(cluster: Cluster, reader: Reader) -> Iterator[None]:
    """An ExternalSecret and its generator, without an operator: its part of the takeover is to do nothing."""
    present = cluster.kubectl("get", "customresourcedefinitions", "-o", "name").stdout
    missing = [resource for resource in EXTERNAL if f"/{resource}\n" not in present]
    for resource in missing:
        cluster.kubectl("apply", "-f", "-", input=json.dumps(definition(resource)))
        cluster.kubectl("wait", "customresourcedefinition", resource, "--for=condition=Established")
    for resource, (version, kind, name) in EXTERNAL.items():
        made = {"apiVersion": f"{resource.partition('.')[2]}/{version}", "kind": kind, "metadata": {"name": name}}
        reader.kubectl("apply", "-f", "-", input=json.dumps({**made, "spec": {}}))
    yield
    for resource in missing:
        cluster.kubectl("delete", "customresourcedefinition", resource, "--wait=false")


def has_garbage_collector(cluster: Cluster) -> bool:
    """kube-controller-manager runs it, and gives every namespace its ServiceAccount `default` too."""
    return cluster.kubectl("get", "serviceaccount", "default", "-n", "default", check=False).returncode == 0


def collect_garbage(cluster: Cluster, tenant: Tenant, path: str) -> None:
    """Orphan the Secret of an ExternalSecret that is being deleted, as a garbage collector does."""
    eventually(lambda: cluster.api.get(path)["metadata"].get("deletionTimestamp"), timeout=30, what="the deletion")
    assert cluster.api.get(path)["metadata"]["finalizers"] == ["orphan"]
    tenant.patch({"metadata": {"ownerReferences": None}})
    cluster.api.patch(path, {"metadata": {"finalizers": None}})


@pytest.mark.usefixtures("shared_controller", "external")
def test_the_secret_of_an_external_secret_outlives_it_and_is_taken_over_in_place(
    cluster: Cluster, tenant: Tenant, reader: Reader, old_token: str
) -> None:
    path = f"/apis/external-secrets.io/v1/namespaces/{tenant.namespace}/externalsecrets/pull-secret"
    owner = {"apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret", "name": "pull-secret"}
    owner |= {"uid": cluster.api.get(path)["metadata"]["uid"]}
    reader.kubectl(*docker_registry(old_token))
    somebody_adds(tenant)
    tenant.patch({"metadata": {"ownerReferences": [owner]}})
    release, annotate, delete = reader.blocks("External Secrets generators")
    with ThreadPoolExecutor() as pool:
        # Of a cluster that is only an API server, we are the rest.
        collected = None if has_garbage_collector(cluster) else pool.submit(collect_garbage, cluster, tenant, path)
        printed = reader.give(release)
        if collected is not None:
            collected.result()
    assert "ExternalSecret" not in printed
    before = tenant.secret()
    assert "ownerReferences" not in before["metadata"]
    reader.give(annotate)
    assert_taken_over_in_place(tenant, before)
    reader.give(delete)


@pytest.mark.usefixtures("shared_controller")
def test_pods_get_a_new_secret_beside_the_old_one_where_a_type_is_wrong(tenant: Tenant, reader: Reader) -> None:
    old = {"metadata": {"name": "default"}, "imagePullSecrets": [{"name": "regcred"}]}
    reader.kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "ServiceAccount", **old}))
    (block,) = reader.blocks("A Secret of another name or type")
    reader.give(block)
    tenant.filled()
    names = reader.kubectl("get", "serviceaccount", "default", "-o", "jsonpath={.imagePullSecrets[*].name}").stdout
    assert names.split() == ["pull-secret", "regcred"]


def test_every_block_of_the_page_is_run_by_a_test_of_this_file_or_of_test_crusoe() -> None:
    sections = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
    counts = {section: len(blocks(section)) for section in sections}
    assert {section: count for section, count in counts.items() if count} == {
        "Try the identity first": 1,
        "A CronJob that deletes and recreates the Secret": 3,
        "A CronJob whose schedule ignores the lifetime": 1,
        "The Go pull-secret-updater": 2,
        "External Secrets generators": 3,
        "Crusoe's registry token rotator": 3,
        "A Secret of another name or type": 1,
    }
