"""Define the sensor that reports ``freshness`` and ``no_dead_letters`` and sends alerts. See `loginpipe.monitoring`."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import dagster as dg

from loginpipe.common.errors import DatabaseError, LoginpipeError, QueueError, SettingError, runbook
from loginpipe.common.secrets import database_url
from loginpipe.common.settings import Settings
from loginpipe.defs.ingest.job import INGEST_JOB
from loginpipe.defs.ingest.sensor import ENDED, ended_at, ended_runs, history_of
from loginpipe.defs.metadata import evaluation
from loginpipe.defs.monitoring.queue_checks import FRESH, NO_DEAD_LETTERS, dead_letters_result, freshness_result
from loginpipe.monitoring.alert_delivery import channels, deliver_pending, summary
from loginpipe.monitoring.alert_rules import Limits, conditions
from loginpipe.monitoring.alert_state import after_check
from loginpipe.monitoring.reports import QueueSeen, Seen, evaluate, longest_wait, news, read_memory
from loginpipe.postgres.batches import RecentBatches, recent_batches
from loginpipe.postgres.session import Session
from loginpipe.sqs.client import open_queue, read_depth
from loginpipe.sqs.dead_letters import read_dead_letters

_RETRY_SECONDS = 3
_ASSET_JOB = "__ASSET_JOB"
# This sensor evaluates freshness at each tick, and rejects over an hour, not per batch.
_EVALUATED_HERE = frozenset({FRESH.name, "reject_rate"})


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Checks queue, dead letters, database, runs and asset checks. Reports freshness and no_dead_letters when they "
        "change, and freshness once an hour. Sends alerts to LOGINPIPE_ALERT_WEBHOOK_URL and "
        "LOGINPIPE_ALERT_SNS_TOPIC: once when a problem begins, once when it is over. If neither is set, the alerts "
        "are in the ticks only."
    ),
)
def monitoring_sensor(context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]) -> dg.SensorResult:
    """Check everything once, report changes, and send alerts.

    Queue and database are no resources here: a resource that fails would fail the tick that should report it.
    """
    memory, now = read_memory(context.cursor), datetime.now(UTC)
    seen = _check_all(context, settings, memory.waiting_since, now)
    fresh, dead_letters, memory = news(seen, memory, now)
    events = [
        *([] if fresh is None else [evaluation(FRESH, freshness_result(fresh))]),
        *([] if dead_letters is None else [evaluation(NO_DEAD_LETTERS, dead_letters_result(dead_letters))]),
    ]
    found = conditions(seen, Limits(settings.max_reject_rate, settings.max_delay_seconds))
    ways = channels(settings)
    alerts = after_check(memory.alerts, found, [way.name for way in ways], now)
    messages = [summary(alerts, ways)]
    # Nothing after this may fail, or delivered alerts would be sent again.
    for way in ways:
        before = alerts.outboxes[way.name]
        after, outcome = deliver_pending(way, before, settings.queue_name, now)
        alerts = alerts.model_copy(update={"outboxes": {**alerts.outboxes, way.name: after}})
        messages += outcome
        if after.failures > before.failures:
            context.log.warning("%s; see %s", outcome[0], runbook("alerts"))
    if seen.freshness is not None:
        messages.append(f"{seen.freshness.state}: {seen.freshness.message}")
    memory = memory.model_copy(update={"alerts": alerts})
    return dg.SensorResult(asset_events=events, skip_reason="; ".join(messages), cursor=memory.model_dump_json())


def _check_all(
    context: dg.SensorEvaluationContext, settings: Settings, waiting_since: datetime | None, now: datetime
) -> Seen:
    """Check everything once and record errors. This takes at most half a tick, even if queue and database are down."""
    instance, repository = context.instance, context.repository_def
    with ThreadPoolExecutor(2) as pool:
        of_queue, of_runs = pool.submit(_queue, settings), pool.submit(_runs, settings, now)
        queue, runs = of_queue.result(), of_runs.result()
    freshness = None
    if isinstance(queue, QueueSeen) and isinstance(runs, RecentBatches):
        last, max_wait = runs.last_finished, longest_wait(settings)
        freshness = evaluate(queue.depth, last_finished=last, waiting_since=waiting_since, now=now, max_wait=max_wait)
    records = ended_runs(instance, settings.queue_name)
    history = history_of(records)
    if history.failures_in_a_row:
        history = replace(history, reason=why_failed(instance, max(records, key=ended_at).dagster_run.run_id))
    checks = sorted(repository.asset_graph.asset_check_keys) if repository else []
    # Without Dagster's own job of all assets, and without ingestion, which is checked by its queue.
    jobs = sorted({*repository.job_names} - {INGEST_JOB, _ASSET_JOB}) if repository else []
    return Seen(queue, runs, freshness, history, _checks(instance, checks), _jobs(instance, jobs))


def _jobs(instance: dg.DagsterInstance, names: Iterable[str]) -> Mapping[str, str | None]:
    """Return why the newest run of each downstream job failed, or None if it succeeded."""
    found: dict[str, str | None] = {}
    for name in names:
        for record in instance.get_run_records(dg.RunsFilter(job_name=name, statuses=ENDED), limit=1):
            run, found[name] = record.dagster_run, None
            if run.status == dg.DagsterRunStatus.FAILURE:
                ended, why = f"{ended_at(record):%Y-%m-%d %H:%M} UTC", why_failed(instance, run.run_id)
                found[name] = f"the run that ended at {ended} failed with {why}"
    return found


def why_failed(instance: dg.DagsterInstance, run_id: str) -> str:
    """Return why a run failed, in one line.

    For loginpipe's own errors this includes the message, which quotes no value of a login. For others only the class.
    """
    for entry in instance.all_logs(run_id, {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE}):
        error = getattr(entry.dagster_event and entry.dagster_event.event_specific_data, "error", None)
        while error is not None and error.cause is not None:
            error = error.cause
        if error is not None:
            name, _, words = error.message.strip().partition(": ")
            ours = name == f"{LoginpipeError.__module__}.{error.cls_name}"
            return f"{error.cls_name}: {words}" if ours else f"{error.cls_name}: see the run in Dagster"
    return "no recorded error: it was terminated, or its process was killed"


def _queue(settings: Settings) -> QueueSeen | str:
    try:
        queue = open_queue(settings.queue, settings, connections=1)
        return QueueSeen(read_depth(queue), read_dead_letters(queue))
    except QueueError as error:
        return str(error)


def _runs(settings: Settings, now: datetime) -> RecentBatches | str:
    try:
        with closing(Session(database_url(settings), retry_seconds=_RETRY_SECONDS)) as session:
            return session.run(partial(recent_batches, queue=settings.queue_name, now=now))
    except (DatabaseError, SettingError) as error:
        return str(error)


def _checks(instance: dg.DagsterInstance, keys: Iterable[dg.AssetCheckKey]) -> Mapping[str, bool]:
    """Return whether each check passed at its last evaluation. A warning counts as passed."""
    found = {}
    for key in keys:
        record = instance.event_log_storage.get_asset_check_summary_records([key])[key]
        last = record.last_completed_check_execution_record
        result = last.evaluation if last else None
        if result is not None and key.name not in _EVALUATED_HERE:
            failed = not result.passed and result.severity == dg.AssetCheckSeverity.ERROR
            found[f"{key.name} of {key.asset_key.to_user_string()}"] = not failed
    return found
