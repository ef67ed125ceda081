"""What every provider has: its common settings, its tools, and the rules that make an answer a token."""

from __future__ import annotations

import datetime as dt
import functools
import math
import os
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

import msgspec

from controller.core.errors import MintError, Problem, StaleProof
from controller.core.model import Token
from controller.http import (
    Reply,
    TlsFilesUnfit,
    Transport,
    Unreachable,
    fetch,
    http_date,
    is_endpoint,
    is_link_local,
    is_safe_url,
    retry_after_seconds,
)

T = TypeVar("T")
P = TypeVar("P")

MAX_ANSWER_BYTES = 64 * 1024
_MAX_SECRET_BYTES = 64 * 1024
_CLOCKS_APART_SECONDS = 60.0
"""From here on a difference between the issuer's clock and ours is worth a word in the log."""

NO_ENDPOINT = "must be an http or https URL of scheme, host and path alone"
URL = msgspec.Meta(extra={"url": True})
Url = Annotated[str, URL]
"""An endpoint: the configuration is refused unless it is https, or its host loopback."""


class Seconds(float):
    """A duration; in the configuration file a number of seconds, or digits with s, m or h: 90s, 15m, 12h."""


@functools.cache
def fields_of(struct: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    """msgspec.structs.fields, which evaluates every annotation anew at each call."""
    return msgspec.structs.fields(struct)


class ProviderSettings(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What can be configured of any provider. URLs must be https unless their host is loopback."""

    type: str
    registries: tuple[str, ...] = ()
    """Hosts that its tokens may be written for."""
    token_file: str | None = None
    """Path of the token that proves who the controller is; read anew for every request."""
    ca_file: str | None = None
    """Path of a PEM bundle that the issuer is verified against, instead of the system's."""
    proxy: str | None = None
    """URL of a proxy, http as well: it passes TLS on unread, and plain requests never go through it.

    The environment's is never used.
    """
    timeout_seconds: float = 10.0
    """For one whole request. A token may take several, and has three times as long in all."""
    default_lifetime: Seconds | None = None
    """Counts where the issuer gives no expiry; without it such a token is refused."""
    probe: bool = False
    """Log in to each registry with a new token; one that a registry refuses is not written."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What a provider is handed. It never reads the API server and has no other way out."""

    transport: Transport
    proof: Callable[[str], Awaitable[str]]
    """proof(audience): the token that proves who asks. Raises MintError."""
    now: Callable[[], float]
    max_lifetime_seconds: float
    refreshed_by_share: float
    """Share of a token's life by which every Secret that holds it gets another."""
    cleaned: Callable[[MintError | None], None]
    """Say what came of a clean-up at the issuer, None for well: a metric, and a log line where it failed."""


class MissingExtra(Exception):
    """A provider needs an optional package that isn't installed."""

    def __init__(self, extra: str) -> None:
        super().__init__(f"needs packages that are not installed: pip install pull-secret-updater[{extra}]")


@contextmanager
def needs_extra(name: str) -> Iterator[None]:
    """Around the import of a vendor's package; raises MissingExtra in place of ImportError."""
    try:
        yield
    except ImportError as error:
        raise MissingExtra(name) from error


class Provider(Protocol):
    """One configured token issuer."""

    async def mint(self, identity: str, hosts: tuple[str, ...]) -> Token:
        """Get a new token, checked: well-formed, for this identity and these hosts, not expired. Raises MintError."""
        ...


class ProviderType(Protocol):
    """What stands in the registry of provider types: a class."""

    SETTINGS: type[ProviderSettings]
    SHARES_TOKEN: bool
    """One credential of an identity serves all its hosts."""

    def problems(self, settings: Any) -> Iterator[str]:
        """What is wrong with the settings beyond a field's own type, each as `key: problem`.

        Settings without anything that proves who asks are a problem. Raises MissingExtra where a package is missing.
        """
        ...

    def __call__(self, name: str, settings: Any, tools: Tools) -> Provider:
        """Build a provider from its settings, an instance of SETTINGS."""
        ...


async def ask(
    tools: Tools,
    method: str,
    url: str,
    *,
    headers: dict[str, str],
    body: bytes | None,
    timeout_seconds: float,
    max_bytes: int | None = None,
) -> Reply:
    """Send one request to an issuer: no redirects, bounded in time and size. Raises MintError when no answer comes."""
    try:
        return await fetch(
            tools.transport,
            method,
            url,
            headers=headers,
            body=body,
            total_seconds=timeout_seconds,
            max_bytes=max_bytes or MAX_ANSWER_BYTES,
        )
    except TlsFilesUnfit as error:
        raise MintError(Problem.CA_FILE_UNFIT, str(error)) from None
    except Unreachable as error:
        raise MintError(Problem.ISSUER_UNAVAILABLE, str(error)) from None


def needs_token_file(settings: ProviderSettings) -> Iterator[str]:
    """The problem of settings whose only proof would be the projected token, and that name none."""
    if settings.token_file is None:
        yield "tokenFile: must be the path of the token that proves who the controller is"


def needs_exactly(credentials: str, wanted: Collection[str], configured: Mapping[str, str | None]) -> Iterator[str]:
    """The problems of a kind of credentials that lacks a part, or is mixed with parts of another kind."""
    for key, value in configured.items():
        if key in wanted and not value:
            yield f"{key}: is needed for credentials {credentials}"
        if key not in wanted and value is not None:
            yield f"{key}: is not used for credentials {credentials}; remove it"


def needs_unset(settings: ProviderSettings, names: Collection[str], because: str) -> Iterator[str]:
    """The problem of each of these fields that is set: it would do nothing in silence."""
    unset = type(settings)(type=settings.type)
    for field in fields_of(type(settings)):
        if field.name in names and getattr(settings, field.name) != getattr(unset, field.name):
            yield f"{field.encode_name}: has no meaning with {because}"


def only_with(settings: ProviderSettings, kind: str, table: Mapping[str, Collection[str]]) -> Iterator[str]:
    """The problem of each field that is set though `table` has it for other kinds of credentials."""
    names = [name for name, kinds in table.items() if kind not in kinds]
    yield from needs_unset(settings, names, f"credentials: {kind}")


def needs_node_address(key: str, url: str) -> Iterator[str]:
    """The problem of a metadata server's URL in plain HTTP that leaves the node: whoever answers there is believed."""
    if not is_endpoint(url):
        yield f"{key}: {NO_ENDPOINT}"
    elif not is_link_local(url) and not is_safe_url(url):
        yield f"{key}: must be https, unless its host is a link-local or loopback address"


async def with_proof(read: Callable[[], Awaitable[P]], attempt: Callable[[P], Awaitable[T]]) -> T:
    """Attempt with the proof as it is now; if the issuer calls it stale and it is another by now, once more."""
    proof = await read()
    try:
        return await attempt(proof)
    except StaleProof:
        newer = await read()
        if newer == proof:
            raise
        return await attempt(newer)


def secret_file(path: str, *, lines: bool = False) -> str:
    """The key in a mounted file, without white space around it. Raises MintError.

    One line, unless it is PEM or JSON: `lines`.
    Read for every use, so that a rotated Secret needs no restart; in place, since a thread costs more than the read.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise MintError(Problem.PROOF_MISSING, type(error).__name__) from error
    text = content.decode("ascii", errors="replace").strip()
    fits = text.isascii() and (lines or text.isprintable()) and len(content) <= _MAX_SECRET_BYTES
    if not text or not fits:
        raise MintError(Problem.PROOF_UNFIT, "the file holds no key")
    return text


class KeySource(msgspec.Struct, frozen=True):
    """Where a key is read, anew for every use: in a file, or in the environment variable that is named here."""

    env: str | None = None
    file: str | None = None

    def problems(self, key: str) -> Iterator[str]:
        """The problem of a source that names not exactly one of both."""
        if bool(self.env) == bool(self.file):
            yield f"{key}: must name either env, a variable of the environment, or file"

    def read(self) -> str | None:
        """The key; None where no source is configured. Raises MintError."""
        if self.file:
            return secret_file(self.file)
        if not self.env:
            return None
        if not (value := os.environ.get(self.env, "").strip()):
            raise MintError(Problem.PROOF_MISSING, "the environment variable of a key is empty")
        if not value.isascii() or not value.isprintable():
            raise MintError(Problem.PROOF_UNFIT, "the environment variable holds no key")
        return value


def read_json(reply: Reply, type_: type[T]) -> T | None:
    """The body as `type_`; None where it is anything else."""
    try:
        return msgspec.json.decode(reply.body, type=type_)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


def refusal(reply: Reply, tools: Tools, *, problem: Problem | None = None, code: str = "") -> MintError:
    """The error of an answer that isn't a success, by its status unless the issuer's own code says it better."""
    return MintError(
        problem or problem_of(reply.status),
        refusal_detail(reply, tools, code=code),
        retry_after_seconds=retry_after_seconds(reply.headers, tools.now()),
    )


def refusal_detail(reply: Reply, tools: Tools, *, code: str = "") -> str:
    """For the log: the status, the issuer's code, and how far its clock is from ours where that may be the reason."""
    detail = f"HTTP {reply.status}{f', {code}' if code else ''}"
    issuers_now = http_date(reply.headers.get("Date"))
    apart = 0.0 if issuers_now is None else abs(issuers_now - tools.now())
    return f"{detail}, the clocks are {apart:.0f} s apart" if apart >= _CLOCKS_APART_SECONDS else detail


def problem_of(status: int) -> Problem:
    """What an HTTP status means where the issuer says no more (RFC 9110 15)."""
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


def is_username(text: str) -> bool:
    """Whether it can be a docker user: the kubelet splits `auth` at the first colon."""
    return bool(text) and text.isprintable() and ":" not in text


def make_token(
    tools: Tools,
    *,
    provider: str,
    username: str,
    password: str,
    asked_at: float,
    reply: Reply,
    lifetimes_seconds: Iterable[float | None] = (),
    expiries: Iterable[float | None] = (),
    default_lifetime_seconds: float | None = None,
) -> Token:
    """The token of an answer. Its life is the least that any source gives, counted from before the request.

    `expiries` are instants of the issuer's clock, so the answer's own Date is taken off them; ours where it sends none.
    Raises MintError when no source gives a life, none of it is left, or the password can't be one.
    """
    if not password or not password.isascii() or not password.isprintable() or " " in password:
        raise MintError(Problem.ISSUER_MALFORMED, "no token in the answer")
    if not is_username(username):
        raise MintError(Problem.ISSUER_MALFORMED, "no user name that a registry takes")
    issuers_now = _issuers_now(reply, tools)
    lives = [life for life in lifetimes_seconds if life is not None]
    lives += [expiry - issuers_now for expiry in expiries if expiry is not None]
    if not lives and default_lifetime_seconds is not None:
        lives.append(default_lifetime_seconds)
    if not lives:
        raise MintError(Problem.TOKEN_UNFIT, "no expiry in the answer, and no defaultLifetime configured")
    issued_at = int(asked_at)
    expires_at = int(asked_at + min(*lives, tools.max_lifetime_seconds))
    if expires_at <= issued_at:
        raise MintError(Problem.TOKEN_UNFIT, "already expired")
    return Token(provider=provider, username=username, password=password, issued_at=issued_at, expires_at=expires_at)


def lifetime_seconds(value: object) -> float | None:
    """A life such as OAuth's `expires_in`: a number, or digits in a string; None where it is missing.

    Raises MintError where it is there and can't be read: a life that isn't understood must not be taken for longer.
    """
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number or (isinstance(value, str) and value.isascii() and value.isdigit()):
        with suppress(OverflowError):
            if math.isfinite(seconds := float(value)):  # type: ignore[arg-type]  # narrowed by is_number
                return seconds
    raise MintError(Problem.ISSUER_MALFORMED, "a life that is no number of seconds")


def _issuers_now(reply: Reply, tools: Tools) -> float:
    """The issuer's clock by its answer; ours where that can't be told from it, since a Date has whole seconds only."""
    now, date = tools.now(), http_date(reply.headers.get("Date"))
    return now if date is None else min(max(now, date), date + 1.0)


def rfc3339(value: str | None) -> float | None:
    """An instant in seconds since the epoch, with any number of fractional digits; None where it is empty.

    The epoch and before are None too: that is how Go and protobuf write "not set". Raises MintError when it can't be
    read.
    """
    if not value:
        return None
    try:
        parsed = dt.datetime.fromisoformat(value)
    except ValueError:
        raise MintError(Problem.ISSUER_MALFORMED, "an expiry that is no RFC 3339 time") from None
    instant = (parsed if parsed.tzinfo else parsed.replace(tzinfo=dt.UTC)).timestamp()
    return instant if instant > 0 else None
