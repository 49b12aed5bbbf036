"""A message as received, and a batch of them as a frame: ``raw_sqs_messages``."""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

MESSAGE_COLUMNS = {
    "message_id": "object",
    "body": "object",
    "sent_at": "datetime64[ms, UTC]",
    "received_at": "datetime64[ms, UTC]",
    "receive_count": "int64",
    "body_intact": "bool",
}
"""Columns and dtypes of the frame. The body holds personal data in clear."""


class Message(NamedTuple):
    """One delivery of one message. Times are milliseconds since 1970 UTC; ``repr`` shows no body and no handle.

    Attributes:
        message_id: what the ledger knows it by: SQS's id, or for a message that we sent again the first one's.
        delivery_id: SQS's id, which leases and deletes go by.
        sent_ms: SQS's ``SentTimestamp``, the time of the login: it does not change when a message comes again.
        body_intact: the body's MD5 is the one that SQS computed.
    """

    message_id: str
    delivery_id: str
    receipt_handle: str
    body: str
    sent_ms: int
    received_ms: int
    receive_count: int
    body_intact: bool

    def __repr__(self) -> str:
        return f"Message({self.message_id})"


def messages_frame(messages: Sequence[Message]) -> pd.DataFrame:
    """Lay messages out as `MESSAGE_COLUMNS`, one row each, in the order given."""
    frame = pd.DataFrame(
        {
            "message_id": pd.Series([m.message_id for m in messages], dtype=object),
            "body": pd.Series([m.body for m in messages], dtype=object),
            "sent_at": _utc([m.sent_ms for m in messages]),
            "received_at": _utc([m.received_ms for m in messages]),
            "receive_count": pd.Series([m.receive_count for m in messages], dtype="int64"),
            "body_intact": pd.Series([m.body_intact for m in messages], dtype=bool),
        }
    )
    return frame[list(MESSAGE_COLUMNS)]


def _utc(milliseconds: list[int]) -> "pd.Series[pd.Timestamp]":
    return pd.Series(milliseconds, dtype="int64").astype("datetime64[ms]").dt.tz_localize("UTC")
