"""Targets on a real API server: the controller as its own ServiceAccount, with the components of manifests/."""

import base64
import concurrent.futures
import functools
import json
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.config import load
from testing.api import Api, ApiError
from testing.behaviour import Behaviour
from testing.controller import ControllerProcess
from testing.crusoe import Crusoe
from testing.exchange import Issuer
from testing.wire import Servers, Wire
from tests.e2e.support import installed, kubelet
from tests.e2e.support.cluster import Cluster
from tests.e2e.support.observer import Observer
from tests.e2e.support.requests import AuditLog
from tests.e2e.support.strangers import EMPTY, MARK, Strangers, kinds
from tests.e2e.support.tenancy import ROTATOR, Reader, blocks, image_repositories
from tests.e2e.support.tenant import (
    AT_ONCE_SECONDS,
    EVENT_SECONDS,
    FILL_SECONDS,
    PREFIX,
    TYPE,
    eventually,
    filled_for,
    new_identity,
    token,
)

IDENTITY = "ab" * 20
SECOND = "ef" * 20
"""Another one that the controller may use."""
INSTALLATION = "pull-secret-updater.controller"
LABEL = "e2e-targets"
CONTROLLER = ("pull-secret-updater", "controller")

ROTATORS = "Instead of a rotator for listed namespaces"
FLUX = "Flux image automation, a namespace per tenant"
"""Sections of docs/tenancy.md."""

Object = dict[str, Any]
Start = Callable[..., ControllerProcess]


def target(label: str, **more: Any) -> Object:
    """A target that selects the namespaces with that label."""
    selector = {"matchLabels": {LABEL: label}}
    return {"name": "everyone", "identity": IDENTITY, "namespaces": [{"selector": selector}], **more}


class Namespaces:
    """Namespaces of one test, with its label; what is in them goes when the test has ended."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._names: list[str] = []
        self.label = secrets.token_hex(4)

    def make(self, *, selected: bool = True, **annotations: str) -> str:
        """One more, by its name."""
        name = f"e2e-{secrets.token_hex(5)}"
        ours = {PREFIX + key: value for key, value in annotations.items()}
        labels = {LABEL: self.label} if selected else {}
        self._api.post("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels, "annotations": ours}})
        self._names.append(name)
        return name

    def many(self, count: int) -> list[str]:
        """So many, several at once."""
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            return list(pool.map(lambda _: self.make(), range(count)))

    def empty(self) -> None:
        """Delete the Secrets."""
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            paths = (f"/api/v1/namespaces/{name}/secrets/pull-secret" for name in self._names)
            list(pool.map(self._api.delete, paths))

    def patch(self, name: str, metadata: Object) -> None:
        """Change labels or annotations."""
        self._api.patch(f"/api/v1/namespaces/{name}", {"metadata": metadata})

    def select(self, name: str, *, selected: bool = True) -> None:
        """Give it the label, or take that away."""
        self.patch(name, {"labels": {LABEL: self.label if selected else None}})


@pytest.fixture(scope="module")
def components(cluster: Cluster, manifests: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The components targets, service-accounts and tenant-proof, as their comments tell; afterwards the base again."""
    directory = tmp_path_factory.mktemp("targets")
    overlay = installed.overlay(directory, "service-accounts")
    shutil.copy(installed.MANIFESTS / "config.yaml", overlay)
    text = (overlay / "kustomization.yaml").read_text()
    assert text.count("IDENTITY") == 1
    kustomization = yaml.safe_load(text.replace("IDENTITY", f'{IDENTITY}", "{SECOND}'))
    kustomization["components"].append("../manifests/components/tenant-proof")
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    rendered = installed.render(overlay, cluster=cluster)
    installed.install(cluster, rendered)
    _wait_for_policies(cluster)
    yield
    remove(cluster, rendered, manifests)


def remove(cluster: Cluster, rendered: str, manifests: str) -> None:
    """Take away what an overlay has added to manifests/, and put back what it has changed."""
    base = {(each["kind"], each["metadata"]["name"]) for each in yaml.safe_load_all(manifests)}
    added = [each for each in yaml.safe_load_all(rendered) if (each["kind"], each["metadata"]["name"]) not in base]
    cluster.kubectl("delete", "--ignore-not-found", "-f", "-", input=yaml.safe_dump_all(added))
    installed.install(cluster, manifests)


UNMARKED: Object = {"metadata": {"name": "pull-secret"}, "type": TYPE, "data": {".dockerconfigjson": EMPTY}}


def _wait_for_targets_policy(cluster: Cluster, namespace: str) -> None:
    """Until that policy alone keeps the controller from a Secret without its mark."""
    api = as_controller(cluster)

    def guarded() -> bool:
        cluster.api.delete(f"/api/v1/namespaces/{namespace}/secrets/pull-secret")
        return "ValidatingAdmissionPolicy" in refusal(lambda: apply(api, namespace, "pull-secret", UNMARKED))

    eventually(guarded, timeout=installed.POLICY_SECONDS, what="the policy is enforced")


def _wait_for_policies(cluster: Cluster) -> None:
    """Until each of the further policies refuses what it forbids; a new one takes the API server a moment."""
    api, namespace = as_controller(cluster), f"e2e-{secrets.token_hex(5)}"
    cluster.api.post("/api/v1/namespaces", {"metadata": {"name": namespace}})
    cluster.api.post(f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": "default"}})
    account = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"

    def guarded() -> bool:
        cluster.api.delete(f"/api/v1/namespaces/{namespace}/secrets/pull-secret")
        refused = [
            refusal(lambda: apply(api, namespace, "pull-secret", UNMARKED)),
            refusal(lambda: api.patch(account, {"metadata": {"labels": {"probe": secrets.token_hex(4)}}})),
        ]
        return all("ValidatingAdmissionPolicy" in each for each in refused)

    eventually(guarded, timeout=30, what="the policies are enforced")


def as_controller(cluster: Cluster) -> Api:
    """The API server as the controller's ServiceAccount sees it."""
    return Api(cluster.service_account_kubeconfig(*CONTROLLER))


def apply(api: Api, namespace: str, name: str, body: Object) -> Object:
    """A server-side apply under our field manager."""
    path = f"/api/v1/namespaces/{namespace}/secrets/{name}?fieldManager=pull-secret-updater"
    return api.apply(path, {"apiVersion": "v1", "kind": "Secret", **body})


def refusal(call: Callable[[], object], status: int = 403) -> str:
    """The API server's sentence; empty if it allows the call."""
    try:
        call()
    except ApiError as error:
        if error.status == status:
            return str(error)
        raise
    return ""


@pytest.fixture
def namespaces(cluster: Cluster) -> Iterator[Namespaces]:
    """Namespaces of this test."""
    made = Namespaces(cluster.api)
    yield made
    made.empty()


@pytest.fixture
def running(
    components: None, namespaces: Namespaces, controller: Start, issuer: Issuer
) -> Callable[..., ControllerProcess]:
    """Starts a controller with one target, for this test's namespaces."""
    for identity in (IDENTITY, SECOND):
        issuer.behave(identity, Behaviour(lifetime_seconds=3600))

    def start(**more: Any) -> ControllerProcess:
        return controller(config={"targets": [target(namespaces.label, **more)], "limits": _QUICK})

    return start


_QUICK = {"removal": {"grace": "1s", "most": 5, "share": 0.2}}


def wait_filled(observer: Observer, namespace: str, timeout: float = FILL_SECONDS) -> Object:
    """The Secret, once it holds a valid token of the target."""
    return observer.wait(namespace, filled_for(IDENTITY), timeout=timeout).secret


def wait_made_anew(observer: Observer, namespace: str, old: Object) -> None:
    """Until another Secret has taken its place, filled."""
    filled, uid = filled_for(IDENTITY), old["metadata"]["uid"]
    observer.wait(namespace, lambda one: filled(one) and one["metadata"]["uid"] != uid, timeout=AT_ONCE_SECONDS)


def exists(api: Api, namespace: str) -> bool:
    """Whether the Secret is there."""
    try:
        api.get(f"/api/v1/namespaces/{namespace}/secrets/pull-secret")
    except ApiError as error:
        if error.status == 404:
            return False
        raise
    return True


def test_200_namespaces_are_served_with_one_mint_and_a_write_each(
    running: Start, namespaces: Namespaces, observer: Observer, issuer: Issuer, audit: AuditLog
) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda _: namespaces.make(), range(200)))
    minted, since = issuer.minted(IDENTITY), time.time()
    started = running()
    found = [wait_filled(observer, name, timeout=30) for name in names]
    assert len({token(secret) for secret in found}) == 1
    assert issuer.minted(IDENTITY) == minted + 1
    for name in names:
        assert len(audit.requests(namespace=name, verb="patch", since=since)) == 1
        assert len(observer.history(name)) == 1, "nobody ever saw it empty"
    assert started.metrics().value("target_namespaces", target="everyone", state="ready") == 200
    assert started.metrics().value("claims", state="valid") >= 200


def test_a_namespace_that_is_created_or_labelled_is_served_at_once(
    running: Start, namespaces: Namespaces, observer: Observer
) -> None:
    later = namespaces.make(selected=False)
    running()
    namespaces.select(later)
    created = namespaces.make()
    for name in (later, created):
        wait_filled(observer, name, timeout=AT_ONCE_SECONDS)


def test_a_deleted_secret_comes_back_and_one_that_leaves_goes(
    running: Start, namespaces: Namespaces, observer: Observer, cluster: Cluster
) -> None:
    name, out = namespaces.make(), namespaces.make()
    running()
    old = wait_filled(observer, name)
    wait_filled(observer, out)
    cluster.api.delete(f"/api/v1/namespaces/{name}/secrets/pull-secret")
    wait_made_anew(observer, name, old)
    namespaces.select(out, selected=False)
    eventually(lambda: not exists(cluster.api, out), timeout=10, what="the Secret is removed")
    assert exists(cluster.api, name)


def test_a_label_typo_that_would_remove_100_of_500_removes_nothing_until_it_is_confirmed(
    running: Start, controller: Start, namespaces: Namespaces, observer: Observer, cluster: Cluster
) -> None:
    names, removal = namespaces.many(500), {"grace": "1s", "most": 10, "share": 0.2}
    started = controller(config={"targets": [target(namespaces.label)], "limits": {"removal": removal}})
    for name in names:
        wait_filled(observer, name, timeout=60)
    typo, others = names[:100], names[100:]
    for name in typo:
        namespaces.select(name, selected=False)
    eventually(
        lambda: started.metrics().value("target_namespaces", target="everyone", state="held") == 100,
        timeout=60,
        what="the brake",
    )
    assert held(cluster, names) == set(names)
    assert "too many Secrets of a target would be removed at once" in started.log()
    controller(config={"targets": [target(namespaces.label)], "limits": {"removal": {**removal, "most": 100}}})
    eventually(lambda: held(cluster, names) == set(others), timeout=60, what="they are removed, and no other")


def held(cluster: Cluster, names: list[str]) -> set[str]:
    """Which of these namespaces have a Secret of ours."""
    path = f"/api/v1/secrets?labelSelector={MARK}%3D{INSTALLATION}"
    return {each["metadata"]["namespace"] for each in cluster.api.items(path)} & set(names)


@pytest.fixture
def strangers(cluster: Cluster, namespaces: Namespaces) -> Iterator[Strangers]:
    """Twelve, each in a namespace that isn't selected yet. None is there before it `arrive`s."""
    names = {kind: namespaces.make(selected=False) for kind in kinds(IDENTITY)}
    assert len(names) == 12
    made = Strangers(cluster, names, identity=IDENTITY)
    yield made
    made.leave()


def wait_for_states(started: ControllerProcess, *, target: str = "everyone", **counts: int) -> None:
    """Until a target has come to these states in so many namespaces."""

    def has_come_to_them() -> bool:
        metrics = started.metrics()
        found = {state: metrics.value("target_namespaces", target=target, state=state) for state in counts}
        return found == counts

    eventually(has_come_to_them, timeout=20, what=f"{target}: {counts}")


@pytest.mark.parametrize("existing", ["report", "adoptEmpty"])
def test_strangers_of_twelve_kinds_stay_as_they_are_and_once_they_go_the_secret_is_made(
    running: Start, namespaces: Namespaces, observer: Observer, existing: str, strangers: Strangers
) -> None:
    strangers.arrive()
    started = running(existing=existing)
    for name in strangers.names.values():
        namespaces.select(name)
    taken = {"empty"} if existing == "adoptEmpty" else set()
    wait_for_states(started, conflict=12 - len(taken), ready=len(taken))
    assert strangers.changed(but=taken) == []
    for kind in strangers.names:
        if kind in taken:
            now = strangers.now(kind)
            assert now["metadata"]["uid"] == strangers.before[kind]["metadata"]["uid"]
            assert filled_for(IDENTITY)(now)
        else:
            eventually(functools.partial(strangers.told, kind), timeout=EVENT_SECONDS, what=f"{kind}: an Event")
            assert strangers.told(kind) == ["TargetConflict"], kind
    strangers.leave()
    for kind, name in strangers.names.items():
        wait_made_anew(observer, name, strangers.before[kind])


@pytest.mark.parametrize("existing", ["report", "adoptEmpty"])
def test_strangers_of_twelve_kinds_that_took_the_secrets_place_stay_as_they_are_when_the_target_changes(
    running: Start, namespaces: Namespaces, observer: Observer, existing: str, strangers: Strangers
) -> None:
    ours = namespaces.make()
    for name in strangers.names.values():
        namespaces.select(name)
    first = running(existing=existing)
    for name in (ours, *strangers.names.values()):
        wait_filled(observer, name)
    first.stop()
    strangers.arrive()
    taken = {"empty"} if existing == "adoptEmpty" else set()
    # What the target holds gets the new identity each time, so that the change has come to everyone.
    for identity in (SECOND, IDENTITY):
        started = running(existing=existing, identity=identity)
        observer.wait(ours, filled_for(identity), timeout=FILL_SECONDS)
        wait_for_states(started, conflict=12 - len(taken), ready=1 + len(taken))
        assert strangers.changed(but=taken) == []
        for kind in taken:
            observer.wait(strangers.names[kind], filled_for(identity), timeout=FILL_SECONDS)


@pytest.mark.parametrize("how", ["its namespace leaves", "its namespace opts out", "its target is removed"])
def test_strangers_of_twelve_kinds_that_took_the_secrets_place_stay_as_they_are_when_it_would_be_removed(
    running: Start, namespaces: Namespaces, cluster: Cluster, how: str, strangers: Strangers
) -> None:
    ours = namespaces.make()
    everywhere = (ours, *strangers.names.values())
    for name in strangers.names.values():
        namespaces.select(name)
    started = running()
    wait_for_states(started, ready=13)
    strangers.arrive()
    wait_for_states(started, conflict=12, ready=1)
    holder = "everyone"
    match how:
        case "its namespace leaves":
            for name in everywhere:
                namespaces.select(name, selected=False)
        case "its namespace opts out":
            for name in everywhere:
                namespaces.patch(name, {"annotations": {PREFIX + "targets": "none"}})
        case _:
            started = running(name="another", namespaces=[{"selector": {"matchLabels": {LABEL: "nowhere"}}}])
            holder = "(removed)"
    eventually(lambda: not exists(cluster.api, ours), timeout=FILL_SECONDS, what="what is ours is removed")
    wait_for_states(started, target=holder, ready=0, conflict=0, leaving=0)
    assert strangers.changed() == []


class Many:
    """88 namespaces with a ServiceAccount each, where in 20 an empty Secret is in the way; and those of strangers."""

    def __init__(self, cluster: Cluster, observer: Observer, namespaces: Namespaces, strangers: Strangers) -> None:
        self._api = cluster.api
        self._observer = observer
        self._namespaces = namespaces
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            self.adopting = list(pool.map(lambda _: self._make(adopting=True), range(20)))
            self.creating = list(pool.map(lambda _: self._make(adopting=False), range(68)))
        strangers.arrive()
        for name in strangers.names.values():
            namespaces.select(name)
        self.all = {*self.adopting, *self.creating, *strangers.names.values()}
        self.served = {*self.adopting, *self.creating, strangers.names["empty"]}
        """Where there is one of ours in the end."""

    def _make(self, *, adopting: bool) -> str:
        name = self._namespaces.make()
        path = f"/api/v1/namespaces/{name}"
        account = {"metadata": {"name": "default"}, "imagePullSecrets": [{"name": "theirs"}]}
        self._api.post(f"{path}/serviceaccounts", account)
        if adopting:
            self._api.post(f"{path}/secrets", kinds(IDENTITY)["empty"])
        return name

    def ours(self, like: Callable[[Object], bool] = lambda _: True) -> set[str]:
        """The namespaces with a Secret of ours of that kind."""
        latest = {name: versions[-1] for name in self.all if (versions := self._observer.history(name))}
        return {
            name
            for name, version in latest.items()
            if not version.deleted and version.secret["metadata"].get("labels", {}).get(MARK) == INSTALLATION
            if like(version.secret)
        }

    def attached(self) -> set[str]:
        """The namespaces whose ServiceAccount names the Secret; none may have lost, or have twice, what it names."""
        paths = {name: f"/api/v1/namespaces/{name}/serviceaccounts/default" for name in self.adopting + self.creating}
        pulls = {name: [each["name"] for each in self._api.get(paths[name])["imagePullSecrets"]] for name in paths}
        assert {tuple(each) for each in pulls.values()} <= {("theirs",), ("theirs", "pull-secret")}
        return {name for name, each in pulls.items() if "pull-secret" in each}


def kill_at_each(start: Callable[[], ControllerProcess], moments: Iterable[int], seen: Callable[[], int]) -> None:
    """For each moment start a controller, and kill it with SIGKILL once so much or more is seen of its work."""
    caught = []
    for moment in moments:
        started = start()

        def reached(moment: int = moment) -> bool:
            return seen() >= moment

        eventually(reached, timeout=FILL_SECONDS, what=f"{moment} are seen", pause=0.001)
        started.kill()
        caught.append(seen())
    assert len(set(caught)) > 1, f"it was killed at its work, not after it: {caught}"


@pytest.mark.usefixtures("running")  # the components, and an issuer that knows both identities
def test_killed_again_and_again_at_its_work_it_leaves_one_valid_secret_in_each_namespace_and_none_after_removal(
    controller: Start, namespaces: Namespaces, observer: Observer, cluster: Cluster, strangers: Strangers
) -> None:
    many = Many(cluster, observer, namespaces, strangers)
    limits = {"removal": {"grace": "1s", "most": 1000}}
    selected = target(namespaces.label, existing="adoptEmpty", serviceAccounts=["default"])

    def starts(*, ready: bool = False, **more: Any) -> Callable[[], ControllerProcess]:
        config = {"targets": [{**selected, **more}], "limits": limits}
        return lambda: controller(config=config, ready=ready)

    def right(identity: str) -> bool:
        return many.ours(filled_for(identity)) == many.served and len(many.attached()) == 88

    # It creates, and adopts.
    kill_at_each(starts(), (1, 15, 40, 70, 85), lambda: len(many.ours()))
    starts(ready=True)()
    eventually(lambda: right(IDENTITY), timeout=FILL_SECONDS, what="every namespace is served")
    assert many.ours() == many.served
    # It changes all that it has.
    kill_at_each(starts(identity=SECOND), (1, 30, 60), lambda: len(many.ours(filled_for(SECOND))))
    starts(ready=True, identity=SECOND)()
    eventually(lambda: right(SECOND), timeout=FILL_SECONDS, what="every namespace has the new identity")
    for name in many.served:
        assert len({version.secret["metadata"]["uid"] for version in observer.history(name)}) == 1, "made once"
    for name in many.creating:
        assert all(token(version.secret) for version in observer.history(name)), "nobody ever saw one empty"
    assert strangers.changed(but={"empty"}) == []
    # It removes.
    nothing = [{"names": ["*"]}]
    kill_at_each(starts(exclude=nothing), (1, 30, 60, 85), lambda: len(many.served) - len(many.ours()))
    starts(ready=True, exclude=nothing)()
    eventually(lambda: not many.ours(), timeout=FILL_SECONDS, what="all of ours are removed")
    assert not any(exists(cluster.api, name) for name in many.served)
    assert many.attached() == set()
    assert strangers.changed(but={"empty"}) == []


def test_the_controllers_token_creates_and_deletes_nothing_but_marked_secrets_of_its_name(
    components: None, cluster: Cluster, namespaces: Namespaces
) -> None:
    api, name, out = as_controller(cluster), namespaces.make(), namespaces.make(targets="none")
    path = f"/api/v1/namespaces/{name}/secrets"
    ours: Object = {
        "metadata": {
            "name": "pull-secret",
            "labels": {MARK: INSTALLATION},
            "annotations": {PREFIX + "identity": IDENTITY, PREFIX + "target": "everyone"},
        },
        "type": TYPE,
        "data": {".dockerconfigjson": EMPTY},
    }

    def but(**metadata: Any) -> Object:
        return {**ours, "metadata": {**ours["metadata"], **metadata}}

    assert "forbidden" in refusal(lambda: api.post(path, ours)), "a POST isn't bound to a name"
    assert refusal(lambda: apply(api, name, "another", but(name="another")))
    assert refusal(lambda: apply(api, name, "pull-secret", {**ours, "type": "Opaque", "data": {}}))
    assert refusal(lambda: apply(api, name, "pull-secret", but(labels={})))
    assert refusal(lambda: apply(api, name, "pull-secret", but(labels={MARK: "elsewhere.controller"})))
    assert refusal(lambda: apply(api, name, "pull-secret", but(finalizers=["example.com/kept"])))
    assert refusal(lambda: apply(api, name, "pull-secret", {**ours, "immutable": True}))
    another = {**ours["metadata"]["annotations"], PREFIX + "identity": "cd" * 20}
    assert "may not use" in refusal(lambda: apply(api, name, "pull-secret", but(annotations=another)))
    assert "keeps targets out" in refusal(lambda: apply(api, out, "pull-secret", ours))
    assert refusal(lambda: api.delete(path)), "deletecollection"

    cluster.api.post(path, {"metadata": {"name": "pull-secret"}, "type": TYPE, "data": {".dockerconfigjson": EMPTY}})
    assert refusal(lambda: api.delete(f"{path}/pull-secret")), "a stranger's"
    cluster.api.delete(f"{path}/pull-secret")
    apply(api, name, "pull-secret", ours)
    wrong = {"preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}}
    assert refusal(lambda: api.delete(f"{path}/pull-secret", wrong), status=409)
    assert refusal(lambda: api.patch(f"{path}/pull-secret", {"metadata": {"labels": {"x": "y"}}}))
    api.delete(f"{path}/pull-secret")


def test_the_controllers_token_changes_in_a_service_account_nothing_but_its_own_entry(
    components: None, cluster: Cluster, namespaces: Namespaces
) -> None:
    api, name = as_controller(cluster), namespaces.make()
    path = f"/api/v1/namespaces/{name}/serviceaccounts"
    cluster.api.post(
        path, {"metadata": {"name": "default"}, "imagePullSecrets": [{"name": "first"}, {"name": "second"}]}
    )

    def change(*entries: str, attached: str | None = "pull-secret", **more: Any) -> None:
        ours = {PREFIX + "attached": attached and f"{attached}@{INSTALLATION}"}
        pulls = [{"name": entry} for entry in entries]
        api.patch(f"{path}/default", {"metadata": {"annotations": ours}, "imagePullSecrets": pulls, **more})

    assert refusal(lambda: change("second", "first", "pull-secret")), "the order of others"
    assert refusal(lambda: change("first", "pull-secret")), "an entry of others"
    assert refusal(lambda: change("first", "second", "pull-secret", attached=None)), "it isn't remembered"
    assert refusal(lambda: change("first", "second", "another", attached="another")), "a name it may not write"
    assert refusal(lambda: change("first", "second", attached="first")), "claims an entry of others"
    assert refusal(lambda: change("first", "second", "pull-secret", automountServiceAccountToken=True))
    assert refusal(lambda: change("first", "second", "pull-secret", secrets=[{"name": "x"}]))
    assert refusal(lambda: api.patch(f"{path}/default", {"metadata": {"labels": {"x": "y"}}}))
    assert refusal(lambda: api.post(f"{path}/default/token", {"spec": {"audiences": ["x"]}})), "a token of it"
    change("first", "second", "pull-secret")
    theirs = {"metadata": {"annotations": {PREFIX + "attached": f"first@x.y,pull-secret@{INSTALLATION}"}}}
    cluster.api.patch(f"{path}/default", theirs)
    assert refusal(lambda: change("first", "second", attached=None)), "what another installation remembers"


def test_a_service_account_gets_the_secret_while_others_append_and_loses_it_with_it(
    running: Start, namespaces: Namespaces, observer: Observer, cluster: Cluster
) -> None:
    name = namespaces.make(selected=False)
    path = f"/api/v1/namespaces/{name}/serviceaccounts"
    cluster.api.post(path, {"metadata": {"name": "default"}})
    running(serviceAccounts=["default"])

    def names() -> list[str]:
        return [each["name"] for each in cluster.api.get(f"{path}/default").get("imagePullSecrets", [])]

    def append(who: int) -> None:
        for number in range(50):
            while True:
                account = cluster.api.get(f"{path}/default")
                pulls = [*account.get("imagePullSecrets", []), {"name": f"other-{who}-{number}"}]
                version = account["metadata"]["resourceVersion"]
                try:
                    cluster.api.patch(
                        f"{path}/default", {"metadata": {"resourceVersion": version}, "imagePullSecrets": pulls}
                    )
                    break
                except ApiError as error:
                    if error.status != 409:
                        raise

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(append, who) for who in range(2)]
        namespaces.select(name)
        wait_filled(observer, name)
        for writer in writers:
            writer.result()
    eventually(lambda: "pull-secret" in names(), timeout=FILL_SECONDS, what="attached")
    found = names()
    assert len(found) == len(set(found)) == 101
    for who in range(2):
        assert [one for one in found if one.startswith(f"other-{who}-")] == [f"other-{who}-{n}" for n in range(50)]
    namespaces.patch(name, {"annotations": {PREFIX + "targets": "none"}})
    eventually(lambda: not exists(cluster.api, name), timeout=FILL_SECONDS, what="removed, since it opted out")
    assert names() == [one for one in found if one != "pull-secret"]


def test_a_terminating_namespace_is_dropped_without_an_event(
    running: Start, namespaces: Namespaces, observer: Observer, cluster: Cluster
) -> None:
    name, other = namespaces.make(), namespaces.make()
    started = running()
    wait_filled(observer, name)
    cluster.api.delete(f"/api/v1/namespaces/{name}")
    cluster.api.delete(f"/api/v1/namespaces/{name}/secrets/pull-secret")
    eventually(
        lambda: started.metrics().value("target_namespaces", target="everyone", state="ready") == 1,
        timeout=FILL_SECONDS,
        what="dropped",
    )
    cluster.api.delete(f"/api/v1/namespaces/{other}/secrets/pull-secret")
    wait_filled(observer, other)
    assert not exists(cluster.api, name)
    assert cluster.events(name, "pull-secret") == []


def test_what_somebody_changes_in_its_inputs_is_put_right_and_the_token_stays(
    running: Start, namespaces: Namespaces, observer: Observer, cluster: Cluster, issuer: Issuer
) -> None:
    name = namespaces.make()
    running()
    old = token(wait_filled(observer, name))
    minted = issuer.minted(IDENTITY)
    path = f"/api/v1/namespaces/{name}/secrets/pull-secret"
    changes: tuple[dict[str, str | None], ...] = (
        {"identity": "cd" * 20},
        {"identity": None},
        {"registries": "cgr.dev"},
    )
    for ours in changes:
        cluster.api.patch(path, {"metadata": {"annotations": {PREFIX + key: value for key, value in ours.items()}}})

        def right() -> bool:
            annotations = cluster.api.get(path)["metadata"]["annotations"]
            return annotations.get(PREFIX + "identity") == IDENTITY and PREFIX + "registries" not in annotations

        eventually(right, timeout=AT_ONCE_SECONDS, what=f"{ours} is put right")
    assert token(cluster.api.get(path)) == old
    assert issuer.minted(IDENTITY) == minted


@pytest.fixture
def named(cluster: Cluster, manifests: str, namespaces: Namespaces, tmp_path: Path) -> Iterator[list[str]]:
    """The component targets-named, for these two namespaces; afterwards the base again."""
    names = [namespaces.make(selected=False) for _ in range(2)]
    overlay = installed.overlay(tmp_path, "targets-named")
    shutil.copy(installed.MANIFESTS / "config.yaml", overlay)
    text = (overlay / "kustomization.yaml").read_text()
    (overlay / "kustomization.yaml").write_text(text.replace("IDENTITY", IDENTITY))
    component = tmp_path / "manifests" / "components" / "targets-named"
    for directory, name in zip(("team-a", "team-b"), names, strict=True):
        path = component / directory / "kustomization.yaml"
        path.write_text(path.read_text().replace(directory, name))
    rendered = installed.render(overlay, cluster=cluster)
    installed.install(cluster, rendered)
    kinds = {each["kind"] for each in yaml.safe_load_all(rendered) if "targets" in each["metadata"]["name"]}
    assert "ClusterRole" not in kinds
    yield names
    remove(cluster, rendered, manifests)


@pytest.mark.usefixtures("components")
def test_a_service_account_that_asks_gets_a_secret_that_it_proves_itself(
    namespaces: Namespaces, controller: Start, cluster: Cluster, observer: Observer, issuer: Issuer
) -> None:
    name, identity = namespaces.make(selected=False), new_identity()
    subject = f"system:serviceaccount:{name}:pull-secret"
    issuer.trust(identity, subject=subject)
    issuer.behave(identity, Behaviour(lifetime_seconds=3600))
    path = f"/api/v1/namespaces/{name}/serviceaccounts"
    started = controller(config={"serviceAccounts": {"enabled": True}, "limits": _QUICK})
    metadata = {"name": "pull-secret", "annotations": {PREFIX + "identity": identity}}
    cluster.api.post(path, {"metadata": metadata, "imagePullSecrets": [{"name": "first"}]})
    observer.wait(name, filled_for(identity), timeout=FILL_SECONDS)

    def names() -> list[str]:
        return [each["name"] for each in cluster.api.get(f"{path}/pull-secret").get("imagePullSecrets", [])]

    eventually(lambda: names() == ["first", "pull-secret"], timeout=FILL_SECONDS, what="attached")
    assert {exchange.subject for exchange in issuer.exchanges(identity)} == {subject}
    assert started.metrics().value("target_namespaces", target="(serviceaccounts)", state="ready") >= 1
    cluster.api.patch(f"{path}/pull-secret", {"metadata": {"annotations": {PREFIX + "identity": None}}})
    eventually(lambda: not exists(cluster.api, name), timeout=FILL_SECONDS, what="removed")
    assert names() == ["first"]


def test_who_may_neither_use_the_identity_nor_create_tokens_may_not_let_a_service_account_ask(
    components: None, namespaces: Namespaces, cluster: Cluster
) -> None:
    name = namespaces.make(selected=False)
    inside = ("--namespace", name)
    for account in ("pull-secret", "somebody"):
        cluster.kubectl("create", "serviceaccount", account, *inside)
    user = f"system:serviceaccount:{name}:somebody"
    cluster.kubectl("create", "role", "edit", *inside, "--verb=get,patch", "--resource=serviceaccounts")
    cluster.kubectl("create", "rolebinding", "edit", *inside, "--role=edit", f"--user={user}")
    api = Api(cluster.service_account_kubeconfig(name, "somebody"))
    path = f"/api/v1/namespaces/{name}/serviceaccounts/pull-secret"

    def ask(identity: str | None) -> None:
        api.patch(path, {"metadata": {"annotations": {PREFIX + "identity": identity}}})

    def refused() -> bool:
        identity = secrets.token_hex(4)  # another one each time, since what doesn't change isn't judged again
        return f"you may not use {identity} in namespace" in refusal(lambda: ask(identity))

    eventually(refused, timeout=FILL_SECONDS, what="RBAC knows the role, and the policy refuses")
    cluster.kubectl("create", "role", "tokens", *inside, "--verb=create", "--resource=serviceaccounts/token")
    cluster.kubectl("create", "rolebinding", "tokens", *inside, "--role=tokens", f"--user={user}")
    eventually(lambda: not refusal(lambda: ask("mine")), timeout=FILL_SECONDS, what="who may create its tokens may")
    ask(None)


def test_exact_names_need_only_a_role_per_namespace(
    named: list[str], controller: Start, observer: Observer, issuer: Issuer
) -> None:
    issuer.behave(IDENTITY, Behaviour(lifetime_seconds=3600))
    entries = [{"names": [*named, "e2e-not-there"]}]
    started = controller(config={"targets": [{"name": "two", "identity": IDENTITY, "namespaces": entries}]})
    for name in named:
        wait_filled(observer, name)
    assert started.metrics().value("target_namespaces", target="two", state="ready") == 2


def test_every_configuration_of_the_page_is_valid(tmp_path: Path) -> None:
    parts = ("limits:", "grants:")
    found = [text for text in blocks("yaml") if "targets:" in text or text.startswith(parts)]
    assert len(found) == 5
    for text in found:
        (tmp_path / "config.yaml").write_text(text)
        load(tmp_path / "config.yaml")


def test_every_command_of_the_page_is_run_by_a_test() -> None:
    sections = ("Roll it out", "Select namespaces", ROTATORS, FLUX)
    assert [len(blocks("sh", section)) for section in sections] == [2, 1, 3, 1]
    assert len(blocks("sh")) == 7


@pytest.fixture
def reader(cluster: Cluster, manifests: str, tmp_path: Path) -> Iterator[Reader]:
    """Somebody who follows the page; afterwards the base again."""
    reader = Reader(cluster, tmp_path)
    yield reader
    for path in sorted(tmp_path.glob("*/kustomization.yaml")):
        if path.parent.name != "manifests":
            remove(cluster, cluster.kubectl("kustomize", str(path.parent)).stdout, manifests)
    cluster.kubectl("delete", "secret", "crusoe-secrets", "-n", "pull-secret-updater", "--ignore-not-found")
    for namespace in reader.names.values():
        cluster.kubectl("delete", "secrets", "--all", "-n", namespace)
        cluster.kubectl("delete", "namespace", namespace, "--ignore-not-found", "--wait=false")


def test_the_rollout_of_the_page_works_as_it_stands(
    reader: Reader, controller: Start, cluster: Cluster, observer: Observer
) -> None:
    assert reader.write("rollout") == ["config.yaml", "kustomization.yaml"]
    targets, (team_a, team_b, _) = reader.config("rollout")["targets"], reader.names.values()
    filled = filled_for(targets[0]["identity"])
    first, second = blocks("sh", "Roll it out")
    (opt_out,) = blocks("sh", "Select namespaces")
    reader.give(first)
    _wait_for_policies(cluster)
    account = f"/api/v1/namespaces/{team_a}/serviceaccounts"
    cluster.api.post(account, {"metadata": {"name": "default"}})
    controller(config={"targets": targets})
    observer.wait(team_a, filled, timeout=FILL_SECONDS)

    def attached() -> bool:
        return {"name": "pull-secret"} in cluster.api.get(f"{account}/default").get("imagePullSecrets", [])

    eventually(attached, timeout=FILL_SECONDS, what="attached")
    assert team_a in reader.give(second)
    observer.wait(team_b, filled, timeout=FILL_SECONDS)
    reader.give(opt_out)
    eventually(lambda: not exists(cluster.api, team_a), timeout=FILL_SECONDS, what="removed")
    assert not attached()


@pytest.fixture
def flux(cluster: Cluster) -> Iterator[None]:
    """The API server knows Flux's ImageRepository."""
    definition = json.dumps(image_repositories())
    cluster.kubectl("apply", "-f", "-", input=definition)
    cluster.kubectl("wait", "--for=condition=Established", "-f", "-", "--timeout=30s", input=definition)
    yield
    cluster.kubectl("delete", "-f", "-", "--wait=false", input=definition)


@pytest.mark.usefixtures("flux")
def test_a_tenant_of_flux_finds_the_secret_that_its_image_repository_names_and_a_sync_leaves_it(
    reader: Reader, controller: Start, cluster: Cluster, observer: Observer
) -> None:
    reader.write("rollout")
    assert reader.write("tenant") == ["imagerepository.yaml", "namespace.yaml"]
    installed.install(cluster, installed.render(reader.directory / "rollout", cluster=cluster))
    _wait_for_policies(cluster)
    targets, name = reader.config("rollout")["targets"], reader.names["team-a"]
    controller(config={"targets": targets})
    (by_hand,) = blocks("sh", FLUX)
    assert "hello" in reader.give(by_hand)

    path = f"/apis/image.toolkit.fluxcd.io/v1/namespaces/{name}/imagerepositories/hello"
    spec = cluster.api.get(path)["spec"]
    host = spec["image"].split("/")[0]
    filled, named = filled_for(targets[0]["identity"], host), spec["secretRef"]["name"]
    found = observer.wait(name, filled, name=named, timeout=FILL_SECONDS).secret
    flux_applies = ("apply", "--server-side", "--force-conflicts", "--field-manager=kustomize-controller")
    cluster.kubectl(*flux_applies, "-f", str(reader.directory / "tenant"))
    assert cluster.api.get(f"/api/v1/namespaces/{name}/secrets/{named}") == found


def test_a_rotator_for_listed_namespaces_is_replaced_as_the_page_says(
    reader: Reader, controller: Start, cluster: Cluster, observer: Observer
) -> None:
    assert reader.write("rotator") == ["config.yaml", "kustomization.yaml"]
    config, (team_a, team_b, system) = reader.config("rotator"), reader.names.values()
    keys = {"access_key": "AK-puller", "secret_key": secrets.token_urlsafe(32)}
    for name in reader.names.values():
        cluster.kubectl("create", "namespace", name)
    cluster.kubectl("apply", "-n", system, "-f", "-", input=ROTATOR % tuple(keys.values()))
    old = ("crusoe-image-pull-secrets", "--docker-server=x.example", "--docker-username=x", "--docker-password=x")
    for name in (team_a, team_b):
        cluster.kubectl("create", "secret", "docker-registry", *old, "-n", name)
    install, stop, clean_up = blocks("sh", ROTATORS)
    reader.give(install)
    _wait_for_targets_policy(cluster, team_a)

    mounted = cluster.api.get("/api/v1/namespaces/pull-secret-updater/secrets/crusoe-secrets")["data"]
    for key, value in mounted.items():  # as the kubelet mounts it at /var/run/crusoe
        (reader.directory / key).write_bytes(base64.b64decode(value))
    crusoe = Crusoe(time.time, **keys)
    settings = config["providers"]["crusoe"]
    host, alias = settings["registries"][0], settings["alias"]
    files = {"accessKey": "CRUSOE_ACCESS_KEY", "secretKey": "CRUSOE_SECRET_KEY"}
    settings |= {key: {"file": str(reader.directory / name)} for key, name in files.items()}

    def holds_the_token(secret: Object) -> bool:
        user, password = kubelet.credentials(secret).get(host, ("", ""))
        return user == "puller@acme.example" and password in crusoe.minted

    with Servers() as servers:
        settings["apiUrl"] = f"{servers.serve(Wire(crusoe, clock=time.time))}/v1"
        controller(config={key: config[key] for key in ("providers", "targets")})
        for name in (team_a, team_b):
            observer.wait(name, holds_the_token, timeout=FILL_SECONDS)
        cluster.issued_tokens.extend(crusoe.minted)
        assert [each.get("alias") for each in crusoe.wanted] == [alias], "one token, for both, that can be cleaned up"
        assert reader.give(stop).count("Z20") == 1, "both say until when"
        rotator = cluster.api.get(f"/apis/batch/v1/namespaces/{system}/cronjobs/crusoe-registry-token-rotator")
        assert rotator["spec"]["suspend"] is True
        reader.give(clean_up)
        left = {each["metadata"]["name"] for each in cluster.api.items(f"/api/v1/namespaces/{team_a}/secrets")}
        assert left == {"pull-secret"}
        cluster.api.delete(f"/api/v1/namespaces/{team_b}/secrets/pull-secret")
        eventually(lambda: exists(cluster.api, team_b), timeout=AT_ONCE_SECONDS, what="created where it is missing")
