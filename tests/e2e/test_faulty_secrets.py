"""For each kind of faulty Secret, what a person is told: the alert, the line of `status`, the finding of `explain`.

It is in docs/faulty-secrets.md. UPDATE_GOLDEN=1 hack/test tests/e2e/test_faulty_secrets.py writes that file anew.
"""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from testing.controller import ControllerProcess
from testing.exchange import Issuer
from testing.mounted import MountedTokens
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.commandline import command
from tests.e2e.support.faulty import KINDS, create, providers
from tests.e2e.support.installed import ROOT
from tests.e2e.support.rules import Case, Course, constant, run
from tests.e2e.support.tenant import Tenant, eventually

PAGE = ROOT / "docs" / "faulty-secrets.md"
INTRODUCTION = """\
# What a faulty Secret looks like

Each kind was made on a real API server beside a running controller. The alert is the one that Prometheus' rules raise
from what the controller then served; `status` and `explain` are [commands](cli.md). A test writes this page, and fails
where it is no longer true.

"""
ALERT_SECONDS = 3600
ALERTS = {"IssuerUnavailable": "PullSecretNeverFilled"}
"""Where it isn't PullSecretRefused: what may pass by itself is told as a Secret that stays empty."""


def courses(running: ControllerProcess) -> dict[str, Course]:
    """All that the controller serves, as it would go on: what counts seconds grows, and the rest stays."""
    found: dict[str, Course] = {}
    for family in running.metrics().families.values():
        for sample in family.samples:
            labels = ",".join(f'{key}="{value}"' for key, value in sample.labels.items())
            grows = family.name.endswith("oldest_unfilled_seconds")
            found[f"{sample.name}{{{labels}}}"] = growing(sample.value) if grows else constant(sample.value)
    return found


def growing(begin: float) -> Course:
    return lambda seconds: begin + seconds


def plain(text: str, tenant: Tenant) -> str:
    """Without what is another each time."""
    text = re.sub(r" \(told [^)]*\)", "", text.replace(tenant.namespace, "team-a"))
    return re.sub(r"127\.0\.0\.1:\d+", "issuer.example", text).replace("|", "\\|")


@pytest.fixture
def running(controller: Callable[..., ControllerProcess], mounted: MountedTokens, issuer: Issuer) -> ControllerProcess:
    """Has two providers of one type."""
    return controller(config={"providers": providers(issuer, mounted)})


@pytest.fixture
def faulty(running: ControllerProcess, tenants: Callable[[], Tenant], issuer: Issuer) -> dict[str, Tenant]:
    """One Secret of each kind, by reason, that the controller has seen."""
    made = {reason: tenants() for reason in KINDS}
    for reason, tenant in made.items():
        create(reason, tenant, issuer)
    eventually(
        lambda: {*KINDS} <= running.metrics().by("refused_claims", "reason").keys(),
        timeout=60,
        what="every reason is counted",
    )
    for reason, tenant in made.items():
        tenant.warned(reason)
    return made


@pytest.mark.timeout(600)  # each kind waits for its Event, and two commands
def test_every_kind_has_an_alert_a_line_of_status_and_a_finding_of_explain(
    cluster: Cluster, running: ControllerProcess, faulty: dict[str, Tenant], tmp_path: Path
) -> None:
    firing = {
        f'max(ALERTS{{alertstate="firing",alertname="{ALERTS.get(reason, "PullSecretRefused")}"{of(reason)}}})': 1.0
        for reason in KINDS
    }
    run([Case(sentence="an hour of it", courses=courses(running), values={ALERT_SECONDS: firing})], directory=tmp_path)

    rows = []
    for reason, tenant in faulty.items():
        where = ("-n", tenant.namespace, "-o", "json")
        status = command(cluster.kubeconfig, "status", *where)
        (item,) = json.loads(status.stdout)["items"]
        explained = command(cluster.kubeconfig, "explain", "pull-secret", *where)
        findings = json.loads(explained.stdout)["items"]
        failed = [each for each in findings if each["level"] == "error"]
        assert (status.returncode, explained.returncode) == (1, 1), reason
        told = "; ".join(f"**{each['topic']}** {each['message']}" for each in failed)
        alert = ALERTS.get(reason, "PullSecretRefused")
        cells = (f"`{reason}`", alert, f"{item['state']}: {item['message'] or '-'}", told)
        rows.append("| " + " | ".join(plain(cell, tenant) for cell in cells) + " |\n")
    text = INTRODUCTION + "| kind | alert | `status` | `explain` |\n|---|---|---|---|\n" + "".join(rows)
    if os.environ.get("UPDATE_GOLDEN"):
        PAGE.write_text(text)
    assert PAGE.read_text() == text


def of(reason: str) -> str:
    return "" if reason in ALERTS else f',reason="{reason}"'
