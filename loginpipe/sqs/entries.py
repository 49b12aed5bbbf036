"""Calls of SQS with up to ten entries, which can fail for single entries in an answer that is a success."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from loginpipe.sqs.client import error_code


@dataclass(frozen=True)
class FailedEntry:
    """What failed for one message: SQS's code, and whether it lays the fault at our door (a retry rarely helps)."""

    message_id: str
    code: str
    sender_fault: bool


def call_with_entries(call: Callable[[list[Any]], Any], entries: Mapping[str, Mapping[str, Any]]) -> list[FailedEntry]:
    """Make one call and return the entries that failed: all of them where the call itself failed.

    Args:
        call: takes the entries and returns SQS's answer.
        entries: by message id, at most ten; ``Id`` is filled in, since it must be unique within the call only.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    if not entries:
        return []
    message_ids = list(entries)
    try:
        answer = call([{**entry, "Id": str(place)} for place, entry in enumerate(entries.values())])
    except ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        code = error_code(error.response)
        return [FailedEntry(message_id, code, status < HTTPStatus.INTERNAL_SERVER_ERROR) for message_id in message_ids]
    except BotoCoreError as error:
        return [FailedEntry(message_id, type(error).__name__, False) for message_id in message_ids]
    return [
        FailedEntry(message_ids[int(failed["Id"])], str(failed["Code"]), bool(failed.get("SenderFault", False)))
        for failed in answer.get("Failed", [])
    ]
