"""Signatures by cosign (https://github.com/sigstore/cosign) with a key: no account, no service, no network."""

import subprocess
import tempfile
from pathlib import Path

from hack.gomodule import GoPrograms
from hack.releases.errors import ReleaseError

COSIGN = GoPrograms(
    name="cosign",
    module=Path(__file__).parents[1] / "tools" / "cosign",
    packages={"cosign": "github.com/sigstore/cosign/v3/cmd/cosign"},
    estimate="2 to 4 minutes on 2 cores",
)
BUNDLE = ".sigstore.json"
"""The end of the name of a file's signature."""


def sign(file: Path, *, key: Path) -> Path:
    """Sign a file; returns the bundle beside it. COSIGN_PASSWORD opens the key. Raises ReleaseError, BinariesError."""
    bundle = file.with_name(file.name + BUNDLE)
    _cosign("sign-blob", "--key", str(key), "--bundle", str(bundle), str(file))
    return bundle


def attest(statement: Path, *, key: Path) -> Path:
    """Sign an in-toto statement; returns the bundle beside it, which holds the statement too. Raises as `sign`."""
    bundle = statement.with_name(statement.name + BUNDLE)
    _cosign("attest-blob", "--key", str(key), "--statement", str(statement), "--bundle", str(bundle))
    return bundle


def _cosign(command: str, *arguments: str) -> None:
    cosign = COSIGN.find_or_build() / "cosign"
    with tempfile.TemporaryDirectory(prefix="cosign-") as scratch:
        # Names no transparency log and no clock to ask. By default cosign would use those of the Sigstore project.
        config = Path(scratch, "signing-config.json")
        config.write_text('{"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json"}')
        words = [str(cosign), command, "--yes", "--signing-config", str(config), *arguments]
        done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise ReleaseError(f"cosign {command} failed: {done.stderr.strip() or done.stdout.strip()}")
