"""Duplicates: computing a day costs only that day, and always gives the result of a computation from all logins."""

import random
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extensions
import pytest

from loginpipe.archive.days import archive_day, retire_month
from loginpipe.archive.restore import restore_day
from loginpipe.common.errors import DatabaseError
from loginpipe.masking.tokens import PlaceholderToken
from loginpipe.postgres.archive import drop_month
from loginpipe.postgres.connections import connect
from loginpipe.postgres.days import stale_days
from loginpipe.postgres.insights import DUPLICATES, compare_duplicates, rebuild_duplicates, refresh_duplicates
from loginpipe.postgres.token_keys import mark_placeholders
from loginpipe_tests.archive import OLD, OLD_MONTH, Archive, today
from loginpipe_tests.custody import erased as erase_user
from loginpipe_tests.custody import token_keys
from loginpipe_tests.wire import eventually

Login = tuple[str, str, str, date]
"""User, address, device, day."""

Rows = dict[str, list[tuple[Any, ...]]]
"""Table → its rows, in order."""

DAYS = [OLD + timedelta(days=number) for number in range(4)]
AFTER = OLD_MONTH.end + timedelta(days=3)
"""A day of another month, which is not dropped."""


@dataclass(frozen=True)
class Logins:
    """A database, and every login that it ever had, except those of erased users."""

    archive: Archive
    custodian_url: str
    ever: list[Login] = field(default_factory=list)
    newest: dict[str, str] = field(default_factory=dict)
    """Token → the token that stands for its value now."""

    def store(self, logins: Iterable[Login]) -> None:
        """Insert logins as a batch does, and note their days as changed."""
        with (
            closing(psycopg2.connect(self.archive.pipeline_url)) as connection,
            connection,
            connection.cursor() as cursor,
        ):
            for user, ip, device, day in logins:
                cursor.execute(
                    "INSERT INTO user_logins VALUES (%s, 'ios', %s, %s, NULL, 1000000, %s)", (user, ip, device, day)
                )
                cursor.execute("INSERT INTO loginpipe.day_changes VALUES (%s)", (day,))
                self.ever.append((user, ip, device, day))

    def refresh(self, *days: date) -> None:
        """Compute these days, in this order."""
        for table in DUPLICATES:
            for day in days:
                self.archive.run(lambda connection, t=table, d=day: refresh_duplicates(connection, t, d))

    def refresh_all(self) -> None:
        """Compute stale days, the newest first, until none is left."""
        for _ in range(5):
            stale = self.archive.run(stale_days)
            due = [(table, day) for day, tables in stale.items() for table in tables if table in DUPLICATES]
            if not due:
                return
            for table, day in due:
                self.archive.run(lambda connection, t=table, d=day: refresh_duplicates(connection, t, d))
        raise AssertionError(f"still stale: {due}")

    def alias(self, old: str, new: str) -> None:
        """Make an alias for a token, as a run does that receives its value again under a newer key."""
        with closing(psycopg2.connect(self.archive.pipeline_url)) as connection, connection.cursor() as cursor:
            cursor.execute("INSERT INTO loginpipe.token_aliases (old_token, new_token) VALUES (%s, %s)", (old, new))
            cursor.execute(
                "UPDATE loginpipe.token_aliases SET new_token = %s WHERE new_token = %s AND old_token <> %s",
                (new, old, old),
            )
            connection.commit()
        self.newest[old] = new

    def erase(self, user: str) -> None:
        with closing(connect(self.custodian_url)) as custodian:
            erase_user(custodian, user, token_keys(1))
        self.ever[:] = [login for login in self.ever if login[0] != user]

    def found(self) -> Rows:
        return {table: self.archive.rows(f"SELECT * FROM loginpipe.{table} ORDER BY 1, 2") for table in DUPLICATES}

    def newest_states(self) -> Rows:
        names = {"duplicate_devices": "shared_devices", "duplicate_ips": "shared_ips"}
        return {table: self.archive.rows(f"SELECT * FROM loginpipe.{view} ORDER BY 1") for table, view in names.items()}

    def check(self) -> None:
        """Compare the tables and the views with a computation from every login."""
        computed = self.computed()
        assert self.found() == computed
        newest = {
            table: {token: (token, users, logins, first, last) for _, token, users, logins, first, last in rows}
            for table, rows in computed.items()
        }
        assert self.newest_states() == {table: sorted(rows.values()) for table, rows in newest.items()}
        for table in DUPLICATES:
            sample = self.archive.run(lambda connection, t=table: compare_duplicates(connection, t, limit=100))
            assert not sample.differing

    def computed(self, placeholders: Iterable[str] = ()) -> Rows:
        found: Rows = {}
        for place, table in ((2, "duplicate_devices"), (1, "duplicate_ips")):
            logins = sorted((login[3], self._token(login[place]), login[0]) for login in self.ever)
            rows = []
            for day, token in sorted({(day, token) for day, token, _ in logins}):
                until = [(d, user) for d, t, user in logins if t == token and d <= day]
                users = len({user for _, user in until})
                if users > 1 and token not in placeholders:
                    rows.append((day, token, users, len(until), until[0][0], day))
            found[table] = rows
        return found

    def _token(self, token: str) -> str:
        while token in self.newest:
            token = self.newest[token]
        return token


@pytest.fixture
def logins(database_url: str, pipeline_url: str, custodian_url: str, tmp_path: Path) -> Logins:
    archive = Archive(database_url, pipeline_url, f"file://{tmp_path}/archive")
    archive.make_month(OLD)
    archive.make_month(AFTER)
    # The tokens of these tests are too short for the constraint.
    archive.execute("ALTER TABLE loginpipe.token_aliases DROP CONSTRAINT token_aliases_lead_to_a_newer_version")
    archive.execute("INSERT INTO loginpipe.token_key_checks VALUES (2, 'x'), (3, 'y')")
    return Logins(archive, custodian_url)


def some(seed: int, number: int, days: Iterable[date]) -> list[Login]:
    """Return logins of eight users with six devices and four addresses, on days in random order."""
    choose = random.Random(seed)
    return [
        (
            f"user-{choose.randrange(8)}",
            f"ip.v1.{choose.randrange(4)}",
            f"dev.v1.{choose.randrange(6)}",
            choose.choice(list(days)),
        )
        for _ in range(number)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_days_are_exact_in_whatever_order_logins_come_and_days_are_computed(logins: Logins, seed: int) -> None:
    days = [*DAYS, AFTER, today() - timedelta(days=1), today()]
    choose = random.Random(seed)
    for part in range(5):
        logins.store(some(10 * seed + part, 7, days))
        logins.refresh(*choose.sample(days, part))
    logins.refresh_all()
    logins.check()
    before = logins.archive.rows("SELECT xmin::text, * FROM loginpipe.device_users ORDER BY 2, 3, 4")
    logins.refresh(*days)
    logins.check()
    again = logins.archive.rows("SELECT xmin::text, * FROM loginpipe.device_users ORDER BY 2, 3, 4")
    assert again == before, "what is kept already is not written again"


def test_a_late_login_changes_the_rows_of_the_days_after_it(logins: Logins) -> None:
    logins.store([("ann", "ip.v1.a", "dev.v1.phone", day) for day in DAYS[1:]])
    logins.refresh_all()
    assert logins.found() == {"duplicate_devices": [], "duplicate_ips": []}
    logins.store([("bob", "ip.v1.b", "dev.v1.phone", DAYS[2]), ("bob", "ip.v1.b", "dev.v1.phone", DAYS[0])])
    logins.refresh(DAYS[2])
    assert [row[1:4] for row in logins.found()["duplicate_devices"]] == [
        ("dev.v1.phone", users, number) for users, number in ((2, 2), (2, 4), (2, 5))
    ]
    logins.check()


class Fragile(psycopg2.extensions.cursor):
    """A cursor whose connection the server ends before one of its statements."""

    statements: Iterator[int] = iter(())
    last = 0

    def execute(self, query: Any, parameters: Any = None) -> None:
        if next(type(self).statements) == type(self).last:
            super().execute("SELECT pg_terminate_backend(pg_backend_pid())")
        super().execute(query, parameters)


def test_a_computation_that_is_killed_at_any_statement_leaves_no_trace_and_is_exact_when_repeated(
    logins: Logins,
) -> None:
    logins.store(some(1, 20, DAYS))
    logins.refresh_all()
    logins.store(some(2, 10, [DAYS[1]]))
    logins.alias("dev.v1.3", "dev.v2.3")
    kept = "SELECT * FROM loginpipe.device_users ORDER BY 1, 2, 3"
    before = logins.found(), logins.archive.rows(kept)
    killed = 0
    for statement in count(1):
        Fragile.statements, Fragile.last = count(1), statement
        with closing(connect(logins.archive.pipeline_url)) as connection:
            connection.cursor_factory = Fragile
            try:
                refresh_duplicates(connection, "duplicate_devices", DAYS[1])
            except DatabaseError:
                killed += 1
                assert (logins.found(), logins.archive.rows(kept)) == before
            else:
                break
    assert killed > 15
    assert logins.archive.rows(kept) != before[1]
    logins.refresh_all()
    logins.check()


def test_an_erased_user_is_in_no_figure_also_of_days_that_the_table_has_let_go_of(logins: Logins) -> None:
    logins.store(some(3, 30, DAYS))
    logins.store(some(4, 10, [AFTER, today()]))
    logins.store([("only-old", "ip.v1.1", "dev.v1.1", DAYS[0])])
    logins.archive.computed()
    dropped(logins)
    for user in ("user-1", "only-old", "user-5"):
        logins.erase(user)
    logins.refresh_all()
    logins.check()
    users = "SELECT DISTINCT user_id FROM loginpipe.{} WHERE user_id IN ('user-1', 'only-old', 'user-5')"
    assert [logins.archive.rows(users.format(table)) for table in ("device_users", "ip_users")] == [[], []]


def test_an_erasure_waits_for_a_computation_that_has_read_the_user_and_locks_no_load_out_meanwhile(
    logins: Logins,
) -> None:
    logins.store(some(5, 20, DAYS))
    with closing(psycopg2.connect(logins.archive.pipeline_url)) as computing, ThreadPoolExecutor(1) as pool:
        computing.cursor().execute("SELECT loginpipe.take_turn('duplicate_ips')")
        erasing = pool.submit(logins.erase, "user-1")
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
        eventually(lambda: logins.archive.rows(waits) == [(1,)], "the erasure waits")
        assert logins.archive.rows("SELECT FROM pg_locks WHERE relation = 'vault.erasure_gate'::regclass") == []
        computing.rollback()
        erasing.result(timeout=60)
    logins.refresh_all()
    logins.check()


def test_values_whose_key_was_rotated_count_as_one_also_those_of_both_keys_on_one_day(logins: Logins) -> None:
    logins.store(some(6, 30, [*DAYS, today()]))
    logins.store([("user-1", "ip.v2.1", "dev.v2.1", DAYS[1]), ("new", "ip.v2.2", "dev.v2.1", DAYS[3])])
    logins.refresh_all()
    logins.check()
    logins.alias("dev.v1.1", "dev.v2.1")
    logins.alias("ip.v1.1", "ip.v2.1")
    logins.refresh_all()
    logins.check()
    # Two changes without a computation in between, and a day that is computed again.
    logins.alias("dev.v1.2", "dev.v2.2")
    logins.alias("dev.v2.1", "dev.v3.1")
    logins.alias("dev.v2.2", "dev.v3.2")
    logins.store(some(7, 5, DAYS))
    logins.refresh_all()
    logins.check()
    assert logins.archive.rows("SELECT * FROM loginpipe.token_changes") == []
    assert not logins.archive.rows(
        "SELECT FROM loginpipe.device_users WHERE masked_device_id IN ('dev.v1.1', 'dev.v2.1')"
    )


def dropped(logins: Logins) -> None:
    """Archive the old month and drop it, as the jobs do."""
    archive = logins.archive
    for (day,) in archive.rows("SELECT DISTINCT create_date FROM user_logins WHERE create_date < %s", OLD_MONTH.end):
        archive.run(lambda connection, d=day: archive_day(connection, day=d, stores=archive.stores, today=today()))
    assert retire_month(archive.run, month=OLD_MONTH, stores=archive.stores) is None
    assert not archive.rows("SELECT FROM user_logins WHERE create_date < %s", OLD_MONTH.end)


def restored(logins: Logins, day: date) -> None:
    stores = logins.archive.stores
    logins.archive.run(
        lambda connection: restore_day(connection, day=day, token_keys=lambda: token_keys(1), stores=stores)
    )


def test_duplicates_keep_their_history_when_a_month_is_dropped_and_what_comes_late_is_added(logins: Logins) -> None:
    logins.store(some(8, 30, DAYS))
    logins.archive.computed()
    dropped(logins)
    logins.refresh(*DAYS)
    logins.check()
    logins.store(some(9, 15, [AFTER, today()]))
    logins.refresh_all()
    logins.check()
    again = next(login for login in logins.ever if login[3] == DAYS[1])
    late = [("late", "ip.v1.0", "dev.v1.0", DAYS[1]), ("user-2", "ip.v1.1", "dev.v1.9", DAYS[1]), again]
    logins.store(late)
    logins.refresh_all()
    logins.check()
    logins.store(late[:1])
    logins.refresh_all()
    logins.refresh(DAYS[1])
    logins.check()
    logins.erase("user-3")
    for day in (DAYS[1], DAYS[2]):
        restored(logins, day)
    logins.refresh_all()
    logins.check()
    assert logins.archive.rows("SELECT DISTINCT late[%s] FROM loginpipe.device_users", DAYS[1].day) == [(None,)]
    logins.refresh(*DAYS, AFTER)
    logins.check()


def test_a_month_is_not_dropped_before_its_logins_are_in_what_is_kept(logins: Logins) -> None:
    logins.store(some(10, 5, [OLD]))
    archive = logins.archive
    archive.run(lambda connection: archive_day(connection, day=OLD, stores=archive.stores, today=today()))
    archive.computed()
    # As the previous version leaves a day that it computes during the migration.
    archive.execute("UPDATE loginpipe.days SET device_users = NULL WHERE day = %s", OLD)
    reason = f"{OLD} has changed since its insights were computed: run refresh_insights"
    assert archive.run(lambda connection: drop_month(connection, OLD_MONTH)) == reason
    archive.computed()
    assert archive.run(lambda connection: drop_month(connection, OLD_MONTH)) is None


def test_a_token_that_is_no_placeholder_any_more_has_its_rows_on_the_days_that_are_over_too(logins: Logins) -> None:
    logins.store(some(11, 30, [*DAYS, today()]))
    with closing(connect(logins.archive.pipeline_url)) as connection:
        mark_placeholders(
            connection, [PlaceholderToken("dev.v1.1", "device_id", "v1"), PlaceholderToken("x", "ip", "v1")]
        )
        logins.refresh_all()
        assert logins.found() == logins.computed(placeholders=["dev.v1.1"])
        mark_placeholders(connection, [PlaceholderToken("x", "ip", "v1")])
    logins.refresh_all()
    logins.check()


def test_a_sample_that_differs_is_found_and_a_rebuild_makes_all_exact_and_keeps_what_only_the_archive_has(
    logins: Logins,
) -> None:
    logins.store(some(12, 30, DAYS))
    logins.archive.computed()
    dropped(logins)
    logins.store(some(13, 20, [AFTER]))
    logins.store(some(14, 5, [today()]))
    logins.refresh_all()
    logins.check()

    def compare() -> tuple[date | None, int]:
        sample = logins.archive.run(lambda connection: compare_duplicates(connection, "duplicate_devices", limit=100))
        return sample.day, sample.differing

    assert compare() == (AFTER, 0)
    logins.archive.execute(
        "UPDATE loginpipe.device_users SET logins[%s] = 77 WHERE logins[%s] IS NOT NULL AND month = %s",
        AFTER.day, AFTER.day, AFTER.replace(day=1),
    )  # fmt: skip
    assert compare()[1] > 0
    logins.archive.execute("DELETE FROM loginpipe.device_users WHERE month = %s", AFTER.replace(day=1))
    logins.archive.execute("UPDATE loginpipe.duplicate_ips SET users = 99 WHERE create_date = %s", AFTER)
    for table in DUPLICATES:
        done = logins.archive.run(lambda connection, t=table: list(rebuild_duplicates(connection, t)))
        assert done == [(1, 2), (2, 2)], "the day that is in the table, and today"
    logins.check()
    assert logins.archive.run(stale_days).get(AFTER) in (None, ["daily_logins"])
