"""The endpoint: from a call on a connection to its answer, with the faults and the waiting in between."""

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import orjson

from loginpipe_tests.sqs_endpoint.account import Account, QueueEntry
from loginpipe_tests.sqs_endpoint.actions import Actions
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
        """Serve until told to stop.

        Args:
            port: to listen on; 0 for any that is free.
            started: called with the port.
            stopping: set to end.
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
        try:
            if call.path == CONTROL_PATH:
                connection.reply(self._control.reply(call.body))
                return
            if not call.target.startswith(_TARGET):
                raise Refusal("InvalidAction", "This is no call of SQS's JSON protocol.", 404)
            self._begin(connection, call.target.removeprefix(_TARGET), _content(call.body))
        except Refusal as refusal:
            connection.reply(_refused(refusal))

    def _begin(self, connection: Connection, action: str, request: dict[str, Any]) -> None:
        self.calls[action] += 1
        plan = AS_ASKED
        if self.faults:
            plan = self.faults.plan(action, str(request.get("QueueUrl", "")).rpartition("/")[2] or None)
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
                finish(Reply(orjson.dumps(of_account(request, self._clock.now()))))
                return
            of_queue = self._actions.of_queue.get(action)
            if of_queue is None and action != "ReceiveMessage":
                raise Refusal("InvalidAction", f"The action {action} is not one of this endpoint's.")
            entry = self._account.find(request.get("QueueUrl") or "")
            if of_queue is None:
                self._receive(connection, entry, request, finish)
            else:
                answer = of_queue(entry, request, self._clock.now())
                finish(Reply(orjson.dumps(answer)))
            self._serve_waiting(entry)
        except Refusal as refusal:
            finish(_refused(refusal))

    def _receive(
        self, connection: Connection, entry: QueueEntry, request: dict[str, Any], finish: Callable[[Reply], None]
    ) -> None:
        receive = self._actions.prepared(entry, request)
        answer = self._actions.receive(receive, self._clock.now())
        if answer is not None or not receive.wait:
            finish(Reply(orjson.dumps(answer or {})))
            return
        poll = self._polls.add(receive, lambda later: finish(Reply(orjson.dumps(later))))
        connection.on_lost = poll.cancel

    def _serve_waiting(self, entry: QueueEntry) -> None:
        self._polls.serve(entry.queue)
        if entry.queue.redrive is not None:
            self._polls.serve(entry.queue.redrive.target)

    def _finish(self, connection: Connection, plan: Plan, reply: Reply) -> None:
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


def _content(body: bytes) -> dict[str, Any]:
    try:
        content = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError:
        content = None
    if not isinstance(content, dict):
        raise Refusal("SerializationException", "The body of the request is no JSON object.")
    return content


def _refused(refusal: Refusal) -> Reply:
    body = orjson.dumps({"__type": refusal.kind, "message": refusal.message})
    return Reply(body, refusal.status, {"x-amzn-query-error": refusal.query_error})
