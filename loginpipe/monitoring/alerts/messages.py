"""The words of an alert: what, since when, what to do. Counts, times and names; never a value from a login."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from loginpipe.common.runbook import runbook
from loginpipe.monitoring.alerts.kinds import kind
from loginpipe.monitoring.alerts.state import Event, Outbox

# SNS' limit.
_SUBJECT_MOST = 100


def subject(queue: str, events: Sequence[Event]) -> str:
    """Return one line for all of them, as a mail's subject."""
    first, *others = events
    more = f" (and {len(others)} more)" if others else ""
    over = "over: " if first.what == "over" else ""
    return f"loginpipe, {queue}: {over}{kind(first.condition).title}{more}"[:_SUBJECT_MOST]


def text(queue: str, outbox: Outbox) -> str:
    """Return what a channel is to be told, a paragraph an event."""
    left_out = [f"{outbox.left_out} older ones could not be delivered and were left out."] if outbox.left_out else []
    return "\n\n".join([*left_out, *(_paragraph(queue, event) for event in outbox.pending)])


def _paragraph(queue: str, event: Event) -> str:
    of = kind(event.condition)
    if event.what == "over" and event.until is not None:
        lasted = f"From {_utc(event.since)} to {_utc(event.until)}, {_span(event.until - event.since)}."
        return f"loginpipe, queue {queue}: OVER: {of.title}\n{lasted}"
    return (
        f"loginpipe, queue {queue}: {of.title}\n"
        f"Seen: {event.says}.\n"
        f"Since: {_utc(event.since)}.\n"
        f"Do: {of.todo}.\n"
        f"Runbook: {runbook(of.anchor)}"
    )


def _utc(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _span(lasted: timedelta) -> str:
    minutes = round(lasted.total_seconds() / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"  # noqa: PLR2004
