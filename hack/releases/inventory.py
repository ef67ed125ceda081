"""SBOMs: what is in an image, and what a wheel was tested with."""

import hashlib
import json
import tempfile
import uuid
import zipfile
from datetime import UTC, datetime
from pathlib import Path

from hack.imagebuild import sbom


def of_image(archive: Path, target: Path, *, name: str, version: str, epoch: int) -> None:
    """Write the SBOM (SPDX 2.3, JSON) of the image in an OCI archive. Raises BuildError, BinariesError."""
    sbom.write(archive, target, name=name, version=version, kind="oci-archive")
    _fix(target, epoch=epoch)


def of_wheel(wheel: Path, lock: Path, target: Path, *, version: str, epoch: int) -> None:
    """Write the SBOM of a wheel, with the versions of its dependencies that the tests ran with: those of `lock`.

    Raises BuildError, BinariesError.
    """
    with tempfile.TemporaryDirectory(prefix="sbom-") as scratch:
        with zipfile.ZipFile(wheel) as content:
            content.extractall(scratch)
        Path(scratch, "requirements.txt").write_bytes(lock.read_bytes())
        sbom.write(Path(scratch), target, name=wheel.name, version=version, kind="dir")
    _fix(target, epoch=epoch)


def _fix(file: Path, *, epoch: int) -> None:
    """In place of the time of day and a random name: the commit's time, and a name that the content gives."""
    document = json.loads(file.read_text())
    document["creationInfo"]["created"] = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    del document["documentNamespace"]
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    document["documentNamespace"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, digest)}"
    file.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
