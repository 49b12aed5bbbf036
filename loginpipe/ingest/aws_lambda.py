"""Handle one batch per call in AWS Lambda, from an SQS event source mapping with ``ReportBatchItemFailures``.

The mapping receives the messages. It deletes all that the response does not name as failed, and none if the handler
raises. So the response names every message whose outcome is not committed. If a message with an outcome comes again,
the ledger holds it and nothing changes.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING, Any, Protocol

from loginpipe.common.errors import LoginpipeError, QueueError
from loginpipe.common.interpreter import tuned_for_a_run
from loginpipe.common.logs import log_json_lines
from loginpipe.common.secrets import database_url
from loginpipe.common.settings import Settings, load_settings
from loginpipe.ingest.brake import Brake
from loginpipe.ingest.masking import load_masking, masking_warnings
from loginpipe.ingest.process import Masking
from loginpipe.ingest.record import Recorder
from loginpipe.ingest.totals import RunTotals
from loginpipe.logins.delays import quantile
from loginpipe.logins.messages import Message
from loginpipe.postgres.migrate import require_migrated
from loginpipe.postgres.session import OutOfTimeError, Session
from loginpipe.postgres.token_keys import check_token_keys, mark_placeholders
from loginpipe.sqs.deliveries import message_of

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import MessageTypeDef

# The part of a call's time that is reserved for the rollback and the response.
_RESERVED_SECONDS = 1.0

# The keys are loaded again after this time, so that a rotated key comes into use.
_KEYS_KEPT_SECONDS = 300.0

_log = logging.getLogger(__name__)


class Context(Protocol):
    """The part of Lambda's context object that is used."""

    aws_request_id: str

    def get_remaining_time_in_millis(self) -> int:
        """Return the time until Lambda ends the call, in milliseconds."""


@dataclass
class Batch:
    """The messages of one call.

    Attributes:
        messages: message id → its last delivery in the event; without damaged ones.
        deliveries: delivery id → message id, for every message of the call; None if the body is damaged.
    """

    queue: str
    messages: dict[str, Message] = field(default_factory=dict)
    deliveries: dict[str, str | None] = field(default_factory=dict)

    @property
    def damaged(self) -> int:
        """Return the number of bodies that do not match their MD5."""
        return sum(message_id is None for message_id in self.deliveries.values())


def read_event(event: Mapping[str, Any], now_ms: int, oldest_ms: int = 0) -> Batch:
    """Return the messages of an event of an SQS event source mapping. The times are as in `message_of`.

    Raises:
        QueueError: it is not such an event, or a record lacks a field. The message quotes no value.
    """
    try:
        records = event["Records"]
        # The function may have several queues, but a call has messages of one queue only.
        (queue,) = {str(record["eventSourceARN"]).rpartition(":")[2] for record in records}
        messages = [message_of(_delivery(record), now_ms, oldest_ms) for record in records]
    except (LookupError, TypeError, ValueError, AttributeError):
        messages = []
    if not messages:
        raise QueueError(
            "the event is not one that Lambda makes of SQS messages: map the queue to the function as its event source"
        )
    batch = Batch(queue)
    for message in messages:
        # A body that was damaged on the way is intact when it is delivered again.
        batch.deliveries[message.delivery_id] = message.message_id if message.body_intact else None
        if message.body_intact:
            batch.messages[message.message_id] = message
    return batch


def _delivery(record: Mapping[str, Any]) -> "MessageTypeDef":
    """Return a record of the event in the form of SQS's own responses."""
    attributes = record["messageAttributes"]
    delivery: MessageTypeDef = {
        "MessageId": record["messageId"],
        "ReceiptHandle": record["receiptHandle"],
        "Body": record["body"],
        "MD5OfBody": record["md5OfBody"],
        "Attributes": record["attributes"],
    }
    if attributes:
        delivery["MessageAttributes"] = {
            name: {"DataType": value["dataType"], "StringValue": value.get("stringValue") or ""}
            for name, value in attributes.items()
        }
    return delivery


class Function:
    """The function in one execution environment. It keeps its keys and its connection from call to call.

    A call that fails drops both. The next call loads the keys and connects again, with the password that is valid by
    then.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session: Session | None = None
        self._recorders: dict[str, Recorder] = {}
        # Kept after a failed call, because they count the first messages of the environment.
        self._brakes: dict[str, Brake] = {}
        self._masking: Masking | None = None
        # Wall-clock time, because a monotonic clock may stop while Lambda freezes the environment.
        self._loaded_at = 0.0

    def handle(self, event: Mapping[str, Any], context: Context) -> dict[str, list[dict[str, str]]]:
        """Record the messages of an event, and return the delivery ids of those that must come again.

        These are the messages with a damaged body, and those that could not be recorded in the time of the call.

        Raises:
            BrakeError: nearly all of the first messages would be rejected; no message of this call is recorded.
            LoginpipeError: any other failure, without the data that it may quote. The ledger holds what was recorded.
        """
        try:
            return self._handle(event, context)
        except LoginpipeError:
            raise
        except Exception as error:  # noqa: BLE001 - Lambda logs what is raised, and errors of libraries may quote data
            found = _named(error)
        raise LoginpipeError(f"the batch was not recorded: {found}; its messages come again; report this bug")

    def close(self) -> None:
        """Close the connection and forget the keys."""
        if self._session is not None:
            self._session.close()
        self._session, self._masking = None, None
        self._recorders.clear()

    def _handle(self, event: Mapping[str, Any], context: Context) -> dict[str, list[dict[str, str]]]:
        began = time.monotonic()
        deadline = began + context.get_remaining_time_in_millis() / 1000 - _RESERVED_SECONDS
        totals, recorded = RunTotals(), set[str | None]()
        now_ms = time.time_ns() // 1_000_000
        batch = read_event(event, now_ms, now_ms - self._settings.resent_days * 86_400_000)
        in_time = self._record(batch, deadline, totals, recorded)
        failed = [delivery_id for delivery_id, message_id in batch.deliveries.items() if message_id not in recorded]
        _log.log(
            logging.INFO if in_time else logging.WARNING,
            "inserted %d logins, skipped %d duplicates, rejected %d messages, returned %d to the queue%s",
            totals.inserted,
            totals.duplicates,
            totals.recorded_rejects,
            len(failed),
            "" if in_time else ": the time of the call was up",
            extra={
                "queue": batch.queue,
                "received": len(batch.deliveries),
                "accepted": totals.accepted,
                "rejected": totals.recorded_rejects,
                "reasons": dict(totals.reasons),
                "unknown_fields": dict(totals.unknown_fields),
                "inserted": totals.inserted,
                "duplicates": totals.duplicates,
                "damaged": batch.damaged,
                "returned": len(failed),
                "batches": totals.batches,
                "delay_p95_seconds": quantile(totals.delays, 0.95),
                "seconds": round(time.monotonic() - began, 3),
                "request_id": context.aws_request_id,
            },
        )
        return {"batchItemFailures": [{"itemIdentifier": delivery_id} for delivery_id in failed]}

    def _record(self, batch: Batch, deadline: float, totals: RunTotals, recorded: set[str | None]) -> bool:
        """Record a batch and add the recorded ids to ``recorded``; return False if the time was up."""
        if not batch.messages:
            return True
        try:
            session = self._session = self._session or Session(partial(database_url, self._settings, kept=False))
            with tuned_for_a_run(), session.until(deadline):
                for done in self._recorder(session, batch.queue).record(list(batch.messages.values())):
                    self._brakes[batch.queue].add(done.outcome)
                    totals.add(done)
                    recorded.update(message.message_id for message in done.messages)
        except OutOfTimeError:
            # The request that cancels a statement may still be on its way to this connection.
            self.close()
            return False
        except BaseException:
            self.close()
            raise
        return True

    def _recorder(self, session: Session, queue: str) -> Recorder:
        """Return the recorder of a queue. If the keys are due, load them and check the database against them."""
        now, settings = time.time(), self._settings
        if self._masking is None or not 0 <= now - self._loaded_at < _KEYS_KEPT_SECONDS:
            masking = load_masking(settings)
            for warning in masking_warnings(masking) if self._masking is None else ():
                _log.warning("%s", warning)
            session.run(require_migrated)
            session.run(partial(check_token_keys, keys=masking.keys))
            session.run(partial(mark_placeholders, placeholders=masking.placeholders))
            self._recorders.clear()
            self._masking, self._loaded_at = masking, now
        if queue not in self._recorders:
            new = Brake(queue=queue, on=settings.brake == "on", then="none is recorded and all of them return")
            check = self._brakes.setdefault(queue, new).check_before_recording
            self._recorders[queue] = Recorder(
                session, self._masking, queue=queue, envelope=settings.envelope, before_recording=check
            )
        return self._recorders[queue]


def _named(error: Exception) -> str:
    """Return the type of an error and the place where it was raised, without anything that it quotes."""
    place = extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {place.name}, {Path(place.filename).name} line {place.lineno}"


@cache
def _function() -> Function:
    """Return the function of this execution environment, which is kept from call to call."""
    settings = load_settings()
    log_json_lines(settings)
    return Function(settings)


def handler(event: Mapping[str, Any], context: Context) -> dict[str, list[dict[str, str]]]:
    """Handle a call of Lambda; see `Function.handle`. Configure it as ``loginpipe.ingest.aws_lambda.handler``."""
    return _function().handle(event, context)
