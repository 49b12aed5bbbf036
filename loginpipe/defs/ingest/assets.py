"""Run the chain: five assets in one step, because clear data is never stored between them."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial

import dagster as dg
from pydantic import Field

from loginpipe.common.errors import ClearValueError, DatabaseError, LoginpipeError, QueueError, runbook
from loginpipe.common.settings import Settings
from loginpipe.defs.ingest import checks
from loginpipe.defs.ingest.job import pool, tag_run
from loginpipe.defs.ingest.masked_logins import MASKED_LOGINS, masked_logins
from loginpipe.defs.ingest.raw_sqs_messages import RAW_SQS_MESSAGES, raw_sqs_messages
from loginpipe.defs.ingest.rejected_logins import REJECTED_LOGINS, rejected_logins
from loginpipe.defs.ingest.user_logins_table import USER_LOGINS_TABLE, user_logins_table
from loginpipe.defs.ingest.validated_logins import VALIDATED_LOGINS, validated_logins
from loginpipe.defs.resources import MaskingResource, PostgresResource, SqsResource
from loginpipe.ingest.brake import Brake
from loginpipe.ingest.consumer import StopSignals, consume
from loginpipe.ingest.record import Recorded, Recorder
from loginpipe.ingest.totals import RunTotals
from loginpipe.logins.delays import quantile
from loginpipe.postgres.batches import run_counts
from loginpipe.postgres.token_keys import mark_placeholders
from loginpipe.sqs.client import IN_FLIGHT_LIMIT_REACHED
from loginpipe.sqs.deletion import Deleter
from loginpipe.sqs.receiver import Received, Receiver

STEP = "ingest"

# First log interval of a run; each next one is twice as long, because each line is a row in Dagster's storage.
_PROGRESS_SECONDS = 30


class IngestConfig(dg.Config):
    """The run config of the ingest step."""

    idle_seconds: float = Field(
        default=0, ge=0, description="How long to wait for more messages once the queue is drained, in seconds."
    )


def ingest_assets(settings: Settings) -> dg.AssetsDefinition:
    """Return the five assets and their step, which takes a slot in its queue's pool."""
    return dg.multi_asset(
        name=STEP,
        specs=[RAW_SQS_MESSAGES, VALIDATED_LOGINS, REJECTED_LOGINS, MASKED_LOGINS, USER_LOGINS_TABLE],
        check_specs=checks.OF_A_RUN,
        can_subset=False,
        pool=pool(settings),
    )(ingest)


def ingest(
    context: dg.AssetExecutionContext,
    config: IngestConfig,
    *,
    sqs: SqsResource,
    postgres: PostgresResource,
    masking: MaskingResource,
    settings: dg.ResourceParam[Settings],
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """Load batches from the queue into the table until the queue is drained or the run's time is over.

    Raises:
        TokenKeyMismatchError: the database's tokens were made with other token keys.
        QueueError: the queue cannot be received from. Messages received before are recorded.
        DatabaseError: a batch could not be recorded. Its messages return to the queue.
        BrakeError: nearly all of the first messages were rejected. The others return to the queue.
        ClearValueError: masked cells do not contain a token. Nothing of that batch was written.
    """
    began, began_at = time.monotonic(), datetime.now(UTC)
    tag_run(context.instance, context.run, settings)
    postgres.check_token_keys(masking.keys)
    postgres.run(partial(mark_placeholders, placeholders=masking.loaded.placeholders))
    totals, receiver, stop = RunTotals(), sqs.receiver(), StopSignals()
    failure: LoginpipeError | None = None
    with stop, postgres.giving_up_when(lambda: stop.requested) as session:
        try:
            consume(
                receiver,
                Recorder(
                    session,
                    masking.loaded,
                    queue=sqs.name,
                    run_id=context.run.run_id,
                    envelope=settings.envelope,
                ),
                Deleter(sqs.opened, sqs.leases),
                sqs.leases,
                idle_seconds=config.idle_seconds,
                run_seconds=settings.run_seconds,
                brake=Brake(queue=sqs.name, on=settings.brake == "on"),
                stop=stop,
                on_recorded=_Progress(context, totals),
                on_deleted=totals.add_deletion,
            )
        except LoginpipeError as error:
            failure = error
    _log(context, "finished", totals, seconds=round(time.monotonic() - began, 3))
    tokens = checks.only_tokens(totals.accepted, str(failure) if isinstance(failure, ClearValueError) else None)
    if totals.batches or failure is None:
        yield from _results(context, totals, receiver, sqs, masking, settings, tokens, ask=not stop.requested)
        if failure is None:
            yield _counts_add_up(postgres, context.run.run_id, began_at)
    elif not tokens.passed:
        yield tokens
    if failure is not None:
        raise failure
    stop.pass_on()


def _results(  # noqa: PLR0917
    context: dg.AssetExecutionContext,
    totals: RunTotals,
    receiver: Receiver,
    sqs: SqsResource,
    masking: MaskingResource,
    settings: Settings,
    tokens: dg.AssetCheckResult,
    *,
    ask: bool,
) -> Iterator[dg.MaterializeResult[None]]:
    """Yield the materialization of each asset, with the checks that need only the totals.

    SQS is queried only if ``ask`` is True: a run that must stop has seconds left, and a call may take minutes.
    """
    found = raw_sqs_messages(
        totals, receiver.counts, queue=sqs.name, at_limit=ask and _at_in_flight_limit(context, sqs)
    )
    yield dg.MaterializeResult(asset_key=RAW_SQS_MESSAGES.key, metadata=found)
    yield dg.MaterializeResult(
        asset_key=VALIDATED_LOGINS.key,
        metadata=validated_logins(totals, masking.fate_of_unknown_fields),
        check_results=[
            checks.reject_rate(totals.bad, totals.received, settings.max_reject_rate),
            checks.schema_drift(totals.unknown_fields, masking.fate_of_unknown_fields),
        ],
    )
    yield dg.MaterializeResult(asset_key=REJECTED_LOGINS.key, metadata=rejected_logins(totals))
    yield dg.MaterializeResult(
        asset_key=MASKED_LOGINS.key,
        metadata=masked_logins(totals, masking),
        check_results=[tokens],
    )
    yield dg.MaterializeResult(
        asset_key=USER_LOGINS_TABLE.key,
        metadata=user_logins_table(totals, leases_lost=sqs.leases.lost),
        check_results=[checks.delay_within_limit(totals.delays, settings.max_delay_seconds)],
    )


def _counts_add_up(postgres: PostgresResource, run_id: str, since: datetime) -> dg.AssetCheckResult:
    """Read back the counts of the run's batches. An error is only a warning, because everything is recorded by then."""
    try:
        return checks.counts_add_up(postgres.run(partial(run_counts, run_id=run_id, since=since)))
    except DatabaseError as error:
        return checks.counts_not_read(str(error))


def _at_in_flight_limit(context: dg.AssetExecutionContext, sqs: SqsResource) -> bool:
    """Return True if SQS's in-flight limit ended receiving. Receiving alone does not show it: long polls are empty."""
    try:
        at_limit = sqs.depth().at_in_flight_limit
    except QueueError:
        return False
    if at_limit:
        context.log.warning(
            "queue %r: %s; see %s", sqs.name, IN_FLIGHT_LIMIT_REACHED, runbook("in-flight-limit-reached")
        )
    return at_limit


class _Progress:
    """Adds up batches, and logs progress at growing intervals."""

    def __init__(self, context: dg.AssetExecutionContext, totals: RunTotals) -> None:
        self._context = context
        self._totals = totals
        self._pause = _PROGRESS_SECONDS
        self._next = time.monotonic() + self._pause
        self._batch: Received | None = None

    def __call__(self, batch: Received, recorded: Recorded) -> None:
        if batch is not self._batch:
            self._totals.add_received(batch)
            self._batch = batch
        self._totals.add(recorded)
        if time.monotonic() >= self._next:
            self._pause *= 2
            self._next = time.monotonic() + self._pause
            _log(self._context, "so far", self._totals)


def _log(context: dg.AssetExecutionContext, when: str, totals: RunTotals, **more: float) -> None:
    figures = {
        "received": totals.received,
        "accepted": totals.accepted,
        "rejected": totals.rejected,
        "inserted": totals.inserted,
        "duplicates": totals.duplicates,
        "deleted": totals.deleted,
        "batches": totals.batches,
        "delay_p95_seconds": quantile(totals.delays, 0.95),
    }
    context.log.info(
        "%s: received %d messages in %d batches; inserted %d logins, skipped %d duplicates, rejected %d messages",
        when,
        totals.received,
        totals.batches,
        totals.inserted,
        totals.duplicates,
        totals.rejected,
        extra=figures | more,
    )
