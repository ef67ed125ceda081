"""From the API server's bytes to the projection: everything needed to decide, and no credential.

Only our annotations and digests survive; the credential is decoded, hashed and dropped inside `project`.
"""

from __future__ import annotations

import base64
import binascii
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeAlias, TypeVar

import msgspec

from controller.core import dockerconfig
from controller.core.annotations import (
    ATTACHED,
    CREATED_BY,
    TARGETS,
    claim_names,
    only_ours,
    read_attached,
    read_hosts,
    read_instant,
    read_managed_hosts,
    suffixed,
)
from controller.core.jwt import jwt_instant
from controller.core.model import Claim, ManagedSecret, Ref
from controller.core.targets import EMPTY_CONTENTS, Account, Namespace, Stranger, asked_by

T = TypeVar("T")

SECRET_TYPE = "kubernetes.io/dockerconfigjson"  # noqa: S105 -- the type's name
DATA_KEY = ".dockerconfigjson"
MAX_HOSTS = 32
"""Hosts kept per Secret: all that most have, and no limit, since a Secret with more is read before it is written."""


class _Labels(msgspec.Struct, frozen=True):
    created_by: str | None = msgspec.field(name=CREATED_BY, default=None)


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    namespace: str
    uid: str
    resource_version: str
    creation_timestamp: str = ""
    labels: _Labels | None = None
    annotations: dict[str, str] | None = None


class _Data(msgspec.Struct, frozen=True):
    config: str = msgspec.field(name=DATA_KEY, default="")


class _Secret(msgspec.Struct, frozen=True):
    metadata: _Metadata
    type: str = ""
    immutable: bool | None = None
    data: _Data | None = None


class _Keys(msgspec.Struct, frozen=True):
    data: dict[str, msgspec.Raw] | None = None


class _MetadataOnly(msgspec.Struct, frozen=True):
    metadata: _Metadata


_secret_decoder = msgspec.json.Decoder(_Secret)
_metadata_decoder = msgspec.json.Decoder(_MetadataOnly)


@dataclass(frozen=True, slots=True)
class Observed(Generic[T]):
    """One version of one object; `item` is what we keep of it, None for a Secret that asks for no identity."""

    ref: Ref
    resource_version: str
    item: T | None
    assumed: bool = False
    """Concluded from a write of ours and the metadata of its answer: the content was not seen."""


ObservedSecret: TypeAlias = Observed[ManagedSecret]


def project(raw: bytes | msgspec.Raw, *, installation: str | None = None) -> ObservedSecret:
    """The projection of a Secret's JSON. Raises ValueError when it isn't one.

    With the mark of `installation` it asks for an identity also without any annotation: its target gives it one.
    """
    secret = _secret_decoder.decode(raw)
    labels = secret.metadata.labels
    return _observed(
        secret.metadata,
        is_marked=installation is not None and labels is not None and labels.created_by == installation,
        right_type=secret.type == SECRET_TYPE,
        immutable=bool(secret.immutable),
        content=_content(secret),
    )


def project_filled(reply: bytes, *, before: ManagedSecret, content: bytes) -> ObservedSecret:
    """The projection after our own fill, from its metadata-only reply and the `content` that it wrote."""
    metadata = _metadata_decoder.decode(reply).metadata
    is_marked = before.target is not None and metadata.labels is not None and metadata.labels.created_by is not None
    observed = _observed(
        metadata, is_marked=is_marked, right_type=before.right_type, immutable=before.immutable, content=content
    )
    return replace(observed, assumed=True)


def project_annotated(reply: bytes, *, before: ManagedSecret) -> ObservedSecret:
    """The projection after our own patch of `error` alone; the content is as it was before."""
    metadata = _metadata_decoder.decode(reply).metadata
    ours = only_ours(metadata.annotations or {})
    claims = tuple(replace(claim, error=ours.get(suffixed("error", claim.name))) for claim in before.claims)
    secret = replace(before, resource_version=metadata.resource_version, claims=claims)
    return Observed(before.ref, metadata.resource_version, secret, assumed=True)


@dataclass(frozen=True, slots=True)
class Described:
    """A Secret by its metadata alone: its type and data are taken to be what its annotations say of them."""

    secret: ManagedSecret
    refresh_at: Mapping[str, int | None]
    """By the claim's name, when the controller means to refresh it."""


def project_metadata(raw: bytes | msgspec.Raw) -> Described | None:
    """The projection of a PartialObjectMetadata; None if it asks for no identity. Raises ValueError."""
    metadata = _metadata_decoder.decode(raw).metadata
    is_marked = metadata.labels is not None and metadata.labels.created_by is not None
    observed = _observed(metadata, is_marked=is_marked, right_type=True, immutable=False, content=b"")
    if observed.item is None:
        return None
    claims = tuple(replace(claim, present_fingerprint=claim.fingerprint) for claim in observed.item.claims)
    ours = only_ours(metadata.annotations or {})
    planned = {claim.name: read_instant(ours.get(suffixed("refresh-at", claim.name))) for claim in claims}
    return Described(replace(observed.item, claims=claims), planned)


def config_bytes(raw: bytes) -> bytes:
    """The bytes of .dockerconfigjson in a Secret's JSON; empty if there are none. Raises ValueError."""
    return _content(_secret_decoder.decode(raw))


def has_other_keys(raw: bytes) -> bool:
    """Whether a Secret's JSON has data beside .dockerconfigjson, which no projection keeps. Raises ValueError."""
    return bool((msgspec.json.decode(raw, type=_Keys).data or {}).keys() - {DATA_KEY})


def _content(secret: _Secret) -> bytes:
    try:
        return base64.b64decode(secret.data.config) if secret.data else b""
    except binascii.Error as error:
        raise ValueError("data of a Secret that is not base64") from error


def _observed(
    metadata: _Metadata, *, is_marked: bool, right_type: bool, immutable: bool, content: bytes
) -> ObservedSecret:
    ref = Ref(sys.intern(metadata.namespace), sys.intern(metadata.name))
    ours = only_ours(metadata.annotations or {})
    names = tuple(claim_names(ours))
    if is_marked and "" not in names:
        names = ("", *names)
    if not names:
        return Observed(ref, metadata.resource_version, None)
    try:
        config = dockerconfig.parse(content)
    except dockerconfig.Unreadable:
        config = None
    broken = dockerconfig.broken_hosts(config) if config else ()
    hosts = config.hosts if config else ()
    few = config is not None and len(hosts) <= MAX_HOSTS
    secret = ManagedSecret(
        ref=ref,
        uid=metadata.uid,
        resource_version=metadata.resource_version,
        right_type=right_type,
        immutable=immutable,
        readable=config is not None and len(broken) <= MAX_HOSTS,
        hosts=tuple(map(sys.intern, hosts)) if few else (),
        broken_hosts=broken[:MAX_HOSTS],
        unreadable=config.unreadable[:MAX_HOSTS] if config else (),
        plain=config is not None and few and config.plain,
        paused=ours.get("paused"),
        refresh=ours.get("refresh"),
        claims=tuple(_claim(name, ours, config) for name in names),
        created_at=metadata.creation_timestamp,
        target=sys.intern(ours.get("target", "")) if is_marked else None,
    )
    return Observed(ref, metadata.resource_version, secret)


def _claim(name: str, ours: dict[str, str], config: dockerconfig.DockerConfig | None) -> Claim:
    def value(key: str) -> str | None:
        return ours.get(suffixed(key, name))

    managed = tuple(sys.intern(host) for host in read_managed_hosts(value("registries-managed")))
    entries = dockerconfig.credentials(config, managed) if config else {}
    complete = bool(managed) and len(entries) == len(managed)
    instants = [jwt_instant(password, "exp") for _, password in entries.values()]
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


class _ObjectMeta(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    resource_version: str
    namespace: str = ""
    uid: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    deletion_timestamp: str | None = None


class _AnyObject(msgspec.Struct, frozen=True):
    metadata: _ObjectMeta


class _Reference(msgspec.Struct, frozen=True):
    name: str = ""


class _ServiceAccount(msgspec.Struct, frozen=True, rename="camel"):
    metadata: _ObjectMeta
    image_pull_secrets: list[_Reference] = []


_namespace_decoder = msgspec.json.Decoder(_AnyObject)
_account_decoder = msgspec.json.Decoder(_ServiceAccount)


def project_namespace(raw: bytes | msgspec.Raw) -> Observed[Namespace]:
    """The projection of a Namespace's metadata. Raises ValueError when it isn't one."""
    metadata = _namespace_decoder.decode(raw).metadata
    namespace = Namespace(
        sys.intern(metadata.name),
        {sys.intern(key): sys.intern(value) for key, value in metadata.labels.items()},
        opted_out=metadata.annotations.get(TARGETS) == "none",
        is_ending=metadata.deletion_timestamp is not None,
    )
    return Observed(Ref("", namespace.name), metadata.resource_version, namespace)


def project_account(raw: bytes | msgspec.Raw, *, installation: str) -> Observed[Account]:
    """The projection of a ServiceAccount. Raises ValueError when it isn't one."""
    account = _account_decoder.decode(raw)
    metadata = account.metadata
    ref = Ref(sys.intern(metadata.namespace), sys.intern(metadata.name))
    attached, by_others = read_attached(metadata.annotations.get(ATTACHED), installation)
    pull_secrets = tuple(sys.intern(each.name) for each in account.image_pull_secrets)
    ours = only_ours(metadata.annotations)
    asks = None
    if (identity := ours.get("identity")) is not None:
        asks = asked_by(
            ref.name,
            secret_name=ours.get("secret"),
            identity=identity,
            provider=ours.get("provider"),
            registries=read_hosts(ours.get("registries")),
            service_account=ours.get("service-account"),
        )
    item = Account(ref, metadata.uid, metadata.resource_version, pull_secrets, attached, by_others, asks)
    return Observed(ref, metadata.resource_version, item)


class _OwnedMeta(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    namespace: str
    uid: str
    resource_version: str
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: list[msgspec.Raw] = []
    finalizers: list[str] = []
    deletion_timestamp: str | None = None


class _OwnedSecret(msgspec.Struct, frozen=True):
    metadata: _OwnedMeta
    type: str = ""
    immutable: bool | None = None
    data: dict[str, str] = {}


_MANAGED_BY = "app.kubernetes.io/managed-by"
_stranger_decoder = msgspec.json.Decoder(_OwnedSecret)


def project_stranger(raw: bytes) -> Stranger:
    """What a Secret is that is in a target's way. Raises ValueError when it isn't one.

    It may be taken over if it holds no credential, asks for no identity, and no owner, no finalizer and no tool, by the
    label app.kubernetes.io/managed-by, has anything to do with it.
    """
    secret = _stranger_decoder.decode(raw)
    metadata = secret.metadata
    data = {key: base64.b64decode(value) for key, value in secret.data.items()}
    is_owned = bool(
        metadata.owner_references
        or metadata.finalizers
        or metadata.deletion_timestamp
        or metadata.labels.keys() & {_MANAGED_BY, CREATED_BY}
        or only_ours(metadata.annotations)
    )
    is_bare = data.keys() == {DATA_KEY} and data[DATA_KEY] in EMPTY_CONTENTS
    return Stranger(
        Ref(metadata.namespace, metadata.name),
        metadata.uid,
        metadata.resource_version,
        created_by=metadata.labels.get(CREATED_BY),
        is_empty=secret.type == SECRET_TYPE and not secret.immutable and is_bare and not is_owned,
    )
