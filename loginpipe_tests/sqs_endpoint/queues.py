"""A queue as a state machine: visible, hidden and gone messages. Every method gets the time; none waits.

No call searches all messages. Visible messages are in a deque, hidden ones in a heap by the end of their timeout.
Entries of a heap or deque that are out of date are skipped when their turn comes.
"""

from collections import Counter, deque
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Final
from uuid import uuid4

from loginpipe_tests.sqs_endpoint.messages import Message, State
from loginpipe_tests.sqs_endpoint.refusals import Refusal, bad_handle, bad_value

LONGEST_TIMEOUT_SECONDS: Final = 12 * 3600
MAX_IN_FLIGHT: Final = 120_000

_HIDDEN: Final = (State.IN_FLIGHT, State.DELAYED)
_SWEEP_SECONDS: Final = 1.0
"""How often expired messages are removed."""
_HEAP_SLACK: Final = 1_000


@dataclass(frozen=True)
class Redrive:
    """Where a message is moved instead of being received once more."""

    target: "Queue"
    most_receives: int


@dataclass
class Limits:
    """Limits that tests may set to other values than AWS has.

    Attributes:
        in_flight: the maximum number of messages in flight in one queue.
        refuse_stale_handles: refuse to delete with a receipt handle that is not the newest, as some local endpoints
            do. SQS reports success and deletes nothing.
        keep_fates: remember the id of every message that is gone, and how it left.
    """

    in_flight: int = MAX_IN_FLIGHT
    refuse_stale_handles: bool = False
    keep_fates: bool = True


class Queue:
    """A standard queue, which delivers messages in the order in which they became visible.

    Attributes:
        counts: messages sent, deliveries, and messages gone by state, since the queue was created; ``vain deletes``
            were answered with success but deleted nothing.
        gone: id of a message that is gone → how it left, and how often it was received.
    """

    def __init__(self, name: str, arn: str, limits: Limits, retention_seconds: int) -> None:
        self.name = name
        self.arn = arn
        self.limits = limits
        self.retention_seconds = retention_seconds
        self.redrive: Redrive | None = None
        self.deleted = False
        self.messages: dict[int, Message] = {}
        self.in_flight = 0
        self.delayed = 0
        self.counts: Counter[str] = Counter()
        self.gone: dict[str, tuple[State, int]] = {}
        self._token = uuid4().hex
        self._last_number = 0
        self._visible: deque[Message] = deque()
        self._exhausted: deque[Message] = deque()
        self._hidden: list[tuple[float, int, Message]] = []
        self._latest_enqueued = 0.0
        self._in_order = True
        self._swept = 0.0

    @property
    def visible(self) -> int:
        """Return the number of messages that could be received now."""
        return len(self.messages) - self.in_flight - self.delayed

    @property
    def full(self) -> bool:
        """Return True if no more messages may be in flight."""
        return self.in_flight >= self.limits.in_flight

    def next_reveal(self) -> float | None:
        """Return the earliest time when the next hidden message may become visible."""
        return self._hidden[0][0] if self._hidden else None

    def handle(self, message: Message) -> str:
        """Return the receipt handle of a message's latest delivery."""
        return f"{self._token}-{message.number}-{message.receive_count}"

    def add(self, message: Message, now: float, delay: float = 0) -> None:
        """Add a message, hidden for the delay."""
        self._last_number += 1
        message.number = self._last_number
        self.messages[message.number] = message
        self._in_order = self._in_order and message.enqueued >= self._latest_enqueued
        self._latest_enqueued = max(self._latest_enqueued, message.enqueued)
        self.counts["sent"] += 1
        if delay > 0:
            self.delayed += 1
            self._hide(message, State.DELAYED, now + delay)
        else:
            self._show(message)

    def receive(self, now: float, most: int, timeout: float) -> list[Message]:
        """Deliver messages and hide them for the timeout. Those received too often go to the dead-letter queue."""
        self.settle(now)
        self._move_exhausted(now)
        messages = self._take(min(most, self.limits.in_flight - self.in_flight), now)
        until = now + timeout
        for message in messages:
            message.receive_count += 1
            message.received = now
            message.first_received = message.first_received or now
            message.copy_due = False
            self.in_flight += 1
            self._hide(message, State.IN_FLIGHT, until)
        self.counts["delivered"] += len(messages)
        return messages

    def delete(self, handle: str, now: float) -> Message | None:
        """Delete a message; return it if it was deleted, and None if SQS would only report success.

        Raises:
            Refusal: no receipt handle of this queue, or a stale one if `Limits.refuse_stale_handles` is set.
        """
        self.settle(now)
        message = self._find(handle)
        if message is None or message.copy_due:
            self.counts["vain deletes"] += 1
            return None
        self._check_deletable(message, handle)
        self._remove(message, State.DELETED)
        return message

    def change_visibility(self, handle: str, seconds: int, now: float) -> None:
        """Hide a message in flight for ``seconds`` from now.

        Raises:
            Refusal: no receipt handle of this queue, or not the newest of a message in flight, or longer than 12 hours
                since it was received.
        """
        self.settle(now)
        message = self._find(handle)
        if message is None:
            raise bad_value(
                "ReceiptHandle", handle, "Message does not exist or is not available for visibility timeout change."
            )
        if message.copy_due:
            return
        if message.state is not State.IN_FLIGHT:
            raise Refusal("MessageNotInflight", "The specified message is not in flight.")
        if now - message.received + seconds > LONGEST_TIMEOUT_SECONDS:
            raise bad_value(
                "VisibilityTimeout",
                seconds,
                f"Total VisibilityTimeout for the message is beyond the limit [{LONGEST_TIMEOUT_SECONDS} seconds]",
            )
        if seconds:
            self._hide(message, State.IN_FLIGHT, now + seconds)
        else:
            self._reveal(message)

    def purge(self) -> None:
        """Remove every message."""
        for message in list(self.messages.values()):
            self._remove(message, State.PURGED)
        self._hidden.clear()

    def leave_copy(self, message: Message) -> None:
        """Let the next receiver also get a message that was just delivered, even if it is deleted first."""
        message.copy_due = True
        self._reveal(message, first=True)
        self.counts["copies"] += 1

    def forget_delete(self, handle: str, now: float, after: float) -> None:
        """Answer a delete as SQS does, but let the message come back after ``after`` seconds.

        Raises:
            Refusal: as `delete`.
        """
        self.settle(now)
        message = self._find(handle)
        self.counts["vain deletes"] += 1
        if message is None or message.state is not State.IN_FLIGHT:
            return
        if after > 0:
            self._hide(message, State.IN_FLIGHT, now + after)
        else:
            self._reveal(message)

    def settle(self, now: float) -> None:
        """Bring the queue to this time: reveal messages whose timeout ended, and remove expired ones."""
        hidden = self._hidden
        while hidden and hidden[0][0] <= now:
            entry = heappop(hidden)
            if self._stands(entry):
                self._reveal(entry[2])
        if now - self._swept >= _SWEEP_SECONDS or now < self._swept:
            self._swept = now
            self._expire(now)

    def _expire(self, now: float) -> None:
        horizon = now - self.retention_seconds
        expired = []
        for message in self.messages.values():
            if message.enqueued <= horizon:
                expired.append(message)
            elif self._in_order:
                break
        for message in expired:
            self._remove(message, State.EXPIRED)

    def _find(self, handle: str) -> Message | None:
        """Return the message of a receipt handle; None if the handle is not its newest or the message is gone.

        Raises:
            Refusal: no receipt handle of this queue, or a stale one if `Limits.refuse_stale_handles` is set.
        """
        token, _, rest = handle.partition("-")
        number, _, receive_count = rest.partition("-")
        if token != self._token or not number.isdecimal() or int(number) > self._last_number:
            raise bad_handle(handle)
        message = self.messages.get(int(number))
        if message is not None and receive_count == str(message.receive_count):
            return message
        if self.limits.refuse_stale_handles:
            raise bad_handle(handle)
        return None

    def _check_deletable(self, message: Message, handle: str) -> None:
        """Allow every delete, because a standard queue also deletes a message whose timeout has ended."""

    def _hide(self, message: Message, state: State, until: float) -> None:
        message.state = state
        message.hidden_until = until
        if len(self._hidden) > 2 * (self.in_flight + self.delayed) + _HEAP_SLACK:
            # In place, because `settle` may be using the list.
            self._hidden[:] = [entry for entry in self._hidden if self._stands(entry)]
            heapify(self._hidden)
        heappush(self._hidden, (until, message.number, message))

    def _stands(self, entry: tuple[float, int, Message]) -> bool:
        """Return True if this entry still hides its message: it is not gone, and its timeout did not change."""
        until, number, message = entry
        return self.messages.get(number) is message and message.hidden_until == until and message.state in _HIDDEN

    def _reveal(self, message: Message, *, first: bool = False) -> None:
        self._leave(message)
        if self.redrive is not None and message.receive_count >= self.redrive.most_receives and not first:
            message.state = State.VISIBLE
            self._exhausted.append(message)
        else:
            self._show(message, first=first)

    def _show(self, message: Message, *, first: bool = False) -> None:
        message.state = State.VISIBLE
        if first:
            self._visible.appendleft(message)
        else:
            self._visible.append(message)

    def _take(self, most: int, now: float) -> list[Message]:
        taken: list[Message] = []
        visible = self._visible
        while visible and len(taken) < most:
            message = visible.popleft()
            if message.state is State.VISIBLE and (self.redrive is None or self._receivable(message, now)):
                taken.append(message)
        return taken

    def _move_exhausted(self, now: float) -> None:
        for _ in range(len(self._exhausted)):
            message = self._exhausted.popleft()
            if self._receivable(message, now):
                # The policy was changed, or its dead-letter queue was deleted.
                self._show(message)

    def _receivable(self, message: Message, now: float) -> bool:
        """Return True if a visible message may be received again; if not, move it away."""
        redrive = self.redrive
        if message.state is not State.VISIBLE:
            return False
        if redrive is None or message.receive_count < redrive.most_receives:
            return True
        if redrive.target is self or redrive.target.deleted:
            return True
        self._remove(message, State.DEAD_LETTERED)
        redrive.target.take_dead_letter(message, self.arn, now)
        return False

    def take_dead_letter(self, message: Message, source_arn: str, now: float) -> None:
        """Add a message from another queue. Its id, sent time and receive count stay the same."""
        message.source_arn = source_arn
        self.add(message, now)

    def _leave(self, message: Message) -> None:
        """Subtract a message from the counts of hidden ones."""
        if message.state is State.IN_FLIGHT:
            self.in_flight -= 1
        elif message.state is State.DELAYED:
            self.delayed -= 1

    def _remove(self, message: Message, how: State) -> None:
        self._leave(message)
        del self.messages[message.number]
        message.state = how
        self.counts[how.value] += 1
        if self.limits.keep_fates:
            self.gone[message.message_id] = (how, message.receive_count)
