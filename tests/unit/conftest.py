"""Unit tests live in virtual time and reach no network, whatever they do."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import hypothesis
import jwt.algorithms
import pytest
from cryptography.hazmat.primitives import serialization

from tests.unit.virtual_time import Clock, VirtualTimeLoop

# HYPOTHESIS_PROFILE=million takes minutes and performs more than a million operations on the queue.
# `derandomize` makes a run that passed pass again; the large run looks for something new each time.
hypothesis.settings.register_profile("normal", deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("million", deadline=None, max_examples=6000, stateful_step_count=250)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "normal"))


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every coroutine test below this directory runs on a loop of its own in virtual time."""
    return {"virtual": VirtualTimeLoop}


@pytest.fixture
def clock() -> Clock:
    """The wall clock, at 2026-01-02T03:04:05Z when the test begins."""
    return Clock()


@pytest.fixture(autouse=True)
def network_attempts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Refuse the network, and fail the test that tried even if the code under test survived the refusal.

    A fake that production code goes round is thus found out. A test that tries on purpose clears the list.
    """
    attempts: list[object] = []

    def refuse(address: object) -> NoReturn:
        attempts.append(address)
        raise AssertionError(f"a unit test must not reach the network, but this one tried {address!r}")

    def guard(real: Callable[[socket.socket, Any], Any]) -> Callable[[socket.socket, Any], Any]:
        def connect(self: socket.socket, address: Any) -> Any:
            return refuse(address) if self.family in (socket.AF_INET, socket.AF_INET6) else real(self, address)

        return connect

    monkeypatch.setattr(socket.socket, "connect", guard(socket.socket.connect))
    monkeypatch.setattr(socket.socket, "connect_ex", guard(socket.socket.connect_ex))
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_args, **_kwargs: refuse(host))
    yield attempts
    assert not attempts, f"a unit test must not reach the network, but this one tried {attempts}"


@pytest.fixture(autouse=True, scope="session")
def keys_are_read_once() -> Iterator[None]:
    """Reading an RSA key checks its primes for 34 ms; the suite does it hundreds of times with a handful of keys."""
    real = serialization.load_pem_private_key
    known: dict[object, Any] = {}

    def read(data: bytes, password: bytes | None = None, backend: object = None) -> Any:
        if (data, password) not in known:
            known[data, password] = real(data, password, backend)
        return known[data, password]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serialization, "load_pem_private_key", read)
        patch.setattr(jwt.algorithms, "load_pem_private_key", read)
        yield
