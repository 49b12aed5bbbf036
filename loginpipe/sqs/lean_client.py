"""SQS's client for what is asked about every ten messages: a fraction of boto3's work, and boto3 for everything else.

Receives, deletes and changes of visibility are signed, sent and read here. Whatever is not answered with a success goes
to boto3 as if it had not been tried: boto3 tries again, backs off, decides and raises as it always does. All three may
be asked twice: what a receive took unheard comes again when its visibility timeout ends.
"""

import json
import os
import ssl
from base64 import b64decode
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import orjson

from loginpipe.common.aws import MALFORMED
from loginpipe.sqs.connections import UNANSWERED, Connections
from loginpipe.sqs.signature import Signer

if TYPE_CHECKING:
    from botocore.credentials import Credentials
    from botocore.session import Session
    from mypy_boto3_sqs import SQSClient

_PORTS = {"http": 80, "https": 443}


def lean_client(client: "SQSClient", session: "Session", *, connect_seconds: float, read_seconds: float) -> "SQSClient":
    """Return a client that takes the short way where there is one, and otherwise the same.

    There is none by a proxy, to an endpoint with a path, or without credentials.

    Args:
        client: boto3's.
        session: what it was made by; its credentials, and the certificates it trusts, are used.
        connect_seconds: longest time of connecting.
        read_seconds: longest time of waiting for an answer.
    """
    from botocore.utils import get_environ_proxies

    url = client.meta.endpoint_url
    endpoint = urlsplit(url)
    credentials = session.get_credentials()
    if credentials is None or endpoint.path not in {"", "/"} or endpoint.scheme in get_environ_proxies(url):
        return client
    connections = Connections(
        endpoint.hostname or "",
        endpoint.port or _PORTS[endpoint.scheme],
        partial(_tls, session) if endpoint.scheme == "https" else None,
        connect_seconds=connect_seconds,
        read_seconds=read_seconds,
    )
    signer = Signer(endpoint.netloc, client.meta.region_name, client.meta.config.user_agent)  # type: ignore[attr-defined]
    return cast("SQSClient", _LeanClient(client, credentials, signer, connections))


def _tls(session: "Session") -> ssl.SSLContext:
    """Trust what boto3 does: what ``ca_bundle`` or ``REQUESTS_CA_BUNDLE`` names, or else the usual authorities."""
    from botocore.httpsession import get_cert_path

    trusted = session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE")
    authorities = get_cert_path(trusted or True)  # type: ignore[arg-type]
    return ssl.create_default_context(cafile=authorities)


class _LeanClient:
    """boto3's client, three calls of which take the short way. Safe to use from several threads."""

    def __init__(
        self, client: "SQSClient", credentials: "Credentials", signer: Signer, connections: Connections
    ) -> None:
        self._client = client
        self._credentials = credentials
        self._signer = signer
        self._connections = connections

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def receive_message(self, **request: Any) -> Any:
        return self._ask("ReceiveMessage", request, self._client.receive_message)

    def delete_message_batch(self, **request: Any) -> Any:
        return self._ask("DeleteMessageBatch", request, self._client.delete_message_batch)

    def change_message_visibility_batch(self, **request: Any) -> Any:
        return self._ask("ChangeMessageVisibilityBatch", request, self._client.change_message_visibility_batch)

    def close(self) -> None:
        self._connections.close()
        self._client.close()

    def _ask(self, operation: str, request: dict[str, Any], by_boto3: Callable[..., Any]) -> Any:
        answer = self._answer(f"AmazonSQS.{operation}", request)
        return by_boto3(**request) if answer is None else answer

    def _answer(self, target: str, request: dict[str, Any]) -> dict[str, Any] | None:
        """Return what SQS answers; None where that is no success."""
        from botocore.exceptions import BotoCoreError

        body = orjson.dumps(request)
        try:
            head = self._signer.head(target, body, self._credentials.get_frozen_credentials())
            reply = self._connections.exchange(head + body)
            return _content(reply.body) if reply.status == HTTPStatus.OK else None
        except (*UNANSWERED, *MALFORMED, BotoCoreError):
            return None


def _content(body: bytes) -> dict[str, Any]:
    """Return an answer as boto3 would: nothing at all is an empty one, and what is null is not there.

    Raises:
        One of `loginpipe.common.aws.MALFORMED`: not JSON, or not of the form of an answer.
    """
    try:
        answer: dict[str, Any] = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError:
        # Lone surrogates, which some endpoints let through, are no JSON to orjson.
        answer = json.loads(body)
    answer = {name: value for name, value in answer.items() if value is not None}
    for message in answer.get("Messages", ()):
        # Hardly any message has attributes.
        if "MessageAttributes" in message:
            _read_attributes(message)
    return answer


def _read_attributes(message: dict[str, Any]) -> None:
    attributes = message.pop("MessageAttributes")
    if attributes is None:
        return
    for attribute in attributes.values():
        if "BinaryValue" in attribute:
            attribute["BinaryValue"] = b64decode(attribute["BinaryValue"])
    message["MessageAttributes"] = attributes
