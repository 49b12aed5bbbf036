"""The sensor that tells. What it tells, and when, is in the files beside it."""

from collections.abc import Sequence
from datetime import UTC, datetime

import dagster as dg

from loginpipe.common.errors import AlertError
from loginpipe.common.runbook import runbook
from loginpipe.common.settings import load_settings
from loginpipe.defs.monitoring.looking import look
from loginpipe.monitoring.alerts.conditions import Limits, conditions
from loginpipe.monitoring.alerts.delivery import Channel, channels
from loginpipe.monitoring.alerts.kinds import kind
from loginpipe.monitoring.alerts.messages import subject, text
from loginpipe.monitoring.alerts.state import Outbox, State, failed, looked, read_state


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Looks at queue, runs, rejects, delays and checks, and tells LOGINPIPE_ALERT_WEBHOOK_URL and "
        "LOGINPIPE_ALERT_SNS_TOPIC what is wrong: once when it begins, once when it is over. Where neither is set, the "
        "ticks say it all the same."
    ),
)
def alert_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Look, and tell what has changed.

    Raises:
        SettingError: a setting is wrong.
    """
    settings, state, now = load_settings(), read_state(context.cursor), datetime.now(UTC)
    keys = context.repository_def.asset_graph.asset_check_keys if context.repository_def else []
    seen = look(settings, context.instance, sorted(keys), state.waiting_since, now)
    limits = Limits(settings.max_reject_rate, settings.max_delay_seconds)
    ways = channels(settings)
    state = looked(state, conditions(seen, limits), [way.name for way in ways], now)
    if seen.freshness is not None:
        state = state.model_copy(update={"waiting_since": seen.freshness.waiting_since})
    # From here on nothing may fail: what was delivered would be told again.
    outcomes: list[str] = []
    for way in ways:
        outbox = state.outboxes[way.name]
        after, outcome = _told(way, outbox, settings.queue_name, now)
        state = state.model_copy(update={"outboxes": {**state.outboxes, way.name: after}})
        outcomes += outcome
        if after.failures > outbox.failures:
            context.log.warning("%s; see %s", outcome[0], runbook("alerts"))
    return dg.SensorResult(skip_reason="; ".join([_summary(state, ways), *outcomes]), cursor=state.model_dump_json())


def _told(way: Channel, outbox: Outbox, queue: str, now: datetime) -> tuple[Outbox, list[str]]:
    """Deliver what is pending, if it is time for that; return what is pending then, and what came of it in words."""
    number = len(outbox.pending)
    if not number:
        return outbox, []
    if outbox.next_try is not None and now < outbox.next_try:
        return outbox, [f"{way.name}: {number} to tell, next try at {outbox.next_try:%H:%M:%S} UTC"]
    try:
        way.deliver(subject(queue, outbox.pending), text(queue, outbox))
    except AlertError as error:
        return failed(outbox, now), [f"not delivered, {number} to tell: {error}"]
    return Outbox(), [f"{way.name}: told {number}"]


def _summary(state: State, ways: Sequence[Channel]) -> str:
    lasting = [f"{kind(name).title} ({episode.says})" for name, episode in state.episodes.items() if episode.told]
    nobody = "" if ways else ", and nobody is told: neither a webhook nor a topic is set"
    return f"{', '.join(lasting) or 'nothing is wrong'}{nobody}"
