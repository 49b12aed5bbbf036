"""A message as received from the queue, before anything is known of its body."""

from typing import NamedTuple


class Message(NamedTuple):
    """One delivery of one message. Times are milliseconds since 1970 UTC; ``repr`` shows no body and no handle.

    Attributes:
        message_id: what the ledger knows it by: SQS's id, or for a message that we sent again the first one's.
        delivery_id: SQS's id, which leases and deletes go by.
        body: personal data in clear.
        sent_ms: SQS's ``SentTimestamp``, the time of the login: it does not change when a message comes again.
        body_intact: the body's MD5 is the one that SQS computed.
        too_old: its sender dates it earlier than a message that is sent again may be; id and time are SQS's own.
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
