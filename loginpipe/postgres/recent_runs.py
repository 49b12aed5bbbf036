"""What the runs' books say of the last hours: whether runs end well, what they set aside, how late logins are."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from loginpipe.logins.delays import DELAY_BOUNDS
from loginpipe.postgres.connections import Connection, transaction
from loginpipe.postgres.statements import statement

_RUNS = timedelta(days=1)
REJECTS_WINDOW = timedelta(hours=1)
DELAYS_WINDOW = timedelta(minutes=15)


@dataclass(frozen=True)
class RecentRuns:
    """Of the runs on one queue.

    Attributes:
        last_finished: newest end of a run that ended well, of those begun within a day; None where there is none.
        received: messages taken within the last hour.
        rejected: those of them that were set aside as bad.
        delays: logins stored within the last 15 minutes, by delay: `loginpipe.logins.delays`.
    """

    last_finished: datetime | None
    received: int
    rejected: int
    delays: tuple[int, ...]


def recent_runs(connection: Connection, queue: str, now: datetime) -> RecentRuns:
    """Read them; by index, whatever the number of runs so far.

    Args:
        connection: with no transaction open.
        queue: its name.
        now: the time, UTC.

    Raises:
        DatabaseError: they cannot be read.
    """
    with transaction(connection) as cursor:
        cursor.execute(
            statement("recent_runs"),
            {
                "queue": queue,
                "since": now - _RUNS,
                "rejects_since": now - REJECTS_WINDOW,
                "delays_since": now - DELAYS_WINDOW,
            },
        )
        ((last_finished, received, rejected, delays),) = cursor.fetchall()
    return RecentRuns(last_finished, received, int(rejected), tuple(delays) or (0,) * (len(DELAY_BOUNDS) + 1))
