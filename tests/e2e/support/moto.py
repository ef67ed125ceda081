"""Moto as AWS: a server that we did not write, which recomputes signatures and enforces roles and policies.

It is a process of its own; whoever asks it does so over real sockets.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controller.net.transport import fetch
from controller.providers import aws
from controller.providers.contract import Tools
from controller.providers.settings import ProviderSettings

ACCOUNT = "123456789012"
IDENTITY = f"arn:aws:iam::{ACCOUNT}:role/pull"
USER = f"arn:aws:iam::{ACCOUNT}:user/ci"
START_SECONDS = 60.0
EVERY_ACTION_IS_CHECKED = b"0"
NO_ACTION_IS_CHECKED = b"1000000"
PULL = {"Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*"}
ASSUME = {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*"}


@dataclass(frozen=True, slots=True)
class Account:
    """Moto's only account, as its administrator sees it."""

    url: str
    tools: Tools
    """What it is asked with."""

    async def reset(self) -> None:
        """Empty it, and check no action until told to."""
        await self.ask("/moto-api/reset", b"")
        await self.ask("/moto-api/reset-auth", NO_ACTION_IS_CHECKED)

    async def check_every_action(self) -> None:
        """From now on a request needs a signature that is right, and a policy that allows it."""
        await self.ask("/moto-api/reset-auth", EVERY_ACTION_IS_CHECKED)

    async def ask(self, path: str, body: bytes) -> None:
        """Order something of moto itself."""
        await fetch(
            self.tools.transport,
            "POST",
            f"{self.url}{path}",
            headers={},
            body=body,
            total_seconds=10,
            max_bytes=1 << 16,
        )

    async def iam(self, action: str, **parameters: str) -> bytes:
        """Change something in IAM, while no action is checked."""
        service = aws.Service(self.tools, "iam", "us-east-1", self.url, ProviderSettings(type="iam"))
        form = "&".join(f"{name}={value}" for name, value in {"Action": action, **parameters}.items())
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        reply = await service.ask(form.encode(), headers, keys=aws.Keys("root", "root", None))
        return reply.body

    async def role(self, *, trusts: str, may_pull: bool) -> None:
        """Let the identity's role trust a principal."""
        trust = {"Effect": "Allow", "Principal": {"AWS": trusts}, "Action": "sts:AssumeRole"}
        await self.iam("CreateRole", RoleName="pull", Path="/", AssumeRolePolicyDocument=_policy(trust))
        if may_pull:
            await self.iam("PutRolePolicy", RoleName="pull", PolicyName="pull", PolicyDocument=_policy(PULL))

    async def user(self, may: Mapping[str, Any] = ASSUME) -> tuple[str, str]:
        """Keys of a user who may assume roles, or do what a statement says."""
        await self.iam("CreateUser", UserName="ci")
        await self.iam("PutUserPolicy", UserName="ci", PolicyName="may", PolicyDocument=_policy(may))
        return await self.keys()

    async def keys(self) -> tuple[str, str]:
        """New keys of that user."""
        answer = (await self.iam("CreateAccessKey", UserName="ci")).decode()
        found = re.search(
            r"<AccessKeyId>(.+?)</AccessKeyId>.*<SecretAccessKey>(.+?)</SecretAccessKey>", answer, re.DOTALL
        )
        assert found is not None
        return found[1], found[2]


def _policy(statement: Mapping[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


@contextmanager
def running(directory: Path, *, token_seconds: float | None = None) -> Iterator[str]:
    """The URL of a moto server; it ends with the block. Without a life of its registry tokens, they end in 2015."""
    log = directory / "moto.log"
    with log.open("wb") as output:
        server = ["moto.server"] if token_seconds is None else ["tests.e2e.support.motoserver", str(token_seconds)]
        command = [sys.executable, "-m", *server, "-H", "127.0.0.1", "-p", "0"]
        process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            give_up_at = time.monotonic() + START_SECONDS
            while (listening := re.search(r"http://127\.0\.0\.1:[0-9]+", log.read_text())) is None:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < give_up_at, "moto does not listen"
                time.sleep(0.1)
            yield listening[0]
        finally:
            process.terminate()
            process.wait(10)
