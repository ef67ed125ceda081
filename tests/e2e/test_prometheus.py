"""A real Prometheus that scrapes the real controller: the alerts come and go, and the dashboard has data."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hack.monitoring import DASHBOARD
from hack.monitoring.dashboard import filled_in
from testing.behaviour import Behaviour
from testing.controller import ControllerProcess
from testing.exchange import Issuer
from testing.prometheus import Prometheus
from tests.e2e.support.tenant import Tenant, eventually

ALERT_SECONDS = 120
"""A token of 30 s has less than a tenth of its life left after 27 s; the rest is for slow machines."""
AN_OUTAGE = {"PullSecretLifeCritical", "PullSecretLifeLow", "PullSecretExpired", "PullSecretUpdaterLate"}
NEEDS_TARGETS = {"Target namespaces by state"}


@pytest.mark.timeout(4 * ALERT_SECONDS)
def test_an_outage_of_the_issuer_raises_the_alert_that_a_token_is_about_to_expire_and_its_return_resolves_it(
    controller: Callable[..., ControllerProcess], tenant: Tenant, issuer: Issuer, tmp_path: Path
) -> None:
    running = controller()
    target = running.url.removeprefix("http://")
    with Prometheus(directory=tmp_path / "prometheus", target=target) as prometheus:
        tenant.create()
        tenant.filled()
        eventually(lambda: not without_data(prometheus), timeout=ALERT_SECONDS, what="data in every panel", pause=1)
        assert prometheus.firing() == {}

        issuer.behave(tenant.identity, Behaviour(status=503))
        fired = eventually(prometheus.firing, timeout=ALERT_SECONDS, what="an alert", pause=0.2)
        assert set(fired) <= AN_OUTAGE
        assert "PullSecretLifeCritical" in fired
        texts = fired["PullSecretLifeCritical"]
        assert "% of its life is left of a token" in texts["description"]
        assert "{{" not in "".join(texts.values())

        issuer.behave(tenant.identity, Behaviour())
        eventually(lambda: not prometheus.firing(), timeout=ALERT_SECONDS, what="all alerts resolved", pause=0.2)


def without_data(prometheus: Prometheus) -> list[str]:
    """The panels of which any query has no sample; those about targets need a configured one."""
    panels = {panel["title"]: panel.get("targets", []) for panel in json.loads(DASHBOARD.read_text())["panels"]}
    return [
        title
        for title in panels.keys() - NEEDS_TARGETS
        if not all(prometheus.query(filled_in(target["expr"])) for target in panels[title])
    ]
