"""The stand-in for an EC2 instance's metadata service, version 2 alone: it hands out the keys of the instance's role.

As the original does, it wants a session token, which a PUT with its life gets, and serves nobody behind a proxy.

Page: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable
from datetime import UTC, datetime

from testing.aws import Key
from testing.wire import Answer, Asked

_PROFILES = "/latest/meta-data/iam/security-credentials/"


class Instance:
    """One instance. `keys` is asked for the role's keys as they are now; None is an instance without a profile."""

    def __init__(self, clock: Callable[[], float], role: str, keys: Callable[[], Key | None]) -> None:
        self.code = "Success"
        """What it says of the keys."""
        self._clock = clock
        self._role = role
        self._keys = keys
        self._sessions: dict[str, float] = {}

    async def handle(self, asked: Asked) -> Answer:
        """See Vendor."""
        if asked.path == "/latest/api/token":
            return self._session(asked)
        if not asked.path.startswith(_PROFILES):
            return Answer(404)
        if asked.method != "GET":
            return Answer(405)
        if self._sessions.get(asked.headers.get("X-aws-ec2-metadata-token", ""), 0.0) <= self._clock():
            return Answer(401)
        name, key = asked.path.removeprefix(_PROFILES), self._keys()
        if key is None or name not in ("", self._role):
            return Answer(404)
        return Answer(200, self._credentials(key) if name else self._role.encode(), {"Content-Type": "text/plain"})

    def _session(self, asked: Asked) -> Answer:
        if asked.method != "PUT":
            return Answer(405)
        if "X-Forwarded-For" in asked.headers:
            return Answer(403)
        ttl = asked.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        if not ttl.isdigit() or not 1 <= int(ttl) <= 21600:
            return Answer(400)
        session = base64.b64encode(secrets.token_bytes(40)).decode()
        self._sessions[session] = self._clock() + int(ttl)
        return Answer(200, session.encode(), {"Content-Type": "text/plain"})

    def _credentials(self, key: Key) -> bytes:
        end = datetime.fromtimestamp(key.expires_at or 0.0, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        keys = {"AccessKeyId": key.access_key, "SecretAccessKey": key.secret_key, "Token": key.token}
        known = keys if self.code == "Success" else {}
        return json.dumps({"Code": self.code, "Type": "AWS-HMAC", **known, "Expiration": end}, indent=1).encode()
