"""Drop a month: read its files back, then let the database compare and drop it in one transaction."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any, TypeAlias

from loginpipe.archive.store import Stores
from loginpipe.archive.verification import verify_day
from loginpipe.postgres.archive import archived_days, days_between, drop_month
from loginpipe.postgres.partitions import Partition

Run: TypeAlias = Callable[[Callable[..., Any]], Any]
"""Runs work on a connection, as `loginpipe.postgres.session.Session.run`."""


def retire_month(run: Run, *, month: Partition, stores: Stores) -> str | None:
    """Detach and drop a month if each of its days is archived, with an intact file that matches the table.

    `run` runs each step in its own transactions. `month` is from `loginpipe.postgres.archive.outlived_months`.

    Returns:
        Why the month stays, as text; None if it was dropped.

    Raises:
        ArchiveError: the store cannot be used.
        DatabaseError: the month stays.
    """
    last = month.end - timedelta(days=1)
    due = [day.day for day in run(partial(days_between, first=month.start, last=last)) if day.due]
    if due:
        # Do not read a month of files every night if a day is missing.
        return f"{len(due)} days are not archived, or have changed since, the first of them {min(due)}"
    for record in run(archived_days):
        if month.start <= record.day < month.end and not record.dropped_at:
            problem = run(partial(verify_day, record=record, stores=stores))
            if problem:
                return f"{problem}: `archive_logins` writes it again"
    reason: str | None = run(partial(drop_month, month=month))
    return reason
