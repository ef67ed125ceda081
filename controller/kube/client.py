"""All requests that the controller sends to the API server: no other verb, no other resource.

The command line, which acts as a person, has others; it builds them on `send`.

Every request is bounded in time and size, and every failure is an `ApiError` whose text names verb, resource, status
and reason, and quotes no query or header. A 401 drops the cached credential and is tried once more with a fresh one.
Watches have a transport, and so a pool of connections, of their own: no flood of writes can starve them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote, urlencode

import msgspec

from controller.core.model import Ref
from controller.core.projection import SECRET_TYPE
from controller.kube.answers import (
    Page,
    error_from,
    no_answer,
    read_access,
    read_page,
    read_status,
    read_token,
    read_user_name,
)
from controller.kube.auth import Access
from controller.kube.errors import ApiError
from controller.kube.lines import MAX_LINE_BYTES, complete_lines
from controller.net.transport import Reply, Stream, Transport, Unreachable, fetch, retry_after_seconds

FIELD_MANAGER = "pull-secret-updater"
IDENTITY_GROUP = "pull-secret-updater.chainguard.dev"
"""Of the resource `identities`, which exists in RBAC only."""

PAGE_SECONDS = 60.0
"""The API server itself gives up on a request after 60 s (--request-timeout)."""

WATCH_ANSWER_SECONDS = 30.0
"""For the status line of a watch, which the API server sends at once."""

PAGE_BYTES = MAX_LINE_BYTES
"""Of a page of the list, so that a Secret that can come as an event can come in the list, and no more is in memory."""

_REQUEST_SECONDS = 30.0
_REVIEW_SECONDS = 10.0
_REPLY_BYTES = 4 * 1024 * 1024
_JSON = "application/json"
_MERGE_PATCH = "application/merge-patch+json"
_APPLY = "application/apply-patch+yaml"
_METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


Resource = Literal["secrets", "namespaces", "serviceaccounts"]


@dataclass(frozen=True, slots=True)
class Selector:
    """The objects to watch: in all namespaces or one; with one name, or all, of Secrets all pull Secrets.

    With a name, that is the only selector: RBAC with `resourceNames` then allows list and watch.
    """

    namespace: str | None
    name: str | None
    resource: Resource = "secrets"

    def covers(self, ref: Ref) -> bool:
        """Whether an object with that name would be in the list."""
        return self.namespace in (None, ref.namespace) and self.name in (None, ref.name)

    def __str__(self) -> str:
        """For a person who has to grant access to them."""
        if self.resource == "namespaces":
            return "all namespaces"
        plain, named = _WORDS[self.resource]
        what = plain if self.name is None else f"{named} named {self.name}"
        return f"{what} in {'all namespaces' if self.namespace is None else f'the namespace {self.namespace}'}"

    @property
    def query(self) -> dict[str, str]:
        """The field selector, as the API server takes it."""
        if self.name is not None:
            return {"fieldSelector": f"metadata.name={self.name}"}
        return {"fieldSelector": f"type={SECRET_TYPE}"} if self.resource == "secrets" else {}

    @property
    def path(self) -> str:
        """Of the list."""
        return _path(self.resource, self.namespace)


_WORDS = {"secrets": ("pull Secrets", "Secrets"), "serviceaccounts": ("ServiceAccounts", "ServiceAccounts")}


class KubeClient:
    """See the module."""

    def __init__(self, *, access: Access, requests: Transport, watches: Transport, now: Callable[[], float]) -> None:
        self._access = access
        self._requests = requests
        self._watches = watches
        self._now = now

    async def list_page(
        self,
        selector: Selector,
        *,
        limit: int = 500,
        continue_token: str | None = None,
        resource_version: str | None = None,
        metadata_only: bool = False,
    ) -> Page:
        """One page of the list, as of now; as of `resource_version` or later if that is given.

        Raises TooLarge for a page above `PAGE_BYTES`.
        """
        what = f"list {selector.resource}"
        query = {**selector.query, "limit": str(limit)}
        if continue_token is not None:
            query["continue"] = continue_token
        elif resource_version is not None:
            query |= {"resourceVersion": resource_version, "resourceVersionMatch": "NotOlderThan"}
        reply = await self.send(
            "GET",
            selector.path,
            what=what,
            query=query,
            accept=_METADATA_LIST if metadata_only or _is_metadata_enough(selector) else _JSON,
            total_seconds=PAGE_SECONDS,
            max_bytes=PAGE_BYTES,
        )
        return read_page(reply.body, what)

    @asynccontextmanager
    async def watch(
        self, selector: Selector, *, resource_version: str, timeout_seconds: int
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The events after `resource_version`, each a complete line; ends without an error after `timeout_seconds`.

        Enters when the server has answered 200. The reader bounds the wait for a line.
        """
        what = f"watch {selector.resource}"
        query = {
            **selector.query,
            "watch": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(timeout_seconds),
            "allowWatchBookmarks": "true",
        }
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(WATCH_ANSWER_SECONDS):
                    accept = _METADATA_ONLY if _is_metadata_enough(selector) else _JSON
                    stream = await self._open_watch(stack, _with(query, selector.path), what, accept)
            except (Unreachable, TimeoutError) as error:
                raise no_answer(what, error) from error
            yield await stack.enter_async_context(aclosing(complete_lines(stream, what)))

    async def get_secret(self, ref: Ref) -> bytes:
        """The Secret as it is now."""
        return (await self.send("GET", _object_path("secrets", ref), what="get secret")).body

    async def get_secret_metadata(self, ref: Ref) -> bytes:
        """The Secret's metadata as a PartialObjectMetadata: no secret data comes back."""
        return (await self.send("GET", _object_path("secrets", ref), what="get secret", accept=_METADATA_ONLY)).body

    async def patch_secret(self, ref: Ref, patch: bytes) -> bytes:
        """Apply a merge patch; the answer is a PartialObjectMetadata, so that no secret data comes back."""
        reply = await self.send(
            "PATCH",
            _object_path("secrets", ref),
            what="patch secret",
            query={"fieldManager": FIELD_MANAGER},
            body=patch,
            content_type=_MERGE_PATCH,
            accept=_METADATA_ONLY,
        )
        return reply.body

    async def create_secret(self, ref: Ref, secret: Mapping[str, Any]) -> None:
        """Create a Secret. Raises Conflict if there is one of that name, which stays as it is.

        A server-side apply, since RBAC can bind that to a name, and a POST it can't. Resource version 1 is none that a
        Secret has: so the apply creates, and never changes one that is there (kube-apiserver 1.37: 201 or 409).
        """
        applied = {**secret, "metadata": {**secret["metadata"], "resourceVersion": "1"}}
        await self.send(
            "PATCH",
            _object_path("secrets", ref),
            what="create secret",
            query={"fieldManager": FIELD_MANAGER},
            body=msgspec.json.encode(applied),
            content_type=_APPLY,
            accept=_METADATA_ONLY,
        )

    async def delete_secret(self, ref: Ref, *, uid: str, resource_version: str) -> None:
        """Delete exactly that version of that Secret. Raises Conflict for any other."""
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid, "resourceVersion": resource_version},
        }
        await self.send("DELETE", _object_path("secrets", ref), what="delete secret", body=msgspec.json.encode(options))

    async def get_service_account(self, ref: Ref) -> bytes:
        """The ServiceAccount as it is now."""
        return (await self.send("GET", _object_path("serviceaccounts", ref), what="get serviceaccount")).body

    async def patch_service_account(self, ref: Ref, patch: bytes) -> bytes:
        """Apply a merge patch; the answer is the ServiceAccount."""
        reply = await self.send(
            "PATCH",
            _object_path("serviceaccounts", ref),
            what="patch serviceaccount",
            query={"fieldManager": FIELD_MANAGER},
            body=patch,
            content_type=_MERGE_PATCH,
        )
        return reply.body

    async def create_event(self, namespace: str, event: bytes) -> None:
        """Create a core/v1 Event."""
        await self.send(
            "POST",
            _path("events", namespace),
            what="create event",
            query={"fieldManager": FIELD_MANAGER},
            body=event,
            accept=_METADATA_ONLY,
        )

    async def patch_event(self, namespace: str, name: str, patch: bytes) -> None:
        """Apply a merge patch to an Event."""
        await self.send(
            "PATCH",
            _object_path("events", Ref(namespace, name)),
            what="patch event",
            query={"fieldManager": FIELD_MANAGER},
            body=patch,
            content_type=_MERGE_PATCH,
            accept=_METADATA_ONLY,
        )

    async def create_token(
        self, service_account: Ref, *, audience: str, seconds: int, secret: tuple[str, str] | None, total_seconds: float
    ) -> str:
        """A token of a ServiceAccount for one audience; it ends with the Secret of that name and uid, if not before."""
        what = "create serviceaccounts/token"
        spec: dict[str, Any] = {"audiences": [audience], "expirationSeconds": seconds}
        if secret is not None:
            spec["boundObjectRef"] = {"apiVersion": "v1", "kind": "Secret", "name": secret[0], "uid": secret[1]}
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        path = f"{_object_path('serviceaccounts', service_account)}/token"
        body = msgspec.json.encode(request)
        return read_token((await self.send("POST", path, what=what, body=body, total_seconds=total_seconds)).body, what)

    async def may_use(self, identity: str, namespace: str, *, group: str) -> bool:
        """Whether a group may use an identity in a namespace: the question that the policy use-identity asks of a user.

        Raises ApiError, also where an authorizer of the cluster fails, so that a failure is never a no.
        """
        what = "create subjectaccessreviews"
        attributes = {
            "namespace": namespace,
            "verb": "use",
            "group": IDENTITY_GROUP,
            "resource": "identities",
            "name": identity,
        }
        spec = {"groups": [group, "system:authenticated"], "resourceAttributes": attributes}
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        body = msgspec.json.encode(review)
        reply = await self.send("POST", path, what=what, body=body, total_seconds=_REVIEW_SECONDS)
        return read_access(reply.body, what)

    async def get_object(self, path: str) -> bytes:
        """A cluster-scoped object by its API path, such as an admission policy."""
        return (await self.send("GET", path, what=f"get {path.rsplit('/', 2)[-2]}")).body

    async def who_am_i(self) -> str:
        """The user name that the API server knows us by."""
        what, path = "create selfsubjectreviews", "/apis/authentication.k8s.io/v1/selfsubjectreviews"
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        reply = await self.send("POST", path, what=what, body=msgspec.json.encode(review))
        return read_user_name(reply.body)

    async def send(
        self,
        method: str,
        path: str,
        *,
        what: str,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = _JSON,
        accept: str = _JSON,
        total_seconds: float = _REQUEST_SECONDS,
        max_bytes: int = _REPLY_BYTES,
    ) -> Reply:
        """One request; `what` is verb and resource. For the command line, which asks for more than the controller may.

        Raises ApiError.
        """

        async def once() -> Reply:
            headers = {"Accept": accept, **await self._access.headers()}
            if body is not None:
                headers["Content-Type"] = content_type
            url = self._access.url + _with(query, path)
            return await fetch(
                self._requests,
                method,
                url,
                headers=headers,
                body=body,
                total_seconds=total_seconds,
                max_bytes=max_bytes,
            )

        try:
            reply = await once()
            if reply.status == 401:
                self._access.rejected()
                reply = await once()
        except Unreachable as error:
            raise no_answer(what, error) from error
        if reply.status >= 300:
            raise self._error(what, reply.status, reply.headers, reply.body)
        return reply

    async def _open_watch(self, stack: AsyncExitStack, path: str, what: str, accept: str) -> Stream:
        """The answer to a watch, 200; its connection belongs to `stack`."""

        async def once() -> Stream:
            headers = {"Accept": accept, **await self._access.headers()}
            return await stack.enter_async_context(self._watches.open("GET", self._access.url + path, headers=headers))

        stream = await once()
        if stream.status == 401:
            self._access.rejected()
            await stack.aclose()
            stream = await once()
        if stream.status != 200:
            raise self._error(what, stream.status, stream.headers, await _body_of_failure(stream))
        return stream

    def _error(self, what: str, code: int, headers: Mapping[str, str], body: bytes) -> ApiError:
        retry_after = retry_after_seconds(headers, self._now())
        return error_from(what, code, read_status(body), retry_after_seconds=retry_after)


async def _body_of_failure(stream: Stream) -> bytes:
    body = bytearray()
    async for chunk in stream.chunks():
        body += chunk
        if len(body) > _REPLY_BYTES:
            break
    return bytes(body)


def _is_metadata_enough(selector: Selector) -> bool:
    return selector.resource == "namespaces"


def _path(resource: str, namespace: str | None) -> str:
    within = "" if namespace is None else f"/namespaces/{quote(namespace, safe='')}"
    return f"/api/v1{within}/{resource}"


def _object_path(resource: str, ref: Ref) -> str:
    return f"{_path(resource, ref.namespace)}/{quote(ref.name, safe='')}"


def _with(query: Mapping[str, str] | None, path: str) -> str:
    return f"{path}?{urlencode(query)}" if query else path
