"""Shared parts of the baselines that a person would write: the table, the row of a login, the client."""

import json
import os
from collections.abc import Mapping
from datetime import UTC, date, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import MessageTypeDef

TABLE: Final = """
    CREATE TABLE user_logins (
        user_id varchar(128),
        device_type varchar(32),
        masked_ip varchar(256),
        masked_device_id varchar(256),
        locale varchar(32),
        app_version integer,
        create_date date
    )
"""
COLUMNS: Final = (
    "user_id", "device_type", "masked_ip", "masked_device_id", "locale", "app_version", "create_date",
)  # fmt: skip
Row = tuple[str, str, str, str, str | None, int, date]

_SALT: Final = "a salt of this benchmark"
_VISIBILITY_SECONDS: Final = 600
_LONG_POLL_SECONDS: Final = 1


def database_url() -> str:
    """Return the URL of the database with the table."""
    return os.environ["LOGINPIPE_DATABASE_URL"]


def sqs() -> "tuple[SQSClient, str]":
    """Return boto3's client with its defaults, and the URL of the queue."""
    import boto3

    client = boto3.client("sqs")
    return client, client.get_queue_url(QueueName=os.environ["LOGINPIPE_QUEUE"])["QueueUrl"]


def received(client: "SQSClient", url: str, most: int) -> "list[MessageTypeDef]":
    """Receive up to the given number of messages with one long poll; none if the queue is empty."""
    answer = client.receive_message(
        QueueUrl=url,
        MaxNumberOfMessages=most,
        WaitTimeSeconds=_LONG_POLL_SECONDS,
        VisibilityTimeout=_VISIBILITY_SECONDS,
    )
    return answer.get("Messages", [])


def row(body: str) -> Row:
    """Return the seven columns of a login."""
    event: Mapping[str, Any] = json.loads(body)
    return (
        event["user_id"],
        event["device_type"],
        masked(event["ip"]),
        masked(event["device_id"]),
        event.get("locale"),
        version_number(event["app_version"]),
        datetime.now(UTC).date(),
    )


def masked(value: str) -> str:
    """Return the salted SHA-256 of a value, in hex."""
    return sha256((_SALT + value).encode()).hexdigest()


def version_number(text: str) -> int:
    """Return a version as a number that sorts correctly."""
    major, minor, patch = (int(part) for part in [*text.split("."), "0", "0"][:3])
    return major * 1_000_000 + minor * 1_000 + patch


def delete(client: "SQSClient", url: str, handles: list[str]) -> None:
    """Delete up to ten messages in one call.

    Raises:
        RuntimeError: a message was not deleted.
    """
    answer = client.delete_message_batch(
        QueueUrl=url, Entries=[{"Id": str(place), "ReceiptHandle": handle} for place, handle in enumerate(handles)]
    )
    if answer.get("Failed"):
        raise RuntimeError("a message was not deleted")
