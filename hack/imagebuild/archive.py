"""Images without a builder: archives that `docker load`, `buildah pull` and `ctr images import` accept.

https://github.com/moby/docker-image-spec/blob/main/spec.md
"""

import gzip
import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
"""This machine's architecture, as OCI and Debian call it."""


def of_directory(
    root: Path, target: Path, *, name: str, config: Mapping[str, Any], architecture: str = MACHINE
) -> None:
    """Write an image with one layer, all files below `root`, to `target`; `config` says what it runs, and how."""
    layer = target.with_suffix(".layer")
    try:
        with tarfile.open(layer, mode="w") as tar:
            tar.add(root, arcname=".", filter=_no_device)
        with layer.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        described = {
            "architecture": architecture,
            "os": "linux",
            "config": dict(config),
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            "history": [{"created_by": "hack/imagebuild"}],  # buildah counts the entries when it builds on top
        }
        manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
        with tarfile.open(target, mode="w") as tar:
            for path, value in (("config.json", described), ("manifest.json", manifest)):
                entry, text = tarfile.TarInfo(path), json.dumps(value).encode()
                entry.size = len(text)
                tar.addfile(entry, io.BytesIO(text))
            tar.add(layer, arcname="layer.tar")
    finally:
        layer.unlink(missing_ok=True)


def layer_sizes(archive: Path) -> list[int]:
    """The size in bytes of each layer as an uncompressed tar file, the base's first."""
    with tarfile.open(archive) as tar:
        manifest = json.load(tar.extractfile("manifest.json") or io.BytesIO())
        return [_size(tar, name) for name in manifest[0]["Layers"]]


def open_layer(tar: tarfile.TarFile, name: str) -> IO[bytes] | gzip.GzipFile:
    """A layer of an open archive, uncompressed; some versions of `docker save` compress it."""
    content = tar.extractfile(name)  # follows links: a layer that occurs twice may be a link
    if content is None:
        raise ValueError(f"{name} is not a file")
    compressed = content.read(2) == b"\x1f\x8b"
    content.seek(0)
    return gzip.open(content) if compressed else content


def _size(tar: tarfile.TarFile, name: str) -> int:
    with open_layer(tar, name) as layer:
        return sum(map(len, iter(lambda: layer.read(1 << 20), b"")))


def _no_device(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leave out devices: the runtime creates them again, and the user who unpacks the image may not be allowed to."""
    return None if entry.isdev() else entry
