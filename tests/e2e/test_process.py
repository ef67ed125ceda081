"""The command itself: starting, ending, its endpoints, its files."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from controller import __version__
from hack import pki
from testing.api import ApiError
from testing.behaviour import Behaviour
from testing.controller import COMMAND, ControllerProcess
from testing.exchange import Issuer
from testing.mounted import MountedTokens
from tests.e2e.support import installed
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.tenant import AT_ONCE_SECONDS, FILL_SECONDS, Tenant, eventually

Start = Callable[..., ControllerProcess]
REFUSED_RETRY_SECONDS = 35
"""A refused list is tried again after 30 s at most."""
RESULTS = ("written", "unchanged", "conflict", "failed", "refused")
REASONS = ("new", "identity", "edited", "requested", "scheduled", "expired")
PLAIN_SERIES = (
    "managed_claims",
    "secret_expires_timestamp_seconds_min",
    "expired_claims",
    "expired_seconds_total",
    "mint_duration_seconds_count",
    "refresh_lateness_seconds_count",
    "watch_age_seconds",
    "relists_total",
)


def test_every_series_is_there_from_the_start(controller: Start) -> None:
    metrics = controller().metrics()
    for name in PLAIN_SERIES:
        metrics.value(name)
    for result in RESULTS:
        for reason in REASONS:
            assert metrics.value("refreshes_total", provider="chainguard", result=result, reason=reason) == 0
    assert metrics.value("mints_total", provider="chainguard") == 0
    assert metrics.value("queue_depth", provider="chainguard") == 0
    assert metrics.value("circuit_open", provider="chainguard") == 0
    for policy in ("use-identity", "own-writes", "other-name"):
        assert metrics.value("policy_installed", policy=f"pull-secret-updater-{policy}") == 1


def test_metrics_tell_of_a_fill(controller: Start, tenant: Tenant) -> None:
    running = controller()
    tenant.create()
    tenant.filled()
    eventually(
        lambda: running.metrics().value("refreshes_total", result="written", reason="new") == 1,
        timeout=FILL_SECONDS,
        what="the fill in the metrics",
    )
    metrics = running.metrics()
    assert metrics.value("managed_claims") == 1
    assert metrics.value("expired_claims") == 0
    assert metrics.value("mint_duration_seconds_count") == 1
    assert metrics.value("secret_expires_timestamp_seconds_min") > 0
    assert metrics.value("watch_age_seconds") < 70


def test_ready_means_that_every_secret_has_been_listed(controller: Start, tenant: Tenant) -> None:
    tenant.create(annotations={"paused": "true"})
    starting = controller(ready=False)
    seen: list[int] = []

    def ready() -> bool:
        seen.append(starting.status("/readyz"))
        return seen[-1] == 200

    eventually(ready, timeout=20, what="ready")
    assert set(seen[:-1]) <= {0, 503}
    assert starting.metrics().value("managed_claims") == 1
    assert starting.status("/healthz") == 200


def test_without_rbac_it_is_not_ready_says_what_it_needs_and_is_ready_once_it_has_it(
    controller: Start, cluster: Cluster, manifests: str, tenant: Tenant
) -> None:
    """Ready, it would take the place of a Pod that can still fill Secrets."""
    cluster.kubectl("delete", "clusterrolebinding", "pull-secret-updater-secrets")
    try:
        starting = controller(ready=False)
        told = (
            "the API server refuses every watch: list secrets: 403 Forbidden, cannot list secrets at the cluster "
            "scope; asked for Secrets named pull-secret in all namespaces\n"
        )
        eventually(lambda: starting.answer("/readyz") == (503, told), timeout=20, what="it says what it may not do")
        assert starting.status("/healthz") == 200
        assert starting.metrics().value("watch_refused") == 1
    finally:
        cluster.kubectl("apply", "--filename=-", input=manifests)
    tenant.create()
    tenant.filled(timeout=REFUSED_RETRY_SECONDS)
    assert starting.status("/readyz") == 200


def test_a_token_that_the_api_server_refuses_is_told_as_that_and_not_as_missing_policies(
    controller: Start, cluster: Cluster, tmp_path: Path
) -> None:
    content = yaml.safe_load(cluster.service_account_kubeconfig("pull-secret-updater", "controller").read_text())
    content["users"][0]["user"]["token"] = "not-a-token"
    (tmp_path / "config").write_text(yaml.safe_dump(content))
    env = {"KUBECONFIG": str(tmp_path / "config")}

    starting = controller(env=env, ready=False)
    assert starting.wait(timeout=20) != 0
    assert "the API server doesn't accept our credential: create selfsubjectreviews: 401" in starting.log()
    assert "missing" not in starting.log()

    starting = controller(env=env, config={"requirePolicies": False}, ready=False)
    told = (
        "the API server refuses every watch: list secrets: 401 Unauthorized; "
        "asked for Secrets named pull-secret in all namespaces\n"
    )
    eventually(lambda: starting.answer("/readyz") == (503, told), timeout=20, what="it says what is refused")


def test_with_a_wrong_token_file_it_is_not_ready_and_says_why(controller: Start, tmp_path: Path) -> None:
    missing = tmp_path / "oidc-token"
    starting = controller(provider={"tokenFile": str(missing)}, ready=False)
    told = f"provider chainguard: ProofMissing: {missing}: FileNotFoundError\n"
    eventually(lambda: starting.answer("/readyz") == (503, told), timeout=20, what="it says what is missing")
    assert starting.status("/healthz") == 200


def test_a_kubeconfig_does_in_place_of_a_pod(controller: Start, tenant: Tenant) -> None:
    controller(in_cluster=False)
    tenant.create()
    tenant.filled()


@pytest.mark.parametrize(
    ("flag", "env", "read"),
    [
        ((), {"KUBECONFIG": "/by-name:/by-another"}, "/by-name:/by-another"),
        ((), {"KUBECONFIG": "/by-name", "PULL_SECRET_UPDATER_KUBECONFIG": "/ours"}, "/ours"),
        (("--kubeconfig", "/flag"), {"KUBECONFIG": "/by-name", "PULL_SECRET_UPDATER_KUBECONFIG": "/ours"}, "/flag"),
        ((), {"KUBECONFIG": "/by-name", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "/by-name"),
        ((), {"KUBECONFIG": ""}, None),
    ],
)
def test_a_kubeconfig_is_found_by_flag_then_by_our_variable_then_by_everyones(
    flag: tuple[str, ...], env: dict[str, str], read: str | None
) -> None:
    """In a Pod too, as kubectl does it: who sets KUBECONFIG there means another cluster."""
    result = subprocess.run([COMMAND, "run", *flag], env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert (f"{read} does not exist" if read else "not in a cluster") in result.stderr


def test_a_kubeconfig_of_the_environment_is_used_and_named_at_the_start(
    controller: Start, cluster: Cluster, tenant: Tenant
) -> None:
    path = cluster.service_account_kubeconfig("pull-secret-updater", "controller")
    running = controller(env={"KUBECONFIG": f"/missing:{path}"})
    (started,) = [json.loads(line) for line in running.log().splitlines() if "controller started" in line]
    assert started["kubeconfig"].startswith("/missing:"), "the log redacts what is long enough to be a token"
    assert started["version"] == __version__
    assert running.metrics().value("build_info", version=__version__) == 1
    tenant.create()
    tenant.filled()


def test_sigterm_while_a_token_is_on_its_way_ends_with_0(controller: Start, tenant: Tenant, issuer: Issuer) -> None:
    issuer.behave(tenant.identity, Behaviour(delay_seconds=1.5))
    running = controller()
    tenant.create()
    eventually(lambda: running.metrics().value("managed_claims") == 1, timeout=5, what="the Secret was seen")
    running.stop()
    controller()
    tenant.filled()


def test_a_killed_controller_leaves_nothing_that_its_successor_minds(controller: Start, tenant: Tenant) -> None:
    running = controller()
    tenant.create()
    running.kill()
    controller()
    tenant.filled()


def test_without_its_policies_it_does_not_start_and_says_which_are_missing(
    controller: Start, cluster: Cluster, manifests: str
) -> None:
    cluster.kubectl("delete", "validatingadmissionpolicybinding", "pull-secret-updater-use-identity")
    try:
        starting = controller(ready=False)
        assert starting.wait(timeout=20) != 0
        assert "pull-secret-updater-use-identity" in starting.log()
    finally:
        installed.install(cluster, manifests)


def test_where_the_binding_of_a_policy_leaves_out_namespaces_it_does_not_start(
    controller: Start, cluster: Cluster, manifests: str
) -> None:
    binding = ("validatingadmissionpolicybinding", "pull-secret-updater-use-identity")
    some = {"spec": {"matchResources": {"namespaceSelector": {"matchLabels": {"no": "namespace"}}}}}
    cluster.kubectl("patch", *binding, "--type=merge", "-p", json.dumps(some))
    try:
        starting = controller(ready=False)
        assert starting.wait(timeout=20) != 0
        assert "pull-secret-updater-use-identity" in starting.log()
    finally:
        cluster.kubectl("delete", *binding)  # `apply` leaves what it didn't put there
        installed.install(cluster, manifests)


def test_where_no_policy_is_installed_an_opaque_secret_is_told_by_an_event(
    controller: Start, cluster: Cluster, manifests: str, tenants: Callable[[], Tenant]
) -> None:
    cluster.kubectl("delete", "validatingadmissionpolicybinding", "pull-secret-updater-use-identity")
    try:
        tenant, fence = tenants(), tenants()
        eventually(lambda: admitted(tenant), timeout=30, what="the policy is no longer enforced")
        controller(config={"requirePolicies": False})
        assert tenant.warned("WrongType")["type"] == "Warning"
        fence.create()
        fence.filled()
        assert len(tenant.events()) == 1
        tenant.delete()
        began = time.time()
        tenant.create()
        assert tenant.filled().at - began < AT_ONCE_SECONDS
    finally:
        installed.install(cluster, manifests)


def test_an_api_server_that_is_not_the_one_of_our_ca_is_told_with_its_place_and_the_reason(
    cluster: Cluster, controller: Start, mounted: MountedTokens, tmp_path: Path
) -> None:
    other = mounted.with_ca(tmp_path / "serviceaccount", pki.make_authority().certificate)
    running = controller(env={"PULL_SECRET_UPDATER_SERVICEACCOUNT_DIR": str(other)}, ready=False)
    host, port = cluster.address()
    told = f"{host}:{port}: certificate verify failed: "
    eventually(lambda: told in running.log(), timeout=20, what=told)


def admitted(tenant: Tenant) -> bool:
    """Whether an Opaque Secret that asks for an identity could be created."""

    try:
        tenant.create(type="Opaque")
    except ApiError:
        return False
    return True


def test_check_config_reports_every_problem_at_once(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("scope: everywhere\ntypo: 1\nproviders: {chainguard: {type: chainguard, issuer: 'http://a.b'}}\n")
    result = check_config(config)
    assert result.returncode != 0
    for path in ("scope", "typo", "providers.chainguard.issuer"):
        assert path in result.stderr


def test_check_config_accepts_what_manifests_installs() -> None:
    assert check_config(installed.MANIFESTS / "config.yaml").returncode == 0


def test_a_broken_configuration_does_not_start(controller: Start) -> None:
    starting = controller(config={"scope": "everywhere", "typo": 1}, ready=False)
    assert starting.wait(timeout=20) != 0
    assert "scope" in starting.log()
    assert "typo" in starting.log()


@pytest.mark.parametrize("flag", ["--version", "--help"])
def test_the_command_says_what_it_is(flag: str) -> None:
    assert "pull-secret-updater" in subprocess.run([COMMAND, flag], capture_output=True, text=True, check=True).stdout


def check_config(path: Path) -> "subprocess.CompletedProcess[str]":
    """Run check-config."""
    return subprocess.run([COMMAND, "check-config", str(path)], capture_output=True, text=True, check=False)
