"""Receives that wait, in order of arrival for each queue. An arriving message or a timeout ends the wait."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from loginpipe_tests.sqs_endpoint.actions import Receive
from loginpipe_tests.sqs_endpoint.clock import Clock
from loginpipe_tests.sqs_endpoint.queues import Queue

Attempt = Callable[[Receive, float], dict[str, Any] | None]
Finish = Callable[[dict[str, Any]], None]


class LongPoll:
    """One waiting receive; call `cancel` if its client is gone."""

    def __init__(self, receive: Receive, finish: Finish) -> None:
        self.receive = receive
        self.over = False
        self._finish = finish
        self.timeout: asyncio.TimerHandle | None = None

    def finish(self, answer: dict[str, Any]) -> None:
        """Answer it."""
        self.cancel()
        self._finish(answer)

    def cancel(self) -> None:
        """Wait no longer."""
        self.over = True
        if self.timeout is not None:
            self.timeout.cancel()


class LongPolls:
    """All waiting receives, by queue."""

    def __init__(self, clock: Clock, attempt: Attempt) -> None:
        self._clock = clock
        self._attempt = attempt
        self._waiting: dict[Queue, deque[LongPoll]] = {}
        self._alarms: dict[Queue, asyncio.TimerHandle] = {}

    def add(self, receive: Receive, finish: Finish) -> LongPoll:
        """Let a receive wait for up to its wait time."""
        poll = LongPoll(receive, finish)
        # The wait is in real seconds: setting the clock forward ends visibility timeouts, but not polls.
        poll.timeout = asyncio.get_running_loop().call_later(receive.wait, poll.finish, {})
        queue = receive.entry.queue
        self._waiting.setdefault(queue, deque()).append(poll)
        self._set_alarm(queue)
        return poll

    def serve(self, queue: Queue) -> None:
        """Give a queue's messages to waiting receives. Call it after anything that may have made messages visible."""
        waiting = self._waiting.get(queue)
        if waiting is None:
            return
        while waiting:
            poll = waiting[0]
            if not poll.over:
                answer = self._attempt(poll.receive, self._clock.now())
                if answer is None and not queue.deleted:
                    break
                poll.finish(answer or {})
            waiting.popleft()
        if waiting:
            self._set_alarm(queue)
        else:
            del self._waiting[queue]
            if (alarm := self._alarms.pop(queue, None)) is not None:
                alarm.cancel()

    @property
    def count(self) -> int:
        """Return the number of waiting receives."""
        return sum(not poll.over for polls in self._waiting.values() for poll in polls)

    def serve_all(self) -> None:
        """Serve every queue."""
        for queue in list(self._waiting):
            self.serve(queue)

    def _set_alarm(self, queue: Queue) -> None:
        if (alarm := self._alarms.pop(queue, None)) is not None:
            alarm.cancel()
        if (reveal := queue.next_reveal()) is not None:
            seconds = max(0.0, reveal - self._clock.now())
            self._alarms[queue] = asyncio.get_running_loop().call_later(seconds, self.serve, queue)
