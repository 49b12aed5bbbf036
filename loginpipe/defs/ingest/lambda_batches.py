"""Define the sensor that shows AWS Lambda's work in the asset graph, from the table of batches."""

from collections.abc import Iterator
from datetime import datetime
from functools import partial
from typing import Any

import dagster as dg

from loginpipe.common.settings import Settings
from loginpipe.defs.ingest import stages
from loginpipe.defs.resources import PostgresResource
from loginpipe.postgres.batches import BatchesWithoutRun, batches_without_run

# Seconds between ticks, because each materialization is a row in Dagster's storage.
_TICK_SECONDS = 60
_FIRST_SECONDS = 3600
# Longer than a transaction waits for a lock after its batch gets a time, so that no batch is missed.
_SETTLED_SECONDS = 15


def materializations(found: BatchesWithoutRun) -> Iterator[dg.AssetMaterialization]:
    """Yield a materialization of each asset in the chain, with sums over at least one batch."""
    oldest, newest = found.sent or (found.until, found.until)
    sent = {"oldest_sent_at": dg.MetadataValue.timestamp(oldest), "newest_sent_at": dg.MetadataValue.timestamp(newest)}
    stored = stages.by_delay_and_day(found.delays, found.rows_by_day)
    of_assets: list[tuple[dg.AssetSpec, int, dict[str, Any]]] = [
        (stages.RAW_SQS_MESSAGES, found.received, sent),
        (stages.VALIDATED_LOGINS, found.accepted, {}),
        (stages.REJECTED_LOGINS, found.rejected, stages.by_reason(found.reasons)),
        (stages.MASKED_LOGINS, found.accepted, {}),
        (stages.USER_LOGINS_TABLE, found.inserted, {**stored, "duplicates": found.duplicates}),
    ]
    for spec, rows, metadata in of_assets:
        yield dg.AssetMaterialization(
            spec.key,
            description=f"recorded by AWS Lambda until {found.until:%Y-%m-%d %H:%M:%S} UTC",
            metadata={"dagster/row_count": rows, **metadata, "consumer": "AWS Lambda", "batches": found.batches},
        )


@dg.sensor(
    minimum_interval_seconds=_TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Reports materializations of the chain for the batches that AWS Lambda recorded since the last tick, from "
        "the table loginpipe.batches. It exists if LOGINPIPE_CONSUMER is lambda or both."
    ),
)
def lambda_batches_sensor(
    context: dg.SensorEvaluationContext, postgres: PostgresResource, settings: dg.ResourceParam[Settings]
) -> dg.SensorResult:
    """Report the batches recorded outside Dagster since the last tick."""
    found = postgres.run(
        partial(
            batches_without_run,
            queue=settings.queue_name,
            since=datetime.fromisoformat(context.cursor) if context.cursor else None,
            first_seconds=_FIRST_SECONDS,
            settled_seconds=_SETTLED_SECONDS,
        )
    )
    summary = (
        f"{found.batches} batches of AWS Lambda: received {found.received:,} messages, inserted {found.inserted:,} "
        f"logins, skipped {found.duplicates:,} duplicates, rejected {found.rejected:,} messages"
    )
    return dg.SensorResult(
        asset_events=list(materializations(found)) if found.batches else [],
        skip_reason=summary if found.batches else "AWS Lambda has recorded no batch since the last tick",
        cursor=found.until.isoformat(),
    )
