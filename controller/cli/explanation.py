"""What `explain` looks at, in the order of a token's way: asked for, watched, guarded, exchanged, written, used."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from controller import app
from controller.cli import installation
from controller.cli.cluster import Cluster
from controller.cli.exits import Level
from controller.cli.findings import Finding
from controller.cli.looking import CantTell, Seen, look
from controller.cli.secrets import read_secrets, read_told
from controller.cli.secretstatus import Item, Told, items_of
from controller.cli.spans import until
from controller.cli.users import read_users
from controller.config import Config
from controller.core.annotations import read_instant
from controller.core.errors import Pace, Rejection
from controller.core.model import Ref, View
from controller.core.projection import SECRET_TYPE
from controller.core.states import problem_of
from controller.kube.admission import USE_IDENTITY, policy_problems
from controller.kube.client import IDENTITY_GROUP
from controller.kube.errors import ApiError

Look = tuple[str, str, Callable[[], Awaitable[Seen]]]
"""Topic, what is true if all is good, and the look itself."""

Installed = installation.Installation | Exception
"""The installation, or why it can't be seen."""


async def explain(cluster: Cluster, *, name: str, install_namespace: str | None) -> list[Finding]:
    """The findings about one Secret of the cluster's namespace. Raises ApiError."""
    ref = Ref(cluster.namespace, name)
    found = await read_secrets(cluster, namespace=ref.namespace, names=(name,))
    told = await _told(cluster, ref)
    if found.missing:
        message = f"there is no Secret {name} in the namespace {ref.namespace} that asks for an identity"
        cure = (
            f"create it, or ask: kubectl annotate secret {name} -n {ref.namespace} {IDENTITY_GROUP}/identity=IDENTITY"
        )
        return [Finding(topic="asked", level=Level.ERROR, message=message, cure=cure)]
    try:
        installed: Installed = await installation.find(cluster, namespace=install_namespace)
    except (ApiError, installation.NotInstalled) as error:
        installed = error
    looks: list[Look] = []
    for described in found.secrets:
        items = items_of(described, told=told, now=cluster.now())
        for view, item in zip(described.secret.views(), items, strict=True):
            looks += _Claim(cluster, view, item, told, installed).looks()
    if found.unreadable:
        looks.append(("asked", "the Secret asks for an identity", _unreadable(found.unreadable, told)))
    looks.append(("used by", "a Pod or a ServiceAccount uses it", lambda: _used(cluster, ref)))
    return [await look(function, topic=topic, title=title) for topic, title, function in looks]


async def _told(cluster: Cluster, ref: Ref) -> Told | None:
    try:
        return (await read_told(cluster, namespace=ref.namespace)).get(ref)
    except ApiError:
        return None  # an Event only adds to what the Secret says


def _unreadable(why: str, told: Told | None) -> Callable[[], Awaitable[Seen]]:
    async def seen() -> Seen:
        raise CantTell(f"{why}; the controller's latest Event: {told.message}" if told else why)

    return seen


@dataclass(frozen=True, slots=True)
class _Claim:
    """The looks at one identity that a Secret asks for."""

    cluster: Cluster
    view: View
    item: Item
    told: Told | None
    installed: Installed

    def looks(self) -> Iterator[Look]:
        """In order."""
        of = f" ({self.view.claim.name})" if self.view.claim.name else ""
        yield f"asked{of}", "a configured provider serves this identity", self._asked
        if not of:
            yield "type", f"the Secret's type is {SECRET_TYPE}", self._type
            yield "watched", "the controller watches this Secret", self._watched
            yield "guarded", "only who may use the identity can ask for it", self._guarded
        yield f"exchange{of}", "the issuer gives a token", self._exchange
        yield f"written{of}", "a valid token is in place", self._written

    def _config(self) -> tuple[installation.Installation, Config]:
        """Raises CantTell, NotInstalled, ApiError."""
        if isinstance(self.installed, Exception):
            raise self.installed
        if self.installed.config is None:
            raise CantTell(self.installed.unreadable or "the controller's configuration is not valid, see doctor")
        return self.installed, self.installed.config

    async def _asked(self) -> Seen:
        claim = self.view.claim
        _, config = self._config()
        resolved = app.policy_of(config).resolve(self.view)
        if isinstance(resolved, Rejection):
            return Seen(Level.ERROR, resolved.text)
        how = "as the Secret says" if claim.provider else "from its format"
        by = (
            f"proven by the ServiceAccount {claim.service_account}"
            if claim.service_account
            else "proven by the controller"
        )
        hosts = ", ".join(resolved.hosts)
        return Seen(Level.OK, f"{claim.identity or '(empty)'} (provider {resolved.provider}, {how}) for {hosts}, {by}")

    async def _type(self) -> Seen:
        namespace, name = self.view.secret.ref
        query = {"fieldSelector": f"metadata.name={name},type={SECRET_TYPE}"}
        path = f"/api/v1/namespaces/{namespace}/secrets"
        if await self.cluster.list(path, query=query, metadata_only=True):
            return Seen(Level.OK, SECRET_TYPE)
        cure = f"delete it and create it again with --type={SECRET_TYPE}"
        return Seen(Level.ERROR, f"not {SECRET_TYPE}, and a type can't be changed", cure)

    async def _watched(self) -> Seen:
        _, config = self._config()
        if any(selector.covers(self.view.secret.ref) for selector in app.selectors_of(config)):
            return Seen(Level.OK, config.watched)
        cure = "give it a name, or put it in a namespace, that is watched; or extend secretNames or namespaces"
        return Seen(Level.ERROR, f"only {config.watched}", cure)

    async def _guarded(self) -> Seen:
        installed, config = self._config()
        if USE_IDENTITY not in app.policies_of(config):
            return await self._granted()
        prefix, client = config.policy_prefix, self.cluster.client
        found = await policy_problems(client, user=installed.user, policies=(USE_IDENTITY,), prefix=prefix)
        if problem := found[USE_IDENTITY]:
            if "can't be read" in problem:
                raise CantTell(problem)
            return Seen(Level.ERROR, f"{USE_IDENTITY}: {problem}", "kubectl apply -k manifests/")
        if config.grants.asks_namespaces:
            return await self._granted()
        return Seen(Level.OK, f"the policy {USE_IDENTITY} is in force: it asks of whoever writes the Secret")

    async def _granted(self) -> Seen:
        claim, namespace = self.view.claim, self.view.secret.ref.namespace
        group = f"system:serviceaccounts:{namespace}"
        name = f"{claim.provider}:{claim.identity}" if claim.provider else claim.identity
        if await self.cluster.client.may_use(name, namespace, group=group):
            return Seen(Level.OK, f"the group {group} may use {name}")
        cure = "ask whoever manages RBAC for a RoleBinding, as docs/tenancy.md shows"
        return Seen(Level.ERROR, f"the group {group} may not use {name}", cure)

    async def _exchange(self) -> Seen:
        item, claim = self.item, self.view.claim
        if item.reason is not None and (problem := problem_of(item.reason)) is not None:
            sentence, _, cure = (item.message or "").partition("; ")
            level = Level.WARNING if problem.pace is Pace.FAST and item.level != "error" else Level.ERROR
            return Seen(level, sentence + self._tries(), cure or None)
        if item.paused:
            return Seen(Level.WARNING, "paused: no token is asked for", "remove the annotation paused")
        if claim.issued_at is None:
            cure = "see that the controller runs: pull-secret-updater doctor"
            return Seen(Level.ERROR, "no token yet, and the controller says nothing of it", cure)
        return Seen(Level.OK, f"the last token was issued {until(claim.issued_at, self.cluster.now())}")

    def _tries(self) -> str:
        told = self.told
        if told is None or told.reason != self.item.reason:
            return ""
        since = read_instant(told.first_at)
        ago = "" if since is None else f", first {until(since, self.cluster.now())}"
        return f" (told {told.times} {'time' if told.times == 1 else 'times'}{ago})"

    async def _written(self) -> Seen:
        now, item = self.cluster.now(), self.item
        ends, next_at = read_instant(item.expires_at), read_instant(item.refresh_at)
        if ends is None:
            return Seen(Level.ERROR, "no token is in place")
        if ends <= now:
            return Seen(Level.ERROR, f"the last good token expired {until(ends, now)}; it is kept, not wiped")
        refreshed = "" if next_at is None else f", next refresh {until(next_at, now) if next_at > now else 'now'}"
        return Seen(Level.OK, f"token ends {until(ends, now)}{'' if item.paused else refreshed}")


async def _used(cluster: Cluster, ref: Ref) -> Seen:
    users = await read_users(cluster, namespace=ref.namespace)
    pods, failing = users.pods.get(ref, []), users.failing.get(ref, [])
    accounts = users.accounts.get(ref, [])
    parts = [
        f"{len(pods)} {'Pod' if len(pods) == 1 else 'Pods'}" + (f" ({len(failing)} can't pull)" if failing else ""),
        *(f"ServiceAccount {account}" for account in accounts),
    ]
    if not pods and not accounts:
        return Seen(Level.WARNING, "nobody", "name it in imagePullSecrets of a Pod or a ServiceAccount")
    cure = f"kubectl describe pod -n {ref.namespace} {failing[0]}" if failing else None
    return Seen(Level.ERROR if failing else Level.OK, ", ".join(parts), cure)
