"""A message as received from the queue, before its body is parsed."""

from typing import NamedTuple


class Message(NamedTuple):
    """One delivery of one message. Times are milliseconds since 1970 UTC; ``repr`` shows no body and no handle.

    Attributes:
        message_id: its id in the ledger: SQS's id, or the id of the first message if it was sent again.
        delivery_id: SQS's id, for leases and deletes.
        body: personal data in clear.
        sent_ms: SQS's ``SentTimestamp``, the time of the login; it stays the same when a message comes again.
        body_intact: the body matches the MD5 that SQS computed.
        too_old: it claims an earlier date than a message that is sent again may have; id and time are SQS's own.
    """

    message_id: str
    delivery_id: str
    receipt_handle: str
    body: str
    sent_ms: int
    received_ms: int
    receive_count: int
    body_intact: bool
    too_old: bool = False

    def __repr__(self) -> str:
        return f"Message({self.message_id})"
