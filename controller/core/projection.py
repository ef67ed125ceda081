"""From the API server's bytes to what we keep: everything that decides, and no credential.

Only our annotations and digests survive; the credential is decoded, hashed and dropped inside `project`.
"""

from __future__ import annotations

import base64
import binascii
import sys
from dataclasses import dataclass, replace

import msgspec

from controller.core import dockerconfig
from controller.core.annotations import claim_names, only_ours, read_hosts, read_instant, suffixed
from controller.core.model import Claim, ManagedSecret, Ref

SECRET_TYPE = "kubernetes.io/dockerconfigjson"  # noqa: S105 -- the type's name
DATA_KEY = ".dockerconfigjson"
MAX_HOSTS = 32
"""What is kept of one Secret is bounded; one with more entries is simply read before it is written."""


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    namespace: str
    uid: str
    resource_version: str
    annotations: dict[str, str] | None = None


class _Data(msgspec.Struct, frozen=True):
    config: str = msgspec.field(name=DATA_KEY, default="")


class _Secret(msgspec.Struct, frozen=True):
    metadata: _Metadata
    type: str = ""
    immutable: bool | None = None
    data: _Data | None = None


class _MetadataOnly(msgspec.Struct, frozen=True):
    metadata: _Metadata


_secret_decoder = msgspec.json.Decoder(_Secret)
_metadata_decoder = msgspec.json.Decoder(_MetadataOnly)


@dataclass(frozen=True, slots=True)
class Observed:
    """One version of one Secret; `secret` is None where it asks for no identity."""

    ref: Ref
    resource_version: str
    secret: ManagedSecret | None


def project(raw: bytes | msgspec.Raw) -> Observed:
    """The projection of a Secret's JSON. Raises ValueError when it isn't one."""
    secret = _secret_decoder.decode(raw)
    return _observed(
        secret.metadata,
        right_type=secret.type == SECRET_TYPE,
        immutable=bool(secret.immutable),
        content=_content(secret),
    )


def project_filled(reply: bytes, *, before: ManagedSecret, content: bytes) -> Observed:
    """The projection after our own fill, from its metadata-only reply and the `content` that it wrote."""
    metadata = _metadata_decoder.decode(reply).metadata
    return _observed(metadata, right_type=before.right_type, immutable=before.immutable, content=content)


def project_annotated(reply: bytes, *, before: ManagedSecret) -> Observed:
    """The projection after a patch of ours that changed `error` alone, so what is known of the content still holds."""
    metadata = _metadata_decoder.decode(reply).metadata
    ours = only_ours(metadata.annotations or {})
    claims = tuple(replace(claim, error=ours.get(suffixed("error", claim.name))) for claim in before.claims)
    secret = replace(before, resource_version=metadata.resource_version, claims=claims)
    return Observed(before.ref, metadata.resource_version, secret)


def config_bytes(raw: bytes) -> bytes:
    """The bytes of .dockerconfigjson in a Secret's JSON; empty where there are none. Raises ValueError."""
    return _content(_secret_decoder.decode(raw))


def _content(secret: _Secret) -> bytes:
    try:
        return base64.b64decode(secret.data.config) if secret.data else b""
    except binascii.Error as error:
        raise ValueError("data of a Secret that is not base64") from error


def _observed(metadata: _Metadata, *, right_type: bool, immutable: bool, content: bytes) -> Observed:
    ref = Ref(sys.intern(metadata.namespace), sys.intern(metadata.name))
    ours = only_ours(metadata.annotations or {})
    names = tuple(claim_names(ours))
    if not names:
        return Observed(ref, metadata.resource_version, None)
    try:
        config = dockerconfig.parse(content)
    except dockerconfig.Unreadable:
        config = None
    broken = dockerconfig.broken_hosts(config) if config else ()
    few = config is not None and len(config.entries) <= MAX_HOSTS
    secret = ManagedSecret(
        ref=ref,
        uid=metadata.uid,
        resource_version=metadata.resource_version,
        right_type=right_type,
        immutable=immutable,
        readable=config is not None and len(broken) <= MAX_HOSTS,
        hosts=tuple(map(sys.intern, config.hosts)) if config and few else (),
        broken_hosts=broken[:MAX_HOSTS],
        plain=config is not None and few and config.plain,
        paused=ours.get("paused"),
        refresh=ours.get("refresh"),
        claims=tuple(_claim(name, ours, config) for name in names),
    )
    return Observed(ref, metadata.resource_version, secret)


def _claim(name: str, ours: dict[str, str], config: dockerconfig.DockerConfig | None) -> Claim:
    def value(key: str) -> str | None:
        return ours.get(suffixed(key, name))

    managed = tuple(sys.intern(host) for host in read_hosts(value("registries-managed")) or ())
    entries = dockerconfig.credentials(config, managed) if config else {}
    complete = bool(managed) and len(entries) == len(managed)
    instants = [dockerconfig.jwt_instant(password, "exp") for _, password in entries.values()]
    return Claim(
        name=sys.intern(name),
        identity=sys.intern(value("identity") or ""),
        provider=name or value("provider"),
        registries=read_hosts(value("registries")),
        service_account=value("service-account"),
        issued_at=read_instant(value("issued-at")),
        expires_at=read_instant(value("expires-at")),
        issued_for=value("issued-for"),
        fingerprint=value("fingerprint"),
        managed_hosts=managed,
        refreshed_for=value("refreshed-for"),
        error=value("error"),
        present_fingerprint=dockerconfig.fingerprint(entries) if complete else None,
        credential_exp=min((instant for instant in instants if instant is not None), default=None),
    )
