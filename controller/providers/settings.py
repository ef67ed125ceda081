"""What can be configured of any provider, and the types that its own settings are made of.

A setting carries its check in its type: `text_problem` finds it, so that a provider says only what concerns several
settings at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, get_args

import msgspec

from controller.core.annotations import MAX_HOSTS
from controller.core.conversion import Seconds, shown
from controller.core.dockerconfig import normalise
from controller.net.urls import is_endpoint, is_link_local, is_safe_url


def checked(check: Callable[[str], str | None]) -> msgspec.Meta:
    """Mark a type of text whose values `check` finds a problem in, or None."""
    return msgspec.Meta(extra={"check": check})


def matching(pattern: str, otherwise: str) -> msgspec.Meta:
    """Mark a type of text that must match `pattern` as a whole; `otherwise` is the problem of one that doesn't."""
    return checked(lambda text: None if re.fullmatch(pattern, text) else otherwise)


def _endpoint_problem(url: str) -> str | None:
    return None if is_endpoint(url) else "must be an http or https URL of scheme, host and path alone"


def _url_problem(url: str) -> str | None:
    return _endpoint_problem(url) or (None if is_safe_url(url) else "must be https, unless its host is loopback")


def _node_url_problem(url: str) -> str | None:
    is_near = is_link_local(url) or is_safe_url(url)
    otherwise = "must be https, unless its host is a link-local or loopback address"
    return _endpoint_problem(url) or (None if is_near else otherwise)


_HOST = re.compile(r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f.]*:[0-9a-f:.]*\])(:\d{1,5})?(/[a-z0-9._/-]+)?")
_HOST_LENGTH = 255
"""Of an image's name with its registry; so 128 of them fit into an annotation."""
_NO_PROXY = re.compile(r"[.]?[a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f.]*:[0-9a-f:.]*\]")
_MAX_GLOBS = 128
_GLOB_LENGTH = 2048
"""Characters; as long as an identity may be."""

Url = Annotated[str, checked(_url_problem)]
"""An endpoint that credentials are sent to: https, unless its host is loopback."""
NodeUrl = Annotated[str, checked(_node_url_problem)]
"""The endpoint of a metadata server. Plain HTTP must not leave the node, since whoever answers is believed."""
ProxyUrl = Annotated[str, checked(_endpoint_problem)]
"""A proxy: plain HTTP is enough, since it passes TLS on unread."""


ProofBy = Literal["controller", "serviceAccount", "either"]
"""Whose proof a provider takes: the controller's, that of a ServiceAccount which the Secret names, or whichever."""


class ProviderSettings(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What can be configured of every provider."""

    type: str
    registries: tuple[str, ...] = ()
    """Hosts that its tokens may be written for."""
    default: bool = False
    """Serves a Secret that names no provider and that others could serve as well."""
    namespaces: tuple[str, ...] = ("*",)
    """Those it serves: names, or globs with `*` and `?`. No right in the cluster opens this lock."""
    identities: tuple[str, ...] = ("*",)
    """Those it serves, as they are or as globs with `*` and `?`."""
    ca_file: str | None = None
    """Path of a PEM bundle that the issuer is verified against, instead of the system's."""
    proxy: ProxyUrl | None = None
    """Plain requests never go through it. The environment's proxy is never used."""
    no_proxy: tuple[str, ...] = ()
    """Hosts that are reached without the proxy; a domain with its subdomains, with a leading dot these alone."""
    timeout_seconds: float = 10.0
    """For one whole request. A mint may take several, and has three times as long in all."""
    probe: bool = False
    """Log in to each registry with a new token; one that a registry refuses is not written."""

    @property
    def proof_by(self) -> ProofBy | None:
        """Whose proof it takes; None for credentials that have no place for a ServiceAccount's token."""
        return getattr(self, "proof", None)

    @property
    def proof_in_words(self) -> str:
        """The same for a person."""
        match self.proof_by:
            case "either":
                return "by the controller, or by a ServiceAccount that the Secret names"
            case "serviceAccount":
                return "by a ServiceAccount that the Secret must name"
            case "controller":
                return "by the controller alone"
            case None:
                return "by the controller alone, since these credentials have no place for a ServiceAccount's token"

    def problems(self) -> Iterator[str]:
        """What is wrong beyond each field's own type, as `key: problem`.

        Raises MissingExtra if an optional package is missing.
        """
        yield from ()


class IssuerSettings(ProviderSettings, frozen=True, kw_only=True, rename="camel"):
    """The settings of a provider whose issuer decides how long a token lives."""

    default_lifetime: Seconds | None = None
    """Counts if the issuer gives no expiry; without it such a token is refused."""


class ProofSettings(IssuerSettings, frozen=True, kw_only=True, rename="camel"):
    """The settings of a provider that proves itself by a projected token."""

    token_file: str
    """Path of the token that proves who the controller is; read anew for every request."""
    proof: ProofBy = "either"


def text_problem(field: msgspec.structs.FieldInfo, value: Any) -> str | None:
    """What is wrong with the value of a field by the field's own check; texts without one must not be empty."""
    if not isinstance(value, str):
        return None
    for part in (field.type, *get_args(field.type)):  # `Url`, or `Url | None`
        for meta in get_args(part):
            if isinstance(meta, msgspec.Meta) and meta.extra:
                return meta.extra["check"](value)  # type: ignore[no-any-return]  # set by `checked` alone
    return None if value else f"must not be empty{'' if field.required else '; leave it out'}"


def common_problems(settings: ProviderSettings) -> Iterator[str]:
    """What is wrong with the settings that every provider has, as `key: problem`."""
    yield from (f"registries: {problem}" for problem in _registry_problems(settings.registries))
    yield from (f"namespaces: {problem}" for problem in _glob_problems(settings.namespaces))
    yield from (f"identities: {problem}" for problem in _glob_problems(settings.identities))
    yield from (f"noProxy: {problem}" for problem in _no_proxy_problems(settings))
    if not 0 < settings.timeout_seconds <= 60:
        yield f"timeoutSeconds: must be more than 0 and at most 60, but is {settings.timeout_seconds:g}"


def _registry_problems(registries: tuple[str, ...]) -> Iterator[str]:
    if not registries:
        yield "must name at least one host"
    if len(registries) > MAX_HOSTS:
        yield f"must name at most {MAX_HOSTS} hosts; split them between two providers"
    if len(set(registries)) < len(registries):
        yield "must name each host once"
    for host in registries:
        if not _HOST.fullmatch(host) or normalise(host) != host:
            yield f"{shown(host)} {_host_problem(host)}"
        elif len(host) > _HOST_LENGTH:
            yield f"{shown(host)} must have at most {_HOST_LENGTH} characters"


def _host_problem(host: str) -> str:
    """What is wrong with a registry that isn't written as we write it, and how to write it."""
    better = normalise(host)
    if _HOST.fullmatch(better):
        return f"must be written as {better}"
    if _HOST.fullmatch(f"[{better}]"):
        return f"is an IPv6 address, which needs brackets: [{better}]"
    if "_" in better.partition("/")[0]:
        return "has an underscore, which a host name can't have; write the registry as in the names of its images"
    return "must be a host in lower case, such as cgr.dev; a port and a path may follow"


def _glob_problems(globs: tuple[str, ...]) -> Iterator[str]:
    if not globs:
        yield "must have at least one entry; leave it out to allow all"
    if len(globs) > _MAX_GLOBS:
        yield f"must have at most {_MAX_GLOBS} entries"
    for glob in globs:
        if not glob or len(glob) > _GLOB_LENGTH:
            yield f"{shown(glob)} must have from 1 to {_GLOB_LENGTH:,} characters"
        elif "[" in glob or glob != glob.strip():
            yield f"{shown(glob)} must be the text itself, or have * for any characters and ? for one; no [ or space"


def _no_proxy_problems(settings: ProviderSettings) -> Iterator[str]:
    if settings.no_proxy and not settings.proxy:
        yield "is only used with proxy; set that, or remove it"
    for host in settings.no_proxy:
        if not _NO_PROXY.fullmatch(host):
            yield f"{shown(host)} must be a host or domain in lower case, such as login.example.com, without a port"
