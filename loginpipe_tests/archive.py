"""Helpers of the archive tests: days in the table, stores for their files, and checks of both."""

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any

import psycopg2

from loginpipe.archive.days import Archived, archive_day
from loginpipe.archive.store import Store, Stores
from loginpipe.common.settings import Settings
from loginpipe.postgres.archive import ArchivedDay, archived_days, days_to_archive
from loginpipe.postgres.connections import connect
from loginpipe.postgres.days import stale_days
from loginpipe.postgres.insights import refresh_daily_logins, refresh_duplicates
from loginpipe.postgres.partitions import Partition, ensure_month, month_of


def today() -> date:
    """Return the date (UTC) as of now: a run of all tests may begin on the day before."""
    return datetime.now(UTC).date()


OLD_MONTH = month_of(today().replace(day=1) - timedelta(days=200))
OLD = OLD_MONTH.start + timedelta(days=9)
"""A day of a past month, which has a partition of its own."""

LOGINS: list[tuple[Any, ...]] = [
    ("ann", "ios", "ip.v1.home", "dev.v1.phone", "RU", 1_000_000),
    ("ann", "ios", "ip.v1.home", "dev.v1.phone", "RU", 1_000_000),
    ("bob", "android", "ip.v1.work", "dev.v1.phone", None, 2_003_000),
    ("zoë\t\\N", "", "ip.v1.work", "dev.v1.Tablet", "", -1),
    ("Zoe", None, None, None, None, None),
]
"""Two equal rows, NULL and empty text, and characters that file formats often get wrong."""


@dataclass(frozen=True)
class Archive:
    """A store, and a database with days in it, used as the superuser and as the pipeline's role."""

    database_url: str
    pipeline_url: str
    url: str
    stores: Stores = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stores", Stores(Settings(archive_url=self.url)))

    @property
    def store(self) -> Store:
        return self.stores.current

    def run(self, work: Callable[..., Any]) -> Any:
        """Call ``work`` with a connection of the pipeline's role."""
        with closing(connect(self.pipeline_url)) as connection:
            return work(connection)

    def insert(self, day: date, logins: Iterable[tuple[Any, ...]] = tuple(LOGINS), *, noted: bool = True) -> None:
        """Insert logins. Unless ``noted`` is false, note that the day changed, as a batch does."""
        for login in logins:
            self.execute("INSERT INTO user_logins VALUES (%s, %s, %s, %s, %s, %s, %s)", *login, day)
        if noted:
            self.execute("INSERT INTO loginpipe.day_changes VALUES (%s)", day)

    def archived(self, day: date = OLD, stores: Stores | None = None) -> Archived:
        work = partial(archive_day, day=day, stores=stores or self.stores, today=today())
        archived: Archived = self.run(work)
        return archived

    def computed(self) -> None:
        """Compute the insights that are due, as the job does. Before that, retention drops nothing."""
        for day, tables in self.run(stale_days).items():
            for table in tables:
                refresh = refresh_daily_logins if table == "daily_logins" else partial(refresh_duplicates, table=table)
                self.run(partial(refresh, day=day))

    def record(self, day: date = OLD) -> ArchivedDay:
        (record,) = [record for record in self.run(archived_days) if record.day == day]
        return record

    def due(self) -> list[date]:
        due: list[date] = self.run(partial(days_to_archive, today=today()))
        return due

    def stored(self, day: date = OLD) -> Counter[tuple[Any, ...]]:
        """Return the rows of a day in the table, with how often each occurs."""
        return Counter(self.rows("SELECT * FROM user_logins WHERE create_date = %s", day))

    def execute(self, statement: str, *parameters: Any) -> None:
        with closing(psycopg2.connect(self.database_url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)

    def rows(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with closing(psycopg2.connect(self.database_url)) as connection, connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            return cursor.fetchall()

    def bury(self, tombstone: bytes, version: int = 1) -> None:
        """Insert the tombstone of an erased user."""
        self.execute(
            "INSERT INTO loginpipe.erased_users (tombstone, key_version) VALUES (%s, %s)",
            tombstone.ljust(32, b"-"),
            version,
        )

    def make_month(self, day: date) -> None:
        """Create the month as the owner, who may create any month."""
        with closing(connect(self.database_url)) as connection:
            ensure_month(connection, day)


def of_day(logins: Iterable[tuple[Any, ...]], day: date = OLD) -> Counter[tuple[Any, ...]]:
    return Counter((*login, day) for login in logins)


def partition_is_there(archive: Archive, month: Partition = OLD_MONTH) -> bool:
    return archive.rows("SELECT to_regclass(%s) IS NOT NULL", str(month)) == [(True,)]
