"""The queues of one account: created, found and deleted by name, and configured with SQS's attributes."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from loginpipe_tests.sqs_endpoint.fifo import FifoQueue
from loginpipe_tests.sqs_endpoint.messages import ACCOUNT
from loginpipe_tests.sqs_endpoint.queues import Limits, Queue, Redrive
from loginpipe_tests.sqs_endpoint.refusals import Refusal, bad_value, no_such_queue

MAX_MESSAGE_BYTES: Final = 1_048_576

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,80}|[A-Za-z0-9_-]{1,75}\.fifo")
_PURGE_SECONDS: Final = 60
_NUMBERS: Final = {
    # name: minimum, maximum, default
    "DelaySeconds": (0, 900, 0),
    "MaximumMessageSize": (1024, MAX_MESSAGE_BYTES, MAX_MESSAGE_BYTES),
    "MessageRetentionPeriod": (60, 1_209_600, 345_600),
    "ReceiveMessageWaitTimeSeconds": (0, 20, 0),
    "VisibilityTimeout": (0, 43_200, 30),
}
_TEXTS: Final = frozenset(
    {
        "ContentBasedDeduplication",
        "DeduplicationScope",
        "FifoQueue",
        "FifoThroughputLimit",
        "KmsDataKeyReusePeriodSeconds",
        "KmsMasterKeyId",
        "Policy",
        "RedriveAllowPolicy",
        "RedrivePolicy",
        "SqsManagedSseEnabled",
    }
)
_OF_FIFO_QUEUES: Final = frozenset(
    {"ContentBasedDeduplication", "DeduplicationScope", "FifoQueue", "FifoThroughputLimit"}
)
_SHOWN_ONLY: Final = frozenset(
    {
        "All",
        "ApproximateNumberOfMessages",
        "ApproximateNumberOfMessagesDelayed",
        "ApproximateNumberOfMessagesNotVisible",
        "CreatedTimestamp",
        "LastModifiedTimestamp",
        "QueueArn",
    }
)
_MOST_RECEIVES: Final = 1000


class QueueEntry:
    """A queue of the account, with its attributes.

    Attributes:
        numbers: name → attribute that is an integer.
        texts: name → other attribute that was set.
    """

    def __init__(self, queue: Queue, now: float) -> None:
        self.queue = queue
        self.numbers = {name: default for name, (_, _, default) in _NUMBERS.items()}
        self.texts: dict[str, str] = {}
        self.created = self.modified = int(now)
        self.purged = float("-inf")

    def attributes(self) -> dict[str, str]:
        """Return all attributes as SQS shows them. The counts, which SQS calls approximate, are exact."""
        return {
            **{name: str(number) for name, number in self.numbers.items()},
            **self.texts,
            "ApproximateNumberOfMessages": str(self.queue.visible),
            "ApproximateNumberOfMessagesDelayed": str(self.queue.delayed),
            "ApproximateNumberOfMessagesNotVisible": str(self.queue.in_flight),
            "CreatedTimestamp": str(self.created),
            "LastModifiedTimestamp": str(self.modified),
            "QueueArn": self.queue.arn,
        }


class Account:
    """All queues, by name."""

    def __init__(self, region: str, limits: Limits) -> None:
        self.region = region
        self.limits = limits
        self.entries: dict[str, QueueEntry] = {}

    def find(self, name_or_url: str) -> QueueEntry:
        """Return a queue by its name or URL. The host of the URL does not matter.

        Raises:
            Refusal: no such queue.
        """
        entry = self.entries.get(name_or_url.rpartition("/")[2])
        if entry is None:
            raise no_such_queue()
        return entry

    def create(self, name: str, attributes: Mapping[str, Any], now: float) -> QueueEntry:
        """Create a queue, or return the existing one of that name if no attribute differs.

        Raises:
            Refusal: bad name or attributes, or a queue of that name with other attributes.
        """
        fifo = name.endswith(".fifo")
        if not _NAME.fullmatch(name):
            raise bad_value("QueueName", name, "Can only include alphanumeric characters, hyphens, or underscores.")
        if (attributes.get("FifoQueue", "false") == "true") != fifo:
            raise bad_value("QueueName", name, "A FIFO queue has FifoQueue true and a name that ends in .fifo.")
        if (present := self.entries.get(name)) is not None:
            _check_same(present, attributes)
            return present
        arn = f"arn:aws:sqs:{self.region}:{ACCOUNT}:{name}"
        kind = FifoQueue if fifo else Queue
        entry = QueueEntry(kind(name, arn, self.limits, _NUMBERS["MessageRetentionPeriod"][2]), now)
        if fifo:
            entry.texts["ContentBasedDeduplication"] = "false"
        self.configure(entry, attributes, now)
        self.entries[name] = entry
        return entry

    def delete(self, entry: QueueEntry) -> None:
        """Delete a queue with everything in it."""
        entry.queue.deleted = True
        del self.entries[entry.queue.name]

    def purge(self, entry: QueueEntry, now: float) -> None:
        """Remove every message of a queue.

        Raises:
            Refusal: it was purged less than a minute ago.
        """
        if now - entry.purged < _PURGE_SECONDS:
            raise Refusal("PurgeQueueInProgress", f"Only one PurgeQueue operation on {entry.queue.name} a minute.", 403)
        entry.purged = now
        entry.queue.purge()

    def configure(self, entry: QueueEntry, attributes: Mapping[str, Any], now: float) -> None:
        """Set attributes of a queue, all or none.

        Raises:
            Refusal: an attribute does not exist or has a bad value.
        """
        fifo = isinstance(entry.queue, FifoQueue)
        settable = _TEXTS if fifo else _TEXTS - _OF_FIFO_QUEUES
        numbers = {name: _number(name, value) for name, value in attributes.items() if name in _NUMBERS}
        texts = {name: str(value) for name, value in attributes.items() if name not in _NUMBERS}
        if unknown := set(texts) - settable:
            raise Refusal("InvalidAttributeName", f"Unknown Attribute {min(unknown)}.")
        if (policy := texts.get("RedrivePolicy")) is not None:
            entry.queue.redrive = self._redrive(policy, fifo=fifo) if policy else None
            texts["RedrivePolicy"] = _shown_policy(policy)
        entry.numbers |= numbers
        entry.texts = {name: value for name, value in {**entry.texts, **texts}.items() if value}
        entry.queue.retention_seconds = entry.numbers["MessageRetentionPeriod"]
        entry.modified = int(now)

    def _redrive(self, policy: str, *, fifo: bool) -> Redrive:
        arn, most_receives = _read_policy(policy)
        target = self.entries.get(arn.rpartition(":")[2])
        if target is None or target.queue.arn != arn or isinstance(target.queue, FifoQueue) != fifo:
            raise bad_value("RedrivePolicy", policy, "Dead-letter target does not exist, or is of the other kind.")
        if not 1 <= most_receives <= _MOST_RECEIVES:
            raise bad_value("RedrivePolicy", policy, f"maxReceiveCount must be between 1 and {_MOST_RECEIVES}.")
        return Redrive(target.queue, most_receives)


def check_names(names: Sequence[str]) -> None:
    """Check the names of requested attributes.

    Raises:
        Refusal: an attribute does not exist.
    """
    if unknown := set(names) - _TEXTS - _SHOWN_ONLY - set(_NUMBERS):
        raise Refusal("InvalidAttributeName", f"Unknown Attribute {min(unknown)}.")


def _check_same(present: QueueEntry, attributes: Mapping[str, Any]) -> None:
    shown = present.attributes()
    for name, value in attributes.items():
        if shown.get(name) != (_shown_policy(value) if name == "RedrivePolicy" else str(value)):
            raise Refusal(
                "QueueNameExists",
                f"A queue already exists with the same name and a different value for attribute {name}",
            )


def _read_policy(policy: str) -> tuple[str, int]:
    try:
        content = orjson.loads(policy)
        return str(content["deadLetterTargetArn"]), int(content["maxReceiveCount"])
    except (ValueError, KeyError, TypeError) as error:
        raise Refusal(
            "InvalidAttributeValue", "RedrivePolicy is no JSON object with deadLetterTargetArn and maxReceiveCount."
        ) from error


def _shown_policy(policy: str) -> str:
    """Return a redrive policy as SQS shows it. The number is an integer, also if it was set as a string."""
    if not policy:
        return ""
    arn, most_receives = _read_policy(policy)
    return orjson.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": most_receives}).decode()


def _number(name: str, value: object) -> int:
    least, most, _ = _NUMBERS[name]
    if not str(value).isdecimal() or not least <= int(str(value)) <= most:
        raise Refusal("InvalidAttributeValue", f"Invalid value for the parameter {name}: not {least} to {most}.")
    return int(str(value))
