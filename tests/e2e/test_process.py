"""The command itself: starting, ending, its endpoints, its files."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hack.standin.api import ApiError
from hack.standin.behaviour import Behaviour
from hack.standin.controller import COMMAND, ControllerProcess
from hack.standin.exchange import Issuer
from tests.e2e.support import installed
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.tenant import Tenant, eventually

Start = Callable[..., ControllerProcess]
RECOVERY_SECONDS = 2
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
        timeout=2,
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


def test_a_kubeconfig_does_in_place_of_a_pod(controller: Start, tenant: Tenant) -> None:
    controller(in_cluster=False)
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
        assert tenant.filled().at - began < RECOVERY_SECONDS
    finally:
        installed.install(cluster, manifests)


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
