"""The token that proves who asks, from a projected file, checked before it leaves the process.

A proof for another audience could be replayed where it is valid, so it is refused here and not by the issuer.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from controller.core.dockerconfig import jwt_claim, jwt_instant
from controller.core.errors import MintError, Problem

_MAX_BYTES = 64 * 1024
"""A ServiceAccount token has about 1 KiB; what is larger is another file."""


class ProofFile:
    """Proves by a JWT in a file, which is read for every use: the kubelet replaces it."""

    def __init__(self, path: Path, *, now: Callable[[], float]) -> None:
        self._path = path
        self._now = now

    async def __call__(self, audience: str) -> str:
        """The token for `audience`. Raises MintError, without a byte of the file in it."""
        token = self._read()
        if not token or not token.isascii() or not token.isprintable() or jwt_claim(token, "aud") is None:
            raise MintError(Problem.PROOF_UNFIT, "the file holds no JWT with an audience")
        named = jwt_claim(token, "aud")
        if audience not in (named if isinstance(named, list) else [named]):
            raise MintError(Problem.PROOF_UNFIT, "the token is for another audience")
        expires_at = jwt_instant(token, "exp")
        if expires_at is not None and expires_at <= self._now():
            raise MintError(Problem.PROOF_UNFIT, "the token has expired")
        return token

    def _read(self) -> str:
        try:
            # A few KiB in memory (tmpfs): a thread would cost more than the read.
            with self._path.open("rb") as file:
                content = file.read(_MAX_BYTES + 1)
        except OSError as error:
            raise MintError(Problem.PROOF_MISSING, type(error).__name__) from error
        if len(content) > _MAX_BYTES:
            raise MintError(Problem.PROOF_UNFIT, f"the file has more than {_MAX_BYTES} bytes")
        return content.decode("ascii", errors="replace").strip()
