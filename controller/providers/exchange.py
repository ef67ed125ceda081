"""One request to an issuer, and what its answer means.

An answer becomes JSON of a known shape, or a MintError made of our own words: the status, the issuer's code where we
know it, and the difference of the clocks where that may be the reason. No body, header or token is ever in it.
"""

from __future__ import annotations

import base64
import urllib.parse
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from controller.core.errors import MintError, Problem, StaleProof
from controller.net.transport import Reply, TlsFilesUnfit, Unreachable, fetch, http_date, retry_after_seconds
from controller.net.urls import host_and_port
from controller.providers.contract import Tools

T = TypeVar("T")

MAX_ANSWER_BYTES = 64 * 1024
_CLOCKS_APART_SECONDS = 60.0
"""A larger difference between the issuer's clock and ours is worth a word in the log."""

OAUTH_PROBLEMS: Mapping[str, Problem] = {
    "invalid_request": Problem.REQUEST_REFUSED,
    "invalid_scope": Problem.REQUEST_REFUSED,
    "unsupported_grant_type": Problem.REQUEST_REFUSED,
    "access_denied": Problem.MINT_REFUSED,
    "invalid_client": Problem.MINT_REFUSED,
    "invalid_grant": Problem.MINT_REFUSED,
    "unauthorized_client": Problem.MINT_REFUSED,
    "slow_down": Problem.ISSUER_THROTTLES,
    "server_error": Problem.ISSUER_UNAVAILABLE,
    "temporarily_unavailable": Problem.ISSUER_UNAVAILABLE,
}
"""The codes of RFC 6749 (4.1.2.1, 5.2) and RFC 8628 (3.5).

`invalid_target` (RFC 8693 2.2.2) is missing: each vendor means something else by a target.
"""


@dataclass(frozen=True, slots=True)
class IssuerReply(Reply):
    """The complete answer to one request."""

    host: str
    """Who was asked."""
    asked_at: float
    """Before the request was sent, by our clock: from here a token's life counts, so latency never lengthens it."""


async def ask(
    tools: Tools,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    form: Mapping[str, str | Sequence[str]] | None = None,
    body: bytes | None = None,
    max_bytes: int = MAX_ANSWER_BYTES,
) -> IssuerReply:
    """Send one request to an issuer: no redirects, bounded in time and size. Raises MintError when no answer comes.

    A `form` becomes the body, with the headers that belong to it; several values are sent as several parameters.
    """
    headers = dict(headers or {})
    if form is not None:
        headers |= {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        body = urllib.parse.urlencode(form, doseq=True).encode()
    host, asked_at = host_and_port(url).removesuffix(":443"), tools.now()
    try:
        reply = await fetch(
            tools.transport,
            method,
            url,
            headers=headers,
            body=body,
            total_seconds=tools.timeout_seconds,
            max_bytes=max_bytes,
        )
    except TlsFilesUnfit as error:
        raise MintError(Problem.CA_FILE_UNFIT, str(error), named=_named(host)) from None
    except Unreachable as error:
        raise MintError(Problem.ISSUER_UNAVAILABLE, str(error), named=_named(host)) from None
    return IssuerReply(reply.status, reply.headers, reply.body, host, asked_at)


def bearer(token: str) -> dict[str, str]:
    """The header that presents a token (RFC 6750 2.1)."""
    return {"Authorization": f"Bearer {token}"}


def basic(user: str, password: str) -> dict[str, str]:
    """The header that presents a user and a password (RFC 7617)."""
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


def is_sendable(text: str) -> bool:
    """Whether a header can hold the text as it is."""
    return bool(text) and text.isascii() and text.isprintable()


def read_json(reply: Reply, type_: type[T]) -> T | None:
    """The body as `type_`; None if it is anything else."""
    try:
        return msgspec.json.decode(reply.body, type=type_)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


def read_answer(reply: IssuerReply, type_: type[T], what: str = "a token in JSON") -> T:
    """The body of a success as `type_`. Raises MintError if it is anything else."""
    answer = read_json(reply, type_)
    if answer is None:
        raise malformed(reply, what)
    return answer


def malformed(reply: IssuerReply, what: str = "a token in JSON") -> MintError:
    """The error of a success without `what` it should hold."""
    return MintError(Problem.ISSUER_MALFORMED, f"HTTP {reply.status} without {what}", named=_named(reply.host))


def refusal(reply: IssuerReply, tools: Tools, *, problem: Problem | None = None, code: str = "") -> MintError:
    """The error of an answer that isn't a success, by its status unless the issuer's own code says it better."""
    return MintError(
        problem or _by_status(reply.status),
        _detail(reply, tools, code),
        named=_named(reply.host),
        retry_after_seconds=retry_after_seconds(reply.headers, tools.now()),
    )


def stale(reply: IssuerReply, tools: Tools, *, problem: Problem = Problem.MINT_REFUSED, code: str = "") -> StaleProof:
    """The error of an answer after which another proof is worth a try."""
    return StaleProof(_detail(reply, tools, code), problem=problem, named=_named(reply.host))


class _OauthError(msgspec.Struct, frozen=True):
    """The body of a refusal (RFC 6749 5.2)."""

    error: str


def oauth_refusal(
    reply: IssuerReply, tools: Tools, problems: Mapping[str, Problem], *, may_be_stale: Collection[str]
) -> MintError | None:
    """The error that the code of an answer means, a StaleProof for some; None if the status says it all.

    It does if the code isn't known, and if the server is overloaded or failing: then the code may be anything.
    """
    answer = read_json(reply, _OauthError)
    problem = problems.get(answer.error) if answer else None
    if answer is None or problem is None or reply.status == 429 or reply.status >= 500:
        return None
    if answer.error in may_be_stale:
        return stale(reply, tools, problem=problem, code=answer.error)
    return refusal(reply, tools, problem=problem, code=answer.error)


def _named(host: str) -> tuple[str, ...]:
    return (f"host {host}",)


def _detail(reply: Reply, tools: Tools, code: str) -> str:
    detail = f"HTTP {reply.status}{f', {code}' if code else ''}"
    issuers_now = http_date(reply.headers.get("Date"))
    apart = 0.0 if issuers_now is None else abs(issuers_now - tools.now())
    return f"{detail}, the clocks are {apart:.0f} s apart" if apart >= _CLOCKS_APART_SECONDS else detail


def _by_status(status: int) -> Problem:
    """What an HTTP status means if the issuer says no more (RFC 9110 15)."""
    match status:
        case 401 | 403:
            return Problem.MINT_REFUSED
        case 404:
            return Problem.IDENTITY_UNKNOWN
        case 425 | 429:
            return Problem.ISSUER_THROTTLES
        case 408 | 499:
            return Problem.ISSUER_UNAVAILABLE
        case _ if status >= 500:
            return Problem.ISSUER_UNAVAILABLE
        case _ if status < 300:
            return Problem.ISSUER_MALFORMED
        case _:  # redirects too: following one could hand our proof to somebody else
            return Problem.REQUEST_REFUSED
