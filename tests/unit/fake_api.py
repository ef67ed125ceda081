"""An API server in memory, behind the transport seam: it speaks status, headers and bytes.

    api = FakeApi(clock)
    api.put_secret("team-a", "pull-secret", annotations={...}, config={})
    client = api.client()       # or KubeClient(access=api.access, requests=api.transport, watches=api.transport, ...)
    api.fail("watch", 429, retry_after=7)
    assert [request.verb for request in api.requests] == ["list", "watch"]

Beside Secrets it has Namespaces and ServiceAccounts.

Its answers were compared with those of a kube-apiserver 1.37: one resource version for the whole cluster; paged lists;
watches with history and bookmarks once a minute; a watch from a version that was compacted away is answered 200 and
an ERROR event, one from a version not reached yet 200 and silence; 504 for a list from there; 409 for a merge patch
with a stale resource version, and for an apply with one over an object that is there; PartialObjectMetadata where it
is asked for.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import datetime as dt
import enum
import json
import re
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from controller.kube.client import KubeClient
from controller.net.transport import AiohttpTransport, Stream, Unreachable
from tests.unit.fake_issuer import jwt

Object = dict[str, Any]
Verb = Literal["list", "watch", "get", "create", "patch", "delete"]

BOOKMARK_SECONDS = 60.0
_TYPE = "kubernetes.io/dockerconfigjson"
_APPLY = "application/apply-patch+yaml"
_RESOURCES = {"Secret": "secrets", "Namespace": "namespaces", "ServiceAccount": "serviceaccounts"}
_PATH = re.compile(
    r"/(?:api/v1|apis/(?P<group>[^/]+)/[^/]+)(?:/namespaces/(?P<namespace>[^/]+))?/(?P<resource>[^/]+)(?:/(?P<name>.+?))?(?P<subresource>/token)?"
)
_REASONS = {
    400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 409: "Conflict", 410: "Expired",
    413: "RequestEntityTooLarge", 415: "UnsupportedMediaType", 422: "Invalid", 429: "TooManyRequests",
    500: "InternalError", 503: "ServiceUnavailable", 504: "Timeout",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked, and when."""

    at: float
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes | None
    verb: Verb
    resource: str
    namespace: str | None
    name: str | None

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body or b"null")


@dataclass(slots=True)
class Fault:
    """What to answer instead of the truth."""

    verb: Verb | None
    resource: str | None
    status: int | None
    """None breaks the connection off before any answer."""
    reason: str | None = None
    cause: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    after_seconds: float = 0.0
    times: int = 1
    namespace: str | None = None


@dataclass(slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Backup:
    """The Secrets at one moment."""

    resource_version: int
    secrets: dict[tuple[str, str], Object]


class _Refusal(Exception):
    def __init__(self, status: int, *, reason: str | None = None, cause: str | None = None) -> None:
        super().__init__(status)
        self.body = status_object(status, reason=reason, cause=cause)
        self.status = status


class _Signal(enum.Enum):
    ENDED = "the stream ends here"
    BROKEN_OFF = "the connection breaks here"


class Watch:
    """A watch that a client holds open."""

    def __init__(self, request: Request, matches: Callable[[Object], bool], *, ahead: bool) -> None:
        self.request = request
        self.matches = matches
        self.ahead = ahead
        """It began at a version that isn't reached yet."""
        self.muted = False
        self.queue: asyncio.Queue[bytes | _Signal] = asyncio.Queue()

    def send(self, data: bytes) -> None:
        """Put bytes into the stream, as they are."""
        if not self.muted:
            self.queue.put_nowait(data)


def status_object(code: int, *, reason: str | None = None, cause: str | None = None) -> Object:
    """A Kubernetes Status of a failure."""
    status: Object = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "a message"}
    status |= {"reason": reason if reason is not None else _REASONS.get(code, ""), "code": code}
    if cause is not None:
        status["details"] = {"causes": [{"reason": cause, "message": "a message"}], "retryAfterSeconds": 1}
    return status


def event_line(kind: str, obj: Object) -> bytes:
    """A line of a watch."""
    return json.dumps({"type": kind, "object": obj}, separators=(",", ":")).encode() + b"\n"


class FakeAccess:
    """An `Access` that reads its token anew after a 401 alone."""

    url = "https://fake-api.invalid"
    namespace: str | None = "pull-secret-updater"

    def __init__(self, api: FakeApi) -> None:
        self._api = api
        self._token: str | None = None
        self.reads = 0

    async def headers(self) -> dict[str, str]:
        """See Access."""
        if self._token is None:
            self._token = self._api.accepted_token
            self.reads += 1
        return {"Authorization": f"Bearer {self._token}"}

    def rejected(self) -> None:
        """See Access."""
        self._token = None

    def transport(self, connections: int) -> AiohttpTransport:
        """See Access."""
        raise NotImplementedError("a fake server takes no connections")


class FakeApi:
    """See the module."""

    def __init__(self, clock: Callable[[], float], *, resource_version: int = 1000) -> None:
        self.clock = clock
        self.transport = FakeTransport(self)
        self.access = FakeAccess(self)
        self.requests: list[Request] = []
        self.resource_version = resource_version
        self.compacted = 0
        """Watches can't begin before this version."""
        self.objects: dict[str, Object] = {}
        """Whatever else can be read, by API path."""
        self.watches: list[Watch] = []
        """Those open now."""
        self.answers_open = 0
        """Answers that a client has not let go of."""
        self.user = "system:serviceaccount:pull-secret-updater:controller"
        self.accepted_token = "token-1"
        """Any other is answered 401."""
        self.slice_bytes: int | None = None
        """The length of every chunk of a watch; None sends a line at once."""
        self.bookmarks = True
        self.gone_as_status = False
        """Answer a watch from a compacted version with HTTP 410 and not with an ERROR event."""
        self.latency_seconds = 0.0
        self.admission: Callable[[Object], None] | None = None
        """Changes what the controller writes, as somebody's mutating policy does."""
        self.always_changing: str | None = None
        """A namespace whose Secrets somebody changes just before each of our patches."""
        self.missing_namespaces: set[str] = set()
        self.grants: set[tuple[str, str]] = set()
        """(namespace, identity) that RBAC allows to the ServiceAccounts of the namespace."""
        self.authorizer_fails = False
        """Where nothing can be created."""
        self.service_accounts: set[tuple[str, str]] = set()
        """(namespace, name) of those there are."""
        self.may_create_tokens = True
        self.issued_tokens: list[str] = []
        """Of TokenRequests, in order."""
        self._managers: dict[tuple[str, str], dict[str, str]] = {}
        """Of each Secret the field managers, and when each wrote last."""
        self._secrets: dict[tuple[str, str], Object] = {}
        self._others: dict[tuple[str, str, str], Object] = {}
        """Namespaces and ServiceAccounts by resource, namespace and name."""
        self._events: dict[tuple[str, str], Object] = {}
        self._history: list[tuple[int, str, Object]] = []
        self.cached: Backup | None = None
        """What lists are answered from, where it isn't the truth."""
        self._faults: list[Fault] = []
        self._continued: dict[str, list[Object]] = {}

    # What a test does to the cluster.

    def put_secret(
        self,
        namespace: str,
        name: str,
        *,
        annotations: Mapping[str, str] | None = None,
        config: Any = None,
        data: Mapping[str, str] | None = None,
        type: str = _TYPE,  # noqa: A002 -- the field's name
        immutable: bool | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Object:
        """Create a Secret or replace it in place. `config` is .dockerconfigjson: bytes, or what is rendered as JSON."""
        before = self._secrets.get((namespace, name))
        if config is not None:
            raw = config if isinstance(config, bytes) else json.dumps(config).encode()
            data = {**(data or {}), ".dockerconfigjson": base64.b64encode(raw).decode()}
        metadata: Object = {"namespace": namespace, "name": name}
        metadata["uid"] = before["metadata"]["uid"] if before else str(uuid.UUID(int=self.resource_version + 1))
        metadata["creationTimestamp"] = before["metadata"]["creationTimestamp"] if before else self._timestamp()
        if annotations is not None:
            metadata["annotations"] = dict(annotations)
        if labels is not None:
            metadata["labels"] = dict(labels)
        secret: Object = {"kind": "Secret", "apiVersion": "v1", "metadata": metadata, "type": type}
        if data is not None:
            secret["data"] = dict(data)
        if immutable is not None:
            secret["immutable"] = immutable
        return self._store(secret)

    def annotate(self, namespace: str, name: str, annotations: Mapping[str, str | None]) -> Object:
        """Set annotations; None removes one."""
        return self.merge_patch(namespace, name, {"metadata": {"annotations": dict(annotations)}})

    def merge_patch(self, namespace: str, name: str, patch: Object, *, manager: str = "kubectl-edit") -> Object:
        """Change a Secret as somebody else would."""
        self._managers.setdefault((namespace, name), {})[manager] = self._timestamp()
        return self._store(_merged(self._secrets[namespace, name], patch))

    def delete_secret(self, namespace: str, name: str) -> None:
        """Delete a Secret; its last version goes out with the resource version of the deletion."""
        secret = self._secrets.pop((namespace, name))
        self.resource_version += 1
        last = {**secret, "metadata": {**secret["metadata"], "resourceVersion": str(self.resource_version)}}
        self._publish("DELETED", last)

    def put_namespace(
        self, name: str, *, labels: Mapping[str, str] | None = None, targets: str | None = None, ending: bool = False
    ) -> None:
        """Create a Namespace, or replace its labels; `targets` is our annotation."""
        metadata: Object = {"name": name, "uid": f"namespace-{name}", "labels": {"kubernetes.io/metadata.name": name}}
        if targets is not None:
            metadata["annotations"] = {"pull-secret-updater.chainguard.dev/targets": targets}
        metadata["labels"] |= labels or {}
        if ending:
            metadata["deletionTimestamp"] = self._timestamp()
        self._put_other("namespaces", "", {"kind": "Namespace", "apiVersion": "v1", "metadata": metadata})

    def delete_namespace(self, name: str) -> None:
        """Delete a Namespace and everything in it."""
        for namespace, secret in self.secrets:
            if namespace == name:
                self.delete_secret(namespace, secret)
        for resource, namespace, account in [key for key in self._others if key[1] == name]:
            self._delete_other(resource, namespace, account)
        self._delete_other("namespaces", "", name)

    def put_account(self, namespace: str, name: str = "default", *, secrets: Sequence[str] = (), **ours: str) -> None:
        """Create a ServiceAccount, or replace its imagePullSecrets."""
        before = self._others.get(("serviceaccounts", namespace, name), {"metadata": {}})
        annotations = {f"pull-secret-updater.chainguard.dev/{key}": value for key, value in ours.items()}
        metadata = {
            "namespace": namespace,
            "name": name,
            "uid": f"account-{namespace}-{name}",
            "annotations": {**before["metadata"].get("annotations", {}), **annotations},
        }
        account = {"kind": "ServiceAccount", "apiVersion": "v1", "metadata": metadata}
        pulls = {"imagePullSecrets": [{"name": secret} for secret in secrets]} if secrets else {}
        self._put_other("serviceaccounts", namespace, {**account, **pulls})

    def annotate_account(self, namespace: str, name: str, annotations: Mapping[str, str | None]) -> None:
        """Set annotations of a ServiceAccount; None removes one."""
        before = self._others["serviceaccounts", namespace, name]
        patch = {"metadata": {"annotations": dict(annotations)}}
        self._put_other("serviceaccounts", namespace, _merged(before, patch))

    def account(self, namespace: str, name: str) -> Object:
        """A copy of a ServiceAccount."""
        return copy.deepcopy(self._others["serviceaccounts", namespace, name])

    def pull_secrets(self, namespace: str, name: str = "default") -> list[str]:
        """The imagePullSecrets of a ServiceAccount."""
        account = self._others["serviceaccounts", namespace, name]
        return [each["name"] for each in account.get("imagePullSecrets", [])]

    def _put_other(self, resource: str, namespace: str, obj: Object) -> Object:
        key = resource, namespace, obj["metadata"]["name"]
        self.resource_version += 1
        stored = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self.resource_version)}}
        kind = "MODIFIED" if key in self._others else "ADDED"
        self._others[key] = stored
        self._publish(kind, stored)
        return copy.deepcopy(stored)

    def _delete_other(self, resource: str, namespace: str, name: str) -> None:
        obj = self._others.pop((resource, namespace, name))
        self.resource_version += 1
        self._publish(
            "DELETED", {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self.resource_version)}}
        )

    def secret(self, namespace: str, name: str) -> Object:
        """A copy of a Secret; KeyError where there is none."""
        return copy.deepcopy(self._secrets[namespace, name])

    def config(self, namespace: str, name: str) -> Any:
        """The .dockerconfigjson of a Secret, decoded; bytes that are no UTF-8 are replaced, as Go does."""
        return json.loads(self.content(namespace, name).decode("utf-8", "replace"))

    def content(self, namespace: str, name: str) -> bytes:
        """The bytes of .dockerconfigjson."""
        return base64.b64decode(self._secrets[namespace, name]["data"][".dockerconfigjson"])

    @property
    def secrets(self) -> list[tuple[str, str]]:
        """(namespace, name) of all Secrets."""
        return sorted(self._secrets)

    def versions(self, *, having: str) -> dict[tuple[str, str], str]:
        """The resource versions of the Secrets that carry an annotation."""
        found = {key: secret["metadata"] for key, secret in self._secrets.items()}
        return {key: each["resourceVersion"] for key, each in found.items() if having in each.get("annotations", {})}

    @property
    def events(self) -> list[Object]:
        """All Events, oldest first."""
        return copy.deepcopy(list(self._events.values()))

    def forget_events(self) -> None:
        """As after their time to live."""
        self._events.clear()

    def compact(self) -> None:
        """Forget the history, and what continued lists would need."""
        self.compacted = self.resource_version
        self._history.clear()
        self._continued.clear()

    def backup(self) -> Backup:
        """What `restore` brings back."""
        return Backup(self.resource_version, copy.deepcopy(self._secrets))

    def restore(self, backup: Backup, *, restart: bool = True) -> None:
        """Go back in time, as a cluster does whose etcd is restored.

        Without a `restart` of the API server its watch cache doesn't notice: lists are answered from what was there
        before, and open watches stay open and are silent.
        """
        self.cached = None if restart else self.backup()
        self.resource_version, self._secrets = backup.resource_version, copy.deepcopy(backup.secrets)
        self._history.clear()
        if restart:
            self.break_off_watches()
        else:
            self.mute_watches()

    # What a test does to the answers.

    def fail(
        self,
        verb: Verb | None,
        status: int | None,
        *,
        resource: str | None = None,
        reason: str | None = None,
        cause: str | None = None,
        retry_after: float | None = None,
        body: bytes | None = None,
        after_seconds: float = 0.0,
        times: int = 1,
        namespace: str | None = None,
    ) -> None:
        """Answer the next requests with a failure; None for `status` refuses the connection."""
        headers = {} if retry_after is None else {"retry-after": f"{retry_after:g}"}
        fault = Fault(verb, resource, status, reason, cause, headers, body, after_seconds, times, namespace)
        self._faults.append(fault)

    def heal(self) -> None:
        """Forget every fault."""
        self._faults.clear()

    def end_watches(self) -> None:
        """End every open watch, as the server does when it shuts down."""
        for watch in self.watches:
            watch.queue.put_nowait(_Signal.ENDED)

    def break_off_watches(self, *, after: bytes = b"") -> None:
        """Break every open watch off, after some last bytes."""
        for watch in self.watches:
            watch.send(after)
            watch.queue.put_nowait(_Signal.BROKEN_OFF)

    def mute_watches(self) -> None:
        """Let nothing more through on the connections open now, and leave them open."""
        for watch in self.watches:
            watch.muted = True

    def send_to_watches(self, data: bytes) -> None:
        """Put bytes into every open watch."""
        for watch in self.watches:
            watch.send(data)

    def send_error_event(self, code: int, *, reason: str | None = None, cause: str | None = None) -> None:
        """Put an ERROR event into every open watch."""
        self.send_to_watches(event_line("ERROR", status_object(code, reason=reason, cause=cause)))

    # How requests are answered.

    def requests_of(self, verb: Verb, resource: str = "secrets") -> list[Request]:
        """The requests of one kind, in order."""
        return [request for request in self.requests if (request.verb, request.resource) == (verb, resource)]

    def client(self) -> KubeClient:
        """A client of this server."""
        return KubeClient(access=self.access, requests=self.transport, watches=self.transport, now=self.clock)

    def answer(self, request: Request) -> _Answer:
        """The answer to anything but a watch."""
        self._authenticate(request)
        answers: dict[tuple[Verb, str], Callable[[Request], _Answer]] = {
            ("get", "secrets"): lambda asked: self._object(asked, self._find(asked)),
            ("patch", "secrets"): self._patch_secret,
            ("delete", "secrets"): self._delete,
            ("get", "serviceaccounts"): lambda asked: _json(200, self._other(asked)),
            ("patch", "serviceaccounts"): self._patch_account,
            ("create", "serviceaccounts/token"): self._create_token,
            ("create", "events"): self._create_event,
            ("patch", "events"): self._patch_event,
            ("create", "subjectaccessreviews"): self._review_access,
            ("create", "selfsubjectreviews"): lambda asked: _json(
                201, {**asked.json, "status": {"userInfo": {"username": self.user}}}
            ),
        }
        if request.verb == "list":
            return _json(200, _listed_as(request.headers.get("Accept", ""), self._list(request)))
        if (answer := answers.get((request.verb, request.resource))) is not None:
            return answer(request)
        if request.verb == "get" and request.path in self.objects:
            return _json(200, self.objects[request.path])
        raise _Refusal(404 if request.verb == "get" else 405)

    def open_watch(self, request: Request) -> Watch:
        """Start a watch: what happened since its version is in its queue already."""
        self._authenticate(request)
        since = int(request.query["resourceVersion"])
        watch = Watch(request, _selector(request), ahead=since > self.resource_version)
        if since < self.compacted:
            if self.gone_as_status:
                raise _Refusal(410)
            watch.send(event_line("ERROR", status_object(410)))
            watch.queue.put_nowait(_Signal.ENDED)
        else:
            for version, kind, obj in self._history:
                if version > since and watch.matches(obj):
                    watch.send(event_line(kind, obj))
        self.watches.append(watch)
        return watch

    def take_fault(self, request: Request) -> Fault | None:
        """The next fault that is meant for this request."""
        for fault in self._faults:
            wanted = (
                (fault.verb, request.verb),
                (fault.resource, request.resource),
                (fault.namespace, request.namespace),
            )
            if all(meant in (None, asked) for meant, asked in wanted):
                fault.times -= 1
                if fault.times <= 0:
                    self._faults.remove(fault)
                return fault
        return None

    def bookmark(self) -> bytes:
        """A bookmark of now."""
        metadata = {"resourceVersion": str(self.resource_version), "creationTimestamp": None}
        return event_line("BOOKMARK", {"kind": "Secret", "apiVersion": "v1", "metadata": metadata})

    def _list(self, request: Request) -> Object:
        query = request.query
        present = self.cached or Backup(self.resource_version, self._secrets)
        if int(query.get("resourceVersion") or "0") > present.resource_version:
            raise _Refusal(504, cause="ResourceVersionTooLarge")
        if token := query.get("continue"):
            if token not in self._continued:
                raise _Refusal(410)
            version, items = token.split(".")[0], self._continued[token]
        else:
            matches = _selector(request)
            version = str(present.resource_version)
            others = [obj for _, obj in sorted(self._others.items()) if matches(obj)]
            items = [secret for _, secret in sorted(present.secrets.items()) if matches(secret)] + others
        limit = int(query.get("limit") or "0") or len(items)
        metadata: Object = {"resourceVersion": version}
        if len(items) > limit:
            metadata["continue"] = f"{version}.{len(self.requests)}"
            metadata["remainingItemCount"] = len(items) - limit
            self._continued[metadata["continue"]] = items[limit:]
        return {"kind": "SecretList", "apiVersion": "v1", "metadata": metadata, "items": items[:limit]}

    def _find(self, request: Request) -> Object:
        secret = self._secrets.get((request.namespace or "", request.name or ""))
        if secret is None:
            raise _Refusal(404)
        return secret

    def _patch_secret(self, request: Request) -> _Answer:
        if request.headers.get("Content-Type") == _APPLY:
            return self._apply(request)
        return self._object(request, self._store(self._patched(request)))

    def _apply(self, request: Request) -> _Answer:
        """A server-side apply with a resource version creates, or is refused."""
        if request.namespace in self.missing_namespaces:
            raise _Refusal(404)
        if (request.namespace or "", request.name or "") in self._secrets:
            raise _Refusal(409)
        applied: Object = request.json
        assert applied["metadata"].pop("resourceVersion") == "1"
        applied["metadata"] |= {"uid": str(uuid.UUID(int=self.resource_version + 1))}
        applied["metadata"] |= {"creationTimestamp": self._timestamp()}
        self._managers[request.namespace or "", request.name or ""] = {request.query["fieldManager"]: self._timestamp()}
        answer = self._object(request, self._store(applied))
        return _Answer(201, answer.headers, answer.body)

    def _delete(self, request: Request) -> _Answer:
        present = self._find(request)["metadata"]
        for key, value in request.json["preconditions"].items():
            if present[key] != value:
                raise _Refusal(409)
        self.delete_secret(request.namespace or "", request.name or "")
        return _json(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})

    def _other(self, request: Request) -> Object:
        obj = self._others.get((request.resource, request.namespace or "", request.name or ""))
        if obj is None:
            raise _Refusal(404)
        return obj

    def _patch_account(self, request: Request) -> _Answer:
        present, patch = self._other(request), request.json
        if patch["metadata"].get("resourceVersion") != present["metadata"]["resourceVersion"]:
            raise _Refusal(409)
        return _json(200, self._put_other("serviceaccounts", request.namespace or "", _merged(present, patch)))

    def _patched(self, request: Request) -> Object:
        """The Secret after a patch, if what that was decided on is still so."""
        if request.headers.get("Content-Type") != "application/merge-patch+json":
            raise _Refusal(415)
        if request.namespace == self.always_changing:
            self.annotate(request.namespace or "", request.name or "", {"changed": str(self.resource_version)})
        patch: Object = request.json
        wanted = patch.get("metadata", {})
        present = self._find(request)["metadata"]
        if wanted.get("resourceVersion") not in (None, present["resourceVersion"]):
            raise _Refusal(409)
        if wanted.get("uid") not in (None, present["uid"]):
            raise _Refusal(422)
        patched: Object = _merged(self._find(request), patch)
        if patched["type"] != self._find(request)["type"]:
            raise _Refusal(422)
        if self.admission is not None:
            patched = copy.deepcopy(patched)
            self.admission(patched)
        managers = self._managers.setdefault((request.namespace or "", request.name or ""), {})
        managers[request.query["fieldManager"]] = self._timestamp()
        return patched

    def _object(self, request: Request, obj: Object) -> _Answer:
        if "as=PartialObjectMetadata" in request.headers.get("Accept", ""):
            managers = self._managers.get((request.namespace or "", request.name or ""), {})
            managed = [{"manager": manager, "time": time} for manager, time in managers.items()]
            metadata = {**obj["metadata"], "managedFields": managed}
            obj = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}
        return _json(200, obj)

    def _create_event(self, request: Request) -> _Answer:
        event: Object = request.json
        key = event["metadata"]["namespace"], event["metadata"]["name"]
        if request.namespace != key[0] or event["involvedObject"]["namespace"] != key[0]:
            raise _Refusal(400)
        if key in self._events:
            raise _Refusal(409, reason="AlreadyExists")
        self.resource_version += 1
        event["metadata"]["resourceVersion"] = str(self.resource_version)
        self._events[key] = event
        return self._object(request, event)

    def _patch_event(self, request: Request) -> _Answer:
        key = request.namespace or "", request.name or ""
        if key not in self._events:
            raise _Refusal(404)
        self._events[key] = _merged(self._events[key], request.json)
        return self._object(request, self._events[key])

    def _review_access(self, request: Request) -> _Answer:
        """By RBAC: the group of the namespace's ServiceAccounts may use an identity, or it may not."""
        spec = request.json["spec"]
        asked = spec["resourceAttributes"]
        assert spec["groups"] == [f"system:serviceaccounts:{asked['namespace']}", "system:authenticated"]
        assert asked["group"] == "pull-secret-updater.chainguard.dev"
        assert (asked["verb"], asked["resource"]) == ("use", "identities")
        status: Object = {"allowed": (asked["namespace"], asked["name"]) in self.grants}
        if self.authorizer_fails:
            status = {"allowed": False, "evaluationError": "a webhook didn't answer"}
        return _json(201, {**request.json, "status": status})

    def _create_token(self, request: Request) -> _Answer:
        asked: Object = request.json
        spec, namespace = asked["spec"], request.namespace or ""
        if not self.may_create_tokens:
            raise _Refusal(403)
        known = ("serviceaccounts", namespace, request.name) in self._others
        if not known and (namespace, request.name) not in self.service_accounts:
            raise _Refusal(404)
        if (bound := spec.get("boundObjectRef")) is not None:
            secret = self._secrets.get((namespace, bound["name"]))
            if bound["kind"] != "Secret" or secret is None:
                raise _Refusal(404)
            if bound["uid"] != secret["metadata"]["uid"]:
                raise _Refusal(409)
        if spec["expirationSeconds"] < 600:
            raise _Refusal(422)
        sub = f"system:serviceaccount:{namespace}:{request.name}"
        exp = int(self.clock()) + spec["expirationSeconds"]
        token = jwt(aud=spec["audiences"], sub=sub, exp=exp, jti=len(self.issued_tokens))
        self.issued_tokens.append(token)
        return _json(201, {**asked, "status": {"token": token}})

    def _authenticate(self, request: Request) -> None:
        if request.headers.get("Authorization") != f"Bearer {self.accepted_token}":
            raise _Refusal(401)

    def _store(self, secret: Object) -> Object:
        """Keep a Secret at a new version; a write that changes nothing is none."""
        metadata = secret["metadata"]
        key = metadata["namespace"], metadata["name"]
        before = self._secrets.get(key)
        if before is not None and _without_version(before) == _without_version(secret):
            return copy.deepcopy(before)
        self.resource_version += 1
        stored = {**secret, "metadata": {**metadata, "resourceVersion": str(self.resource_version)}}
        self._secrets[key] = stored
        self._publish("MODIFIED" if before else "ADDED", stored)
        return copy.deepcopy(stored)

    def _publish(self, kind: str, obj: Object) -> None:
        obj = copy.deepcopy(obj)
        self._history.append((self.resource_version, kind, obj))
        for watch in self.watches:
            if watch.matches(obj) and not watch.ahead:
                watch.send(event_line(kind, obj))

    def _timestamp(self) -> str:
        return dt.datetime.fromtimestamp(int(self.clock()), dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class FakeTransport:
    """A `Transport` into a FakeApi."""

    def __init__(self, api: FakeApi) -> None:
        self._api = api

    @asynccontextmanager
    async def open(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None = None
    ) -> AsyncIterator[Stream]:
        """See Transport."""
        self._api.answers_open += 1
        try:
            async with self._answering(method, url, headers=headers, body=body) as stream:
                yield stream
        finally:
            self._api.answers_open -= 1

    @asynccontextmanager
    async def _answering(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None
    ) -> AsyncIterator[Stream]:
        api = self._api
        request = _request(api.clock(), method, url, headers, body)
        api.requests.append(request)
        fault = api.take_fault(request)
        await asyncio.sleep(fault.after_seconds if fault else api.latency_seconds)
        if fault is not None:
            if fault.status is None:
                raise Unreachable("ClientConnectorError")
            answer = _json(fault.status, status_object(fault.status, reason=fault.reason, cause=fault.cause))
            content = answer.body if fault.body is None else fault.body
            yield _Complete(fault.status, _Headers(fault.headers), content)
            return
        try:
            if request.verb == "watch":
                watch = api.open_watch(request)
            else:
                answer = api.answer(request)
                yield _Complete(answer.status, answer.headers, answer.body)
                return
        except _Refusal as refusal:
            headers = _Headers({"retry-after": "1"} if refusal.status == 504 else {})
            yield _Complete(refusal.status, headers, json.dumps(refusal.body).encode())
            return
        try:
            yield _Live(api, watch)
        finally:
            api.watches.remove(watch)


@dataclass(frozen=True, slots=True)
class _Complete:
    status: int
    headers: Mapping[str, str]
    body: bytes

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        yield self.body


class _Live:
    """The answer to a watch: lines as they come, a bookmark a minute, an end when the asked time is over."""

    status = 200

    def __init__(self, api: FakeApi, watch: Watch) -> None:
        self.headers: Mapping[str, str] = _Headers({"content-type": "application/json"})
        self._api = api
        self._watch = watch

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + int(self._watch.request.query["timeoutSeconds"])
        bookmark_at = loop.time() + BOOKMARK_SECONDS
        while True:
            try:
                async with asyncio.timeout_at(min(ends_at, bookmark_at)):
                    item = await self._watch.queue.get()
            except TimeoutError:
                if loop.time() >= bookmark_at:
                    bookmark_at += BOOKMARK_SECONDS
                    if self._wants_bookmark():
                        self._watch.send(self._api.bookmark())
                elif not self._watch.muted:
                    self._watch.queue.put_nowait(_Signal.ENDED)
                else:
                    await asyncio.Event().wait()
                continue
            if item is _Signal.ENDED:
                return
            if not isinstance(item, bytes):
                raise Unreachable("ClientPayloadError")
            for piece in _pieces(item, self._api.slice_bytes):
                yield piece

    def _wants_bookmark(self) -> bool:
        asked = self._watch.request.query.get("allowWatchBookmarks") == "true"
        return asked and self._api.bookmarks and not self._watch.ahead


class _Headers(dict[str, str]):
    """Finds names in any case."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        super().__init__({name.lower(): value for name, value in headers.items()})

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)


def _listed_as(accept: str, found: Object) -> Object:
    if "as=PartialObjectMetadataList" not in accept:
        return found
    kinds = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}
    items = [{**kinds, "metadata": item["metadata"]} for item in found["items"]]
    return {**found, "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "items": items}


def _request(at: float, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Request:
    parts = urlsplit(url)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    found = _PATH.fullmatch(parts.path)
    if found is None:
        raise AssertionError(f"no path of the Kubernetes API: {parts.path}")
    verb: Verb = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}.get(method, "get")  # type: ignore[assignment]
    resource = found["resource"] + (found["subresource"] or "")
    if method == "GET" and found["name"] is None:
        verb = "watch" if query.get("watch") == "true" else "list"
    where = resource, found["namespace"], found["name"]
    return Request(at, method, parts.path, query, dict(headers), body, verb, *where)


def _selector(request: Request) -> Callable[[Object], bool]:
    fields = dict(part.split("=") for part in request.query.get("fieldSelector", "").split(",") if part)
    unknown = fields.keys() - {"type", "metadata.name", "metadata.namespace"}
    if unknown:
        raise _Refusal(400)

    def matches(obj: Object) -> bool:
        metadata = obj["metadata"]
        return (
            _RESOURCES[obj["kind"]] == request.resource
            and request.namespace in (None, metadata.get("namespace"))
            and fields.get("metadata.name") in (None, metadata["name"])
            and fields.get("type") in (None, obj.get("type"))
        )

    return matches


def _merged(target: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result


def _without_version(obj: Object) -> Object:
    return {**obj, "metadata": {key: value for key, value in obj["metadata"].items() if key != "resourceVersion"}}


def _json(status: int, obj: Object) -> _Answer:
    return _Answer(status, _Headers({"content-type": "application/json"}), json.dumps(obj).encode())


def _pieces(data: bytes, length: int | None) -> Iterator[bytes]:
    if length is None:
        yield data
        return
    for start in range(0, len(data), length):
        yield data[start : start + length]
