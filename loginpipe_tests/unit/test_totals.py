"""The totals of a run: the sums of its batches, of bounded size even after many batches."""

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields
from datetime import date, timedelta
from typing import Any

import pytest

from loginpipe.ingest.process import Masking, Outcome
from loginpipe.ingest.record import Recorded
from loginpipe.ingest.totals import RunTotals
from loginpipe.logins.delays import DELAY_BOUNDS
from loginpipe.logins.extras import MAX_NAMES, OTHER_NAMES
from loginpipe.logins.messages import Message
from loginpipe.postgres.batches import BatchRecord
from loginpipe.sqs.deletion import Deletion
from loginpipe.sqs.receiver import Received
from loginpipe_tests.batches import processed
from loginpipe_tests.custody import token_keys
from loginpipe_tests.wire import SENT_MS, delivered, login

MASKING = Masking(token_keys(1, 2))
BUCKETS = len(DELAY_BOUNDS) + 1
MINUTE_MS = 60_000


def recorded(*messages: Message, day: date = date(2026, 11, 21), bucket: int = 0, duplicates: int = 0) -> Recorded:
    """Return a batch as the database would have recorded it, with its first rows as duplicates."""
    outcome: Outcome = processed(messages, MASKING)
    rows = len(outcome.logins) - duplicates
    delays = [0] * BUCKETS
    delays[bucket] = rows
    record = BatchRecord(
        batch_id=outcome.batch_id,
        received=outcome.received,
        accepted=len(outcome.logins),
        rejected=len(outcome.rejected),
        inserted=rows,
        duplicates=duplicates,
        rows_by_day={day: rows},
        delays=delays,
        delay_seconds=1.0,
        sealed=2,
    )
    return Recorded(messages, outcome, record)


def test_the_totals_are_the_sums_of_the_batches() -> None:
    totals = RunTotals()
    totals.add_received(Received(redelivered=3))
    totals.add(recorded(delivered(login()), delivered(login(locale=None, session=1)), delivered("{}"), duplicates=1))
    totals.add_received(Received(redelivered=1))
    totals.add(
        recorded(
            delivered(login(session=2, more=1), sent_ms=SENT_MS - MINUTE_MS),
            delivered(login(locale=None, ip="x"), sent_ms=SENT_MS + MINUTE_MS),
            day=date(2026, 11, 20),
            bucket=BUCKETS - 1,
        )
    )
    totals.add_deletion(Deletion(deleted=3, failures=Counter(InternalError=1)))
    totals.add_deletion(Deletion(deleted=1, failures=Counter(InternalError=1, Other=1)))
    assert (totals.batches, totals.received, totals.redelivered) == (2, 5, 4)
    assert (totals.accepted, totals.rejected, totals.bad, totals.recorded_rejects) == (3, 2, 2, 2)
    assert (totals.inserted, totals.duplicates, totals.sealed) == (2, 1, 4)
    assert totals.null_locales == 1, "of the accepted ones"
    assert totals.reasons == {"missing": 1, "invalid_address": 1}
    assert totals.unknown_fields == {"session": 2, "more": 1}
    assert totals.rows_by_day == {date(2026, 11, 21): 1, date(2026, 11, 20): 1}
    assert (totals.delays[0], totals.delays[-1], sum(totals.delays)) == (1, 1, 2)
    assert totals.sent_ms == (SENT_MS - MINUTE_MS, SENT_MS + MINUTE_MS)
    noon = SENT_MS // MINUTE_MS
    assert totals.minutes == {noon: 3, noon - 1: 1, noon + 1: 1}
    assert (totals.deleted, totals.delete_failures) == (4, {"InternalError": 2, "Other": 1})
    assert totals.seen_before == {"ip": 1, "device_id": 1}
    # An address and a device for each login of the batches under the older key.
    assert totals.aliases == 4


def test_logins_of_erased_users_are_rejected_and_not_bad() -> None:
    one = recorded(delivered("{}"), delivered(login()))
    gone = one.outcome.rejected[0]._replace(reasons=["user_erased"])
    totals = RunTotals()
    outcome = Outcome(**{**fields_of(one.outcome), "rejected": [*one.outcome.rejected, gone]})
    totals.add(Recorded(one.messages, outcome, one.record))
    assert (totals.rejected, totals.bad) == (2, 1)


def fields_of(outcome: Outcome) -> dict[str, Any]:
    return {field.name: getattr(outcome, field.name) for field in fields(outcome)}


def name_of(number: int) -> str:
    """Return a name of letters only, because other names are not shown."""
    return "".join(chr(ord("a") + int(digit)) for digit in str(number))


def entries(totals: RunTotals) -> int:
    """Return how many entries the totals hold."""
    held = (getattr(totals, field.name) for field in fields(totals))
    return sum(len(value) for value in held if isinstance(value, Mapping | list))


def test_the_totals_stay_of_bounded_size_however_long_a_run_goes_on() -> None:
    totals, start = RunTotals(), SENT_MS
    sizes, number = [], 0
    for _ in range(3):
        for _ in range(120):
            number += 1
            # Every batch has names and an hour that no other batch has.
            names = {name_of(5 * number + i): 1 for i in range(5)}
            sent = [start + (number * 60 + i) * MINUTE_MS for i in range(60)]
            messages = [delivered(login(**(names if not i else {})), sent_ms=ms) for i, ms in enumerate(sent)]
            # A message is at most 14 days old, so there are at most 14 days.
            totals.add(recorded(*messages, day=date(2026, 11, 21) - timedelta(days=number % 14)))
            totals.add_deletion(Deletion(deleted=60, failures=Counter(InternalError=1)))
        sizes.append(entries(totals))
    assert sizes[2] <= sizes[1]
    assert len(totals.minutes) == 7 * 24 * 60
    assert max(totals.minutes) * MINUTE_MS > start + number * 60 * MINUTE_MS - MINUTE_MS, "the newest are kept"
    assert len(totals.unknown_fields) == MAX_NAMES + 1
    # Names that are not shown are still counted.
    assert sum(totals.unknown_fields.values()) == 5 * number
    assert totals.unknown_fields[OTHER_NAMES] > 0
    assert totals.received == 60 * number
    assert all(sys.getsizeof(name) < 1_000 for name in totals.unknown_fields)


@pytest.mark.parametrize("field", [field.name for field in fields(RunTotals)])
def test_totals_of_nothing_are_nothing(field: str) -> None:
    value = getattr(RunTotals(), field)
    assert not any(value) if isinstance(value, list) else not value
