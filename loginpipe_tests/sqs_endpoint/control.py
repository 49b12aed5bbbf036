"""Commands of the tests besides SQS: errors to inject, the clock, messages made on the spot, and fates of messages.

A command is a JSON object: ``{"do": "advance", "seconds": 30}``. `loginpipe_tests.sqs_endpoint.endpoint` has a method
for each.
"""

from collections import Counter
from collections.abc import Callable
from time import process_time
from typing import Any
from uuid import uuid4

import orjson

from loginpipe.local.sample_events import sample_bodies
from loginpipe_tests.sqs_endpoint.account import Account
from loginpipe_tests.sqs_endpoint.clock import Clock
from loginpipe_tests.sqs_endpoint.connection import Reply
from loginpipe_tests.sqs_endpoint.faults import Fault, Faults
from loginpipe_tests.sqs_endpoint.fifo import FifoQueue
from loginpipe_tests.sqs_endpoint.long_polls import LongPolls
from loginpipe_tests.sqs_endpoint.messages import Message, digest
from loginpipe_tests.sqs_endpoint.refusals import Refusal

Content = dict[str, Any]


class Control:
    """The commands."""

    def __init__(self, account: Account, faults: Faults, clock: Clock, polls: LongPolls, calls: Counter[str]) -> None:
        self._account = account
        self._faults = faults
        self._clock = clock
        self._polls = polls
        self._calls = calls
        self._commands: dict[str, Callable[[Content], Content]] = {
            "add_fault": self._add_fault,
            "advance": self._advance,
            "reset_clock": self._reset_clock,
            "fates": self._fates,
            "clear_faults": self._clear_faults,
            "configure": self._configure,
            "hold": self._hold,
            "seed": self._seed,
            "send": self._send,
            "stats": self._stats,
        }

    def reply(self, body: bytes) -> Reply:
        """Execute a command."""
        try:
            content = orjson.loads(body)
            answer = self._commands[content.pop("do")](content)
        except Refusal as refusal:
            return Reply(orjson.dumps({"error": refusal.message}), 400)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return Reply(orjson.dumps({"error": f"{type(error).__name__}: {error}"}), 400)
        return Reply(orjson.dumps(answer))

    def _add_fault(self, content: Content) -> Content:
        self._faults.add(Fault.read(content))
        return {}

    def _clear_faults(self, _content: Content) -> Content:
        fired = self._faults.fired()
        self._faults.clear()
        return {"faults": fired}

    def _seed(self, content: Content) -> Content:
        self._faults.seed(int(content["seed"]))
        return {}

    def _configure(self, content: Content) -> Content:
        limits = self._account.limits
        if not set(content) <= set(vars(limits)):
            raise ValueError(f"no such setting: {sorted(set(content) - set(vars(limits)))}")
        vars(limits).update(content)
        self._polls.serve_all()
        return vars(limits)

    def _advance(self, content: Content) -> Content:
        self._clock.advance(float(content["seconds"]))
        for entry in self._account.entries.values():
            entry.queue.settle(self._clock.now())
        self._polls.serve_all()
        return {}

    def _reset_clock(self, _content: Content) -> Content:
        self._clock.reset()
        return {}

    def _send(self, content: Content) -> Content:
        """Put the given bodies or sample events on a queue. On a FIFO queue they go to the groups in turn."""
        queue = self._account.find(content["queue"]).queue
        fifo = isinstance(queue, FifoQueue)
        groups = int(content.get("groups", 1))
        bodies = content.get("bodies")
        if bodies is None:
            bodies = sample_bodies(content["count"], seed=content["seed"], bad_share=content.get("bad_share", 0.02))
        now = self._clock.now()
        ids: list[str] = []
        for body in bodies:
            message = Message(str(uuid4()), body, digest(body.encode()), now)
            if fifo:
                message.group = f"group-{len(ids) % groups}"
                message.deduplication_id = message.message_id
            queue.add(message, now)
            ids.append(message.message_id)
        self._polls.serve(queue)
        return {"ids": ids} if content.get("ids", True) else {}

    def _hold(self, content: Content) -> Content:
        """Put messages in flight as if another consumer had received them, also beyond the in-flight limit."""
        queue = self._account.find(content["queue"]).queue
        cap = queue.limits.in_flight
        queue.limits.in_flight = len(queue.messages)
        try:
            held = queue.receive(self._clock.now(), int(content["count"]), float(content["seconds"]))
        finally:
            queue.limits.in_flight = cap
        return {"held": len(held)}

    def _stats(self, _content: Content) -> Content:
        now = self._clock.now()
        for entry in self._account.entries.values():
            entry.queue.settle(now)
        return {
            "calls": dict(self._calls),
            "cpu_seconds": process_time(),
            "faults": self._faults.fired(),
            "long_polls": self._polls.count,
            "now": now,
            "queues": {
                name: {
                    **entry.queue.counts,
                    "visible": entry.queue.visible,
                    "in_flight": entry.queue.in_flight,
                    "delayed": entry.queue.delayed,
                }
                for name, entry in self._account.entries.items()
            },
        }

    def _fates(self, content: Content) -> Content:
        """Return the state and the receive count of every message that a queue ever held, by id."""
        queue = self._account.find(content["queue"]).queue
        queue.settle(self._clock.now())
        present = {message.message_id: (message.state, message.receive_count) for message in queue.messages.values()}
        return {"messages": queue.gone | present}
