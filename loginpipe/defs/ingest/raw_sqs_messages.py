"""Stage 1: a bounded bite of the queue, received and leased."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pandas as pd

from loginpipe.common.errors import UpstreamMissingError
from loginpipe.common.runbook import runbook
from loginpipe.defs.ingest.checks import NO_DEAD_LETTERS, no_dead_letters
from loginpipe.defs.ingest.handover import HANDOVER, WHOLE_CHAIN
from loginpipe.defs.ingest.timing import stopwatch
from loginpipe.defs.metadata.columns import column_schema
from loginpipe.defs.metadata.groups import CHAIN, GROUP, OWNERS
from loginpipe.defs.metadata.plots import bar_plot
from loginpipe.defs.resources import MaskingResource, PostgresResource, SqsResource
from loginpipe.logins.arrivals import messages_per_minute
from loginpipe.logins.messages import MESSAGE_COLUMNS, messages_frame
from loginpipe.sqs.depth import STALL


@dg.asset(
    group_name=GROUP,
    io_manager_key=HANDOVER,
    owners=OWNERS,
    kinds={"sqs"},
    code_version="1",
    check_specs=[NO_DEAD_LETTERS],
    metadata=column_schema(*MESSAGE_COLUMNS),
    description=(
        "Messages received from the login queue, at most LOGINPIPE_BATCH_MESSAGES of them. In memory only: the bodies "
        "hold personal data in clear. Until their outcome is committed the messages stay on the queue, hidden from "
        "other consumers; if the run fails they go back."
    ),
)
def raw_sqs_messages(
    context: dg.AssetExecutionContext, sqs: SqsResource, postgres: PostgresResource, masking: MaskingResource
) -> Iterator[dg.Output[pd.DataFrame] | dg.AssetCheckResult]:
    """Receive; see `MESSAGE_COLUMNS` for the frame.

    Raises:
        UpstreamMissingError: the run leaves out a later stage, and would take messages that nobody stores.
        TokenKeyMismatchError: the token keys are not the ones the database's tokens were made with.
        QueueError: the queue cannot be received from.
    """
    seconds = stopwatch()
    missing = [name for name in CHAIN if not _selected(context, name)]
    if missing:
        raise UpstreamMissingError(
            f"nothing was received, since this run leaves out {', '.join(missing)}: "
            f"materialise the whole chain, {WHOLE_CHAIN}"
        )
    postgres.check_token_keys(masking.keys)
    received = sqs.receive()
    frame = messages_frame(list(received.messages.values()))
    context.log.info(
        "received %d messages from queue %r",
        len(frame),
        sqs.name,
        extra={"received": len(frame), "queue": sqs.name, "seconds": seconds()},
    )
    if received.broken_off is not None:
        context.log.warning(
            "receiving broke off, what was received goes on: %s; see %s", received.broken_off, runbook("source-down")
        )
    # An empty long poll is what a drained queue and one at its in-flight limit have in common.
    stalled = received.drained and sqs.depth().stalled
    if stalled:
        context.log.warning("queue %r: %s; see %s", sqs.name, STALL, runbook("in-flight-stall"))
    metadata: dict[str, dg.MetadataValue[Any] | int | bool] = {"dagster/row_count": len(frame)}
    if len(frame):
        sent = frame["sent_at"]
        step, rates = messages_per_minute(sent)
        metadata["messages_per_minute"] = bar_plot(f"messages a minute by time of sending (UTC), step {step}", rates)
        metadata["oldest_sent_at"] = dg.MetadataValue.timestamp(sent.min().to_pydatetime())
        metadata["newest_sent_at"] = dg.MetadataValue.timestamp(sent.max().to_pydatetime())
    metadata |= {
        "queue": dg.MetadataValue.text(sqs.name),
        "redelivered": int((frame["receive_count"] > 1).sum()),
        "damaged_and_handed_back": received.damaged,
        "empty_receives": received.empty_receives,
        "queue_drained": received.drained and not stalled,
        "in_flight_stall": stalled,
    }
    yield dg.Output(frame, metadata=metadata)
    yield no_dead_letters(sqs.dead_letters)


def _selected(context: dg.AssetExecutionContext, name: str) -> bool:
    return dg.AssetKey(name) in context.job_def.asset_layer.selected_asset_keys
