"""What ECS answers a task about itself, and a record of what the task asks of ECS."""

import json
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Ecs:
    """The address of both, and the names of the calls so far."""

    url: str = ""
    calls: list[str] = field(default_factory=list)


@contextmanager
def ecs_of_a_task(endpoint_url: str, *, cluster: str, task_arn: str) -> Iterator[Ecs]:
    """Serve a task's metadata, and pass calls of ECS on to the endpoint, by name on record."""
    ecs = Ecs()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(200, json.dumps({"Cluster": cluster, "TaskARN": task_arn, "Name": "daemon"}).encode())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            ecs.calls.append(self.headers["X-Amz-Target"].split(".")[-1])
            passed = {name: value for name, value in self.headers.items() if name != "Host"}
            request = urllib.request.Request(endpoint_url + self.path, data=body, headers=passed)
            with urllib.request.urlopen(request) as answer:
                self._answer(answer.status, answer.read())

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        ecs.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield ecs
        finally:
            server.shutdown()
