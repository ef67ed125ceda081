"""The files that a kubelet would put into the controller's Pod, kept fresh while the controller runs."""

import contextlib
import shutil
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import urllib3

from testing.api import ApiError
from testing.cluster import Cluster

NAMESPACE, NAME = "pull-secret-updater", "controller"
"""The ServiceAccount that manifests/ gives the controller."""
USER = f"system:serviceaccount:{NAMESPACE}:{NAME}"
AUDIENCE = "issuer.enforce.dev"
"""The audience of the token that it presents to the issuer."""
ROTATION_SECONDS = 30
"""A kubelet rotates at 80 % of a token's life; this is often enough that every long run sees a rotation."""


class MountedTokens:
    """The in-cluster directory (token, ca.crt, namespace) and the token for the issuer.

    As a kubelet does, it replaces every file whenever it replaces a token, changed or not.
    """

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self.service_account = directory / "serviceaccount"
        self.oidc_token = directory / "oidc-token"
        self._cluster = cluster
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._rotate, name="mounted-tokens", daemon=True)
        self.service_account.mkdir(parents=True)

    def __enter__(self) -> Self:
        """Write both tokens before this returns. Raises ApiError."""
        self._write()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(10)

    def with_ca(self, directory: Path, ca: bytes) -> Path:
        """The in-cluster directory as it is now, in a new `directory` and with another CA."""
        shutil.copytree(self.service_account, directory, ignore=shutil.ignore_patterns("*.new"))
        (directory / "ca.crt").write_bytes(ca)
        return directory

    def _rotate(self) -> None:
        while not self._stop.wait(ROTATION_SECONDS):
            with contextlib.suppress(ApiError, urllib3.exceptions.HTTPError):  # an outage; the next turn makes it good
                self._write()

    def _write(self) -> None:
        files = {
            self.service_account / "token": self._cluster.service_account_token(NAMESPACE, NAME),
            self.service_account / "ca.crt": self._cluster.ca.read_text(),
            self.service_account / "namespace": NAMESPACE,
            self.oidc_token: self._cluster.service_account_token(NAMESPACE, NAME, audience=AUDIENCE),
        }
        for path, content in files.items():
            new = path.with_suffix(".new")
            new.touch(mode=0o600)
            new.write_text(content)
            new.replace(path)
