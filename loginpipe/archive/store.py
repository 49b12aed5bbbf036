"""Open the store of an archive by its URL: a folder or an S3 bucket. Stores do not know the format of the files.

A store has files by name, as in ``day=2026-11-20/part-….parquet``. Its URL is absolute, without a final slash. The URL
of a file is that, a slash and the file's name. Every method raises ArchivedDayError if the file is missing, and
ArchiveError if the store cannot be used. Region, endpoint and credentials of a bucket are those of boto3.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias, cast
from urllib.parse import unquote, urlsplit

from loginpipe.common.aws import Wording, aws_client, aws_errors, error_code
from loginpipe.common.errors import ArchivedDayError, ArchiveError, SettingError
from loginpipe.common.settings import MEANINGS, Settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class Folder:
    """A store in a folder, which is created with the first file."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def url(self) -> str:
        """The URL, ``file:///path``."""
        return self._root.as_uri()

    def require_usable(self) -> None:
        """Check, without writing, that the folder is writable or can be created."""
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
        """Yield the file itself for a with block."""
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
        """Delete a file. A missing one is no error."""
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


_ENCRYPTED = {"ServerSideEncryption": "AES256"}

_MISSING = frozenset({"404", "NoSuchKey"})
_ELSEWHERE = "is in another region: fix AWS_REGION"
_OWN = {
    # S3 gives no reason if the request has no response body.
    "400": "cannot be used: S3 answered 400, as it does to expired credentials and in another region: renew them, or "
    "fix AWS_REGION",
    "301": _ELSEWHERE,
    "AuthorizationHeaderMalformed": _ELSEWHERE,
    "ParamValidationError": "is no name of a bucket: fix LOGINPIPE_ARCHIVE_URL",
    "PermanentRedirect": _ELSEWHERE,
}


class Bucket:
    """A store in S3. S3 encrypts the files."""

    def __init__(self, bucket: str, prefix: str, *, production: bool) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._wording = Wording(
            ArchiveError,
            f"the bucket {bucket!r}",
            absent="create it, or fix LOGINPIPE_ARCHIVE_URL or AWS_REGION",
            grant="what deploy/aws/policies/pipeline.json grants for S3",
            own=_OWN,
        )
        self._client = _client(self._wording, production=production)

    @property
    def url(self) -> str:
        """The URL, ``s3://bucket/prefix``."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def require_usable(self) -> None:
        """Check that the bucket exists and answers."""
        with self._errors(""):
            self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)

    def put(self, source: Path, name: str) -> None:
        """Upload a file, in parts if it is large. boto3 adds checksums."""
        with self._errors(name):
            self._client.upload_file(str(source), self._bucket, self._prefix + name, ExtraArgs=_ENCRYPTED)

    def rename(self, name: str, new: str) -> None:
        """Copy the object within S3, then delete the original."""
        with self._errors(name):
            source: Any = {"Bucket": self._bucket, "Key": self._prefix + name}
            self._client.copy(source, self._bucket, self._prefix + new, ExtraArgs=_ENCRYPTED)
        self.delete(name)

    @contextmanager
    def fetched(self, name: str) -> Iterator[Path]:
        """Download a file into a temporary folder for a with block."""
        with TemporaryDirectory(prefix="loginpipe-") as folder:
            path = Path(folder) / "day.parquet"
            with self._errors(name):
                self._client.download_file(self._bucket, self._prefix + name, str(path))
            yield path

    def names(self, prefix: str = "") -> list[str]:
        """Return the names of the objects with a prefix."""
        with self._errors(prefix):
            lister = self._client.get_paginator("list_objects_v2")
            pages = lister.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix)
            return [entry["Key"].removeprefix(self._prefix) for page in pages for entry in page.get("Contents", [])]

    def delete(self, name: str) -> None:
        """Delete an object."""
        with self._errors(name):
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + name)

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import ClientError

        with aws_errors(self._wording):
            try:
                yield
            except ClientError as error:
                if error_code(error) in _MISSING:
                    raise ArchivedDayError(f"the file {self.url}/{name} is missing") from None
                raise
            except Boto3Error as error:
                # The error of a transfer has lost its cause, but its text has S3's code in parentheses.
                found = re.search(r"\((\w+)\) when calling", str(error))
                raise self._wording.of_code(found[1] if found else "") from None


def _client(wording: Wording, *, production: bool) -> "S3Client":
    client: S3Client = aws_client("s3", wording, production=production)
    host = urlsplit(client.meta.endpoint_url).hostname or ""
    if host.endswith((".amazonaws.com", ".amazonaws.com.cn")):
        return client
    # Endpoints other than AWS seldom answer to names like bucket.host.
    return cast("S3Client", aws_client("s3", wording, production=production, s3={"addressing_style": "path"}))


Store: TypeAlias = Folder | Bucket


class Stores:
    """All stores with files, each opened once. The archive may have moved since a day was written."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open: dict[str, Store] = {}

    @property
    def current(self) -> Store:
        """The store of LOGINPIPE_ARCHIVE_URL, for new files. Raise as `open_store`, also if it is not set."""
        return self._at(self._settings.required("archive_url").rstrip("/"))

    def locate(self, url: str) -> tuple[Store, str]:
        """Return the store of a day's file, and the file's name in it. Raise as `open_store`."""
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
        return Bucket(parts.netloc, parts.path.strip("/"), production=production)
    if parts.scheme == "file" and parts.netloc in {"", "localhost"} and parts.path.strip("/"):
        return Folder(Path(unquote(parts.path)).absolute())
    raise SettingError(f"LOGINPIPE_ARCHIVE_URL is no URL of an archive: set it to {MEANINGS['archive_url']}")
