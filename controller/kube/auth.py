"""The API server's address and our credential for it: the Pod's ServiceAccount, or a person's kubeconfig."""

from __future__ import annotations

import asyncio
import datetime as dt
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import yaml

from controller.kube.errors import StartError, Unauthorized
from controller.net.transport import AiohttpTransport

DIRECTORY_VARIABLE = "PULL_SECRET_UPDATER_SERVICEACCOUNT_DIR"
_STANDARD_DIRECTORY = "/var/run/secrets/kubernetes.io/serviceaccount"
_REREAD_SECONDS = 60.0
"""As in client-go. The kubelet replaces a token after 80 % of its life: at least 2 min before its end."""

_KUBECONFIG_SECONDS = 30.0
"""For an exec plugin, which may ask an identity provider."""

_RENEW_AT_SHARE = 0.8
"""Of what is left of an exec plugin's credential when it is read; late enough for plugins with a cache of their own."""


class Access(Protocol):
    """The way to one API server."""

    @property
    def url(self) -> str:
        """Scheme, host and port, and a path if there is one; no slash at the end."""
        ...

    @property
    def namespace(self) -> str | None:
        """Of whoever we are: the Pod's or the context's; None if nothing says it."""
        ...

    async def headers(self) -> dict[str, str]:
        """Headers that authenticate us; none if a client certificate does. Raises Unauthorized."""
        ...

    def rejected(self) -> None:
        """The server answered 401: read the credential again before the next request."""
        ...

    def transport(self, connections: int) -> AiohttpTransport:
        """A new transport, and with it a new pool of at most that many connections."""
        ...


class InCluster:
    """The ServiceAccount of the Pod. Its token is read again at least every 60 s, and at once after a 401."""

    def __init__(self, *, url: str, directory: Path, now: Callable[[], float]) -> None:
        self._url = url
        self._directory = directory
        self._now = now
        self._token: str | None = None
        self._read_at = 0.0

    @property
    def url(self) -> str:
        """See Access."""
        return self._url

    @property
    def namespace(self) -> str | None:
        """See Access."""
        try:
            return (self._directory / "namespace").read_text().strip() or None
        except (OSError, UnicodeDecodeError):
            return None

    async def headers(self) -> dict[str, str]:
        """See Access."""
        return {"Authorization": f"Bearer {self._fresh_token()}"}

    def rejected(self) -> None:
        """See Access."""
        self._token = None

    def transport(self, connections: int) -> AiohttpTransport:
        """See Access."""
        return AiohttpTransport(ca_file=self._directory / "ca.crt", connections=connections)

    def _fresh_token(self) -> str:
        # If the clock was set back, the age is negative; that counts as old too.
        if self._token is None or not 0 <= self._now() - self._read_at < _REREAD_SECONDS:
            try:
                # A few KiB in memory (tmpfs): a thread would cost more than the read.
                token = (self._directory / "token").read_text().strip()
            except (OSError, UnicodeDecodeError) as error:
                raise Unauthorized(f"the ServiceAccount token can't be read: {type(error).__name__}") from error
            if not token.isascii() or not token.isprintable() or not token:
                raise Unauthorized("the ServiceAccount token is empty or not one line of text")
            self._token, self._read_at = token, self._now()
        return self._token


def in_cluster(environment: Mapping[str, str], *, now: Callable[[], float]) -> InCluster:
    """The access of a Pod. Raises StartError outside of a cluster."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        raise StartError(
            "not in a cluster: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set; name a kubeconfig"
        )
    directory = Path(environment.get(DIRECTORY_VARIABLE) or _STANDARD_DIRECTORY)
    for name in ("token", "ca.crt"):
        if not (directory / name).is_file():
            raise StartError(
                f"{directory / name} is missing; mount the ServiceAccount's token with its ca.crt there, or set "
                f"{DIRECTORY_VARIABLE}"
            )
    bracketed = f"[{host}]" if ":" in host else host
    return InCluster(url=f"https://{bracketed}:{port}", directory=directory, now=now)


class Kubeconfig:
    """A context of a kubeconfig, or of several as one (`a:b`), as the official client understands it.

    The file is read again, and an exec plugin run again, after a 401 and before the plugin's credential ends. Made by
    `from_kubeconfig`.
    """

    def __init__(self, path: Path, *, context: str | None = None, now: Callable[[], float]) -> None:
        self._path = path
        self._context = context
        self._now = now
        self._loading = asyncio.Lock()
        self._loaded: _Loaded | None = None

    @property
    def url(self) -> str:
        """See Access."""
        return self._known.url

    @property
    def namespace(self) -> str | None:
        """See Access."""
        return self._known.namespace

    async def headers(self) -> dict[str, str]:
        """See Access."""
        async with self._loading:
            if self._known.renew_at <= self._now():
                try:
                    await self.load()
                except StartError as error:
                    raise Unauthorized("the kubeconfig no longer gives a credential") from error
        return {"Authorization": self._known.authorization} if self._known.authorization else {}

    def rejected(self) -> None:
        """See Access."""
        self._loaded = replace(self._known, renew_at=-math.inf)

    def transport(self, connections: int) -> AiohttpTransport:
        """See Access."""
        known = self._known
        return AiohttpTransport(
            ca_file=known.ca_file,
            client_certificate=known.client_certificate,
            verify=known.verify,
            proxy=known.proxy,
            connections=connections,
        )

    async def load(self) -> None:
        """Read the file, and run its exec plugin if it has one. Raises StartError."""
        try:
            async with asyncio.timeout(_KUBECONFIG_SECONDS):
                self._loaded = await _load_kubeconfig(self._path, self._context, self._now())
        except TimeoutError as error:
            raise StartError("the kubeconfig's exec plugin did not finish within 30 s") from error

    @property
    def _known(self) -> _Loaded:
        if self._loaded is None:
            raise StartError("the kubeconfig has not been read yet")
        return self._loaded


async def from_kubeconfig(path: Path, *, context: str | None = None, now: Callable[[], float]) -> Kubeconfig:
    """The access that a kubeconfig gives, by default in its current context. Raises StartError."""
    access = Kubeconfig(path, context=context, now=now)
    await access.load()
    return access


@dataclass(frozen=True, slots=True)
class _Loaded:
    url: str
    namespace: str | None
    authorization: str | None = field(repr=False)
    """The whole header."""

    ca_file: Path | None
    client_certificate: tuple[Path, Path] | None
    verify: bool
    proxy: str | None
    renew_at: float


async def _load_kubeconfig(path: Path, context: str | None, now: float) -> _Loaded:
    try:
        from kubernetes.aio import client, config  # noqa: PLC0415 -- 20 MiB, which a controller in a Pod does not need
    except ImportError as error:
        raise StartError(
            f"to read the kubeconfig {path} a package is missing: pip install pull-secret-updater[kubeconfig]; "
            "to be the ServiceAccount of a Pod, unset KUBECONFIG"
        ) from error
    if not any(Path(each).is_file() for each in str(path).split(os.pathsep)):  # noqa: ASYNC240 -- local, at the start
        raise StartError(f"{path} does not exist; name another kubeconfig")
    settings: Any = client.Configuration()
    try:
        loader: Any = await config.load_kube_config(  # type: ignore[no-untyped-call]
            config_file=str(path), context=context, client_configuration=settings, persist_config=False
        )
    except (config.ConfigException, OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        # The client's own words can quote a user's whole entry, token and all.
        raise StartError(
            f"the kubeconfig can't be used ({type(error).__name__}); `kubectl config view` may say more"
        ) from error
    if getattr(loader, "tls_server_name", None):
        raise StartError(
            "the kubeconfig's tls-server-name is not supported; use a server name that its certificate has"
        )
    user: Any = loader._user or {}  # noqa: SLF001 -- nothing public says it
    if {"as", "as-uid", "as-groups", "as-user-extra"} & set(getattr(user, "value", user)):
        # The client drops it, and we would act as somebody else than the file says.
        raise StartError(
            "the kubeconfig's user impersonates another one (as), which is not supported; use that user's own"
        )
    authorization = settings.api_key.get("BearerToken")
    certificate = (Path(settings.cert_file), Path(settings.key_file)) if settings.cert_file else None
    # The client logs a plugin's failure and goes on without a credential.
    if "exec" in user and not authorization and not certificate:
        raise StartError("the kubeconfig's exec plugin gave no credential; run kubectl to see what it says")
    ends: dt.datetime | None = getattr(loader, "exec_plugin_expiry", None)
    return _Loaded(
        url=str(settings.host).rstrip("/"),
        namespace=getattr(loader._current_context["context"], "value", {}).get("namespace"),  # noqa: SLF001
        authorization=authorization,
        ca_file=Path(settings.ssl_ca_cert) if settings.ssl_ca_cert else None,
        client_certificate=certificate,
        verify=bool(settings.verify_ssl),
        proxy=settings.proxy,
        renew_at=math.inf if ends is None else now + (ends.timestamp() - now) * _RENEW_AT_SHARE,
    )
