"""Exactly the requests that the controller makes: no other verb, no other resource.

Every request is bounded in time and size, and every failure is an `ApiError` whose text names verb, resource, status
and reason; never a body, query or header. A 401 drops the cached credential and is tried once more with a fresh one.
Watches have a transport, and so a pool of connections, of their own: no flood of writes can starve them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from urllib.parse import quote, urlencode

import msgspec

from controller.core.errors import ApiError
from controller.core.model import Ref
from controller.core.projection import SECRET_TYPE
from controller.http import Reply, Stream, Transport, Unreachable, fetch, retry_after_seconds
from controller.kube.answers import SecretPage, error_from, no_answer, read_page, read_status, read_user_name
from controller.kube.auth import Access
from controller.kube.lines import complete_lines

FIELD_MANAGER = "pull-secret-updater"
PAGE_SECONDS = 60.0
"""The API server itself gives up on a request after 60 s (--request-timeout)."""

WATCH_ANSWER_SECONDS = 30.0
"""For the head of a watch's answer, which the API server sends at once."""

_REQUEST_SECONDS = 30.0
_PAGE_BYTES = 64 * 1024 * 1024
_REPLY_BYTES = 4 * 1024 * 1024
_JSON = "application/json"
_MERGE_PATCH = "application/merge-patch+json"
_METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


@dataclass(frozen=True, slots=True)
class Selector:
    """Which Secrets to watch: of all namespaces or one, of one name or all that are pull Secrets.

    A name is selected by that alone: RBAC with `resourceNames` then allows list and watch.
    """

    namespace: str | None
    name: str | None

    def covers(self, ref: Ref) -> bool:
        """Whether a pull Secret of that name would be in the list."""
        return self.namespace in (None, ref.namespace) and self.name in (None, ref.name)

    @property
    def field_selector(self) -> str:
        """As the API server takes it."""
        return f"type={SECRET_TYPE}" if self.name is None else f"metadata.name={self.name}"


class KubeClient:
    """See the module."""

    def __init__(self, *, access: Access, requests: Transport, watches: Transport, now: Callable[[], float]) -> None:
        self._access = access
        self._requests = requests
        self._watches = watches
        self._now = now

    async def list_secrets(
        self,
        selector: Selector,
        *,
        limit: int = 500,
        continue_token: str | None = None,
        resource_version: str | None = None,
    ) -> SecretPage:
        """One page of what is in the cluster now, or at `resource_version` or later where that is given."""
        query = {"fieldSelector": selector.field_selector, "limit": str(limit)}
        if continue_token is not None:
            query["continue"] = continue_token
        elif resource_version is not None:
            query |= {"resourceVersion": resource_version, "resourceVersionMatch": "NotOlderThan"}
        reply = await self._send(
            "GET",
            _secrets_path(selector.namespace),
            what="list secrets",
            query=query,
            total_seconds=PAGE_SECONDS,
            max_bytes=_PAGE_BYTES,
        )
        return read_page(reply.body)

    @asynccontextmanager
    async def watch_secrets(
        self, selector: Selector, *, resource_version: str, timeout_seconds: int
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The events after `resource_version`, each a complete line; ends without an error after `timeout_seconds`.

        Enters when the server has answered 200. It is for the reader to bound the wait for a line.
        """
        what = "watch secrets"
        query = {
            "fieldSelector": selector.field_selector,
            "watch": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(timeout_seconds),
            "allowWatchBookmarks": "true",
        }
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(WATCH_ANSWER_SECONDS):
                    stream = await self._open_watch(stack, _with(query, _secrets_path(selector.namespace)), what)
            except (Unreachable, TimeoutError) as error:
                raise no_answer(what, error) from error
            yield await stack.enter_async_context(aclosing(complete_lines(stream, what)))

    async def get_secret(self, ref: Ref) -> bytes:
        """The Secret as it is now."""
        return (await self._send("GET", _secret_path(ref), what="get secret")).body

    async def patch_secret(self, ref: Ref, patch: bytes) -> bytes:
        """Apply a merge patch; the answer is a PartialObjectMetadata, so that no secret data comes back."""
        reply = await self._send(
            "PATCH",
            _secret_path(ref),
            what="patch secret",
            query={"fieldManager": FIELD_MANAGER},
            body=patch,
            content_type=_MERGE_PATCH,
            accept=_METADATA_ONLY,
        )
        return reply.body

    async def create_event(self, namespace: str, event: bytes) -> None:
        """Create a core/v1 Event."""
        await self._send(
            "POST",
            _events_path(namespace),
            what="create event",
            query={"fieldManager": FIELD_MANAGER},
            body=event,
            accept=_METADATA_ONLY,
        )

    async def patch_event(self, namespace: str, name: str, patch: bytes) -> None:
        """Apply a merge patch to an Event."""
        await self._send(
            "PATCH",
            f"{_events_path(namespace)}/{quote(name, safe='')}",
            what="patch event",
            query={"fieldManager": FIELD_MANAGER},
            body=patch,
            content_type=_MERGE_PATCH,
            accept=_METADATA_ONLY,
        )

    async def get_object(self, path: str) -> bytes:
        """A cluster-scoped object by its API path, such as an admission policy."""
        return (await self._send("GET", path, what=f"get {path.rsplit('/', 2)[-2]}")).body

    async def who_am_i(self) -> str:
        """The user name that the API server knows us by."""
        what, path = "create selfsubjectreviews", "/apis/authentication.k8s.io/v1/selfsubjectreviews"
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        reply = await self._send("POST", path, what=what, body=msgspec.json.encode(review))
        return read_user_name(reply.body)

    async def _send(
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

    async def _open_watch(self, stack: AsyncExitStack, path: str, what: str) -> Stream:
        """The answer to a watch, 200; its connection belongs to `stack`."""

        async def once() -> Stream:
            headers = {"Accept": _JSON, **await self._access.headers()}
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


def _secrets_path(namespace: str | None) -> str:
    within = "" if namespace is None else f"/namespaces/{quote(namespace, safe='')}"
    return f"/api/v1{within}/secrets"


def _secret_path(ref: Ref) -> str:
    return f"{_secrets_path(ref.namespace)}/{quote(ref.name, safe='')}"


def _events_path(namespace: str) -> str:
    return f"/api/v1/namespaces/{quote(namespace, safe='')}/events"


def _with(query: Mapping[str, str] | None, path: str) -> str:
    return f"{path}?{urlencode(query)}" if query else path
