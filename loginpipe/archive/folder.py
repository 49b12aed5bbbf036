"""The archive in a folder of this machine, or of a file system that it has mounted."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfile

from loginpipe.common.errors import ArchivedDayError, ArchiveError


class Folder:
    """A store in a folder, which is made with the first file."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def url(self) -> str:
        """As ``file:///path``."""
        return self._root.as_uri()

    def require_usable(self) -> None:
        """Make sure that the folder can be written to, or made."""
        there = next(path for path in (self._root, *self._root.parents) if path.exists())
        if not there.is_dir() or not os.access(there, os.R_OK | os.W_OK | os.X_OK):
            raise ArchiveError(f"the archive in {self._root} cannot be used: {there} cannot be written to")

    def put(self, source: Path, name: str) -> None:
        """Copy a file here; it appears under its name when all of it is on the disk."""
        target = self._root / name
        partial = target.with_name(f".{target.name}")
        with self._errors(name):
            target.parent.mkdir(parents=True, exist_ok=True)
            copyfile(source, partial)
            _to_disk(partial)
            partial.replace(target)
            _to_disk(target.parent)

    def rename(self, name: str, new: str) -> None:
        """Rename a file."""
        with self._errors(name):
            (self._root / name).replace(self._root / new)
            _to_disk((self._root / new).parent)

    @contextmanager
    def fetched(self, name: str) -> Iterator[Path]:
        """Give the file itself."""
        path = self._root / name
        with self._errors(name):
            path.stat()
        yield path

    def names(self, prefix: str = "") -> list[str]:
        """List the files whose names begin so."""
        with self._errors(prefix):
            paths = self._root.glob(f"{prefix.rpartition('/')[0] or '*'}/*")
            names = [path.relative_to(self._root).as_posix() for path in paths if path.is_file()]
        return sorted(name for name in names if name.startswith(prefix))

    def delete(self, name: str) -> None:
        """Delete a file."""
        with self._errors(name):
            (self._root / name).unlink(missing_ok=True)

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise ArchivedDayError(f"the file {self._root / name} is missing") from None
        except OSError as error:
            raise ArchiveError(
                f"the archive in {self._root} cannot be used: {error.strerror}; mend the folder or its permissions"
            ) from None


def _to_disk(path: Path) -> None:
    """Make sure of a file or a folder's entries: rows are dropped from the table on the strength of it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
