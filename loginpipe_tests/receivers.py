"""Receivers of alerts: a webhook on this machine, and an SNS topic with a queue subscribed to it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

import boto3


class Webhook:
    """Accepts POST requests and answers with ``status``. While it is closed, connections are refused."""

    def __init__(self) -> None:
        self.status = 200
        self.texts: list[str] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.secret = "T0KEN-OF-THE-CHANNEL"
        self._server = self._opened(0)
        self.port = int(self._server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}/services/{self.secret}"

    def _opened(self, port: int) -> ThreadingHTTPServer:
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                webhook.requests.append((self.path, dict(self.headers)))
                if webhook.status == 200:
                    webhook.texts.append(json.loads(body)["text"])
                self.send_response(webhook.status)
                if webhook.status == 302:
                    self.send_header("Location", f"http://127.0.0.1:{webhook.port}/elsewhere")
                self.end_headers()

            def do_GET(self) -> None:
                webhook.requests.append((self.path, dict(self.headers)))
                self.send_error(405)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def open_again(self) -> None:
        self._server = self._opened(self.port)

    def told(self) -> list[str]:
        """Return the texts that arrived since the last call."""
        texts, self.texts = self.texts, []
        return texts


@contextmanager
def webhook() -> Iterator[Webhook]:
    receiver = Webhook()
    try:
        yield receiver
    finally:
        receiver.close()


class Topic:
    """A topic of the embedded endpoint, with a queue subscribed to it."""

    def __init__(self) -> None:
        name = f"alerts-{uuid4().hex}"
        self._sqs, sns = boto3.client("sqs"), boto3.client("sns")  # type: ignore[call-overload]
        self._url = self._sqs.create_queue(QueueName=name)["QueueUrl"]
        attributes = self._sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=["QueueArn"])["Attributes"]
        self.arn = sns.create_topic(Name=name)["TopicArn"]
        policy = {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Principal": {"Service": "sns.amazonaws.com"},
                    "Action": "sqs:SendMessage",
                    "Resource": attributes["QueueArn"],
                    "Condition": {"ArnEquals": {"aws:SourceArn": self.arn}},
                }
            ],
        }
        self._sqs.set_queue_attributes(QueueUrl=self._url, Attributes={"Policy": json.dumps(policy)})
        sns.subscribe(TopicArn=self.arn, Protocol="sqs", Endpoint=attributes["QueueArn"])

    def told(self) -> list[tuple[str, str]]:
        """Return subject and text of the alerts that arrived since the last call."""
        found = []
        while messages := self._sqs.receive_message(QueueUrl=self._url, MaxNumberOfMessages=10).get("Messages", []):
            for message in messages:
                envelope = json.loads(message["Body"])
                found.append((envelope["Subject"], envelope["Message"]))
                self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=message["ReceiptHandle"])
        return found
