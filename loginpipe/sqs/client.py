"""Make the queue's client, read the queue's depth, and turn failures into one-line errors by their code.

SQS's numbers of messages are approximate and take up to a minute to settle.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar
from urllib.parse import urlsplit

from loginpipe.common.aws import CONNECT_SECONDS, READ_SECONDS, Wording, aws_client, aws_errors, core_session
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


class _OfAccount(TypedDict, total=False):
    QueueOwnerAWSAccountId: str


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

    def asking_for(self, *system_attributes: str) -> dict[str, Any]:
        """Return the parameters of a receive call that ask for system attributes of the messages.

        Other implementations may know only the parameter name that AWS has deprecated, and silently leave the
        attributes out: LocalStack before 3.5, ElasticMQ before 1.6.2, moto 5.0.3.
        """
        names = list(system_attributes)
        parameters: dict[str, Any] = {"MessageSystemAttributeNames": names}
        return parameters if self.of_aws else {**parameters, "AttributeNames": names}


def open_queue(queue: str, settings: Settings, *, connections: int) -> Queue:
    """Make a client for a queue and check that the queue exists.

    Args:
        queue: the queue's name, URL or ARN. Region and account of an ARN override AWS_REGION and the account of the
            credentials.
        settings: which client to make, and whether it is for production.
        connections: the maximum number of concurrent calls.

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
            of_account: _OfAccount = {"QueueOwnerAWSAccountId": account} if account else {}
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
    return Wording(
        QueueError,
        f"queue {name!r}",
        absent="create it, or set LOGINPIPE_QUEUE or AWS_REGION",
        protocol=_PROTOCOL,
    )


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

# A queue near the limit counts as at it, because the counts are approximate.
_APPROXIMATION = 0.95


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
        return self.visible > 0 and self.in_flight >= MAX_IN_FLIGHT * _APPROXIMATION

    def __str__(self) -> str:
        return f"{self.visible:,} waiting, {self.in_flight:,} in flight, {self.delayed:,} delayed"


def read_depth(queue: Queue) -> Depth:
    """Read the depth of a queue.

    Raises:
        QueueError: it cannot be read.
    """
    with queue_errors(queue.name):
        attributes = queue.client.get_queue_attributes(
            QueueUrl=queue.url,
            AttributeNames=[
                "ApproximateNumberOfMessages",
                "ApproximateNumberOfMessagesNotVisible",
                "ApproximateNumberOfMessagesDelayed",
            ],
        )["Attributes"]
    return Depth(
        visible=int(attributes["ApproximateNumberOfMessages"]),
        in_flight=int(attributes["ApproximateNumberOfMessagesNotVisible"]),
        delayed=int(attributes["ApproximateNumberOfMessagesDelayed"]),
    )
