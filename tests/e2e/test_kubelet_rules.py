"""What our docker configs' reader says of a Secret is what the kubelet's own code says. No cluster is needed."""

import base64
import json
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.core import dockerconfig
from hack.localcluster.binaries import pull_secret_reader
from testing.dockerconfigs import CASES, Read, configs

LARGEST_BATCH = 40


class Kubelet:
    """The kubelet's own package: hack/controlplane/pullsecret."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def read(self, values: Iterable[bytes]) -> list[Read]:
        """What it makes of each value."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        lines = [base64.b64encode(value) + b"\n" for value in values]
        self._process.stdin.writelines(lines)
        self._process.stdin.flush()
        answers = [json.loads(self._process.stdout.readline()) for _ in lines]
        return [answer and {key: _decoded(pair) for key, pair in answer.items()} for answer in answers]

    def close(self) -> None:
        """End it."""
        with self._process:
            pass
        assert self._process.returncode == 0


def _decoded(pair: list[str]) -> tuple[bytes, bytes]:
    user, password = (base64.b64decode(part or "") for part in pair)
    return user, password


def ours(value: bytes) -> Read:
    """What our reader makes of a value."""
    try:
        config = dockerconfig.parse(value)
    except dockerconfig.Unreadable:
        return None
    if config.unreadable:
        return None
    pairs = {entry.member.key: entry.credential or ("", "") for entry in config.auths}
    return {key: (_bytes(user), _bytes(password)) for key, (user, password) in pairs.items()}


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


@pytest.fixture(scope="module")
def kubelet() -> Iterator[Kubelet]:
    program = Kubelet(pull_secret_reader().find_or_build() / "pullsecret")
    yield program
    program.close()


@pytest.mark.parametrize(("value", "read"), CASES.values(), ids=CASES.keys())
def test_each_rule_is_the_kubelets(kubelet: Kubelet, value: bytes, read: Read) -> None:
    assert kubelet.read([value]) == [read]


@settings(
    max_examples=250, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(values=st.lists(configs, min_size=1, max_size=LARGEST_BATCH))
def test_of_thousands_of_configs_we_read_what_the_kubelet_reads(kubelet: Kubelet, values: list[bytes]) -> None:
    assert [ours(value) for value in values] == kubelet.read(values)


@settings(
    max_examples=100, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(values=st.lists(configs, min_size=1, max_size=LARGEST_BATCH))
def test_after_our_fill_the_kubelet_reads_our_token_and_every_other_credential(
    kubelet: Kubelet, values: list[bytes]
) -> None:
    """Unless a foreign entry is unreadable, in which case the fill still names it."""
    filled: list[bytes] = []
    expected: list[Read] = []
    for value in values:
        try:
            before = dockerconfig.parse(value)
        except dockerconfig.Unreadable:
            continue
        content = dockerconfig.merge(before, entries={"cgr.dev": ("_token", "new")})
        others = {entry.member.key: entry.credential for entry in before.auths if entry.host != "cgr.dev"}
        filled.append(content)
        if dockerconfig.parse(content).unreadable:
            expected.append(None)
        else:
            kept = {key: (_bytes(pair[0]), _bytes(pair[1])) for key, pair in others.items() if pair}
            expected.append({**kept, "cgr.dev": (b"_token", b"new")})
    assert kubelet.read(filled) == expected
