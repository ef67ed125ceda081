"""Every limit, in literal numbers and on both sides: what is within it works, and what is over it is refused with a
reason. A limit on reading alone would make us write what we then don't find, again and again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.config import ConfigError, load
from controller.core import dockerconfig
from controller.core.annotations import read_hosts, read_managed_hosts
from tests.unit.engine import NAME, Engine, identity
from tests.unit.fake_issuer import HOUR
from tests.unit.fakes import annotated, managed
from tests.unit.virtual_time import Clock

Make = Callable[..., Engine]


@pytest.fixture
def make(clock: Clock, tmp_path: Path) -> Make:
    """An engine whose provider has this many registries."""
    return lambda registries=1: Engine(clock, tmp_path, more_registries=hosts(registries - 1))


def hosts(number: int) -> tuple[str, ...]:
    return tuple(f"{each:03}.example" for each in range(number))


def problems(tmp_path: Path, registries: Any, name: str = "cg") -> list[str]:
    file = tmp_path / "config.yaml"
    provider = {"type": "chainguard", "tokenFile": "/t", "registries": list(registries)}
    file.write_text(yaml.safe_dump({"providers": {name: provider}}))
    try:
        load(file)
    except ConfigError as error:
        return [problem.partition(": ")[2] for problem in error.problems]
    return []


# Registries: 128 of a provider, and in the annotations.


@pytest.mark.parametrize("number", [1, 2, 31, 32, 33, 127, 128])
async def test_with_many_registries_an_hour_costs_two_patches(make: Make, number: int) -> None:
    """Of 129 it took 364, since only 128 were read again."""
    engine = make(number)
    engine.ask("team-a")
    async with engine.running():
        await asyncio.sleep(HOUR)
        assert len(engine.api.config("team-a", NAME)["auths"]) == number
        assert engine.patches == engine.mints == 2
        assert engine.told("team-a") == []


@pytest.mark.parametrize(
    ("registries", "expected"),
    [
        (hosts(1), []),
        (hosts(128), []),
        (hosts(129), ["must name at most 128 hosts; split them between two providers"]),
        (("a.example", "a.example"), ["must name each host once"]),
        (("a.example/" + "x" * 245,), []),
    ],
    ids=["1", "128", "129", "one twice", "255 characters"],
)
def test_a_provider_has_at_most_128_registries_each_once(
    tmp_path: Path, registries: tuple[str, ...], expected: list[str]
) -> None:
    assert problems(tmp_path, registries) == expected


def test_a_registry_has_at_most_255_characters(tmp_path: Path) -> None:
    assert len(problems(tmp_path, ["a.example/" + "x" * 246])) == 1


@pytest.mark.parametrize("number", [128, 129, 10_000])
async def test_more_than_128_registries_in_the_annotation_are_refused_and_never_cut(make: Make, number: int) -> None:
    """The 129th may be the one that the user needs."""
    engine = make(128)
    allowed = ("cgr.dev", *hosts(127))
    engine.ask("team-a", registries=", ".join((*allowed, *(["CGR.dev"] * (number - 128)))))
    async with engine.running():
        await asyncio.sleep(HOUR)
        assert engine.told("team-a") == ([] if number == 128 else ["AnnotationTooLong"])
        assert (engine.password("team-a") is None) is (number > 128)
        engine.annotate("team-a", registries="cgr.dev")
        await engine.settle()
        assert engine.password("team-a")
        assert engine.annotation("team-a", "error") is None


def test_blanks_in_a_list_count_for_nothing() -> None:
    assert read_hosts("," * 1000 + "cgr.dev") == ("cgr.dev",)


@pytest.mark.parametrize(("number", "known"), [(0, 0), (1, 1), (128, 128), (129, 0), (10_000, 0)])
def test_a_list_of_managed_registries_that_we_cannot_have_written_is_none(number: int, known: int) -> None:
    assert len(read_managed_hosts(",".join(hosts(number)))) == known


# Other annotations.


@pytest.mark.parametrize(("length", "expected"), [(2048, "IdentityUnrecognised"), (2049, "AnnotationTooLong")])
async def test_an_identity_has_at_most_2048_characters(make: Make, length: int, expected: str) -> None:
    engine = make()
    engine.ask("team-a", identity="x" * length)
    async with engine.running():
        await asyncio.sleep(HOUR)
        assert engine.told("team-a") == [expected]
        assert (engine.mints, engine.patches) == (0, 1)


@pytest.mark.parametrize("length", [0, 1, 256, 257, 200_000])
async def test_a_value_of_refresh_that_could_not_be_written_back_is_refused(make: Make, length: int) -> None:
    """All annotations together may have 256 KiB, and `refreshed-for` is a copy."""
    engine = make()
    engine.ask("team-a", refresh="x" * length)
    async with engine.running():
        await asyncio.sleep(HOUR)
        assert engine.told("team-a") == ([] if length <= 256 else ["AnnotationTooLong"])
        assert engine.mints == engine.patches - (length > 256) == (2 if length <= 256 else 0)
        engine.annotate("team-a", refresh="1")
        await engine.settle()
        assert engine.annotation("team-a", "refreshed-for") == "1"


@pytest.mark.parametrize(("length", "refused"), [(1, False), (40, False), (41, True)])
def test_the_name_of_a_provider_leaves_room_for_every_key_of_an_annotation(
    tmp_path: Path, length: int, refused: bool
) -> None:
    """The API server takes 63 characters behind the prefix."""
    assert bool(problems(tmp_path, ["a.example"], name="x" * length)) is refused
    assert len("registries-managed." + "x" * 40) <= 63


# The content.


@pytest.mark.parametrize(
    ("entries", "reason"), [(9_999, None), (10_000, "ConfigTooLarge"), (10_001, "ConfigUnreadable")]
)
async def test_a_docker_config_has_at_most_10_000_entries_with_ours(
    make: Make, entries: int, reason: str | None
) -> None:
    engine = make()
    engine.ask("team-a", config={"auths": {f"{each:x}": {} for each in range(entries)}})
    async with engine.running():
        await asyncio.sleep(600)
        assert engine.told("team-a") == ([reason] if reason else [])
        assert bool(engine.password("team-a")) is (reason is None)


@pytest.mark.parametrize(("number", "kept"), [(0, 0), (31, 31), (32, 32), (33, 0)])
def test_up_to_32_hosts_are_remembered_and_more_are_read_before_each_write(number: int, kept: int) -> None:
    secret = managed(annotated(identity=identity(1)), config={"auths": {host: {} for host in hosts(number)}})
    assert len(secret.hosts) == kept
    assert secret.plain is (number <= 32)
    assert secret.readable


@pytest.mark.parametrize("number", [32, 33, 100])
async def test_entries_that_no_kubelet_reads_are_reported_however_many_there_are(make: Make, number: int) -> None:
    engine = make()
    engine.ask("team-a", config={"auths": {host: {"auth": "?"} for host in hosts(number)}})
    async with engine.running():
        await asyncio.sleep(HOUR)
        assert engine.told("team-a") == ["ForeignEntryUnreadable"]
        assert engine.patches == 2


def test_a_secret_of_a_mebibyte_is_the_largest() -> None:
    assert dockerconfig.MAX_BYTES == 1_048_576
    assert len(json.dumps({"a": "x" * 1_048_567})) == 1_048_576
