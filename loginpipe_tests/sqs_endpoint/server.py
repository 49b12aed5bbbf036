"""The endpoint: from a call on a connection to its answer, with injected errors and waits in between."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import orjson

from loginpipe_tests.sqs_endpoint.account import Account, QueueEntry
from loginpipe_tests.sqs_endpoint.actions import Actions, Answer
from loginpipe_tests.sqs_endpoint.clock import Clock
from loginpipe_tests.sqs_endpoint.connection import Call, Connection, Reply
from loginpipe_tests.sqs_endpoint.control import Control
from loginpipe_tests.sqs_endpoint.faults import AS_ASKED, Fault, Faults, Plan
from loginpipe_tests.sqs_endpoint.long_polls import LongPolls
from loginpipe_tests.sqs_endpoint.messages import ACCOUNT
from loginpipe_tests.sqs_endpoint.queues import Limits
from loginpipe_tests.sqs_endpoint.refusals import Refusal

CONTROL_PATH: Final = "/_control"

_TARGET: Final = "AmazonSQS."
_HOST: Final = "127.0.0.1"
_NO_CALL: Final = Refusal("InvalidAction", "This is no call of SQS's JSON protocol.")
_NOT_OF_THE_MODEL: Final = Refusal("SerializationException", "The request is not one of the service's model.")

_log = logging.getLogger(__name__)


class Server:
    """The endpoint on a port of 127.0.0.1."""

    def __init__(self, *, region: str, limits: Limits, seed: int) -> None:
        self.faults = Faults(seed)
        self.calls: Counter[str] = Counter()
        self._account = Account(region, limits)
        self._clock = Clock()
        self._connections: set[Connection] = set()
        self._actions: Actions
        self._polls: LongPolls
        self._control: Control

    async def serve(self, port: int, started: Callable[[int], None], stopping: asyncio.Event) -> None:
        """Serve until ``stopping`` is set.

        Args:
            port: to listen on; 0 for any free port.
            started: called with the port.
            stopping: the event that ends the endpoint.
        """
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(
            lambda: Connection(self._handle, self._connections), _HOST, port, backlog=1024
        )
        port = listener.sockets[0].getsockname()[1]
        self._actions = Actions(self._account, self.faults, f"http://{_HOST}:{port}/{ACCOUNT}")
        self._polls = LongPolls(self._clock, self._actions.receive)
        self._control = Control(self._account, self.faults, self._clock, self._polls, self.calls)
        started(port)
        await stopping.wait()
        listener.close()
        for connection in list(self._connections):
            connection.drop()

    def _handle(self, connection: Connection, call: Call) -> None:
        if call.path == CONTROL_PATH:
            connection.reply(self._control.reply(call.body))
        elif not call.target.startswith(_TARGET):
            connection.reply(_refused(_NO_CALL))
        elif (request := _content(call.body)) is None:
            connection.reply(_refused(_NOT_OF_THE_MODEL))
        else:
            self._begin(connection, call.target.removeprefix(_TARGET), request)

    def _begin(self, connection: Connection, action: str, request: dict[str, Any]) -> None:
        self.calls[action] += 1
        plan = AS_ASKED
        if self.faults:
            queue = request.get("QueueUrl") or request.get("QueueName") or ""
            plan = self.faults.plan(action, str(queue).rpartition("/")[2])
        if plan.before:
            asyncio.get_running_loop().call_later(plan.before, self._act, connection, action, request, plan)
        else:
            self._act(connection, action, request, plan)

    def _act(self, connection: Connection, action: str, request: dict[str, Any], plan: Plan) -> None:
        if plan.end is not None and not plan.end.effect:
            _end(connection, plan.end)
            return
        finish = partial(self._finish, connection, plan)
        try:
            if (of_account := self._actions.of_account.get(action)) is not None:
                finish(of_account(request, self._clock.now()))
            else:
                self._act_on_queue(connection, action, request, finish)
        except Refusal as refusal:
            self._finish_with(connection, plan, _refused(refusal))
        except (TypeError, ValueError, KeyError, AttributeError):
            _log.exception("a request that is not of the service's model, or a mistake of the endpoint")
            self._finish_with(connection, plan, _refused(_NOT_OF_THE_MODEL))

    def _act_on_queue(
        self, connection: Connection, action: str, request: dict[str, Any], finish: Callable[[Answer], None]
    ) -> None:
        of_queue = self._actions.of_queue.get(action)
        if of_queue is None and action != "ReceiveMessage":
            raise Refusal("InvalidAction", f"The action {action} is not one of this endpoint's.")
        entry = self._account.find(request.get("QueueUrl") or "")
        if of_queue is not None:
            finish(of_queue(entry, request, self._clock.now()))
        else:
            self._receive(connection, entry, request, finish)
        self._polls.serve(entry.queue)
        if entry.queue.redrive is not None:
            self._polls.serve(entry.queue.redrive.target)

    def _receive(
        self, connection: Connection, entry: QueueEntry, request: dict[str, Any], finish: Callable[[Answer], None]
    ) -> None:
        receive = self._actions.prepared(entry, request)
        answer = self._actions.receive(receive, self._clock.now())
        if answer is not None or not receive.wait:
            finish(answer or {})
        else:
            # If the client of a poll is gone, its messages stay for others.
            connection.on_lost = self._polls.add(receive, finish).cancel

    def _finish(self, connection: Connection, plan: Plan, answer: Answer) -> None:
        self._finish_with(connection, plan, Reply(orjson.dumps(answer)))

    def _finish_with(self, connection: Connection, plan: Plan, reply: Reply) -> None:
        if plan.after:
            asyncio.get_running_loop().call_later(plan.after, self._answer, connection, plan, reply)
        else:
            self._answer(connection, plan, reply)

    def _answer(self, connection: Connection, plan: Plan, reply: Reply) -> None:
        if plan.end is None:
            connection.reply(reply)
        else:
            _end(connection, plan.end)


def _end(connection: Connection, fault: Fault) -> None:
    if fault.kind == "drop":
        connection.drop()
    else:
        connection.reply(_refused(Refusal(fault.code, "Injected.", fault.status)))


def _content(body: bytes) -> dict[str, Any] | None:
    try:
        content = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError:
        return None
    return content if isinstance(content, dict) else None


def _refused(refusal: Refusal) -> Reply:
    body = orjson.dumps({"__type": refusal.kind, "message": refusal.message})
    return Reply(body, refusal.status, {"x-amzn-query-error": refusal.query_error})
