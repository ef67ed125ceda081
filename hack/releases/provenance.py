"""Where a release comes from, as a statement that can be signed: SLSA provenance in an in-toto statement.

https://slsa.dev/spec/v1.0/provenance, https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hack.releases.source import Source

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:pull-secret-updater:release:v1"
"""Names what docs/releases.md says: `hack/release VERSION` in a checkout of the commit."""


def sha256(file: Path) -> str:
    """Its digest in hexadecimal."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def statement(
    files: Iterable[Path], source: Source, *, version: str, builder: str, bases: Iterable[str]
) -> dict[str, Any]:
    """Which files were made, from what, and by whom: `builder` is a URI. It has no time of day, so it never differs.

    `bases` are the images that ours were built on, by name.
    """
    locks = sorted((source.checkout / "hack/requirements").glob("*.txt"))
    return {
        "_type": STATEMENT,
        "subject": [{"name": file.name, "digest": {"sha256": sha256(file)}} for file in sorted(files)],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"version": version},
                "resolvedDependencies": [
                    {"name": "source", "digest": {"gitCommit": source.commit}},
                    *map(_base_image, bases),
                    *({"name": f"hack/requirements/{lock.name}", "digest": {"sha256": sha256(lock)}} for lock in locks),
                ],
            },
            "runDetails": {"builder": {"id": builder}},
        },
    }


def _base_image(name: str) -> dict[str, Any]:
    _, _, digest = name.partition("@sha256:")
    return {"name": "base image", "uri": f"docker://{name}", **({"digest": {"sha256": digest}} if digest else {})}


def write(value: dict[str, Any], target: Path) -> None:
    """As JSON."""
    target.write_text(json.dumps(value, indent=1) + "\n")


def write_sums(files: Iterable[Path], target: Path) -> None:
    """As `sha256sum --check` reads them."""
    target.write_text("".join(f"{sha256(file)}  {file.name}\n" for file in sorted(files)))
