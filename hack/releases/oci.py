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
from typing import Any

from hack.releases import tarball
from hack.releases.errors import ReleaseError

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image in an archive: of one machine."""

    archive: Path
    descriptor: dict[str, Any]
    """Its manifest's type, digest, size and platform, as an index lists it."""

    @property
    def platform(self) -> str:
        """Such as linux/amd64."""
        platform = self.descriptor["platform"]
        return f"{platform['os']}/{platform['architecture']}"

    @property
    def digest(self) -> str:
        """The manifest's, as in sha256:..."""
        return str(self.descriptor["digest"])

    @classmethod
    def of(cls, archive: Path) -> "Image":
        """The only image in an archive of this layout. Raises ReleaseError."""
        try:
            with tarfile.open(archive) as tar:
                return cls(archive=archive, descriptor=_only_image(tar))
        except (OSError, tarfile.TarError, KeyError, ValueError, TypeError) as error:
            raise ReleaseError(
                f"{archive} is no archive of one image in OCI's layout ({error}); "
                "`hack/image --save FILE --format oci` writes one"
            ) from error


def _only_image(tar: tarfile.TarFile) -> dict[str, Any]:
    (manifest,) = _json(tar, "index.json")["manifests"]
    described = _blob(tar, manifest["digest"])
    if described.get("mediaType", manifest["mediaType"]) != MANIFEST:
        raise ValueError(f"its index lists a {manifest['mediaType']}")
    config = _blob(tar, described["config"]["digest"])
    platform = {key: config[key] for key in ("architecture", "os", "variant") if config.get(key)}
    return {"mediaType": MANIFEST, "digest": manifest["digest"], "size": manifest["size"], "platform": platform}


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
        manifest = _blob(tar, image.digest)
        for digest in (image.digest, manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])):
            if digest in written:  # images of different machines may share a layer
                continue
            written.add(digest)
            member = tar.getmember(_path(digest))
            content = tar.extractfile(member)
            if content is None:
                raise ReleaseError(f"{image.archive}: {member.name} is not a file")
            out.copy(member.name, content, size=member.size)


def _path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _blob(tar: tarfile.TarFile, digest: str) -> Any:
    return _json(tar, _path(digest))


def _json(tar: tarfile.TarFile, name: str) -> Any:
    content = tar.extractfile(name)
    if content is None:
        raise ValueError(f"{name} is not a file")
    return json.load(content)


def _bytes(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
