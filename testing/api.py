"""A JSON client for the API server of a kubeconfig, where kubectl would be too slow."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import config
from kubernetes.client import ApiClient, Configuration

MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"


class ApiError(Exception):
    """The API server refused a request."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Api:
    """The official client finds server and credentials; bodies are plain JSON. Several threads may use it."""

    def __init__(self, kubeconfig: Path) -> None:
        settings = Configuration()
        config.load_kube_config(str(kubeconfig), client_configuration=settings)  # type: ignore[no-untyped-call]
        settings.connection_pool_maxsize = 16
        self._client: Any = ApiClient(settings)
        self._url = str(settings.host)
        self._pool: urllib3.PoolManager = self._client.rest_client.pool_manager

    def get(self, path: str) -> dict[str, Any]:
        """Raises ApiError."""
        return self._json("GET", path)

    def items(self, path: str) -> list[dict[str, Any]]:
        """The items of a list. Raises ApiError."""
        found: list[dict[str, Any]] = self.get(path)["items"]
        return found

    def post(self, path: str, body: object) -> dict[str, Any]:
        """Raises ApiError."""
        return self._json("POST", path, body=body)

    def patch(self, path: str, body: object) -> dict[str, Any]:
        """Send a merge patch. Raises ApiError."""
        return self._json("PATCH", path, body=body, content_type=MERGE_PATCH)

    def apply(self, path: str, body: object) -> dict[str, Any]:
        """Send a server-side apply. Raises ApiError."""
        return self._json("PATCH", path, body=body, content_type=APPLY_PATCH)

    def delete(self, path: str, options: object = None) -> None:
        """Delete. Fine if it is already gone. Raises ApiError."""
        try:
            self._json("DELETE", path, body=options)
        except ApiError as error:
            if error.status != 404:
                raise

    def watch(self, path: str) -> "Watch":
        """Begin a watch. Raises ApiError."""
        response = self._send("GET", path, timeout=urllib3.Timeout(connect=5, read=None))
        if response.status != 200:
            raise ApiError(response.status, "watch refused")
        return Watch(response)

    def _json(
        self, method: str, path: str, *, body: object = None, content_type: str = "application/json"
    ) -> dict[str, Any]:
        content = None if body is None else json.dumps(body).encode()
        response = self._send(method, path, content=content, content_type=content_type)
        answer: dict[str, Any] = json.loads(response.read())
        response.release_conn()
        if response.status >= 300:
            raise ApiError(response.status, str(answer.get("message")))
        return answer

    def _send(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        content_type: str = "application/json",
        timeout: urllib3.Timeout | float = 30,
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": "application/json, */*", "Content-Type": content_type}
        # Every time, since an exec plugin's token is valid only for minutes.
        self._client.update_params_for_auth(headers, [], ["BearerToken"], "", "", None)
        return self._pool.request(
            method,
            self._url + path,
            body=content,
            headers=headers,
            timeout=timeout,
            preload_content=False,
            retries=False,
        )


class Watch:
    """The events of one watch request, until the server or another thread ends it."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self._response = response
        self._ended = False

    def __iter__(self) -> Iterator[dict[str, Any]]:
        buffer = b""
        for chunk in self._response.stream():
            if self._ended:  # Python's ssl forgets the cipher first, so what is read from here on may be ciphertext
                return
            *lines, buffer = (buffer + chunk).split(b"\n")
            yield from (json.loads(line) for line in lines)

    def end(self) -> None:
        """End the watch, from any thread. A stopping API server waits for its open watches."""
        self._ended = True
        with contextlib.suppress(OSError, RuntimeError, ValueError):  # the server was first
            self._response.shutdown()
