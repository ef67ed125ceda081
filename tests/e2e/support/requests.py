"""What the controller asked of the API server: from the server's own audit log, so nothing is in between."""

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from testing.mounted import USER

POLICY = """
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  users: [{user}]
- level: None
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, once it was answered; a watch, once it was begun."""

    at: float
    """When it came in, seconds since the epoch."""
    verb: str
    resource: str
    namespace: str
    name: str
    code: int


class AuditLog:
    """Reads the audit log anew at each question: it is small."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @staticmethod
    def policy() -> str:
        """The audit policy to start the API server with: metadata, and only of the controller's requests."""
        return POLICY.format(user=USER)

    def requests(self, *, since: float = 0, namespace: str | None = None, verb: str | None = None) -> list[Request]:
        """The controller's requests, oldest first. kubectl with the controller's token isn't the controller."""
        found: dict[str, Request] = {}
        for line in self._path.read_text().splitlines():
            entry = json.loads(line)
            if entry["user"]["username"] != USER or entry.get("userAgent", "").startswith("kubectl"):
                continue
            about = entry.get("objectRef", {})
            found[entry["auditID"]] = Request(
                at=datetime.fromisoformat(entry["requestReceivedTimestamp"]).timestamp(),
                verb=entry["verb"],
                resource=about.get("resource", entry["requestURI"]),
                namespace=about.get("namespace", ""),
                name=about.get("name", ""),
                code=entry.get("responseStatus", {}).get("code", 0),
            )
        return [
            request
            for request in sorted(found.values(), key=lambda one: one.at)
            if request.at >= since and namespace in {None, request.namespace} and verb in {None, request.verb}
        ]
