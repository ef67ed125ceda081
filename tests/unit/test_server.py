"""Where the port of metrics and probes is, and what is told of bad requests; tests/e2e listens and floods."""

from __future__ import annotations

import asyncio
import logging

import pytest
import structlog
from structlog.testing import capture_logs

from controller.observe.server import Address, _BadRequests


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":8080", Address(None, 8080)),
        ("0.0.0.0:8080", Address("0.0.0.0", 8080)),  # noqa: S104 -- nothing listens
        ("[::]:8080", Address("::", 8080)),
        ("127.0.0.1:0", Address("127.0.0.1", 0)),
        ("[::1]:65535", Address("::1", 65535)),
        ("[fe80::1%eth0]:1", Address("fe80::1%eth0", 1)),
        ("localhost:1", Address("localhost", 1)),
    ],
)
def test_an_address_means_what_it_says(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text", ["", ":", "8080", "::1:8080", "[::1]", "[]:1", "[::1:1", "::1]:1", "a b:1", ":65536", "x:1\n"]
)
def test_what_is_no_address_is_none(text: str) -> None:
    assert Address.parse(text) is None


async def test_bad_requests_are_told_once_a_minute_and_counted() -> None:
    with capture_logs() as lines:
        logger = logging.Logger("test")  # noqa: LOG001 -- gone with the test
        logger.addHandler(_BadRequests(structlog.get_logger()))
        for _ in range(3):
            for _ in range(1000):
                logger.error("Error handling request from %s", "192.0.2.1")
            await asyncio.sleep(60)
    assert [line["count"] for line in lines] == [1, 1000, 1000]
    assert {line["detail"] for line in lines} == {"Error handling request from 192.0.2.1"}
