"""A FIFO queue: order within each group, groups locked while a message of theirs is in flight, deduplication."""

from collections import deque
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Final, NamedTuple

from loginpipe_tests.sqs_endpoint.messages import Message, State
from loginpipe_tests.sqs_endpoint.queues import Limits, Queue
from loginpipe_tests.sqs_endpoint.refusals import bad_value

DEDUPLICATION_SECONDS: Final = 300


class Sent(NamedTuple):
    """The answer to a send."""

    message_id: str
    sequence: int


@dataclass
class _Group:
    """A group: its visible messages in order, the number in flight, and whether it is in the list of ready groups."""

    visible: list[tuple[int, Message]] = field(default_factory=list)
    in_flight: int = 0
    ready: bool = False


class FifoQueue(Queue):
    """A queue whose name ends in ``.fifo``."""

    def __init__(self, name: str, arn: str, limits: Limits, retention_seconds: int) -> None:
        super().__init__(name, arn, limits, retention_seconds)
        self._last_sequence = 0
        self._groups: dict[str, _Group] = {}
        self._ready: deque[_Group] = deque()
        self._recent: dict[str, Sent] = {}
        self._recent_ends: deque[tuple[float, str]] = deque()

    def known(self, deduplication_id: str, now: float) -> Sent | None:
        """Return the answer to a send with this deduplication id in the last five minutes; None if there was none."""
        while self._recent_ends and self._recent_ends[0][0] <= now:
            del self._recent[self._recent_ends.popleft()[1]]
        return self._recent.get(deduplication_id)

    def remember(self, message: Message, now: float) -> Sent:
        """Remember the message for five minutes, even if it is deleted, so that no duplicate of it is accepted."""
        sent = Sent(message.message_id, message.sequence)
        deduplication_id = message.deduplication_id or ""
        self._recent[deduplication_id] = sent
        self._recent_ends.append((now + DEDUPLICATION_SECONDS, deduplication_id))
        return sent

    def add(self, message: Message, now: float, delay: float = 0) -> None:
        """Add a message at the end of its group."""
        self._last_sequence += 1
        message.sequence = self._last_sequence
        super().add(message, now, delay)

    def take_dead_letter(self, message: Message, source_arn: str, now: float) -> None:
        """Add a message from another queue. Its retention period restarts, unlike in a standard queue."""
        message.enqueued = now
        super().take_dead_letter(message, source_arn, now)

    def _check_deletable(self, message: Message, handle: str) -> None:
        if message.state is not State.IN_FLIGHT:
            raise bad_value("ReceiptHandle", handle, "The receipt handle has expired.")

    def _show(self, message: Message, *, first: bool = False) -> None:  # noqa: ARG002 - the sequence number decides
        message.state = State.VISIBLE
        group = self._groups.setdefault(message.group or "", _Group())
        heappush(group.visible, (message.sequence, message))
        self._unlock(group)

    def _take(self, most: int, now: float) -> list[Message]:
        taken: list[Message] = []
        while self._ready and len(taken) < most:
            group = self._ready.popleft()
            group.ready = False
            while group.visible and len(taken) < most:
                message = heappop(group.visible)[1]
                if message.state is State.VISIBLE and self._receivable(message, now):
                    group.in_flight += 1
                    taken.append(message)
        return taken

    def _leave(self, message: Message) -> None:
        super()._leave(message)
        if message.state is State.IN_FLIGHT:
            group = self._groups[message.group or ""]
            group.in_flight -= 1
            if group.visible:
                self._unlock(group)
            elif not group.in_flight:
                del self._groups[message.group or ""]

    def _unlock(self, group: _Group) -> None:
        if not group.in_flight and not group.ready:
            group.ready = True
            self._ready.append(group)
