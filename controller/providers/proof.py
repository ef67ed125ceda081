"""What proves who asks: a projected token, or a key. Read for every use, since others may replace it at any time.

Read without a thread: a few KiB of tmpfs cost less than one. No byte of it is ever in an error.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from controller.core.errors import MintError, Problem, StaleProof
from controller.core.jwt import jwt_claim, jwt_instant
from controller.providers.exchange import is_sendable

T = TypeVar("T")
P = TypeVar("P")

_MAX_BYTES = 64 * 1024
"""A ServiceAccount token has about 1 KiB, a key 3 KiB; a larger file is another file."""


class ProofFile:
    """Proves by a projected ServiceAccount token.

    A token for another audience could be replayed where it is valid, so it is refused here and not by the issuer.
    """

    def __init__(self, path: Path, *, now: Callable[[], float]) -> None:
        self._path = path
        self._now = now

    async def __call__(self, audience: str) -> str:
        """The token for `audience`. Raises MintError."""
        token = _text(self._path)
        named = jwt_claim(token, "aud") if is_sendable(token) else None
        if named is None:
            raise self._unfit("the file holds no JWT with an audience", audience)
        if audience not in _listed(named):
            raise self._unfit("the token is for another audience", audience)
        expires_at = jwt_instant(token, "exp")
        if expires_at is not None and expires_at <= self._now():
            raise self._unfit("the token has expired", audience)
        return token

    def _unfit(self, detail: str, audience: str) -> MintError:
        return MintError(Problem.PROOF_UNFIT, detail, named=(f"file {self._path}", f"audience {audience}"))


class KeySource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a key is: in a file, or in the environment variable of that name."""

    env: str | None = None
    file: str | None = None

    def problems(self, key: str) -> Iterator[str]:
        """The problem of a source that doesn't name exactly one of both."""
        if bool(self.env) == bool(self.file):
            yield f"{key}: must name either env, a variable of the environment, or file"

    def read(self) -> str:
        """The key. Raises MintError."""
        if self.file:
            return secret_file(self.file)
        variable = (f"environment variable {self.env}",)
        if not (value := os.environ.get(self.env or "", "").strip()):
            raise MintError(Problem.PROOF_MISSING, "the environment variable of a key is empty", named=variable)
        if not is_sendable(value):
            raise MintError(Problem.PROOF_UNFIT, "the environment variable holds no key", named=variable)
        return value


def secret_file(path: str, *, lines: bool = False) -> str:
    """The key in a mounted file, without white space around it. Raises MintError.

    It must be one line, unless `lines` allows several, as PEM and JSON have.
    """
    text = _text(Path(path))
    if not text.isascii() or not text or not (lines or text.isprintable()):
        raise MintError(Problem.PROOF_UNFIT, "the file holds no key", named=(f"file {path}",))
    return text


async def with_proof(read: Callable[[], Awaitable[P]], attempt: Callable[[P], Awaitable[T]]) -> T:
    """Attempt with the proof as it is now; if the issuer calls it stale and it is another by now, once more.

    A refusal names whom the proof is of and for, which the issuer has to trust, or whose keys it has to fetch.
    """
    proof = await read()
    try:
        with _naming(proof):
            return await attempt(proof)
    except StaleProof:
        newer = await read()
        if newer == proof:
            raise
        with _naming(newer):
            return await attempt(newer)


@contextmanager
def _naming(proof: object) -> Iterator[None]:
    try:
        yield
    except MintError as error:
        subject, issuer = (jwt_claim(proof, name) if isinstance(proof, str) else None for name in ("sub", "iss"))
        if error.problem is Problem.CLUSTER_ISSUER_UNREACHABLE and isinstance(issuer, str):
            error.named += (f"issuer {issuer}",)
        if error.problem is Problem.MINT_REFUSED and isinstance(subject, str):
            audiences = jwt_claim(str(proof), "aud")
            error.named += (f"subject {subject}", *(f"audience {each}" for each in _listed(audiences)))
        raise


def _listed(audiences: object) -> list[object]:
    return audiences if isinstance(audiences, list) else [audiences]


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        named = (f"file {path}",)
        raise MintError(Problem.PROOF_MISSING, f"{path}: {type(error).__name__}", named=named) from error
    if len(content) > _MAX_BYTES:
        raise MintError(Problem.PROOF_UNFIT, f"the file has more than {_MAX_BYTES} bytes", named=(f"file {path}",))
    return content.decode("ascii", errors="replace").strip()
