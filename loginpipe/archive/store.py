"""Where the archive is, by its URL: a folder, or an S3 bucket. What is in the files is no concern of a store."""

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

    Every method raises ArchivedDayError where the file is missing, and ArchiveError where the store cannot be used.
    """

    @property
    def url(self) -> str:
        """Of the store, absolute, without a slash at the end: a file's is this, a slash and its name."""

    def require_usable(self) -> None:
        """Make sure, as far as that can be told without writing, that files can be stored here."""

    def put(self, source: Path, name: str) -> None:
        """Store a file, whole or not at all."""

    def rename(self, name: str, new: str) -> None:
        """Give a file another name."""

    def fetched(self, name: str) -> AbstractContextManager[Path]:
        """Give the file as one on this machine, for the length of a with block."""

    def names(self, prefix: str = "") -> list[str]:
        """Return the names of the files that begin so."""

    def delete(self, name: str) -> None:
        """Delete a file; one that is not there is as good."""


class Stores:
    """The stores that files are in, each opened once: the archive may have moved since a day was written."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open: dict[str, Store] = {}

    @property
    def current(self) -> Store:
        """The store of LOGINPIPE_ARCHIVE_URL, where new files go.

        Raises:
            SettingError: it is not set, or no URL of a store.
            ArchiveError: as `open_store`.
        """
        return self._at(self._settings.required("archive_url").rstrip("/"))

    def locate(self, url: str) -> tuple[Store, str]:
        """Return the store that a day's file is in, and its name there.

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
    """Open a store; nothing is asked of it yet.

    Args:
        url: ``file:///path``, ``file:path`` (from the current folder), or ``s3://bucket/prefix``.
        production: refuse an endpoint without https.

    Raises:
        SettingError: it is no such URL.
        ArchiveError: the endpoint, the region or the profile is not as it must be.
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
                f"the archive in {self._root} cannot be used: {error.strerror}; fix the folder or its permissions"
            ) from None


def _to_disk(path: Path) -> None:
    """Make sure of a file or a folder's entries: rows are dropped from the table on the strength of it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
