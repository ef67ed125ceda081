"""Images of several machines as one: an archive in OCI's image layout, whose index lists them.

Its digest is the one that a registry has after `skopeo copy --all --preserve-digests`, so manifests can name it before
anything was pushed. https://github.com/opencontainers/image-spec, image-layout.md and image-index.md
"""

import hashlib
import itertools
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any

import msgspec

from hack.releases import tarball
from hack.releases.errors import ReleaseError

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"

_Word = Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9]+\Z")]
"""Goes into the names of files."""


class _Blob(msgspec.Struct, rename="camel", kw_only=True, frozen=True):
    """What OCI calls a descriptor."""

    media_type: str
    digest: Annotated[str, msgspec.Meta(pattern=r"\Asha256:[0-9a-f]{64}\Z")]
    size: int


class _Index(msgspec.Struct, kw_only=True, frozen=True):
    manifests: Annotated[tuple[_Blob, ...], msgspec.Meta(min_length=1, max_length=1)]


class _Manifest(msgspec.Struct, kw_only=True, frozen=True):
    config: _Blob
    layers: tuple[_Blob, ...]


class _Settings(msgspec.Struct, rename="pascal", kw_only=True, frozen=True):
    labels: dict[str, str] | None = None


class _Config(msgspec.Struct, kw_only=True, frozen=True):
    architecture: _Word
    os: _Word
    variant: _Word | None = None
    config: _Settings = _Settings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image in an archive: of one machine. Each blob was what its digest says when the archive was read."""

    archive: Path
    manifest: _Blob
    blobs: tuple[_Blob, ...]
    """Its manifest, configuration and layers."""
    config: _Config

    @property
    def platform(self) -> str:
        """Such as linux/amd64."""
        return f"{self.config.os}/{self.config.architecture}"

    @property
    def revision(self) -> str:
        """The commit that it says it was built from, empty if it says none."""
        return self._label("revision")

    @property
    def base(self) -> str:
        """The image that it says it was built on, with its digest where that was known; empty if it says none."""
        return self._label("base.name")

    def _label(self, name: str) -> str:
        return (self.config.config.labels or {}).get(f"org.opencontainers.image.{name}", "")

    @property
    def descriptor(self) -> dict[str, Any]:
        """As an index lists it."""
        platform = {"architecture": self.config.architecture, "os": self.config.os}
        if self.config.variant:
            platform["variant"] = self.config.variant
        return {**msgspec.to_builtins(self.manifest), "platform": platform}

    @classmethod
    def of(cls, archive: Path) -> "Image":
        """The only image in an archive of this layout. Raises ReleaseError."""
        try:
            with tarfile.open(archive) as tar:
                return _only_image(archive, tar)
        except (OSError, tarfile.TarError, KeyError, ValueError, msgspec.MsgspecError) as error:
            raise ReleaseError(
                f"{archive} is no archive of one image in OCI's layout ({error}); "
                "`hack/image --save FILE --format oci` writes one"
            ) from error


def _only_image(archive: Path, tar: tarfile.TarFile) -> Image:
    (entry,) = msgspec.json.decode(_open(tar, "index.json").read(), type=_Index).manifests
    if entry.media_type != MANIFEST:
        raise ValueError(f"its index lists a {entry.media_type}")
    manifest = msgspec.json.decode(_checked(tar, entry).read(), type=_Manifest)
    config = msgspec.json.decode(_checked(tar, manifest.config).read(), type=_Config)
    for layer in manifest.layers:
        _checked(tar, layer)
    return Image(archive=archive, manifest=entry, blobs=(entry, manifest.config, *manifest.layers), config=config)


def join(images: Sequence[Image], target: Path, *, version: str, epoch: int) -> str:
    """Write one archive with all images, and an index that lists them; returns the index's digest, sha256:...

    Raises ReleaseError: two are of one machine.
    """
    ordered = sorted(images, key=lambda image: image.platform)
    for one, other in itertools.pairwise(ordered):
        if one.platform == other.platform:
            raise ReleaseError(f"both {one.archive} and {other.archive} are of {one.platform}; leave one out")
    index = _bytes({"schemaVersion": 2, "mediaType": INDEX, "manifests": [image.descriptor for image in ordered]})
    digest = f"sha256:{hashlib.sha256(index).hexdigest()}"
    entry = {
        "mediaType": INDEX,
        "digest": digest,
        "size": len(index),
        "annotations": {"org.opencontainers.image.ref.name": version},
    }
    with tarball.writing(target, epoch=epoch) as out:
        out.add("oci-layout", _bytes({"imageLayoutVersion": "1.0.0"}))
        out.add("index.json", _bytes({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}))
        out.add(_path(digest), index)
        written: set[str] = set()
        for image in ordered:
            _copy_blobs(image, out, written)
    return digest


def _copy_blobs(image: Image, out: tarball.Writer, written: set[str]) -> None:
    with tarfile.open(image.archive) as tar:
        for blob in image.blobs:
            if blob.digest not in written:  # images of different machines may share a layer
                written.add(blob.digest)
                out.copy(_path(blob.digest), _checked(tar, blob), size=blob.size)


def _path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _checked(tar: tarfile.TarFile, blob: _Blob) -> IO[bytes]:
    """An open blob, at its beginning, after its digest and size were compared."""
    content, digest = _open(tar, _path(blob.digest)), hashlib.sha256()
    while part := content.read(1 << 20):
        digest.update(part)
    found = f"sha256:{digest.hexdigest()}"
    if (found, content.tell()) != (blob.digest, blob.size):
        raise ReleaseError(
            f"{tar.name!s} lists {blob.digest} with {blob.size} bytes, and has {found} with {content.tell()} bytes; "
            "it was damaged or changed, so build the image again"
        )
    content.seek(0)
    return content


def _open(tar: tarfile.TarFile, name: str) -> IO[bytes]:
    content = tar.extractfile(name)
    if content is None:
        raise ValueError(f"{name} is not a file")
    return content


def _bytes(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
