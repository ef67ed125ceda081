"""The rules that make an answer a token: what can be a user and a password, and how long it lives.

A life is the least that any source gives, counted from before the request was sent. A source that is there and can't be
read is an error, and a token without any is refused: nothing is ever taken to live longer than it does.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable
from contextlib import suppress

from controller.core.annotations import parse_rfc3339
from controller.core.errors import MintError, Problem
from controller.core.model import Token
from controller.net.transport import http_date
from controller.providers.contract import Tools
from controller.providers.exchange import IssuerReply, is_sendable


def make_token(
    tools: Tools,
    *,
    username: str,
    password: str,
    reply: IssuerReply,
    lifetimes_seconds: Iterable[float | None] = (),
    expiries: Iterable[float | None] = (),
) -> Token:
    """The token of an answer.

    `expiries` are instants of the issuer's clock, so they count from the answer's own Date; without it from our clock.
    Raises MintError if no source gives a life, none of it is left, or user or password is not valid.
    """
    if not is_sendable(password) or " " in password:
        raise MintError(Problem.ISSUER_MALFORMED, "no token in the answer")
    if not is_username(username):
        raise MintError(Problem.ISSUER_MALFORMED, "no valid user name in the answer")
    issuers_now = _issuers_now(reply, tools)
    lives = [life for life in lifetimes_seconds if life is not None]
    lives += [expiry - issuers_now for expiry in expiries if expiry is not None]
    if not lives and tools.default_lifetime_seconds is not None:
        lives.append(tools.default_lifetime_seconds)
    if not lives:
        raise MintError(Problem.TOKEN_UNFIT, "no expiry in the answer, and no defaultLifetime configured")
    issued_at = int(reply.asked_at)
    expires_at = int(reply.asked_at + min(*lives, tools.max_lifetime_seconds))
    if expires_at <= issued_at:
        raise MintError(Problem.TOKEN_UNFIT, "already expired")
    return Token(provider=tools.name, username=username, password=password, issued_at=issued_at, expires_at=expires_at)


def is_username(text: str) -> bool:
    """Whether it can be a docker user: the kubelet splits `auth` at the first colon."""
    return bool(text) and text.isprintable() and ":" not in text


def lifetime_seconds(value: object) -> float | None:
    """A life such as OAuth's `expires_in`: a number, or digits in a string; None if it is missing.

    Raises MintError if it can't be read.
    """
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number or (isinstance(value, str) and value.isascii() and value.isdigit()):
        with suppress(OverflowError):
            if math.isfinite(seconds := float(value)):  # type: ignore[arg-type]  # narrowed by is_number
                return seconds
    raise MintError(Problem.ISSUER_MALFORMED, "the lifetime in the answer is not a number of seconds")


def rfc3339(value: str | None) -> float | None:
    """An instant in seconds since the epoch, with any number of fractional digits; None if it is empty.

    The epoch and before are None too: that is how Go and protobuf write "not set". Raises MintError if it can't be
    read.
    """
    if not value:
        return None
    try:
        parsed = parse_rfc3339(value)
    except ValueError:
        raise MintError(Problem.ISSUER_MALFORMED, "the expiry in the answer is not an RFC 3339 time") from None
    instant = (parsed if parsed.tzinfo else parsed.replace(tzinfo=dt.UTC)).timestamp()
    return instant if instant > 0 else None


def _issuers_now(reply: IssuerReply, tools: Tools) -> float:
    """The issuer's clock: ours, moved into the second that the Date of its answer names, if there is one."""
    now, date = tools.now(), http_date(reply.headers.get("Date"))
    return now if date is None else min(max(now, date), date + 1.0)
