"""The sensor that reports on ``fresh`` and ``no_dead_letters`` and sends alerts. The rules are in `monitoring`."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from functools import partial

import dagster as dg

from loginpipe.common.errors import DatabaseError, QueueError, SettingError
from loginpipe.common.runbook import runbook
from loginpipe.common.secrets import database_url
from loginpipe.common.settings import Settings
from loginpipe.defs.ingest.job import INGEST_JOB, QUEUE_TAG
from loginpipe.defs.ingest.sensor import history_of
from loginpipe.defs.monitoring.queue_checks import FRESH, NO_DEAD_LETTERS, dead_letters_result, freshness_result
from loginpipe.monitoring.alerts.delivery import channels, deliver_pending, summary
from loginpipe.monitoring.alerts.rules import Limits, conditions
from loginpipe.monitoring.alerts.state import looked
from loginpipe.monitoring.freshness import judge, patience
from loginpipe.monitoring.reports import QueueSeen, Seen, news, read_memory
from loginpipe.postgres.batches import RecentBatches, recent_batches
from loginpipe.postgres.session import Session
from loginpipe.sqs.client import open_queue
from loginpipe.sqs.dead_letters import read_dead_letters
from loginpipe.sqs.depth import read_depth

_PATIENCE_SECONDS = 3
_HISTORY = 12
# Whether it is fresh is looked at anew; rejects are judged over an hour, not batch by batch.
_JUDGED_BY_US = frozenset({FRESH.name, "reject_rate"})


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Checks queue, dead letters, database, runs and checks. Reports on fresh and no_dead_letters when they change, "
        "and on fresh once an hour. Sends LOGINPIPE_ALERT_WEBHOOK_URL and LOGINPIPE_ALERT_SNS_TOPIC what is wrong: "
        "once when it begins, once when it is over. Where neither is set, the ticks say it all the same."
    ),
)
def monitoring_sensor(context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]) -> dg.SensorResult:
    """Check everything once, report what has changed, and send alerts.

    It takes neither queue nor database as a resource: one that fails would fail the tick that should say so.
    """
    memory, now = read_memory(context.cursor), datetime.now(UTC)
    keys = context.repository_def.asset_graph.asset_check_keys if context.repository_def else []
    seen = _look(settings, context.instance, sorted(keys), memory.waiting_since, now)
    fresh, dead_letters, memory = news(seen, memory, now)
    events = [
        *([] if fresh is None else [_evaluation(FRESH, freshness_result(fresh))]),
        *([] if dead_letters is None else [_evaluation(NO_DEAD_LETTERS, dead_letters_result(dead_letters))]),
    ]
    found = conditions(seen, Limits(settings.max_reject_rate, settings.max_delay_seconds))
    ways = channels(settings)
    alerts = looked(memory.alerts, found, [way.name for way in ways], now)
    says = [summary(alerts, ways)]
    # From here on nothing may fail: what was delivered would be sent again.
    for way in ways:
        before = alerts.outboxes[way.name]
        after, outcome = deliver_pending(way, before, settings.queue_name, now)
        alerts = alerts.model_copy(update={"outboxes": {**alerts.outboxes, way.name: after}})
        says += outcome
        if after.failures > before.failures:
            context.log.warning("%s; see %s", outcome[0], runbook("alerts"))
    if seen.freshness is not None:
        says.append(f"{seen.freshness.state}: {seen.freshness.says}")
    memory = memory.model_copy(update={"alerts": alerts})
    return dg.SensorResult(asset_events=events, skip_reason="; ".join(says), cursor=memory.model_dump_json())


def _look(
    settings: Settings,
    instance: dg.DagsterInstance,
    checks: Iterable[dg.AssetCheckKey],
    waiting_since: datetime | None,
    now: datetime,
) -> Seen:
    """Ask everything once, within half a tick even where neither queue nor database answers. Who fails is named."""
    with ThreadPoolExecutor(2) as pool:
        of_queue, of_runs = pool.submit(_queue, settings), pool.submit(_runs, settings, now)
        queue, runs = of_queue.result(), of_runs.result()
    freshness = None
    if isinstance(queue, QueueSeen) and isinstance(runs, RecentBatches):
        freshness = judge(
            queue.depth,
            last_finished=runs.last_finished,
            waiting_since=waiting_since,
            now=now,
            most=patience(settings),
        )
    ended = dg.RunsFilter(
        job_name=INGEST_JOB,
        # Of this queue alone, as the sensor that starts runs.
        tags={QUEUE_TAG: settings.queue_name},
        statuses=[dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE],
    )
    history = history_of(instance.get_run_records(ended, limit=_HISTORY))
    return Seen(queue, runs, freshness, history, _checks(instance, checks))


def _queue(settings: Settings) -> QueueSeen | str:
    try:
        queue = open_queue(settings.queue, settings, connections=1)
        return QueueSeen(read_depth(queue), read_dead_letters(queue))
    except QueueError as error:
        return str(error)


def _runs(settings: Settings, now: datetime) -> RecentBatches | str:
    try:
        with closing(Session(database_url(settings), patience_seconds=_PATIENCE_SECONDS)) as session:
            return session.run(partial(recent_batches, queue=settings.queue_name, now=now))
    except (DatabaseError, SettingError) as error:
        return str(error)


def _checks(instance: dg.DagsterInstance, keys: Iterable[dg.AssetCheckKey]) -> Mapping[str, bool]:
    """Tell of each check whether it passed when it was last looked at; a warning is no failure here."""
    found = {}
    for key in keys:
        record = instance.event_log_storage.get_asset_check_summary_records([key])[key]
        last = record.last_completed_check_execution_record
        evaluation = last.evaluation if last else None
        if evaluation is not None and key.name not in _JUDGED_BY_US:
            failed = not evaluation.passed and evaluation.severity == dg.AssetCheckSeverity.ERROR
            found[f"{key.name} of {key.asset_key.to_user_string()}"] = not failed
    return found


def _evaluation(key: dg.AssetCheckKey, result: dg.AssetCheckResult) -> dg.AssetCheckEvaluation:
    """Return a check's result as it is reported outside a run."""
    return dg.AssetCheckEvaluation(
        asset_key=key.asset_key,
        check_name=key.name,
        passed=result.passed,
        severity=result.severity,
        description=result.description,
        metadata=result.metadata,
    )
