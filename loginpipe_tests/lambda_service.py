"""A stand-in for AWS Lambda: its runtime API on loopback, and an event source mapping for SQS.

An execution environment is a process with the real runtime interface client. It fetches calls from the runtime API and
posts the results. The mapping receives from the queue, makes the event, and deletes what was not reported as failed, as
AWS documents it.
"""

import json
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final
from uuid import uuid4

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from loginpipe.sqs.client import Queue, batched
from loginpipe_tests.crash.runs import Run

HANDLER: Final = "loginpipe.ingest.aws_lambda.handler"
_API: Final = "/2018-06-01/runtime"
_ARN: Final = "arn:aws:lambda:us-east-1:000000000000:function:loginpipe"
_WAIT_SECONDS: Final = 60
_COLD: Final = """
import runpy, sys
{before}
sys.modules.update(dict.fromkeys({without}))
sys.argv = ["awslambdaric", "{handler}"]
runpy.run_module("awslambdaric", run_name="__main__")
"""
# Make all file systems read-only, except those below /dev and /proc. The numbers are from Linux's mount(2).
_READ_ONLY: Final = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
new_namespace, private, read_only = 0x20000, 0x4000 | 0x40000, 0x1 | 0x20 | 0x1000
assert libc.unshare(new_namespace) == libc.mount(None, b"/", None, private, None) == 0
for place in {line.split()[1] for line in open("/proc/mounts")} - {"/"} | {"/"}:
    if not place.startswith(("/dev", "/proc", "/sys")):
        assert libc.mount(None, place.encode(), None, read_only, None) == 0, place
"""


@dataclass(frozen=True)
class Reply:
    """The result of a call: the response, the reported error, or neither if the process ended."""

    response: Any = None
    error: dict[str, Any] | None = None

    @property
    def failed(self) -> list[str]:
        """Return the delivery ids that were reported as failed."""
        assert self.error is None, self.error
        assert self.response is not None, "the process ended"
        return [item["itemIdentifier"] for item in self.response["batchItemFailures"]]


class RuntimeApi:
    """The runtime API of one execution environment.

    Attributes:
        address: for ``AWS_LAMBDA_RUNTIME_API``.
        posted: every body that the environment posted.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[str, bytes, int]] = SimpleQueue()
        self._replies: SimpleQueue[Reply] = SimpleQueue()
        self._closed, self._asked = threading.Event(), threading.Event()
        self.posted: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="runtime-api")
        self._thread.start()
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """Stop, after the environment has ended."""
        self._closed.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def until_asked(self) -> None:
        """Wait until the environment has started and asks for a call."""
        assert self._asked.wait(_WAIT_SECONDS), "it did not start"

    def call(self, event: Mapping[str, Any], seconds: float) -> None:
        """Queue a call, with a deadline in this number of seconds."""
        self._calls.put((str(uuid4()), json.dumps(event).encode(), time.time_ns() // 1_000_000 + int(seconds * 1000)))

    def reply(self, wait_seconds: float) -> Reply | None:
        """Return the result of a call; None if there is none within this time."""
        try:
            return self._replies.get(timeout=wait_seconds)
        except Empty:
            return None

    def _next(self) -> tuple[str, bytes, int] | None:
        self._asked.set()
        while not self._closed.is_set():
            try:
                return self._calls.get(timeout=0.05)
            except Empty:
                continue
        return None

    def _post(self, path: str, body: str) -> None:
        self.posted.append(body)
        content = json.loads(body)
        self._replies.put(Reply(response=content) if path.endswith("/response") else Reply(error=content))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                assert self.path == f"{_API}/invocation/next"
                call = api._next()
                if call is None:
                    self.close_connection = True
                    return
                request_id, event, deadline_ms = call
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(event)))
                self.send_header("Lambda-Runtime-Aws-Request-Id", request_id)
                self.send_header("Lambda-Runtime-Deadline-Ms", str(deadline_ms))
                self.send_header("Lambda-Runtime-Invoked-Function-Arn", _ARN)
                self.end_headers()
                self.wfile.write(event)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                self.send_response(202)
                self.send_header("Content-Length", "0")
                self.end_headers()
                api._post(self.path, body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        return Handler


@dataclass(frozen=True)
class Environment:
    """An execution environment: a process that handles one call at a time."""

    api: RuntimeApi
    process: Run

    def invoke(self, event: Mapping[str, Any], *, seconds: float = _WAIT_SECONDS) -> Reply:
        """Make a call with this time limit, and wait for its result."""
        self.api.call(event, seconds)
        deadline = time.monotonic() + _WAIT_SECONDS
        while time.monotonic() < deadline:
            if reply := self.api.reply(0.05):
                return reply
            if self.process.ended:
                return self.api.reply(0.2) or Reply()
        raise AssertionError(f"no reply: {self.process.log()}")

    def log(self) -> str:
        """Return everything that the process wrote."""
        return (self.process.folder / "log").read_text()

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines of its log, each of which is a JSON object."""
        return [json.loads(line) for line in self.log().splitlines()]


@contextmanager
def environment(start: Callable[[str], Run]) -> Iterator[Environment]:
    """Start an execution environment; kill it at the end, and keep what it posted in a file beside its log.

    Args:
        start: starts the process, given the address of its runtime API.
    """
    api = RuntimeApi()
    try:
        with start(api.address) as process:
            running = Environment(api, process)
            yield running
        (process.folder / "posted").write_text("\n".join(api.posted))
    finally:
        api.close()


def cold(place: Any, *, read_only: bool = False) -> Callable[[str], Run]:
    """Return a function that starts an environment as Lambda does, with only the extra ``lambda`` installed.

    Args:
        place: provides the environment variables.
        read_only: make all its files read-only, as in Lambda; this needs root.
    """
    code = _COLD.format(before=_READ_ONLY if read_only else "", without=not_installed(), handler=HANDLER)
    return lambda address: place.start_fresh("-c", code, AWS_LAMBDA_RUNTIME_API=address)


def can_be_read_only() -> bool:
    """Return True if a child process may have file systems of its own."""
    return subprocess.run([sys.executable, "-c", _READ_ONLY], check=False, capture_output=True).returncode == 0


def not_installed() -> list[str]:
    """Return the top-level modules here that `pip install loginpipe[lambda]` does not install."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    installed = {"loginpipe", "loginpipe-tests"}
    wanted = [Requirement(each) for each in (*project["dependencies"], *project["optional-dependencies"]["lambda"])]
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        if f"{name}{sorted(requirement.extras)}" in installed:
            continue
        installed |= {name, f"{name}{sorted(requirement.extras)}"}
        extras = [{"extra": extra} for extra in (*requirement.extras, "")]
        wanted += (
            each
            for each in map(Requirement, metadata.requires(name) or ())
            if each.marker is None or any(map(each.marker.evaluate, extras))
        )
    modules = metadata.packages_distributions()
    return sorted(name for name, of in modules.items() if not installed & {canonicalize_name(each) for each in of})


@dataclass
class EventSourceMapping:
    """Connects a queue to a function, with ``ReportBatchItemFailures``."""

    queue: Queue
    batch_messages: int = 10

    def receive(self) -> dict[str, Any] | None:
        """Receive a batch and return its event; None if no message is visible."""
        records: list[dict[str, Any]] = []
        while len(records) < self.batch_messages:
            answer = self.queue.client.receive_message(
                QueueUrl=self.queue.url,
                MaxNumberOfMessages=min(10, self.batch_messages - len(records)),
                MessageSystemAttributeNames=["All"],
                MessageAttributeNames=["All"],
            )
            if not answer.get("Messages"):
                break
            records += [record(message, self.queue.name) for message in answer["Messages"]]
        return {"Records": records} if records else None

    def settle(self, event: Mapping[str, Any], reply: Reply) -> None:
        """Delete what was not reported as failed. If the call failed, delete nothing."""
        if reply.response is None:
            return
        failed = set(reply.failed)
        handles = {each["messageId"]: each["receiptHandle"] for each in event["Records"]}
        assert failed <= handles.keys(), "Lambda takes the whole batch for failed where it does not know an id"
        for chunk in batched(handle for delivery_id, handle in handles.items() if delivery_id not in failed):
            entries: Any = [{"Id": str(place), "ReceiptHandle": handle} for place, handle in enumerate(chunk)]
            self.queue.client.delete_message_batch(QueueUrl=self.queue.url, Entries=entries)

    def poll(self, running: Environment) -> int:
        """Receive, call and delete once; return the number of received messages."""
        event = self.receive()
        if event is None:
            return 0
        self.settle(event, running.invoke(event))
        return len(event["Records"])

    def drain(self, running: Environment) -> None:
        """Poll until no message is visible."""
        while self.poll(running):
            pass


def record(message: Mapping[str, Any], queue: str) -> dict[str, Any]:
    """Return a received message as a record of an event."""
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": dict(message["Attributes"]),
        "messageAttributes": {
            name: {
                **({"stringValue": value["StringValue"]} if "StringValue" in value else {}),
                **({"binaryValue": "AAAA"} if "BinaryValue" in value else {}),
                "stringListValues": [],
                "binaryListValues": [],
                "dataType": value["DataType"],
            }
            for name, value in message.get("MessageAttributes", {}).items()
        },
        "md5OfBody": message["MD5OfBody"],
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:us-east-1:000000000000:{queue}",
        "awsRegion": "us-east-1",
    }
