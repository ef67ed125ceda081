"""Whoever reaches the port of metrics and probes can't take the controller's memory, nor the probes' answers."""

import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from testing.controller import ControllerProcess
from tests.e2e.support.flood import Flood, endless_request
from tests.e2e.support.tenant import FILL_SECONDS, Tenant

log = logging.getLogger(__name__)
FLOOD_SECONDS = 8.0
ANSWER_SECONDS = 2.0
"""The kubelet waits 5 s in manifests/, and Prometheus 10 s."""


def most_memory(pid: int) -> float:
    """The most that a process ever had resident, in MiB."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), flags=re.MULTILINE)
    assert found
    return int(found[1]) / 1024


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(endless_request(120, 8000), id="more than is let in"),
        pytest.param(endless_request(30, 4000), id="as much as is let in"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"GET /metrics HTTP/1.1\r\n\r\n" * 10_000, id="requests without end"),
    ],
)
def test_a_flood_of_connections_takes_no_memory_and_no_answer_from_the_probes(
    controller: Callable[..., ControllerProcess], tenant: Tenant, content: bytes
) -> None:
    running = controller()
    before = most_memory(running.pid)
    target = urlsplit(running.url)
    assert target.hostname
    assert target.port
    slowest, answers = 0.0, 0
    with Flood((target.hostname, target.port), content, connections=300) as flood:
        time.sleep(1)  # until all of them are there
        began = time.time()
        tenant.create()
        filled_after = tenant.filled().at - began
        until = time.monotonic() + FLOOD_SECONDS
        while time.monotonic() < until:
            for path in ("/healthz", "/readyz", "/metrics"):
                asked_at = time.monotonic()
                assert running.status(path) == 200, f"{path} in a flood of {flood.opened} connections"
                slowest, answers = max(slowest, time.monotonic() - asked_at), answers + 1
            time.sleep(0.1)
    most = most_memory(running.pid)
    log.info("from %.0f to %.0f MiB; %d connections; filled after %.2f s", before, most, flood.opened, filled_after)
    log.info("%d answers, the slowest after %.2f s", answers, slowest)
    assert most < 90
    assert filled_after < FILL_SECONDS
    assert slowest < ANSWER_SECONDS
    assert running.log().count("Error handling request") <= 1, "a line a minute"
