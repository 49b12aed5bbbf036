"""One look at everything that alerts are about: queue, database, Dagster's runs and checks. Who fails is named."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime
from functools import partial

import dagster as dg

from loginpipe.common.errors import DatabaseError, QueueError, SettingError
from loginpipe.common.secrets import database_url
from loginpipe.common.settings import Settings
from loginpipe.defs.ingest.job import INGEST_JOB
from loginpipe.defs.ingest.sensor import history_of
from loginpipe.defs.monitoring.freshness import FRESH
from loginpipe.monitoring.freshness import judge, patience
from loginpipe.monitoring.reports import QueueSeen, Seen
from loginpipe.postgres.connections import require_verified_tls
from loginpipe.postgres.recent_runs import RecentRuns, recent_runs
from loginpipe.postgres.session import Session
from loginpipe.sqs.client import open_queue
from loginpipe.sqs.dead_letters import redrive_policy
from loginpipe.sqs.depth import read_depth

_PATIENCE_SECONDS = 3
_HISTORY = 12
# Whether it is fresh is looked at anew; rejects are judged over an hour, not batch by batch.
_JUDGED_BY_US = frozenset({FRESH.name, "reject_rate"})


def look(
    settings: Settings,
    instance: dg.DagsterInstance,
    checks: Iterable[dg.AssetCheckKey],
    waiting_since: datetime | None,
    now: datetime,
) -> Seen:
    """Look at everything, within half a tick even where neither queue nor database answers."""
    with ThreadPoolExecutor(2) as pool:
        of_queue, of_runs = pool.submit(_queue, settings), pool.submit(_runs, settings, now)
        queue, runs = of_queue.result(), of_runs.result()
    freshness = None
    if isinstance(queue, QueueSeen) and isinstance(runs, RecentRuns):
        freshness = judge(
            queue.depth,
            last_finished=runs.last_finished,
            waiting_since=waiting_since,
            now=now,
            most=patience(settings),
        )
    ended = dg.RunsFilter(job_name=INGEST_JOB, statuses=[dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE])
    history = history_of(instance.get_run_records(ended, limit=_HISTORY))
    return Seen(queue, runs, freshness, history, _checks(instance, checks))


def _queue(settings: Settings) -> QueueSeen | str:
    try:
        queue = open_queue(settings.queue, connections=1)
        policy = redrive_policy(queue)
        return QueueSeen(read_depth(queue), read_depth(policy.dead_letters) if policy else None)
    except QueueError as error:
        return str(error)


def _runs(settings: Settings, now: datetime) -> RecentRuns | str:
    try:
        url = database_url(settings)
        if settings.production:
            require_verified_tls(url)
        with closing(Session(url, patience_seconds=_PATIENCE_SECONDS)) as session:
            return session.run(partial(recent_runs, queue=settings.queue_name, now=now))
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
