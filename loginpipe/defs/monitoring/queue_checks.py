"""Define the queue's checks ``freshness`` and ``no_dead_letters``, evaluated by monitoring_sensor or from the UI.

Runs do not evaluate them, because they do not concern a run's messages. The rules are in `loginpipe.monitoring`.
"""

from datetime import UTC, datetime
from functools import partial

import dagster as dg

from loginpipe.common.errors import QueueError
from loginpipe.common.settings import Settings
from loginpipe.defs.metadata import asset_key, check_result
from loginpipe.defs.resources import PostgresResource, SqsResource
from loginpipe.monitoring.reports import DeadLetters, Freshness, evaluate, evaluate_dead_letters, longest_wait
from loginpipe.postgres.batches import recent_batches
from loginpipe.sqs.dead_letters import DeadLetterDepth, read_dead_letters

FRESH = dg.AssetCheckKey(asset_key("user_logins_table"), "freshness")
NO_DEAD_LETTERS = dg.AssetCheckKey(asset_key("raw_sqs_messages"), "no_dead_letters")

_SINCE = "messages_since"


@dg.asset_check(
    asset=FRESH.asset_key,
    name=FRESH.name,
    description=(
        "The queue is empty, or runs are processing it. It fails if messages wait and no batch has finished for "
        "longer than LOGINPIPE_MAX_DELAY_SECONDS, or if as many messages are in flight as SQS allows. "
        "monitoring_sensor reports each change, and the state once an hour."
    ),
)
def freshness(
    context: dg.AssetCheckExecutionContext,
    sqs: SqsResource,
    postgres: PostgresResource,
    settings: dg.ResourceParam[Settings],
) -> dg.AssetCheckResult:
    """Evaluate the check now. The last report of a stuck queue has the time since when messages wait."""
    now = datetime.now(UTC)
    recent = postgres.run(partial(recent_batches, queue=sqs.name, now=now))
    last, since, max_wait = recent.last_finished, _last_reported(context.instance), longest_wait(settings)
    return freshness_result(evaluate(sqs.depth(), last_finished=last, waiting_since=since, now=now, max_wait=max_wait))


def freshness_result(found: Freshness) -> dg.AssetCheckResult:
    """Return the state of the queue as a check result."""
    since = {_SINCE: dg.MetadataValue.timestamp(found.waiting_since)} if found.waiting_since else {}
    return check_result("nothing-arrives", found.passed, found.message, {"state": found.state, **since}, of=FRESH)


@dg.asset_check(
    asset=NO_DEAD_LETTERS.asset_key,
    name=NO_DEAD_LETTERS.name,
    description=(
        "The dead-letter queue holds no messages from this queue. A failure is a warning, also for a queue without a "
        "dead-letter queue. monitoring_sensor reports each change."
    ),
)
def no_dead_letters(sqs: SqsResource) -> dg.AssetCheckResult:
    """Evaluate the check now. If the queue does not answer, this is a warning too."""
    try:
        depth: DeadLetterDepth | str | None = read_dead_letters(sqs.opened)
    except QueueError as error:
        depth = str(error)
    return dead_letters_result(evaluate_dead_letters(depth))


def dead_letters_result(found: DeadLetters) -> dg.AssetCheckResult:
    """Return the state of the dead-letter queue as a check result."""
    return check_result("dead-letters", found.passed, found.message, of=NO_DEAD_LETTERS, warns=True)


def _last_reported(instance: dg.DagsterInstance) -> datetime | None:
    found = instance.event_log_storage.get_asset_check_summary_records([FRESH])[FRESH]
    record = found.last_completed_check_execution_record
    evaluation = record.evaluation if record else None
    if evaluation is None or evaluation.passed or _SINCE not in evaluation.metadata:
        return None
    value = evaluation.metadata[_SINCE].value
    return datetime.fromtimestamp(value, UTC) if isinstance(value, float) else None
