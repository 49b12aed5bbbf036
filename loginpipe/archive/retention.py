"""Letting go of a month: its files are read back first, then the database compares and drops it in one transaction."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any, TypeAlias

from loginpipe.archive.store import Stores
from loginpipe.archive.verification import verify_day
from loginpipe.postgres.archive import archived_days, days_between, drop_month
from loginpipe.postgres.partitions import Partition

Run: TypeAlias = Callable[[Callable[..., Any]], Any]
"""Does work on a connection: `loginpipe.postgres.session.Session.run`."""


def retire_month(run: Run, *, month: Partition, stores: Stores) -> str | None:
    """Detach and drop a month if every day of it is archived, its files are whole, and the table has nothing else.

    Args:
        run: does each step, in transactions of its own.
        month: as `loginpipe.postgres.archive.outlived_months` gives it.
        stores: to find its files in.

    Returns:
        Why it stays, in words; None where it is gone.

    Raises:
        ArchiveError: the store cannot be used.
        DatabaseError: the month stays.
    """
    last = month.end - timedelta(days=1)
    due = [day.day for day in run(partial(days_between, first=month.start, last=last)) if day.due]
    if due:
        # Reading a month of files every night for a day that is not there would be waste.
        return f"{len(due)} days are not archived, or have changed since, the first of them {min(due)}"
    for record in run(archived_days):
        if month.start <= record.day < month.end and not record.dropped_at:
            problem = run(partial(verify_day, record=record, stores=stores))
            if problem:
                return f"{problem}: `archive_logins` writes it again"
    reason: str | None = run(partial(drop_month, month=month))
    return reason
