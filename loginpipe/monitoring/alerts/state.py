"""The state of alerts from check to check, and how it changes. Pure.

A condition becomes an alert when two checks in a row find it, and is over when two in a row do not: one that flaps from
check to check is sent at most once. Each channel has its own list of pending events, so that a receiver that is
unreachable for a while misses nothing, and delays no other.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal

from pydantic import BaseModel

MAX_PENDING = 50
"""Events that wait for an unreachable channel; older ones beyond that are only counted."""

_BACK_OFF_FIRST = timedelta(seconds=30)
_MAX_BACK_OFF = timedelta(minutes=15)


class Episode(BaseModel, frozen=True):
    """A condition that holds, or did a moment ago.

    Attributes:
        since: the first check that found it.
        message: as of the last check that found it.
        told: whether a second check in a row has found it, so that it is an alert.
        gone_since: the first of the checks in a row that did not find it any more; None where the last one did.
    """

    since: datetime
    message: str
    told: bool = False
    gone_since: datetime | None = None


class Event(BaseModel, frozen=True):
    """An event to send: a condition begins, or is over."""

    what: Literal["begins", "over"]
    condition: str
    message: str
    since: datetime
    until: datetime | None = None


class Outbox(BaseModel, frozen=True):
    """What one channel still has to be sent.

    Attributes:
        pending: the oldest first.
        left_out: how many older ones were dropped, because there were too many.
        failures: deliveries that failed in a row.
        next_try: not before this.
    """

    pending: tuple[Event, ...] = ()
    left_out: int = 0
    failures: int = 0
    next_try: datetime | None = None


class State(BaseModel, frozen=True):
    """What is kept: episodes by condition, outboxes by channel."""

    episodes: dict[str, Episode] = {}
    outboxes: dict[str, Outbox] = {}


def after_check(state: State, found: Mapping[str, str | None], channels: Sequence[str], now: datetime) -> State:
    """Return the state after one more check.

    Args:
        state: after the last one.
        found: `loginpipe.monitoring.alerts.rules.conditions`; what is not in it stays as it is.
        channels: those that are set. A new one is sent every active alert.
        now: the time, UTC.
    """
    episodes: dict[str, Episode] = {}
    events: list[Event] = []
    for name in sorted({*state.episodes, *found}):
        before = state.episodes.get(name)
        after, event = _advanced(name, before, found[name], now) if name in found else (before, None)
        if after is not None:
            episodes[name] = after
        if event is not None:
            events.append(event)
    lasting = [_begins(name, episode) for name, episode in state.episodes.items() if episode.told]
    outboxes = {
        channel: _with(state.outboxes.get(channel) or Outbox(pending=tuple(lasting)), events) for channel in channels
    }
    return State(episodes=episodes, outboxes=outboxes)


def failed(outbox: Outbox, now: datetime) -> Outbox:
    """Return the outbox after a delivery that failed: tried again at the next check, then less and less often."""
    pause = min(_BACK_OFF_FIRST * (1 << min(outbox.failures, 10)), _MAX_BACK_OFF) if outbox.failures else timedelta()
    return outbox.model_copy(update={"failures": outbox.failures + 1, "next_try": now + pause})


def _advanced(
    name: str, before: Episode | None, message: str | None, now: datetime
) -> tuple[Episode | None, Event | None]:
    if message is not None:
        if before is None:
            return Episode(since=now, message=message), None
        if before.told:
            return before.model_copy(update={"message": message, "gone_since": None}), None
        told = before.model_copy(update={"message": message, "told": True})
        return told, _begins(name, told)
    if before is None or not before.told:
        return None, None
    if before.gone_since is None:
        return before.model_copy(update={"gone_since": now}), None
    return None, Event(what="over", condition=name, message="", since=before.since, until=before.gone_since)


def _begins(name: str, episode: Episode) -> Event:
    return Event(what="begins", condition=name, message=episode.message, since=episode.since)


def _with(outbox: Outbox, events: Sequence[Event]) -> Outbox:
    pending = (*outbox.pending, *events)
    surplus = max(len(pending) - MAX_PENDING, 0)
    return outbox.model_copy(update={"pending": pending[surplus:], "left_out": outbox.left_out + surplus})
