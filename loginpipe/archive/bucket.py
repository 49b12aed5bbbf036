"""The archive in an S3 bucket, under a prefix. Region, endpoint and credentials are boto3's."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from loginpipe.common.aws import CREDENTIALS, LOCAL_FAULTS, OUT_OF_REACH, UNAVAILABLE, aws_session, endpoint_fault
from loginpipe.common.errors import ArchivedDayError, ArchiveError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_ATTEMPTS = 5
_CONNECT_SECONDS = 5
_READ_SECONDS = 30
_ENCRYPTED = {"ServerSideEncryption": "AES256"}

_MISSING = frozenset({"404", "NoSuchKey"})
_DENIED = "may not be used with these credentials: grant what deploy/aws/policies/pipeline.json grants for S3"
_FAULTS = {
    "NoSuchBucket": "does not exist: create it, or mend LOGINPIPE_ARCHIVE_URL",
    "AccessDenied": _DENIED,
    "403": _DENIED,
    "PermanentRedirect": "is in another region: mend AWS_REGION",
    "AuthorizationHeaderMalformed": "is in another region: mend AWS_REGION",
}


class Bucket:
    """A store in S3. What is written is encrypted by S3."""

    def __init__(self, bucket: str, prefix: str, *, production: bool) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        with self._errors(""):
            self._client = _client()
        if production and (fault := endpoint_fault(self._client)):
            raise ArchiveError(f"S3: {fault}")

    @property
    def url(self) -> str:
        """As ``s3://bucket/prefix``."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def require_usable(self) -> None:
        """Make sure that the bucket is there and answers."""
        with self._errors(""):
            self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)

    def put(self, source: Path, name: str) -> None:
        """Upload a file, in parts where it is large; boto3 sends checksums with it."""
        with self._errors(name):
            self._client.upload_file(str(source), self._bucket, self._prefix + name, ExtraArgs=_ENCRYPTED)

    def rename(self, name: str, new: str) -> None:
        """Copy within S3, then delete what was copied."""
        with self._errors(name):
            source: Any = {"Bucket": self._bucket, "Key": self._prefix + name}
            self._client.copy(source, self._bucket, self._prefix + new, ExtraArgs=_ENCRYPTED)
        self.delete(name)

    @contextmanager
    def fetched(self, name: str) -> Iterator[Path]:
        """Download the file into a folder that goes with the with block."""
        with TemporaryDirectory(prefix="loginpipe-") as folder:
            path = Path(folder) / "day.parquet"
            with self._errors(name):
                self._client.download_file(self._bucket, self._prefix + name, str(path))
            yield path

    def names(self, prefix: str = "") -> list[str]:
        """List the objects whose names begin so."""
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
        from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in _MISSING:
                raise ArchivedDayError(f"the file {self.url}/{name} is missing") from None
            raise ArchiveError(f"the bucket {self._bucket!r} {_reason(code)}") from None
        except Boto3Error as error:
            # A transfer's error; its cause is gone, but its text ends with S3's code in parentheses.
            known = next((code for code in (*_FAULTS, *CREDENTIALS) if f"({code})" in str(error)), "")
            raise ArchiveError(f"the bucket {self._bucket!r} {_reason(known)}") from None
        except ParamValidationError:
            raise ArchiveError(f"{self._bucket!r} is no name of a bucket: mend LOGINPIPE_ARCHIVE_URL") from None
        except BotoCoreError as error:
            fault = LOCAL_FAULTS.get(type(error).__name__, OUT_OF_REACH)
            raise ArchiveError(f"the bucket {self._bucket!r}: {fault}") from None


def _client() -> "S3Client":
    from botocore.config import Config

    config = Config(
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        user_agent_extra="loginpipe",
    )

    def made(config: Config) -> "S3Client":
        try:
            # boto3 itself reads AWS_DEFAULT_REGION only.
            return aws_session().client("s3", region_name=os.environ.get("AWS_REGION"), config=config)
        except ValueError:
            raise ArchiveError("S3: AWS_ENDPOINT_URL is no URL: set it to https://host:port or unset it") from None

    client = made(config)
    host = urlsplit(client.meta.endpoint_url).hostname or ""
    if host.endswith((".amazonaws.com", ".amazonaws.com.cn")):
        return client
    # Another endpoint seldom answers to names like bucket.host.
    return made(config.merge(Config(s3={"addressing_style": "path"})))


def _reason(code: str) -> str:
    if code in CREDENTIALS or code == "InvalidAccessKeyId":
        return f"cannot be used: AWS refuses the credentials ({code}): renew them"
    if code in UNAVAILABLE or code in {"SlowDown", "ServiceUnavailable", "InternalError"}:
        return f"is out of reach for now (S3 answered {code}): try again later"
    return _FAULTS.get(code, f"cannot be used: S3 answered {code or 'with an error'}")
