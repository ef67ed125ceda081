"""Every provider type in one controller on a real API server, from the two commands to the login at a registry.

The vendors are stand-ins; support/vendor_cases.py says what they verify. All Secrets are asked for at once, and their
tokens live for the same few seconds, so one wait shows the life of all.
"""

import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from controller.providers import TYPES
from testing.controller import ControllerProcess
from testing.exchange import Issuer
from testing.wire import Servers
from tests.e2e.support import kubelet, leaks
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.controllers import Controllers
from tests.e2e.support.docker import login
from tests.e2e.support.observer import Observer, Secret, Version
from tests.e2e.support.tenant import EVENT_SECONDS, FILL_SECONDS, PREFIX, Tenant, annotation, eventually
from tests.e2e.support.vendor_cases import LIFE_SECONDS, Case
from tests.e2e.support.vendors import TIMEOUT_SECONDS, Vendors, expires_at
from tests.e2e.test_fill import ANNOTATE, CREATE

GOOD = ("chainguard", "ecr-keys", "google", "quay")
every_type = pytest.mark.parametrize("name", sorted(TYPES))


@pytest.fixture(scope="module")
def vendors(
    cluster: Cluster, manifests: str, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Vendors]:
    """All of them, as long as the tests of this file run."""
    del manifests  # they make the ServiceAccount whose tokens are presented
    with Servers() as servers:
        yield Vendors(cluster, issuer, servers, tmp_path_factory.mktemp("vendors"))


@pytest.fixture(scope="module")
def controller(controllers: Controllers, vendors: Vendors) -> Iterator[ControllerProcess]:
    """One process for all types; named as the fixture of those that run after the shared one."""
    yield controllers.start(config=vendors.config)
    controllers.stop()


@pytest.fixture(scope="module")
def asked(
    cluster: Cluster, observer: Observer, vendors: Vendors, controller: ControllerProcess
) -> Iterator[Mapping[str, Tenant]]:
    """By type, a namespace in which the two commands have just been given."""
    del controller
    tenants = {name: Tenant(cluster, observer) for name in TYPES}

    def ask(name: str) -> None:
        case, kubeconfig = vendors.cases[name], cluster.kubeconfig_in(tenants[name].namespace)
        provider = f" {PREFIX}provider={name}" if case.named else ""
        for command in (CREATE, f"{ANNOTATE}{case.identity}{provider}"):
            cluster.kubectl(*shlex.split(command)[1:], kubeconfig=kubeconfig)

    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(ask, tenants))
    yield tenants
    for tenant in tenants.values():
        tenant.leave()


def filled(case: Case, claim: str = "") -> Callable[[Secret], bool]:
    """Whether a claim has its credential and says until when."""
    key = f"expires-at.{claim}" if claim else "expires-at"
    return lambda secret: case.credential(secret) is not None and annotation(secret, key) is not None


def replaced(case: Case, old: tuple[str, str] | None) -> Callable[[Secret], bool]:
    """Whether another credential is in the place of an old one."""
    return lambda secret: case.credential(secret) not in (None, old)


def generations(tenant: Tenant, case: Case) -> list[Version]:
    """The version of the Secret with which each credential came, oldest first."""
    found: list[Version] = []
    for version in tenant.history():
        present = case.credential(version.secret)
        if present is not None and (not found or present != case.credential(found[-1].secret)):
            found.append(version)
    return found


@every_type
def test_the_two_commands_fill_the_secret_for_its_user_and_host(
    vendors: Vendors, asked: Mapping[str, Tenant], name: str
) -> None:
    case, tenant = vendors.cases[name], asked[name]
    tenant.wait(filled(case), timeout=FILL_SECONDS)
    version = generations(tenant, case)[0]
    first = version.secret
    assert {host: user for host, (user, _) in kubelet.credentials(first).items()} == {case.host: case.username}
    assert annotation(first, "registries-managed") == case.host
    assert annotation(first, "error") is None
    assert version.at < expires_at(first) <= version.at + LIFE_SECONDS
    created = tenant.history()[0].secret["metadata"]
    assert (first["metadata"]["uid"], first["type"]) == (created["uid"], kubelet.SECRET_TYPE)


@every_type
def test_the_credential_in_the_secret_logs_in_to_a_registry_of_its_vendor(
    vendors: Vendors, asked: Mapping[str, Tenant], name: str
) -> None:
    case = vendors.cases[name]
    present = case.credential(asked[name].wait(filled(case), timeout=FILL_SECONDS).secret)
    assert present is not None
    assert login(case.host, *present)
    assert not login(case.host, case.username, f"{present[1]}x")
    assert not login(case.host, f"{case.username}x", present[1])


@every_type
def test_the_credential_is_replaced_before_it_ends(vendors: Vendors, asked: Mapping[str, Tenant], name: str) -> None:
    case, tenant = vendors.cases[name], asked[name]
    tenant.wait(filled(case), timeout=FILL_SECONDS)
    first = case.credential(generations(tenant, case)[0].secret)
    tenant.wait(replaced(case, first), timeout=LIFE_SECONDS)
    for old, new in pairwise(generations(tenant, case)):
        assert new.at < min(expires_at(old.secret), old.at + LIFE_SECONDS)


@every_type
def test_a_credential_is_refused_after_its_end_while_its_successor_logs_in(
    vendors: Vendors, asked: Mapping[str, Tenant], name: str
) -> None:
    case, tenant = vendors.cases[name], asked[name]
    tenant.wait(filled(case), timeout=FILL_SECONDS)
    first = case.credential(generations(tenant, case)[0].secret)
    assert first is not None
    eventually(lambda: not login(case.host, *first), timeout=LIFE_SECONDS + 3, what=f"the end of a token of {name}")
    successor = case.credential(tenant.secret())
    assert successor is not None
    assert login(case.host, *successor)


@pytest.mark.usefixtures("controller")
def test_the_identities_of_a_secret_have_hosts_deadlines_and_errors_of_their_own(
    vendors: Vendors, tenant: Tenant
) -> None:
    brief, long = vendors.cases["chainguard"], vendors.cases["ecr-keys"]
    tenant.create(
        brief.identity,
        annotations={"identity.ecr-keys": long.identity, "identity.misconfigured": "team-a"},
        config={"auths": {"other.example": {"auth": "dXNlcjpwYXNz"}}},
    )
    for case, claim in ((brief, ""), (long, "ecr-keys")):
        tenant.wait(filled(case, claim), timeout=FILL_SECONDS)
    told = tenant.wait(lambda secret: annotation(secret, "error.misconfigured") is not None, timeout=FILL_SECONDS)
    assert str(annotation(told.secret, "error.misconfigured")).startswith("MintRefused: ")
    assert kubelet.credentials(told.secret).keys() == {"other.example", brief.host, long.host}
    assert annotation(told.secret, "registries-managed") == brief.host
    assert annotation(told.secret, "registries-managed.ecr-keys") == long.host
    assert {annotation(told.secret, key) for key in ("error", "error.ecr-keys", "expires-at.misconfigured")} == {None}
    assert expires_at(told.secret, "ecr-keys") - expires_at(told.secret) > 11 * 3600

    renewed = tenant.wait(replaced(brief, brief.credential(told.secret)), timeout=LIFE_SECONDS).secret
    assert renewed["metadata"]["uid"] == told.secret["metadata"]["uid"]
    assert long.credential(renewed) == long.credential(told.secret)
    assert expires_at(renewed, "ecr-keys") == expires_at(told.secret, "ecr-keys")
    assert kubelet.credentials(renewed)["other.example"] == ("user", "pass")


@pytest.mark.usefixtures("controller")
def test_one_annotation_gets_a_password_for_each_of_two_registries_that_no_other_takes(
    vendors: Vendors, tenant: Tenant
) -> None:
    case = vendors.cases["acr-two"]
    first, second = case.settings["registries"]
    tenant.create(case.identity, annotations={"provider": case.name})
    secret = tenant.wait(filled(case), timeout=EVENT_SECONDS).secret
    both = kubelet.credentials(secret)
    assert both.keys() == {first, second}
    for own, other in ((first, second), (second, first)):
        assert login(own, *both[own])
        assert not login(other, *both[own])
    renewed = tenant.wait(replaced(case, both[first]), timeout=EVENT_SECONDS).secret
    assert all(kubelet.credentials(renewed)[host] != both[host] for host in (first, second))
    assert annotation(renewed, "registries-managed") == ",".join(sorted((first, second)))


@pytest.mark.usefixtures("controller")
def test_an_identity_that_is_added_leaves_the_others_alone(vendors: Vendors, tenant: Tenant) -> None:
    first, added = vendors.cases["ecr-keys"], vendors.cases["quay"]
    tenant.create(first.identity, annotations={"provider": "ecr-keys"})
    before = tenant.wait(filled(first), timeout=FILL_SECONDS).secret
    tenant.annotate(**{"identity.quay": added.identity})
    after = tenant.wait(filled(added, "quay"), timeout=FILL_SECONDS).secret
    assert kubelet.credentials(after).keys() == {first.host, added.host}
    assert first.credential(after) == first.credential(before)
    assert annotation(after, "issued-at") == annotation(before, "issued-at")


@pytest.mark.usefixtures("controller")
@pytest.mark.parametrize(("unfit", "reason"), [("misconfigured", "MintRefused"), ("silent", "IssuerUnavailable")])
def test_one_unfit_provider_of_five_delays_none_of_the_others(
    vendors: Vendors, tenants: Callable[[], Tenant], unfit: str, reason: str
) -> None:
    waiting = [tenants() for _ in range(8)]
    for number, tenant in enumerate(waiting):
        tenant.create(f"team-{number}", annotations={"provider": unfit})
    good = {name: tenants() for name in GOOD}
    began = time.time()
    for name, tenant in good.items():
        provider = {"provider": name} if vendors.cases[name].named else {}
        tenant.create(vendors.cases[name].identity, annotations=provider)
    delays = [
        tenant.wait(filled(vendors.cases[name]), timeout=FILL_SECONDS).at - began for name, tenant in good.items()
    ]
    assert max(delays) < TIMEOUT_SECONDS
    for tenant in waiting:
        told = tenant.wait(
            lambda secret: str(annotation(secret, "error")).startswith(f"{reason}: "),
            timeout=TIMEOUT_SECONDS + FILL_SECONDS,
        )
        assert kubelet.credentials(told.secret) == {}


def test_nothing_that_a_vendor_gave_is_in_log_metrics_or_events(
    vendors: Vendors, asked: Mapping[str, Tenant], controller: ControllerProcess, issuer: Issuer
) -> None:
    # Opaque tokens have no parts; the search leaves out the first, which all JWTs of a key share.
    tokens = [f"header.{token}" for token in vendors.minted()]
    texts = [("log", controller.log()), ("metrics", controller.metrics().text)]
    for tenant in asked.values():
        texts += leaks.events_as_texts(tenant.events())
    assert len(texts) > len(TYPES)
    assert leaks.find(texts, tokens=tokens, canary=issuer.canary) == []
