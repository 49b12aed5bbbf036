"""The sensor that reports on ``fresh`` and ``no_dead_letters`` and sends alerts. The rules are in `monitoring`."""

from datetime import UTC, datetime

import dagster as dg

from loginpipe.common.runbook import runbook
from loginpipe.common.settings import load_settings
from loginpipe.defs.ingest.checks import NO_DEAD_LETTERS, dead_letters_result
from loginpipe.defs.monitoring.freshness import FRESH, freshness_result
from loginpipe.defs.monitoring.looking import look
from loginpipe.monitoring.alerts.delivery import channels, deliver_pending, summary
from loginpipe.monitoring.alerts.rules import Limits, conditions
from loginpipe.monitoring.alerts.state import looked
from loginpipe.monitoring.reports import news, read_memory


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Checks queue, dead letters, database, runs and checks. Reports on fresh and no_dead_letters when they change, "
        "and on fresh once an hour. Sends LOGINPIPE_ALERT_WEBHOOK_URL and LOGINPIPE_ALERT_SNS_TOPIC what is wrong: "
        "once when it begins, once when it is over. Where neither is set, the ticks say it all the same."
    ),
)
def monitoring_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Check everything once, report what has changed, and send alerts.

    It takes no resources: one that fails would fail the tick that should say so.

    Raises:
        SettingError: a setting is wrong.
    """
    settings, memory, now = load_settings(), read_memory(context.cursor), datetime.now(UTC)
    keys = context.repository_def.asset_graph.asset_check_keys if context.repository_def else []
    seen = look(settings, context.instance, sorted(keys), memory.waiting_since, now)
    fresh, dead_letters, memory = news(seen, memory, now)
    events = [
        *([] if fresh is None else [_evaluation(FRESH, freshness_result(fresh))]),
        *([] if dead_letters is None else [_evaluation(NO_DEAD_LETTERS.key, dead_letters_result(dead_letters))]),
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
