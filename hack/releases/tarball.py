"""Archives whose bytes depend on what is in them alone: sorted, owned by root, of one time, with plain modes."""

import gzip
import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def writing(target: Path, *, epoch: int) -> Iterator["Writer"]:
    """A new archive; compressed if `target` ends in gz. Whoever writes decides the order."""
    with target.open("wb") as raw:
        if target.suffix in {".gz", ".tgz"}:
            # GzipFile would write the file's name and the time of day into its header.
            with (
                gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=epoch) as packed,
                tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
            ):
                yield Writer(tar, epoch)
        else:
            with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
                yield Writer(tar, epoch)


class Writer:
    """Adds files to an archive."""

    def __init__(self, tar: tarfile.TarFile, epoch: int) -> None:
        self._tar = tar
        self._epoch = epoch

    def add(self, name: str, content: bytes, *, executable: bool = False) -> None:
        """A file with these bytes."""
        self.copy(name, io.BytesIO(content), size=len(content), executable=executable)

    def copy(self, name: str, content: IO[bytes], *, size: int, executable: bool = False) -> None:
        """A file with the next `size` bytes of an open one."""
        entry = tarfile.TarInfo(name)
        entry.size, entry.mtime, entry.mode = size, self._epoch, 0o755 if executable else 0o644
        self._tar.addfile(entry, content)


def pack_again(archive: Path, *, epoch: int) -> None:
    """Write an archive anew, with its regular files alone, sorted by name."""
    found: dict[str, tuple[bytes, bool]] = {}
    with tarfile.open(archive) as tar:
        for entry in tar:
            if entry.isfile() and (content := tar.extractfile(entry)) is not None:
                found[entry.name] = content.read(), bool(entry.mode & 0o100)
    with writing(archive, epoch=epoch) as again:
        for name, (whole, executable) in sorted(found.items()):
            again.add(name, whole, executable=executable)
