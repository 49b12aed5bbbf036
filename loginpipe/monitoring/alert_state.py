"""Track the state of alerts from check to check. Pure.

A condition becomes an alert when two checks in a row find it, and is over when two in a row do not: one that flaps is
sent at most once. Each channel has its own pending events: an unreachable receiver misses none, and delays no other.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal

from pydantic import BaseModel

# Maximum events that wait for an unreachable channel. Older ones are only counted.
MAX_PENDING = 50
_BACK_OFF_FIRST = timedelta(seconds=30)
_MAX_BACK_OFF = timedelta(minutes=15)


class Episode(BaseModel, frozen=True):
    """A condition that holds since a check, or recently did, with the message of the last check that found it.

    It is an alert (``told``) if a second check in a row found it. ``gone_since`` is the first of the latest checks in a
    row without it; None if the last check found it.
    """

    since: datetime
    message: str
    told: bool = False
    gone_since: datetime | None = None


class Event(BaseModel, frozen=True):
    """An event to send: a condition begins or is over."""

    what: Literal["begins", "over"]
    condition: str
    message: str
    since: datetime
    until: datetime | None = None


class Outbox(BaseModel, frozen=True):
    """The events that a channel still has to send, oldest first, and the number of older ones that were dropped.

    ``failures`` counts failed deliveries in a row. There is no delivery before ``next_try``.
    """

    pending: tuple[Event, ...] = ()
    left_out: int = 0
    failures: int = 0
    next_try: datetime | None = None


class State(BaseModel, frozen=True):
    """The stored state: episodes by condition, outboxes by channel."""

    episodes: dict[str, Episode] = {}
    outboxes: dict[str, Outbox] = {}


def after_check(state: State, found: Mapping[str, str | None], channels: Sequence[str], now: datetime) -> State:
    """Return the state after one more check at `now` (UTC). Conditions that are not in `found` stay unchanged.

    `found` is `loginpipe.monitoring.alert_rules.conditions`. A new channel gets every active alert.
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
    lasting = Outbox(pending=tuple(_begins(name, e) for name, e in state.episodes.items() if e.told))
    outboxes = {channel: _with(state.outboxes.get(channel) or lasting, events) for channel in channels}
    return State(episodes=episodes, outboxes=outboxes)


def failed(outbox: Outbox, now: datetime) -> Outbox:
    """Return the outbox after a failed delivery. The first retry is at the next check; later ones wait longer."""
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
