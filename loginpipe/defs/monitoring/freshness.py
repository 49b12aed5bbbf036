"""The check ``fresh`` of ``user_logins_table``, and the sensor that reports on it. What it means is in `freshness`."""

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import dagster as dg
from pydantic import BaseModel

from loginpipe.common.settings import load_settings
from loginpipe.defs.metadata.groups import runbook_link
from loginpipe.defs.resources import PostgresResource, SqsResource
from loginpipe.monitoring.freshness import Freshness, judge, patience
from loginpipe.postgres.batches import recent_batches

FRESH = dg.AssetCheckKey(dg.AssetKey("user_logins_table"), "fresh")

_REPORTED = timedelta(hours=1)
_SINCE = "messages_since"


class Memory(BaseModel, frozen=True):
    """What the sensor keeps from tick to tick, as its cursor.

    Attributes:
        waiting_since: as `Freshness.waiting_since`.
        reported: when it reported last.
        passed: what it reported.
    """

    waiting_since: datetime | None = None
    reported: datetime | None = None
    passed: bool = True


@dg.asset_check(
    asset=FRESH.asset_key,
    name=FRESH.name,
    description=(
        "The queue is empty, or runs are working it off. It fails where messages are there and no batch was finished "
        "for longer than LOGINPIPE_MAX_DELAY_SECONDS, or where as many are in flight as SQS allows. freshness_sensor "
        "looks every minute, and reports when that changes, and once an hour."
    ),
)
def fresh(context: dg.AssetCheckExecutionContext, sqs: SqsResource, postgres: PostgresResource) -> dg.AssetCheckResult:
    """Look now. Since when messages are there is known from the last report, where that was of a stuck queue."""
    found = _look(sqs, postgres, _last_reported(context.instance))
    return dg.AssetCheckResult(passed=found.state != "stuck", description=found.says, metadata=_metadata(found))


@dg.sensor(
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Looks whether messages are there that nobody works off, and reports on the check fresh of user_logins_table "
        "when that changes, and once an hour."
    ),
)
def freshness_sensor(
    context: dg.SensorEvaluationContext, sqs: SqsResource, postgres: PostgresResource
) -> dg.SensorResult:
    """Report on the check `fresh`.

    Raises:
        QueueError: the queue cannot be asked.
        DatabaseError: the batches cannot be read.
    """
    memory = Memory.model_validate_json(context.cursor) if context.cursor else Memory()
    found = _look(sqs, postgres, memory.waiting_since)
    now, passed = datetime.now(UTC), found.state != "stuck"
    # Quiet and working take turns all day: that is no news.
    known = memory.reported is not None and now - memory.reported < _REPORTED and memory.passed == passed
    kept = Memory(waiting_since=found.waiting_since, reported=memory.reported if known else now, passed=passed)
    evaluation = dg.AssetCheckEvaluation(
        asset_key=FRESH.asset_key,
        check_name=FRESH.name,
        passed=passed,
        severity=dg.AssetCheckSeverity.ERROR,
        description=found.says,
        metadata=_metadata(found),
    )
    return dg.SensorResult(
        asset_events=[] if known else [evaluation],
        skip_reason=f"{found.state}: {found.says}",
        cursor=kept.model_dump_json(),
    )


def _look(sqs: SqsResource, postgres: PostgresResource, waiting_since: datetime | None) -> Freshness:
    now = datetime.now(UTC)
    recent = postgres.run(partial(recent_batches, queue=sqs.name, now=now))
    return judge(
        sqs.depth(),
        last_finished=recent.last_finished,
        waiting_since=waiting_since,
        now=now,
        most=patience(load_settings()),
    )


def _last_reported(instance: dg.DagsterInstance) -> datetime | None:
    record = instance.event_log_storage.get_asset_check_summary_records([FRESH])[
        FRESH
    ].last_completed_check_execution_record
    evaluation = record.evaluation if record else None
    if evaluation is None or evaluation.passed or _SINCE not in evaluation.metadata:
        return None
    value = evaluation.metadata[_SINCE].value
    return datetime.fromtimestamp(value, UTC) if isinstance(value, float) else None


def _metadata(found: Freshness) -> dict[str, dg.MetadataValue[Any]]:
    since = {_SINCE: dg.MetadataValue.timestamp(found.waiting_since)} if found.waiting_since else {}
    return {"state": dg.MetadataValue.text(found.state), **since, "runbook": runbook_link("nothing-arrives")}
