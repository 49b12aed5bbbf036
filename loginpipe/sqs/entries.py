"""Make calls of up to ten entries. Single entries can fail in a successful response."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from loginpipe.common.aws import MALFORMED, error_code


@dataclass(frozen=True)
class FailedEntry:
    """A failed delivery: SQS's error code, and whether it blames the sender (then a retry rarely helps)."""

    delivery_id: str
    code: str
    sender_fault: bool
    of_call: bool = False
    """The call as a whole failed, not only this entry."""


def call_with_entries(call: Callable[[list[Any]], Any], entries: Mapping[str, Mapping[str, Any]]) -> list[FailedEntry]:
    """Make one call and return the failed entries: all of them if the call itself failed.

    Args:
        call: takes the entries and returns SQS's response.
        entries: delivery id → entry, at most ten. ``Id`` is filled in, because it need only be unique within the call.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    if not entries:
        return []
    delivery_ids = list(entries)
    try:
        asked = [{**entry, "Id": str(place)} for place, entry in enumerate(entries.values())]
        answer: Any = call(asked)
        # The usual case.
        if not answer.get("Failed") and {done["Id"] for done in answer["Successful"]} == {e["Id"] for e in asked}:
            return []
        confirmed = {int(done["Id"]) for done in answer.get("Successful", [])}
        refused = {int(failed["Id"]): failed for failed in answer.get("Failed", [])}
    except ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        code = error_code(error)
        return [
            FailedEntry(delivery_id, code, status < HTTPStatus.INTERNAL_SERVER_ERROR, True)
            for delivery_id in delivery_ids
        ]
    except (BotoCoreError, *MALFORMED) as error:
        return [FailedEntry(delivery_id, type(error).__name__, False, of_call=True) for delivery_id in delivery_ids]
    return [
        FailedEntry(delivery_id, str(refused[place].get("Code", "")), bool(refused[place].get("SenderFault", False)))
        if place in refused
        # Neither confirmed nor refused: treated as failed.
        else FailedEntry(delivery_id, "NotConfirmed", False)
        for place, delivery_id in enumerate(delivery_ids)
        if place in refused or place not in confirmed
    ]
