"""What `doctor` looks at: for each check of checks.py a function that looks, and says what it found.

A function returns nothing but what it has seen. What may not be seen, or can't be reached, is a `?`, and the next check
goes on.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec

from controller import __version__, app
from controller.cli import installation
from controller.cli.checks import CHECKS, Check
from controller.cli.cluster import Cluster
from controller.cli.exits import Level
from controller.cli.findings import Finding
from controller.cli.looking import CantTell, Seen, look
from controller.cli.secrets import Found, read_secrets, read_told
from controller.cli.secretstatus import Item, items_of
from controller.cli.users import Users, read_users
from controller.config import Config
from controller.core.jwt import jwt_claim, jwt_header
from controller.core.model import Ref
from controller.kube.admission import OTHER_NAME, OWN_WRITES, USE_IDENTITY, policy_problems
from controller.kube.answers import read_access
from controller.kube.client import Selector
from controller.kube.errors import ApiError, Forbidden

OLDEST_MINOR = 30
SKEW_WARNS_SECONDS, SKEW_FAILS_SECONDS = 10.0, 120.0
_PRIVATE = re.compile(r"https://(kubernetes|localhost|127\.|[^/:]*\.(local|svc|internal))\b")
"""Hosts of issuers that only the cluster itself knows."""
_NAMED = 3
"""Secrets that a finding names."""


class _Version(msgspec.Struct, frozen=True, rename="camel"):
    git_version: str = ""


class _Labelled(msgspec.Struct, frozen=True):
    labels: dict[str, str] = {}


class _Object(msgspec.Struct, frozen=True):
    metadata: _Labelled = _Labelled()


class _Resource(msgspec.Struct, frozen=True):
    name: str


class _Resources(msgspec.Struct, frozen=True):
    resources: list[_Resource] = []


class _Discovery(msgspec.Struct, frozen=True):
    issuer: str = ""


class _Key(msgspec.Struct, frozen=True):
    kid: str = ""


class _Keys(msgspec.Struct, frozen=True):
    keys: list[_Key] = []


class Diagnosis:
    """See the module. What several checks need is asked for once."""

    def __init__(self, cluster: Cluster, *, namespace: str | None, install_namespace: str | None) -> None:
        self._cluster = cluster
        self._namespace = namespace
        """Whose Secrets are looked at; None for all."""
        self._install_namespace = install_namespace
        self._asked: dict[str, asyncio.Task[Any]] = {}
        self._looks: dict[str, Callable[[], Awaitable[Seen]]] = {
            "PSU-101": self._server,
            "PSU-102": self._version,
            "PSU-103": self._clock,
            "PSU-104": self._admission_api,
            "PSU-201": self._deployment,
            "PSU-202": self._same_version,
            "PSU-203": self._configuration,
            "PSU-204": self._namespace_restricted,
            "PSU-301": self._secret_rights,
            "PSU-302": self._event_rights,
            "PSU-303": self._policy_rights,
            "PSU-304": self._no_wider_rights,
            "PSU-401": lambda: self._policy(USE_IDENTITY),
            "PSU-402": lambda: self._policy(OWN_WRITES),
            "PSU-403": lambda: self._policy(OTHER_NAME),
            "PSU-404": self._refusal,
            "PSU-501": self._audiences,
            "PSU-502": self._issuer,
            "PSU-503": self._key,
            "PSU-601": self._valid,
            "PSU-602": lambda: self._none("Contested", "reverted by somebody"),
            "PSU-603": lambda: self._none("Foreign", "unreadable for kubelets"),
            "PSU-604": self._missing,
            "PSU-605": self._unused,
        }

    async def run(self, *, pre: bool, groups: Collection[str] = ()) -> list[Finding]:
        """The findings in the order of the table, of these groups or all; with `pre` what needs no installation."""
        # All at once, so that a server that doesn't answer costs one time limit and not 24.
        wanted = [check for check in CHECKS if (check.pre or not pre) and (not groups or check.group in groups)]
        return await asyncio.gather(*map(self._look, wanted))

    async def _look(self, check: Check) -> Finding:
        found = await look(self._looks[check.id], topic=check.group, title=check.title, cure=check.cure)
        return msgspec.structs.replace(found, id=check.id, page=check.page)

    async def _once(self, name: str, ask: Callable[[], Awaitable[Any]]) -> Any:
        if name not in self._asked:
            self._asked[name] = asyncio.ensure_future(ask())
        return await self._asked[name]

    async def _installation(self) -> installation.Installation:
        found: installation.Installation = await self._once(
            "installation", lambda: installation.find(self._cluster, namespace=self._install_namespace)
        )
        return found

    async def _config(self) -> tuple[installation.Installation, Config]:
        installed = await self._installation()
        if installed.config is None:
            raise CantTell(installed.unreadable or "the configuration is not valid, see PSU-203")
        return installed, installed.config

    # cluster

    async def _server(self) -> Seen:
        user = await self._cluster.client.who_am_i()
        return Seen(Level.OK, f"{self._cluster.url} knows us as {user}")

    async def _version(self) -> Seen:
        body = await self._cluster.get("/version")
        version = msgspec.json.decode(body, type=_Version).git_version
        match = re.match(r"v1\.(\d+)\.", version)
        if match is None:
            raise CantTell("its version is not one of Kubernetes")
        level = Level.OK if int(match[1]) >= OLDEST_MINOR else Level.ERROR
        return Seen(level, f"Kubernetes {version}")

    async def _clock(self) -> Seen:
        await self._cluster.get("/version")
        skew = self._cluster.skew_seconds
        if abs(skew) < SKEW_WARNS_SECONDS:
            return Seen(Level.OK, "our clock and the API server's agree")
        side = "behind" if skew > 0 else "ahead of"
        level = Level.ERROR if abs(skew) >= SKEW_FAILS_SECONDS else Level.WARNING
        return Seen(level, f"our clock is {abs(skew):.0f} s {side} the API server's")

    async def _admission_api(self) -> Seen:
        body = await self._cluster.get("/apis/admissionregistration.k8s.io/v1")
        served = {resource.name for resource in msgspec.json.decode(body, type=_Resources).resources}
        if "validatingadmissionpolicies" in served:
            return Seen(Level.OK, "ValidatingAdmissionPolicy is served")
        return Seen(Level.ERROR, "ValidatingAdmissionPolicy is not served")

    # install

    async def _deployment(self) -> Seen:
        try:
            installed = await self._installation()
        except installation.NotInstalled as error:
            return Seen(Level.ERROR, str(error))
        what = (
            f"Deployment {installed.namespace}/{installed.name}: {installed.available} of {installed.wanted} available"
        )
        return Seen(Level.OK if installed.available >= max(installed.wanted, 1) else Level.ERROR, what)

    async def _same_version(self) -> Seen:
        installed = await self._installation()
        if installed.version is None:
            raise CantTell(f"neither the image {installed.image} nor a label of the Deployment has a version")
        level = Level.OK if installed.version == __version__ else Level.WARNING
        return Seen(level, f"controller {installed.version}, this command {__version__}")

    async def _configuration(self) -> Seen:
        installed = await self._installation()
        if installed.unreadable:
            raise CantTell(installed.unreadable)
        if installed.config is None:
            return Seen(Level.ERROR, "; ".join(installed.problems))
        if warnings := installed.config.warnings:
            return Seen(Level.WARNING, "; ".join(warnings))
        return Seen(Level.OK, f"valid; it watches {installed.config.watched}")

    async def _namespace_restricted(self) -> Seen:
        name = (await self._installation()).namespace
        body = await self._cluster.get(f"/api/v1/namespaces/{name}", metadata_only=True)
        level = msgspec.json.decode(body, type=_Object).metadata.labels.get("pod-security.kubernetes.io/enforce")
        if level == "restricted":
            return Seen(Level.OK, f"the namespace {name} enforces restricted")
        return Seen(Level.WARNING, f"the namespace {name} enforces {level or 'nothing'}")

    # rights

    async def _may(self, verb: str, attributes: Mapping[str, str]) -> bool:
        """Whether the controller may. Raises ApiError."""
        user = (await self._installation()).user
        wanted = {"verb": verb, **attributes}
        kind, spec = "SelfSubjectAccessReview", {"resourceAttributes": wanted}
        if user != await self._once("me", self._cluster.client.who_am_i):
            kind, spec = "SubjectAccessReview", {**spec, "user": user, "groups": _groups(user)}  # type: ignore[dict-item]
        what = f"create {kind.lower()}s"
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}
        path = f"/apis/authorization.k8s.io/v1/{kind.lower()}s"
        return read_access(await self._cluster.send("POST", path, what=what, body=body), what)

    async def _all_of(self, wanted: Sequence[tuple[str, Mapping[str, str]]], *, what: str) -> Seen:
        lacking = [
            f"{verb} {attributes['resource']} {attributes.get('name', '')}".rstrip()
            for verb, attributes in wanted
            if not await self._may(verb, attributes)
        ]
        if lacking:
            return Seen(Level.ERROR, f"the controller may not {', '.join(lacking)}")
        return Seen(Level.OK, what)

    async def _secret_rights(self) -> Seen:
        _, settings = await self._config()
        lacking = [
            f"{verb} {selector}"
            for selector in app.selectors_of(settings)
            for verb in ("get", "list", "watch", "patch")
            if not await self._may(verb, _attributes(selector))
        ]
        if lacking:
            return Seen(Level.ERROR, f"the controller may not {'; '.join(lacking)}")
        return Seen(Level.OK, f"the controller may get, list, watch and patch {settings.watched}")

    async def _event_rights(self) -> Seen:
        wanted = [(verb, {"resource": "events"}) for verb in ("create", "patch")]
        return await self._all_of(wanted, what="the controller may create and patch Events")

    async def _policy_rights(self) -> Seen:
        _, settings = await self._config()
        names = [
            settings.policy_prefix + name.removeprefix("pull-secret-updater") for name in app.policies_of(settings)
        ]
        group = "admissionregistration.k8s.io"
        wanted = [
            ("get", {"group": group, "resource": resource, "name": name})
            for resource in ("validatingadmissionpolicies", "validatingadmissionpolicybindings")
            for name in names
        ]
        return await self._all_of(wanted, what="the controller may read its admission policies")

    async def _no_wider_rights(self) -> Seen:
        _, settings = await self._config()
        everything = await self._may("list", _attributes(Selector(None, None)))
        if everything and settings.scope != "cluster":
            return Seen(Level.WARNING, f"the controller may list every Secret, but watches {settings.watched}")
        if everything:
            return Seen(Level.OK, "the controller may list every Secret, as scope cluster needs")
        return Seen(Level.OK, "the controller can't list all Secrets")

    # policies

    async def _policy(self, name: str) -> Seen:
        installed, settings = await self._config()
        needed = app.policies_of(settings)
        if name not in needed:
            return Seen(Level.OK, f"{name} is not needed with this configuration")
        client, user, prefix = self._cluster.client, installed.user, settings.policy_prefix
        problem = (await policy_problems(client, user=user, policies=needed, prefix=prefix))[name]
        if problem is None:
            return Seen(Level.OK, f"{name} is in force for {installed.user}")
        if "can't be read" in problem:
            raise CantTell(problem)
        return Seen(Level.ERROR, f"{name}: {problem}")

    async def _refusal(self) -> Seen:
        """A Secret of a type that can't be filled must not ask for an identity: other-name and use-identity say so."""
        installed = await self._installation()
        metadata = {
            "generateName": "doctor-",
            "namespace": installed.namespace,
            "annotations": {"pull-secret-updater.chainguard.dev/identity": "doctor"},
        }
        path = f"/api/v1/namespaces/{installed.namespace}/secrets"
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque"}
        try:
            await self._cluster.send("POST", path, what="create secrets", query={"dryRun": "All"}, body=body)
        except Forbidden as error:
            if "ValidatingAdmissionPolicy" not in error.why:
                raise
            return Seen(Level.OK, f"a Secret that can't be filled may not ask for an identity: {error.why}")
        return Seen(Level.ERROR, "a Secret that can't be filled may ask for an identity (tried by a dry run)")

    # identity

    async def _audiences(self) -> Seen:
        installed, settings = await self._config()
        wanted = {name: audience for name, each in settings.providers.items() if (audience := _audience(each))}
        lacking = [
            f"{audience} of provider {name}" for name, audience in wanted.items() if audience not in installed.audiences
        ]
        if lacking:
            return Seen(Level.WARNING, f"the Deployment mounts no token for the audience {', '.join(lacking)}")
        return Seen(Level.OK, f"tokens for {', '.join(sorted(set(wanted.values()))) or 'no audience'}")

    async def _discovered(self) -> str:
        async def ask() -> str:
            body = await self._cluster.get("/.well-known/openid-configuration")
            return msgspec.json.decode(body, type=_Discovery).issuer

        issuer: str = await self._once("issuer", ask)
        return issuer

    async def _issuer(self) -> Seen:
        issuer = await self._discovered()
        is_private = not issuer.startswith("https://") or re.match(
            r"https://(kubernetes|[^/]*\.(local|svc|internal))\b", issuer
        )
        if is_private:
            return Seen(Level.WARNING, f"the cluster's issuer is {issuer}, which no vendor can reach")
        return Seen(Level.OK, f"the cluster's issuer is {issuer}")

    async def _key(self) -> Seen:
        installed, issuer = await self._installation(), await self._discovered()
        audience = next(iter(sorted(filter(None, installed.audiences))), "pull-secret-updater-doctor")
        token = await self._cluster.client.create_token(
            Ref(installed.namespace, installed.service_account),
            audience=audience,
            seconds=600,
            secret=None,
            total_seconds=30.0,
        )
        body = await self._cluster.get("/openid/v1/jwks", accept="application/jwk-set+json")
        keys = msgspec.json.decode(body, type=_Keys).keys
        if jwt_claim(token, "iss") != issuer:
            return Seen(Level.ERROR, f"the token's issuer is {jwt_claim(token, 'iss')}, but discovery says {issuer}")
        if jwt_header(token, "kid") not in {key.kid for key in keys}:
            return Seen(Level.ERROR, "the token is signed with a key that /openid/v1/jwks doesn't have")
        return Seen(Level.OK, f"sub {jwt_claim(token, 'sub')}  iss {issuer}  key {jwt_header(token, 'kid')}")

    # Secrets

    async def _items(self) -> tuple[Found, list[Item]]:
        async def ask() -> tuple[Found, list[Item]]:
            found = await read_secrets(self._cluster, namespace=self._namespace)
            try:
                told = await read_told(self._cluster, namespace=self._namespace)
            except ApiError:
                told = {}  # they only explain
            now = self._cluster.now()
            pairs = [(each, told.get(each.secret.ref)) for each in found.secrets]
            return found, [item for each, event in pairs for item in items_of(each, told=event, now=now)]

        read: tuple[Found, list[Item]] = await self._once("items", ask)
        if read[0].unreadable and not read[1]:
            raise CantTell(read[0].unreadable)
        return read

    async def _users(self) -> Users:
        users: Users = await self._once("users", lambda: read_users(self._cluster, namespace=self._namespace))
        return users

    async def _valid(self) -> Seen:
        found, items = await self._items()
        bad = [item for item in items if item.level == "error" and item.state not in ("Contested", "Foreign")]
        if bad:
            listed = _some([f"{item.namespace}/{item.name} is {item.state}" for item in bad])
            return Seen(Level.ERROR, f"{len(bad)} of {len(items)}: {listed}")
        return self._all_seen(found, f"{len(items)} without a problem")

    async def _none(self, state: str, what: str) -> Seen:
        found, items = await self._items()
        bad = [item for item in items if item.state == state]
        if bad:
            return Seen(Level.ERROR, f"{what}: {_some([f'{item.namespace}/{item.name}' for item in bad])}")
        return self._all_seen(found, f"none of {len(items)} is {what}")

    async def _missing(self) -> Seen:
        found, items = await self._items()
        users = await self._users()
        there = {Ref(item.namespace, item.name) for item in items}
        asked = {ref.name for ref in there} | set(_watched_names(await self._config()))
        missing = sorted(ref for ref in users.named if ref.name in asked and ref not in there)
        if missing:
            return Seen(Level.ERROR, f"{_some(['/'.join(ref) for ref in missing])}: named but not there, or not asking")
        return self._all_seen(found, f"{len(users.named & there)} named, and there")

    async def _unused(self) -> Seen:
        found, items = await self._items()
        users = await self._users()
        unused = sorted({Ref(item.namespace, item.name) for item in items} - users.named)
        if unused:
            return Seen(Level.WARNING, f"{_some(['/'.join(ref) for ref in unused])}: used by nobody")
        return self._all_seen(found, f"all of {len(items)} are used")

    @staticmethod
    def _all_seen(found: Found, message: str) -> Seen:
        """Good, if these are all there are. Raises CantTell."""
        if found.unreadable:
            raise CantTell(found.unreadable)
        return Seen(Level.OK, message)


def _attributes(selector: Selector) -> Mapping[str, str]:
    """As an access review has them."""
    return {"resource": selector.resource, "namespace": selector.namespace or "", "name": selector.name or ""}


def _groups(user: str) -> list[str]:
    """Those that a ServiceAccount is in."""
    return ["system:serviceaccounts", f"system:serviceaccounts:{user.split(':')[2]}", "system:authenticated"]


def _audience(settings: object) -> str | None:
    """Of the proof that a provider presents; None if that can't be told from its settings alone."""
    audience = getattr(settings, "proof_audience", None) or getattr(settings, "audience", None)
    return audience if isinstance(audience, str) else None


def _watched_names(known: tuple[installation.Installation, Config]) -> Sequence[str]:
    return known[1].secret_names if known[1].scope == "name" else ()


def _some(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _NAMED} more" if len(texts) > _NAMED else ""
    return ", ".join(texts[:_NAMED]) + more
