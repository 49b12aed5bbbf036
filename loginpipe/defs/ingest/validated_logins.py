"""Stage 2: the good logins go on, the others are set aside with their reasons. One step, since one pass tells both."""

from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
import pandas as pd

from loginpipe.common.settings import Settings
from loginpipe.defs.ingest.checks import REJECT_RATE, SCHEMA_DRIFT, reject_rate, schema_drift
from loginpipe.defs.ingest.handover import HANDOVER
from loginpipe.defs.ingest.timing import stopwatch
from loginpipe.defs.metadata.columns import column_lineage, column_schema
from loginpipe.defs.metadata.groups import GROUP, OWNERS
from loginpipe.defs.metadata.plots import bar_plot
from loginpipe.defs.resources import MaskingResource, PostgresResource, SqsResource
from loginpipe.logins.messages import MESSAGE_COLUMNS
from loginpipe.logins.schema import VALIDATED_LOGINS_SCHEMA
from loginpipe.logins.splitting import SplitBatch, split_batch
from loginpipe.masking.mask import ERASURES, set_erased_aside
from loginpipe.postgres.runs import Arrival

_REJECT_COLUMNS = ("message_id", "sent_at", "received_at", "reasons", "fields", "sealed_body")


def _from_messages(*columns: str) -> dict[str, str]:
    """What is not a column of the messages is a field of their body."""
    return {column: column if column in MESSAGE_COLUMNS else "body" for column in columns}


@dg.multi_asset(
    name="split_messages",
    group_name=GROUP,
    can_subset=True,
    check_specs=[REJECT_RATE, SCHEMA_DRIFT],
    outs={
        "validated_logins": dg.AssetOut(
            io_manager_key=HANDOVER,
            is_required=False,
            owners=OWNERS,
            kinds={"pandas", "pandera"},
            code_version="1",
            metadata={
                **column_schema(*VALIDATED_LOGINS_SCHEMA.columns),
                **column_lineage("raw_sqs_messages", _from_messages(*VALIDATED_LOGINS_SCHEMA.columns)),
            },
            description=(
                "Logins that meet the contract: the body is a JSON object and every field passes the pandera schema. "
                "In memory only: addresses and device ids are still clear."
            ),
        ),
        "rejected_logins": dg.AssetOut(
            dagster_type=dg.Nothing,
            is_required=False,
            owners=OWNERS,
            kinds={"pandera", "postgres", "table"},
            code_version="1",
            metadata={
                **column_schema(*_REJECT_COLUMNS),
                **column_lineage("raw_sqs_messages", _from_messages(*_REJECT_COLUMNS)),
                "dagster/table_name": "loginpipe.rejected_messages",
            },
            description=(
                "Messages set aside, with reason codes, the names of the fields at fault and the body sealed with the "
                "public key, in loginpipe.rejected_messages. Once recorded they are deleted from the queue, so that a "
                "bad message never holds up the good ones."
            ),
        ),
    },
)
def split_messages(  # noqa: PLR0917 - Dagster passes by name
    context: dg.AssetExecutionContext,
    raw_sqs_messages: pd.DataFrame,
    sqs: SqsResource,
    postgres: PostgresResource,
    masking: MaskingResource,
    settings: dg.ResourceParam[Settings],
) -> Iterator[dg.Output[pd.DataFrame] | dg.Output[None] | dg.AssetCheckResult]:
    """Judge every message, record the rejects, delete those.

    Raises:
        DatabaseError: the rejects could not be recorded; none was deleted.
    """
    seconds = stopwatch()
    judged = split_batch(raw_sqs_messages)
    bodies = masking.seal_bodies(judged)
    # Read once, and compared when the logins are written: whoever is erased in between must not come back.
    erased = postgres.erased()
    split = set_erased_aside(judged, raw_sqs_messages, masking.keys, erased.erased_at)
    split.accepted.attrs[ERASURES] = erased.count
    recorded = postgres.record_rejects(
        split.rejected, bodies, _arrival(context.run.run_id, sqs.name, raw_sqs_messages, split)
    )
    deletion = sqs.delete(split.rejected["message_id"])
    accepted, rejected = len(split.accepted), len(split.rejected)
    context.log.info(
        "accepted %d messages, rejected %d",
        accepted,
        rejected,
        extra={"accepted": accepted, "rejected": rejected, "seconds": seconds()},
    )
    yield dg.Output(
        split.accepted,
        "validated_logins",
        metadata={
            "dagster/row_count": accepted,
            "null_locales": int(split.accepted["locale"].isna().sum()),
            "unknown_fields": dg.MetadataValue.json(dict(split.unknown_fields)),
        },
    )
    yield dg.Output(
        None,
        "rejected_logins",
        metadata={
            "dagster/row_count": recorded,
            "by_reason": bar_plot("faults by reason", split.reason_counts()),
            "rejected": rejected,
            "reasons": dg.MetadataValue.json(split.reason_counts()),
            "deleted": deletion.deleted,
            "delete_failures": dg.MetadataValue.json(dict(deletion.failures)),
        },
    )
    # Logins of erased users are no fault of whoever sends them.
    yield reject_rate(len(judged.rejected), len(raw_sqs_messages), settings.max_reject_rate)
    yield schema_drift(split.unknown_fields)


def _arrival(run_id: str, queue: str, messages: pd.DataFrame, split: SplitBatch) -> Arrival:
    sent = messages["sent_at"]
    return Arrival(
        run_id=run_id,
        queue=queue,
        started_at=messages["received_at"].min().to_pydatetime() if len(messages) else datetime.now(UTC),
        received=len(messages),
        accepted=len(split.accepted),
        oldest_sent_at=sent.min().to_pydatetime() if len(messages) else None,
        newest_sent_at=sent.max().to_pydatetime() if len(messages) else None,
    )
