"""Store the archive in an S3 bucket, under a prefix. Region, endpoint and credentials are those of boto3."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from loginpipe.common.aws import Wording, aws_client, aws_errors, error_code
from loginpipe.common.errors import ArchivedDayError, ArchiveError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

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
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
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
