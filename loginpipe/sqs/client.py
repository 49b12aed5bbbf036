"""The queue's client, and its failures as one-line errors, told apart by code.

The retries of single calls are botocore's own: ``standard`` mode, with exponential back-off and jitter.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from loginpipe.common.aws import (
    CREDENTIALS,
    LOCAL_FAULTS,
    MALFORMED,
    OUT_OF_REACH,
    UNAVAILABLE,
    aws_session,
    core_session,
    endpoint_fault,
)
from loginpipe.common.errors import QueueError
from loginpipe.common.settings import load_settings
from loginpipe.sqs.lean_client import lean_client

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

T = TypeVar("T")

BATCH_MOST = 10
"""SQS's limit of messages or entries in one call."""

_ATTEMPTS = 5
_CONNECT_SECONDS = 5
# Longer than the longest long poll, 20 s.
_READ_SECONDS = 30

_ABSENT = frozenset({"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"})
_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "KMS.AccessDeniedException"})

_PROTOCOL = (
    "is at an endpoint that does not answer in today's SQS protocol: LocalStack does from 3.0 on; "
    "upgrade it, or mend AWS_ENDPOINT_URL"
)


@dataclass(frozen=True)
class Queue:
    """A queue that was found to be there."""

    name: str
    url: str
    client: "SQSClient"


def open_queue(name_or_url: str, *, connections: int) -> Queue:
    """Make a client for a queue and look the queue up.

    Args:
        name_or_url: the queue's name or URL.
        connections: how many calls are made at once at most.

    Raises:
        QueueError: no region or credentials, endpoint out of reach or not speaking SQS, no such queue, no access; in
            production also an endpoint that is not https.
    """
    name = name_or_url.rsplit("/", 1)[-1]
    with queue_errors(name):
        try:
            client = _client(connections)
        except ValueError:
            raise QueueError(
                f"queue {name!r}: AWS_ENDPOINT_URL is no URL: set it to http://host:port or unset it"
            ) from None
        if load_settings().production and (fault := endpoint_fault(client)):
            raise QueueError(f"queue {name!r}: {fault}")
        url = name_or_url if "://" in name_or_url else client.get_queue_url(QueueName=name).get("QueueUrl")
        answered = bool(url) and "Attributes" in client.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    if not answered:
        # Any web server's 200 looks like an empty answer, and later like an empty queue.
        raise QueueError(f"queue {name!r} {_PROTOCOL}")
    return Queue(name, url, client)


def _client(connections: int) -> "SQSClient":
    from botocore.config import Config

    config = Config(
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        max_pool_connections=connections,
        user_agent_extra="loginpipe",
    )
    session = core_session()
    # boto3 itself reads AWS_DEFAULT_REGION only.
    client = aws_session(session).client("sqs", region_name=os.environ.get("AWS_REGION"), config=config)
    if load_settings().sqs_client == "boto3":
        return client
    return lean_client(client, session, connect_seconds=_CONNECT_SECONDS, read_seconds=_READ_SECONDS)


@contextmanager
def queue_errors(name: str) -> Iterator[None]:
    """Turn botocore's errors into a `QueueError` that names the queue and the mend."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        raise QueueError(f"queue {name!r} {_reason(error_code(error.response))}") from None
    except BotoCoreError as error:
        raise QueueError(f"queue {name!r}: {LOCAL_FAULTS.get(type(error).__name__, OUT_OF_REACH)}") from None
    except MALFORMED:
        raise QueueError(f"queue {name!r} {_PROTOCOL}") from None


def error_code(answer: Mapping[str, Any]) -> str:
    """Return the error code of an answer; a bare HTTP status where its body was not what SQS sends."""
    return str(answer.get("Error", {}).get("Code", ""))


def _reason(code: str) -> str:
    if code in _ABSENT:
        return "does not exist in this account and region: create it, or set LOGINPIPE_QUEUE or AWS_REGION"
    if code in _DENIED:
        return f"may not be used with these credentials ({code}): grant what docs/aws.md lists"
    if code in CREDENTIALS:
        return f"cannot be used: AWS refuses the credentials ({code}): renew them"
    if code in UNAVAILABLE:
        return f"is out of reach for now (its endpoint answered {code}): try again later"
    if code.isdecimal():
        return f"{_PROTOCOL} (it answered {code})"
    return f"cannot be used: SQS answered {code}"


def tens(items: Iterable[T]) -> Iterator[list[T]]:
    """Cut items into lists of as many as one call takes."""
    iterator = iter(items)
    while ten := list(islice(iterator, BATCH_MOST)):
        yield ten
