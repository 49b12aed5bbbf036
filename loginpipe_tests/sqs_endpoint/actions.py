"""SQS's actions: from a request of the JSON protocol to its answer. A receive that may wait is only checked here."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final
from uuid import uuid4

from loginpipe_tests.sqs_endpoint.account import MAX_MESSAGE_BYTES, Account, QueueEntry, check_names
from loginpipe_tests.sqs_endpoint.faults import Faults
from loginpipe_tests.sqs_endpoint.fifo import FifoQueue
from loginpipe_tests.sqs_endpoint.messages import (
    Message,
    attributes_digest,
    attributes_size,
    digest,
    encoded,
)
from loginpipe_tests.sqs_endpoint.queues import LONGEST_TIMEOUT_SECONDS, Queue
from loginpipe_tests.sqs_endpoint.refusals import Refusal, bad_value, missing

Request = Mapping[str, Any]
Answer = dict[str, Any]

_MAX_BATCH: Final = 10
_MAX_LONG_POLL_SECONDS: Final = 20
_MAX_LISTED: Final = 1000
_ENTRY_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,80}")
_MAX_DELAY_SECONDS: Final = 900


@dataclass(frozen=True, slots=True)
class Receive:
    """A valid receive: what it asks for, and how long it may wait for it."""

    entry: QueueEntry
    most: int
    timeout: int
    wait: int
    system_attributes: Sequence[str]
    own_attributes: Sequence[str]


class Actions:
    """The actions on an account."""

    def __init__(self, account: Account, faults: Faults, base_url: str) -> None:
        self.account = account
        self._faults = faults
        self._base_url = base_url
        self.of_account: dict[str, Callable[[Request, float], Answer]] = {
            "CreateQueue": self._create_queue,
            "GetQueueUrl": self._get_queue_url,
            "ListQueues": self._list_queues,
        }
        self.of_queue: dict[str, Callable[[QueueEntry, Request, float], Answer]] = {
            "ChangeMessageVisibility": self._change_visibility,
            "ChangeMessageVisibilityBatch": self._change_visibility_batch,
            "DeleteMessage": self._delete_message,
            "DeleteMessageBatch": self._delete_message_batch,
            "DeleteQueue": self._delete_queue,
            "GetQueueAttributes": self._get_queue_attributes,
            "ListDeadLetterSourceQueues": self._list_dead_letter_source_queues,
            "PurgeQueue": self._purge_queue,
            "SendMessage": self._send_message,
            "SendMessageBatch": self._send_message_batch,
            "SetQueueAttributes": self._set_queue_attributes,
        }

    # Queues

    def _url(self, entry: QueueEntry) -> str:
        return f"{self._base_url}/{entry.queue.name}"

    def _create_queue(self, request: Request, now: float) -> Answer:
        name = request.get("QueueName")
        if not name:
            raise missing("QueueName")
        return {"QueueUrl": self._url(self.account.create(name, request.get("Attributes") or {}, now))}

    def _get_queue_url(self, request: Request, _now: float) -> Answer:
        return {"QueueUrl": self._url(self.account.find(request.get("QueueName", "")))}

    def _list_queues(self, request: Request, _now: float) -> Answer:
        prefix = request.get("QueueNamePrefix") or ""
        most = int(request.get("MaxResults") or _MAX_LISTED)
        begin = int(request.get("NextToken") or 0)
        urls = [self._url(entry) for name, entry in sorted(self.account.entries.items()) if name.startswith(prefix)]
        more = "MaxResults" in request and begin + most < len(urls)
        page = urls[begin : begin + most]
        return {**({"QueueUrls": page} if page else {}), **({"NextToken": str(begin + most)} if more else {})}

    def _list_dead_letter_source_queues(self, entry: QueueEntry, request: Request, _now: float) -> Answer:
        most = int(request.get("MaxResults") or _MAX_LISTED)
        begin = int(request.get("NextToken") or 0)
        urls = [
            self._url(source)
            for _, source in sorted(self.account.entries.items())
            if source.queue.redrive is not None and source.queue.redrive.target is entry.queue
        ]
        more = {"NextToken": str(begin + most)} if begin + most < len(urls) else {}
        return {"queueUrls": urls[begin : begin + most], **more}

    def _delete_queue(self, entry: QueueEntry, _request: Request, _now: float) -> Answer:
        self.account.delete(entry)
        return {}

    def _purge_queue(self, entry: QueueEntry, _request: Request, now: float) -> Answer:
        self.account.purge(entry, now)
        return {}

    def _get_queue_attributes(self, entry: QueueEntry, request: Request, now: float) -> Answer:
        names = request.get("AttributeNames") or ()
        check_names(names)
        entry.queue.settle(now)
        shown = {name: value for name, value in entry.attributes().items() if name in names or "All" in names}
        return {"Attributes": shown} if shown else {}

    def _set_queue_attributes(self, entry: QueueEntry, request: Request, now: float) -> Answer:
        self.account.configure(entry, request.get("Attributes") or {}, now)
        return {}

    # Sending

    def _send_message(self, entry: QueueEntry, request: Request, now: float) -> Answer:
        body = request.get("MessageBody")
        if not body:
            raise missing("MessageBody")
        content = encoded(body)
        attributes = request.get("MessageAttributes") or {}
        most = entry.numbers["MaximumMessageSize"]
        if len(content) + attributes_size(attributes) > most:
            raise Refusal(
                "InvalidParameterValue",
                f"One or more parameters are invalid. Reason: Message must be shorter than {most} bytes.",
            )
        message = Message(str(uuid4()), body, digest(content), now)
        message.attributes = attributes
        message.group = request.get("MessageGroupId")
        message.trace = (request.get("MessageSystemAttributes") or {}).get("AWSTraceHeader", {}).get("StringValue")
        answer = {"MD5OfMessageBody": message.body_md5}
        if attributes:
            answer["MD5OfMessageAttributes"] = attributes_digest(attributes)
        if message.trace:
            answer["MD5OfMessageSystemAttributes"] = attributes_digest(request["MessageSystemAttributes"])
        delay = _whole(request, "DelaySeconds", _MAX_DELAY_SECONDS, entry.numbers["DelaySeconds"])
        queue = entry.queue
        if isinstance(queue, FifoQueue):
            return answer | self._send_in_order(queue, entry, message, request, now)
        if request.get("MessageDeduplicationId"):
            raise bad_value("MessageDeduplicationId", "given", "The queue is not a FIFO queue.")
        queue.add(message, now, delay)
        return answer | {"MessageId": message.message_id}

    def _send_in_order(
        self, queue: FifoQueue, entry: QueueEntry, message: Message, request: Request, now: float
    ) -> Answer:
        if not message.group:
            raise missing("MessageGroupId")
        if request.get("DelaySeconds"):
            raise bad_value("DelaySeconds", request["DelaySeconds"], "Not valid for this queue type.")
        message.deduplication_id = request.get("MessageDeduplicationId")
        if not message.deduplication_id:
            if entry.texts.get("ContentBasedDeduplication") != "true":
                raise Refusal(
                    "InvalidParameterValue",
                    "The queue should either have ContentBasedDeduplication enabled or MessageDeduplicationId "
                    "provided explicitly",
                )
            message.deduplication_id = sha256(message.body.encode()).hexdigest()
        sent = queue.known(message.deduplication_id, now)
        if sent is None:
            queue.add(message, now, entry.numbers["DelaySeconds"])
            sent = queue.remember(message, now)
        return {"MessageId": sent.message_id, "SequenceNumber": f"{sent.sequence:020}"}

    def _send_message_batch(self, entry: QueueEntry, request: Request, now: float) -> Answer:
        entries = _entries(request)
        size = sum(
            len((e.get("MessageBody") or "").encode("utf-8", "surrogatepass"))
            + attributes_size(e.get("MessageAttributes") or {})
            for e in entries
        )
        if size > MAX_MESSAGE_BYTES:
            raise Refusal(
                "BatchRequestTooLong",
                f"Batch requests cannot be longer than {MAX_MESSAGE_BYTES} bytes. You have sent {size} bytes.",
            )
        return self._each("SendMessageBatch", entry, entries, now, self._send_message)

    # Receiving

    def prepared(self, entry: QueueEntry, request: Request) -> Receive:
        """Check a receive.

        Raises:
            Refusal: a parameter out of bounds.
        """
        numbers = entry.numbers
        most = request.get("MaxNumberOfMessages", 1)
        if not 1 <= int(most) <= _MAX_BATCH:
            raise bad_value("MaxNumberOfMessages", most, "Must be between 1 and 10, if provided.")
        return Receive(
            entry,
            int(most),
            _whole(request, "VisibilityTimeout", LONGEST_TIMEOUT_SECONDS, numbers["VisibilityTimeout"]),
            _whole(request, "WaitTimeSeconds", _MAX_LONG_POLL_SECONDS, numbers["ReceiveMessageWaitTimeSeconds"]),
            request.get("MessageSystemAttributeNames") or request.get("AttributeNames") or (),
            request.get("MessageAttributeNames") or (),
        )

    def receive(self, receive: Receive, now: float) -> Answer | None:
        """Answer a receive; return None if there is nothing to receive.

        Raises:
            Refusal: too many messages are in flight, and the receive does not wait.
        """
        queue = receive.entry.queue
        messages = queue.receive(now, receive.most, receive.timeout)
        if messages:
            return {"Messages": [self._shown(message, queue, receive) for message in messages]}
        if queue.full and not receive.wait and not isinstance(queue, FifoQueue):
            raise Refusal("OverLimit", "Too many messages in flight.", 403)
        return None

    def _shown(self, message: Message, queue: Queue, receive: Receive) -> Answer:
        shown: Answer = {
            "MessageId": message.message_id,
            "ReceiptHandle": queue.handle(message),
            "MD5OfBody": message.body_md5,
            "Body": message.body,
        }
        if receive.system_attributes:
            shown["Attributes"] = message.system_attributes(receive.system_attributes)
        if own := message.own_attributes(receive.own_attributes):
            shown["MessageAttributes"] = own
            shown["MD5OfMessageAttributes"] = attributes_digest(own)
        if self._faults:
            if self._faults.hits("duplicate", "ReceiveMessage", queue.name):
                queue.leave_copy(message)
            if self._faults.hits("tamper", "ReceiveMessage", queue.name):
                shown["Body"] = tampered(message.body)
        return shown

    # Messages in flight

    def _delete_message(self, entry: QueueEntry, request: Request, now: float) -> Answer:
        return self._delete(entry, request, now, "DeleteMessage")

    def _delete_message_batch(self, entry: QueueEntry, request: Request, now: float) -> Answer:
        action = "DeleteMessageBatch"
        return self._each(action, entry, _entries(request), now, lambda e, r, n: self._delete(e, r, n, action))

    def _delete(self, entry: QueueEntry, request: Request, now: float, action: str) -> Answer:
        handle = request.get("ReceiptHandle")
        if not handle:
            raise missing("ReceiptHandle")
        if self._faults and (fault := self._faults.hits("undelete", action, entry.queue.name)):
            entry.queue.forget_delete(handle, now, fault.seconds)
        else:
            entry.queue.delete(handle, now)
        return {}

    def _change_visibility(self, entry: QueueEntry, request: Request, now: float) -> Answer:
        handle = request.get("ReceiptHandle")
        if not handle:
            raise missing("ReceiptHandle")
        if request.get("VisibilityTimeout") is None:
            raise missing("VisibilityTimeout")
        entry.queue.change_visibility(handle, _whole(request, "VisibilityTimeout", LONGEST_TIMEOUT_SECONDS, 0), now)
        return {}

    def _change_visibility_batch(self, entry: QueueEntry, request: Request, now: float) -> Answer:
        return self._each("ChangeMessageVisibilityBatch", entry, _entries(request), now, self._change_visibility)

    def _each(
        self,
        action: str,
        entry: QueueEntry,
        entries: Sequence[Request],
        now: float,
        act: Callable[[QueueEntry, Request, float], Answer],
    ) -> Answer:
        successful: list[Answer] = []
        failed: list[Answer] = []
        for one in entries:
            fault = self._faults.hits("fail_entry", action, entry.queue.name) if self._faults else None
            try:
                answer = {"Id": one["Id"], **act(entry, one, now)} if fault is None or fault.effect else None
            except Refusal as refusal:
                failed.append(_failure(one, refusal.code, refusal.message, sender_fault=True))
                continue
            if fault is not None:
                failed.append(_failure(one, fault.code, "Injected.", sender_fault=fault.sender_fault))
            elif answer is not None:
                successful.append(answer)
        # SQS leaves out an empty list.
        return {**({"Successful": successful} if successful else {}), **({"Failed": failed} if failed else {})}


def _failure(entry: Request, code: str, message: str, *, sender_fault: bool) -> Answer:
    return {"Id": entry["Id"], "Code": code, "Message": message, "SenderFault": sender_fault}


def _entries(request: Request) -> Sequence[Request]:
    """Return the entries of a batch.

    Raises:
        Refusal: no entries or too many, or ids that are bad or not distinct.
    """
    entries: Sequence[Request] = request.get("Entries") or ()
    if not entries:
        raise Refusal("EmptyBatchRequest", "There should be at least one entry in the request.")
    if len(entries) > _MAX_BATCH:
        raise Refusal(
            "TooManyEntriesInBatchRequest",
            f"Maximum number of entries per request are 10. You have sent {len(entries)}.",
        )
    ids = [str(entry.get("Id") or "") for entry in entries]
    if not all(map(_ENTRY_ID.fullmatch, ids)):
        raise Refusal(
            "InvalidBatchEntryId",
            "A batch entry id can only contain alphanumeric characters, hyphens and underscores, at most 80 of them.",
        )
    if len(set(ids)) < len(ids):
        raise Refusal("BatchEntryIdsNotDistinct", "Two or more batch entries in the request have the same Id.")
    return entries


def _whole(request: Request, parameter: str, most: int, default: int) -> int:
    """Return a number of seconds in a request.

    Raises:
        Refusal: out of bounds.
    """
    value = request.get(parameter)
    if value is None:
        return default
    if not 0 <= int(value) <= most:
        raise bad_value(parameter, value, f"Must be between 0 and {most}, if provided.")
    return int(value)


def tampered(body: str) -> str:
    """Return a body as damage on the way may change it: different, and about as long."""
    damaged = body.replace(":", ";", 1)
    return damaged if damaged != body else body[:-1] + ("#" if body[-1:] != "#" else "~")
