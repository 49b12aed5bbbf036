"""Where the archive is: a folder or an S3 bucket, by its URL. What is in the files is no concern of a store."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from loginpipe.common.errors import SettingError
from loginpipe.common.settings import Settings, required

_MEANING = "where the archive is, as in file:archive or s3://bucket/prefix"


class Store(Protocol):
    """Files by name, as in ``day=2026-11-20/part-….parquet``."""

    @property
    def url(self) -> str:
        """Of the store, absolute, without a slash at the end: a file's is this, a slash and its name."""

    def require_usable(self) -> None:
        """Make sure, as far as that can be told without writing, that files can be stored here.

        Raises:
            ArchiveError: it is not so.
        """

    def put(self, source: Path, name: str) -> None:
        """Store a file, whole or not at all.

        Raises:
            ArchiveError: it could not be stored.
        """

    def rename(self, name: str, new: str) -> None:
        """Give a file another name.

        Raises:
            ArchivedDayError: there is no such file.
            ArchiveError: it could not be done.
        """

    def fetched(self, name: str) -> AbstractContextManager[Path]:
        """Give the file as one on this machine, for the length of a with block.

        Raises:
            ArchivedDayError: there is no such file.
            ArchiveError: it could not be fetched.
        """

    def names(self, prefix: str = "") -> list[str]:
        """Return the names of the files that begin so.

        Raises:
            ArchiveError: the store could not be asked.
        """

    def delete(self, name: str) -> None:
        """Delete a file; one that is not there is as good.

        Raises:
            ArchiveError: it could not be deleted.
        """


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
        return self._at(required("archive_url", self._settings.archive_url, _MEANING).rstrip("/"))

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
        from loginpipe.archive.folder import Folder

        return Folder(Path(unquote(parts.path)).absolute())
    raise SettingError(f"LOGINPIPE_ARCHIVE_URL is no URL of an archive: set it to {_MEANING}")
