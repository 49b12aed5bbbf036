"""Open the store of an archive by its URL: a folder or an S3 bucket. Stores do not know the format of the files."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from shutil import copyfile
from typing import Protocol
from urllib.parse import unquote, urlsplit

from loginpipe.common.errors import ArchivedDayError, ArchiveError, SettingError
from loginpipe.common.settings import MEANINGS, Settings


class Store(Protocol):
    """Files by name, as in ``day=2026-11-20/part-….parquet``.

    Every method raises ArchivedDayError if the file is missing, and ArchiveError if the store cannot be used.
    """

    @property
    def url(self) -> str:
        """The absolute URL, without a final slash. The URL of a file is this, a slash and the file's name."""

    def require_usable(self) -> None:
        """Check without writing that the store can be used."""

    def put(self, source: Path, name: str) -> None:
        """Store a file as a whole or not at all."""

    def rename(self, name: str, new: str) -> None:
        """Rename a file."""

    def fetched(self, name: str) -> AbstractContextManager[Path]:
        """Yield a local path of the file, valid within a with block."""

    def names(self, prefix: str = "") -> list[str]:
        """Return the names of the files with a prefix."""

    def delete(self, name: str) -> None:
        """Delete a file. A missing file is no error."""


class Stores:
    """All stores with files, each opened once. The archive may have moved since a day was written."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open: dict[str, Store] = {}

    @property
    def current(self) -> Store:
        """The store of LOGINPIPE_ARCHIVE_URL, for new files.

        Raises:
            SettingError: it is not set, or no URL of a store.
            ArchiveError: as `open_store`.
        """
        return self._at(self._settings.required("archive_url").rstrip("/"))

    def locate(self, url: str) -> tuple[Store, str]:
        """Return the store of a day's file, and the file's name in it.

        Raises:
            SettingError, ArchiveError: as `open_store`.
        """
        base, day, name = url.rsplit("/", 2)
        return self._at(base), f"{day}/{name}"

    def _at(self, url: str) -> Store:
        if url not in self._open:
            store = open_store(url, production=self._settings.production)
            self._open |= {url: store, store.url: store}
        return self._open[url]


def open_store(url: str, *, production: bool) -> Store:
    """Open a store without accessing it. In production, refuse an endpoint without https.

    The URL is ``file:///path``, ``file:path`` (from the current folder), or ``s3://bucket/prefix``.

    Raises:
        SettingError: the URL has another form.
        ArchiveError: endpoint, region or profile are wrong.
    """
    parts = urlsplit(url)
    if parts.scheme == "s3" and parts.netloc:
        from loginpipe.archive.bucket import Bucket

        return Bucket(parts.netloc, parts.path.strip("/"), production=production)
    if parts.scheme == "file" and parts.netloc in {"", "localhost"} and parts.path.strip("/"):
        from loginpipe.archive.store import Folder

        return Folder(Path(unquote(parts.path)).absolute())
    raise SettingError(f"LOGINPIPE_ARCHIVE_URL is no URL of an archive: set it to {MEANINGS['archive_url']}")


class Folder:
    """A store in a folder, which is created with the first file."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def url(self) -> str:
        """The URL, ``file:///path``."""
        return self._root.as_uri()

    def require_usable(self) -> None:
        """Check that the folder is writable or can be created."""
        there = next(path for path in (self._root, *self._root.parents) if path.exists())
        if not there.is_dir() or not os.access(there, os.R_OK | os.W_OK | os.X_OK):
            raise ArchiveError(f"the archive in {self._root} cannot be used: {there} cannot be written to")

    def put(self, source: Path, name: str) -> None:
        """Copy a file here. It gets its name when all of it is on disk."""
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
        """Yield the file itself."""
        path = self._root / name
        with self._errors(name):
            path.stat()
        yield path

    def names(self, prefix: str = "") -> list[str]:
        """Return the names of the files with a prefix."""
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
                f"the archive in {self._root} cannot be used: {error.strerror}; fix the folder or its permissions"
            ) from None


def _to_disk(path: Path) -> None:
    """Flush a file or a folder to disk, because rows are dropped from the table in reliance on it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
