"""Requests to the API server as its admin: enough to wait for it and to request tokens."""

import http.client
import json
import ssl
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A response with any status."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminApi:
    """Uses one connection per request, so it survives restarts of the server. Verifies the server's certificate."""

    address: str
    port: int
    ca: Path
    certificate: Path
    key: Path

    def request(self, method: str, path: str, *, body: object = None) -> Reply:
        """Send one request.

        Raises:
            OSError: the server can't be reached, or its certificate is not from our CA.
            http.client.HTTPException: the server closed the connection halfway.
        """
        context = ssl.create_default_context(cafile=str(self.ca))
        context.load_cert_chain(self.certificate, self.key)
        connection = http.client.HTTPSConnection(self.address, self.port, context=context, timeout=10)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, body=content, headers={"Content-Type": "application/json"})
            response = connection.getresponse()
            return Reply(status=response.status, body=response.read())
        finally:
            connection.close()
