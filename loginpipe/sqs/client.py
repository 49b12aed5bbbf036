"""Make the queue's client, read the queue's depth, and turn failures into one-line `QueueError`s by their code.

SQS's numbers of messages are approximate and take up to a minute to settle. Of a call with up to ten entries, single
entries can fail in a successful response.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from loginpipe.common.aws import (
    CONNECT_SECONDS,
    MALFORMED,
    READ_SECONDS,
    Wording,
    aws_client,
    aws_errors,
    core_session,
    error_code,
)
from loginpipe.common.errors import QueueError
from loginpipe.common.settings import Settings, name_of_queue, region_and_account
from loginpipe.sqs.lean_client import lean_client

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

T = TypeVar("T")

MAX_BATCH = 10
"""The maximum number of messages or entries in one call of SQS."""

_PROTOCOL = (
    "is at an endpoint that does not answer in today's SQS protocol: LocalStack does from 3.0 on; "
    "upgrade it, or fix AWS_ENDPOINT_URL"
)

# The domains of AWS's own endpoints, in all public partitions.
_AWS_DOMAINS = (".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu", ".api.aws")


@dataclass(frozen=True)
class FailedEntry:
    """A failed delivery: SQS's error code, if it blames the sender (a retry rarely helps), if the whole call failed."""

    delivery_id: str
    code: str
    sender_fault: bool
    of_call: bool = False


def call_with_entries(
    call: Callable[..., Any], queue_url: str, entries: Mapping[str, Mapping[str, Any]]
) -> list[FailedEntry]:
    """Make one call of SQS for a queue, and return the failed entries: all of them if the call itself failed.

    ``entries`` maps up to ten delivery ids to entries without ``Id``, which need only be unique within the call.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    if not entries:
        return []
    try:
        asked = [{**entry, "Id": str(place)} for place, entry in enumerate(entries.values())]
        answer = call(QueueUrl=queue_url, Entries=asked)
        # The usual case.
        if not answer.get("Failed") and {done["Id"] for done in answer["Successful"]} == {e["Id"] for e in asked}:
            return []
        confirmed = {int(done["Id"]) for done in answer.get("Successful", [])}
        refused = {int(failed["Id"]): failed for failed in answer.get("Failed", [])}
    except ClientError as error:
        code, status = error_code(error), error.response["ResponseMetadata"]["HTTPStatusCode"]
        return [FailedEntry(i, code, status < HTTPStatus.INTERNAL_SERVER_ERROR, of_call=True) for i in entries]
    except (BotoCoreError, *MALFORMED) as error:
        return [FailedEntry(i, type(error).__name__, False, of_call=True) for i in entries]
    # Neither confirmed nor refused: treated as failed.
    unconfirmed = {"Code": "NotConfirmed"}
    return [
        FailedEntry(delivery_id, str(failed.get("Code", "")), bool(failed.get("SenderFault", False)))
        for place, delivery_id in enumerate(entries)
        if (failed := refused.get(place, None if place in confirmed else unconfirmed)) is not None
    ]


@dataclass(frozen=True)
class Queue:
    """A queue that exists."""

    name: str
    url: str
    client: "SQSClient"

    @cached_property
    def of_aws(self) -> bool:
        """Return True if the endpoint is AWS itself, not another implementation of SQS."""
        return (urlsplit(self.client.meta.endpoint_url).hostname or "").endswith(_AWS_DOMAINS)

    def delete(self, handles: Mapping[str, str]) -> list[FailedEntry]:
        """Delete up to ten messages, by delivery id and receipt handle. Return those that failed."""
        entries = {delivery_id: {"ReceiptHandle": handle} for delivery_id, handle in handles.items()}
        return call_with_entries(self.client.delete_message_batch, self.url, entries)

    def change_visibility(self, changes: Iterable[tuple[str, str, int]]) -> list[FailedEntry]:
        """Set the visibility timeout of up to ten messages: delivery id, receipt handle, seconds. Return the failed."""
        entries = {i: {"ReceiptHandle": handle, "VisibilityTimeout": seconds} for i, handle, seconds in changes}
        return call_with_entries(self.client.change_message_visibility_batch, self.url, entries)


def open_queue(queue: str, settings: Settings, *, connections: int) -> Queue:
    """Make a client for up to ``connections`` concurrent calls, and check that the queue exists.

    ``queue`` is its name, URL or ARN. Region and account of an ARN override AWS_REGION and the account of the
    credentials.

    Raises:
        QueueError: no region or credentials, no such queue, no access, or an endpoint that is unreachable, does not
            speak SQS, has another queue than the ARN's, or is not https in production.
    """
    name = name_of_queue(queue)
    region, account = region_and_account(queue) or (None, None)
    client = _client(_wording(name), settings, connections, region)
    with queue_errors(name):
        if "://" in queue:
            url = queue
        else:
            of_account: dict[str, Any] = {"QueueOwnerAWSAccountId": account} if account else {}
            url = client.get_queue_url(QueueName=name, **of_account).get("QueueUrl", "")
        answer = client.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"]) if url else None
    if answer is None or "Attributes" not in answer:
        # A 200 of any web server looks like an empty response, and later like an empty queue.
        raise QueueError(f"queue {name!r} {_PROTOCOL}")
    found = answer["Attributes"].get("QueueArn")
    if account and found != queue:
        raise QueueError(
            f"queue {name!r} of the ARN in LOGINPIPE_QUEUE is not at this endpoint, which has {found}: correct it, "
            "or AWS_ENDPOINT_URL"
        )
    return Queue(name, url, client)


def _client(wording: Wording, settings: Settings, connections: int, region: str | None) -> "SQSClient":
    session = core_session()
    client: SQSClient = aws_client(
        "sqs", wording, production=settings.production, region=region, connections=connections, session=session
    )
    if settings.sqs_client == "boto3":
        return client
    with aws_errors(wording):
        return lean_client(client, session, connect_seconds=CONNECT_SECONDS, read_seconds=READ_SECONDS)


def queue_errors(name: str) -> AbstractContextManager[None]:
    """Turn botocore's errors into a `QueueError` that names the queue and the fix."""
    return aws_errors(_wording(name))


def _wording(name: str) -> Wording:
    absent = "create it, or set LOGINPIPE_QUEUE or AWS_REGION"
    return Wording(QueueError, f"queue {name!r}", absent=absent, protocol=_PROTOCOL)


def batched(items: Iterable[T]) -> Iterator[list[T]]:
    """Cut items into lists of at most `MAX_BATCH`."""
    iterator = iter(items)
    while chunk := list(islice(iterator, MAX_BATCH)):
        yield chunk


MAX_IN_FLIGHT = 120_000
"""SQS's limit of messages in flight on one queue. At the limit a long poll is empty without an error."""

IN_FLIGHT_LIMIT_REACHED = (
    "in-flight limit reached: messages wait, but as many are in flight as SQS allows, so nothing can be received until "
    "consumers delete some or their visibility timeouts end; look for a consumer that receives and does not delete"
)


@dataclass(frozen=True)
class Depth:
    """A queue's messages by state: visible, received and not deleted yet, delayed by their sender."""

    visible: int
    in_flight: int
    delayed: int

    @property
    def total(self) -> int:
        """Return the number of all messages."""
        return self.visible + self.in_flight + self.delayed

    @property
    def at_in_flight_limit(self) -> bool:
        """Return True if messages wait that no consumer can receive because the in-flight limit is reached."""
        # A queue near the limit counts as at it, because the counts are approximate.
        return self.visible > 0 and self.in_flight >= MAX_IN_FLIGHT * 0.95

    def __str__(self) -> str:
        return f"{self.visible:,} waiting, {self.in_flight:,} in flight, {self.delayed:,} delayed"


def read_depth(queue: Queue) -> Depth:
    """Read the depth of a queue."""
    number = "ApproximateNumberOfMessages"
    # In the order of the fields of `Depth`.
    names: list[Any] = [number, f"{number}NotVisible", f"{number}Delayed"]
    with queue_errors(queue.name):
        attributes = queue.client.get_queue_attributes(QueueUrl=queue.url, AttributeNames=names)["Attributes"]
    return Depth(*(int(attributes[name]) for name in names))
