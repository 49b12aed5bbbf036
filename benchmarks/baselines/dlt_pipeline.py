"""The solution of a person who knows dlt: the queue as a resource, Postgres as destination, deletes after the load.

It uses CSV, which dlt loads with COPY: about the CPU of dlt's default format for Postgres, less memory, and less work
for the server. dlt creates its own table, with two more columns.
"""

import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import dlt
from psycopg2.extensions import parse_dsn

from benchmarks.baselines.plain import COLUMNS, database_url, delete, received, row, sqs

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient


def main() -> None:
    """Load all messages of the queue, then delete them."""
    client, url = sqs()
    handles: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        pipeline = dlt.pipeline(
            "logins",
            pipelines_dir=folder,
            destination=dlt.destinations.postgres(url_for_dlt(database_url())),
            dataset_name="logins",
        )
        resource = dlt.resource(logins(client, url, handles), name="user_logins", write_disposition="append")
        pipeline.run(resource, loader_file_format="csv").raise_on_failed_jobs()
    for start in range(0, len(handles), 10):
        delete(client, url, handles[start : start + 10])


def logins(client: "SQSClient", url: str, handles: list[str]) -> Iterator[list[dict[str, Any]]]:
    """Yield rows until the queue is empty, and add the receipt handles to delete after the load."""
    while messages := received(client, url, 10):
        handles += [message["ReceiptHandle"] for message in messages]
        yield [dict(zip(COLUMNS, row(message["Body"]), strict=True)) for message in messages]


def url_for_dlt(database_url: str) -> str:
    """Return a URL with host and password, which dlt requires. The embedded server checks no password."""
    parts = parse_dsn(database_url)
    return f"postgresql://{parts['user']}:none@{quote(parts['host'], safe='')}:{parts['port']}/{parts['dbname']}"


if __name__ == "__main__":
    main()
