"""From the release before to this one and back, while the controllers run: no token changes, and none is minted."""

import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import yaml

from controller import __version__
from testing.behaviour import Behaviour
from testing.controller import ControllerProcess
from testing.exchange import Issuer
from tests.e2e.support import installed
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.installed import NEEDS_NODES
from tests.e2e.support.tenant import Tenant, token

(PREVIOUS,) = [entry for entry in (Path(__file__).parent / "releases").iterdir() if entry.is_dir()]
"""The files of the release before this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A version of the product: what is installed, and what runs."""

    install: Callable[[], None]
    """Its manifests, but for what needs nodes."""
    start: Callable[..., ControllerProcess]
    """As Controllers.start."""


@pytest.fixture
def this(cluster: Cluster, manifests: str, controller: Callable[..., ControllerProcess]) -> Iterator[Release]:
    """Ours, which is also installed again at the end."""
    release = Release(install=partial(installed.install, cluster, manifests), start=controller)
    yield release
    release.install()


@pytest.fixture
def previous(cluster: Cluster, controller: Callable[..., ControllerProcess], tmp_path: Path) -> Release:
    """The one before, with the dependencies that we have."""
    (wheel,) = PREVIOUS.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(tmp_path / "wheel")
    environment = {"PYTHONPATH": str(tmp_path / "wheel")}
    says = [sys.executable, "-P", "-c", "import controller; print(controller.__version__)"]
    said = subprocess.run(says, env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == PREVIOUS.name
    objects = yaml.safe_load_all((PREVIOUS / "install.yaml").read_text())
    manifests = yaml.safe_dump_all(each for each in objects if each["kind"] not in NEEDS_NODES)
    return Release(
        install=partial(installed.install, cluster, manifests),
        start=partial(controller, program=(sys.executable, "-m", "controller"), env=environment),
    )


@pytest.fixture
def everyone(tenants: Callable[[], Tenant], issuer: Issuer) -> list[Tenant]:
    """A hundred namespaces that share an identity, whose tokens live for an hour."""
    made = [tenants() for _ in range(100)]
    issuer.behave(made[0].identity, Behaviour(lifetime_seconds=3600))
    return made


def tokens(tenants: list[Tenant]) -> list[str]:
    return [token(tenant.secret()) for tenant in tenants]


def test_100_secrets_live_through_an_upgrade_and_the_way_back(
    previous: Release, this: Release, everyone: list[Tenant], issuer: Issuer
) -> None:
    identity = everyone[0].identity
    previous.install()
    old = previous.start()
    for tenant in everyone:
        tenant.create(identity)
    filled = [token(tenant.filled(identity).secret) for tenant in everyone]
    minted = issuer.minted(identity)

    this.install()
    new = this.start(beside=True)
    assert f'"version": "{__version__}"' in new.log()
    old.stop()
    assert new.metrics().value("claims", state="valid") >= len(everyone)
    assert tokens(everyone) == filled
    assert issuer.minted(identity) == minted

    everyone[0].refresh()
    everyone[0].replaced(filled[0])
    filled, minted = tokens(everyone), issuer.minted(identity)

    previous.install()
    previous.start(beside=True)
    new.stop()
    assert tokens(everyone) == filled
    assert issuer.minted(identity) == minted
