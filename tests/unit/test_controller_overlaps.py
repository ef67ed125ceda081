"""Claims come, go, and want each other's registries, while somebody writes entries of his own: nobody's entry is lost.

Judged at every write of the controller by a model of its own: who asks for which registry, and who wrote each entry.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.unit.engine import NAME, PREFIX, Engine, asking, identity
from tests.unit.fake_api import Object
from tests.unit.fake_issuer import HOUR
from tests.unit.virtual_time import Clock

TEAM = "team-a"
REGISTRIES = {"a": ("a.test", "s.test", "t.test"), "b": ("b.test", "s.test", "t.test")}
HOSTS = ("a.test", "b.test", "s.test", "t.test", "quay.io")
CLAIMS = ("", ".a", ".b")


@pytest.fixture
def engine(clock: Clock, tmp_path: Path) -> Engine:
    engine = Engine(clock, tmp_path, providers=("a", "b"))
    given = engine.config.providers
    providers = {name: msgspec.structs.replace(given[name], registries=hosts) for name, hosts in REGISTRIES.items()}
    engine.config = msgspec.structs.replace(engine.config, providers=providers)
    return engine


def asked(annotations: dict[str, str]) -> dict[str, set[str]]:
    """The registries that each claim may write: the first by name has what it wants, a later one all or nothing."""
    granted: dict[str, set[str]] = {}
    taken: set[str] = set()
    for claim in CLAIMS:
        provider = claim[1:] or annotations.get(PREFIX + "provider", "")
        wanted = annotations.get(f"{PREFIX}registries{claim}")
        hosts = set(wanted.split(",") if wanted else REGISTRIES[provider])
        if PREFIX + "identity" + claim in annotations and hosts <= set(REGISTRIES[provider]):
            granted[claim] = hosts if not hosts & taken else set()
            taken |= hosts
    return granted


def passwords(secret: Object) -> dict[str, str]:
    """By host."""
    auths: dict[str, Any] = json.loads(base64.b64decode(secret["data"][".dockerconfigjson"]))["auths"]
    return {host: entry["password"] for host, entry in auths.items()}


@dataclass
class Judge:
    """Sees every write of the controller before it counts."""

    engine: Engine
    owners: dict[str, str] = field(default_factory=dict)
    """Which claim a password was written for."""
    faults: list[str] = field(default_factory=list)

    def __call__(self, patched: Object) -> None:
        """Note what the write touches although it isn't the claim's own."""
        before, after = passwords(self.engine.api.secret(TEAM, NAME)), passwords(patched)
        if before == after:
            return
        patches = (request.json for request in reversed(self.engine.api.requests_of("patch")))
        written = next(patch["metadata"]["annotations"] for patch in patches if patch.get("data") == patched["data"])
        (writer,) = (claim for claim in CLAIMS if f"{PREFIX}fingerprint{claim}" in written)
        granted = asked(patched["metadata"]["annotations"])
        for host in {host for host in {*before, *after} if before.get(host) != after.get(host)}:
            if host in after:
                if host not in granted.get(writer, ()):
                    self.faults.append(f"{writer!r} wrote {host}, which it has not")
                self.owners[after[host]] = writer
                continue
            if takers := [claim for claim, hosts in granted.items() if host in hosts]:
                self.faults.append(f"{writer!r} removed {host} of {takers}")
            if self.owners.get(before[host]) != writer:
                self.faults.append(f"{writer!r} removed somebody else's {host}")


def change(engine: Engine, chance: random.Random, number: int) -> None:
    """What somebody does to the Secret, in one write: annotations, entries, or both."""
    claim = chance.choice(CLAIMS)
    annotations: dict[str, str | None] = {}
    match chance.randrange(5):
        case 0:
            annotations[f"identity{claim}"] = identity(1000 + number)
            annotations["provider"] = chance.choice("ab")
        case 1:
            annotations[f"identity{claim}"] = None
        case 2 | 3:
            hosts = chance.sample(HOSTS[: 4 if chance.random() < 0.9 else 5], chance.randint(1, 3))
            annotations[f"registries{claim}"] = ",".join(hosts) if chance.random() < 0.8 else None
    patch: Object = {
        "metadata": {"annotations": asking(**{key.replace(".", "__"): v for key, v in annotations.items()})}
    }
    if chance.random() < 0.4:
        config = engine.api.config(TEAM, NAME)
        host = chance.choice(HOSTS if "quay.io" in config["auths"] else HOSTS[:4])
        pair = {"username": "user", "password": f"user-{number}"}
        auth = base64.b64encode(f"user:user-{number}".encode()).decode()
        config["auths"] = {**config["auths"], host: {**pair, "auth": auth}}
        patch["data"] = {".dockerconfigjson": base64.b64encode(json.dumps(config).encode()).decode()}
    engine.api.merge_patch(TEAM, NAME, patch)


@pytest.mark.parametrize("seed", range(20))
async def test_no_claim_ever_removes_or_overwrites_what_is_another_claims_or_somebody_elses(
    engine: Engine, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 -- the same in every run
    annotations = asking(identity=identity(1), provider="a", registries="a.test,s.test", identity__b=identity(2))
    foreign = {"quay.io": {"username": "user", "password": "user-0"}}
    config = {"auths": foreign if seed % 2 else {}}  # without foreign entries the controller needn't read first
    engine.api.put_secret(TEAM, NAME, annotations={**annotations, **asking(registries__b="b.test")}, config=config)
    engine.api.admission = judge = Judge(engine)
    async with engine.running():
        for number in range(1, 40):
            if chance.random() < 0.1:
                chance.choice(list(engine.issuers.values())).fail(503, times=2)
            change(engine, chance, number)
            await asyncio.sleep(chance.choice([0, 0, 0.001, 0.001, 20, HOUR]))
            assert judge.faults == []
        await asyncio.sleep(2 * HOUR)
        secret = engine.api.secret(TEAM, NAME)
        held, annotations = passwords(secret), secret["metadata"]["annotations"]
        for claim, hosts in asked(annotations).items():
            for host in hosts:
                assert judge.owners.get(held.get(host, "")) == claim, (
                    f"{claim!r} has no token for {host}: {annotations}"
                )
        assert judge.faults == []
        assert [entry for entry in engine.log if entry["level"] == "error"] == [], "such as an exception of the judge"
