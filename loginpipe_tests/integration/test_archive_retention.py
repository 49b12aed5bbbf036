"""A month is dropped from user_logins when every row of it is in the archive, and every row can be restored."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import psycopg2
import pytest

from loginpipe.archive.days import retire_month, verify_day
from loginpipe.archive.restore import KEPT_DAYS, Restored, forget_erased, restore_day
from loginpipe.common.errors import ArchivedDayError, ArchiveError
from loginpipe.masking.tokens import TokenKeys
from loginpipe.postgres.archive import days_to_search, drop_month, outlived_months
from loginpipe.postgres.connections import connect
from loginpipe.postgres.days import stale_days
from loginpipe.postgres.insights import refresh_daily_logins
from loginpipe.postgres.partitions import month_of
from loginpipe_tests.archive import LOGINS, OLD, OLD_MONTH, Archive, of_day, partition_is_there, today
from loginpipe_tests.custody import erased as erase_user
from loginpipe_tests.custody import token_keys
from loginpipe_tests.wire import eventually

DAYS = [OLD, OLD + timedelta(days=1), OLD_MONTH.end - timedelta(days=1)]


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if getattr(request, "param", "folder") == "folder":
        yield f"file://{tmp_path}/archive"
        return
    request.getfixturevalue("aws")
    bucket = f"archive-{uuid4().hex}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    yield f"s3://{bucket}"


@pytest.fixture
def archive(database_url: str, pipeline_url: str, place: str) -> Archive:
    """Return an archive with three archived days of an old month."""
    archive = Archive(database_url, pipeline_url, place)
    archive.make_month(OLD)
    for number, day in enumerate(DAYS):
        archive.insert(day, LOGINS[number:])
        archive.archived(day)
    archive.computed()
    return archive


def retired(archive: Archive) -> str | None:
    """Compute the insights, then drop the old month, as the job does; return why it stays."""
    archive.computed()
    return retire_month(archive.run, month=OLD_MONTH, stores=archive.stores)


def no_keys() -> TokenKeys:
    raise AssertionError("asked for keys")


def restored(archive: Archive, day: date = OLD, keys: Any = no_keys, **options: Any) -> Restored:
    result: Restored = archive.run(
        lambda connection: restore_day(connection, day=day, token_keys=keys, stores=archive.stores, **options)
    )
    return result


both = pytest.mark.parametrize("place", ["folder", "S3"], indirect=True)


@both
def test_an_archived_month_is_dropped_and_its_days_come_back_to_the_row(archive: Archive) -> None:
    others = OLD_MONTH.end + timedelta(days=3)
    archive.make_month(others)
    archive.insert(others)
    before = {day: archive.stored(day) for day in DAYS}
    assert retired(archive) is None
    assert not partition_is_there(archive)
    assert [archive.stored(day) for day in DAYS] == [Counter()] * 3
    assert archive.stored(others) == of_day(LOGINS, others)
    assert {archive.record(day).dropped_at is not None for day in DAYS} == {True}
    assert archive.due() == [others], "what is in the archive only is left alone"
    assert archive.archived(OLD).outcome == "dropped before: in the archive only"

    assert restored(archive, dry_run=True) == Restored(rows=len(LOGINS))
    assert archive.stored() == Counter()
    progress: list[int] = []
    assert restored(archive, progress=progress.append) == Restored(rows=len(LOGINS))
    assert sum(progress) == len(LOGINS)
    assert archive.stored() == before[OLD]
    assert partition_is_there(archive)
    assert archive.rows("SELECT count(*) FROM user_logins_default") == [(0,)]
    record = archive.record()
    assert (record.dropped_at, record.kept_until) == (None, today() + timedelta(days=KEPT_DAYS))
    assert restored(archive) == Restored(already_there=True)
    assert archive.archived().outcome == "unchanged"

    assert retired(archive) == f"{OLD} was brought back and is kept until {record.kept_until}"
    archive.execute("UPDATE loginpipe.archived_days SET kept_until = now()::date - 1 WHERE day = %s", OLD)
    assert retired(archive) is None
    assert archive.record(DAYS[1]).dropped_at is not None


def test_a_month_stays_for_a_late_row_a_day_that_is_missing_and_a_file_that_is_not_whole(archive: Archive) -> None:
    late = OLD + timedelta(days=5)
    archive.insert(late)
    assert retired(archive) == f"1 days are not archived, or have changed since, the first of them {late}"
    archive.archived(late)
    archive.insert(OLD, LOGINS[:1])
    assert retired(archive) == f"1 days are not archived, or have changed since, the first of them {OLD}"
    archive.archived(OLD)

    store, name = archive.stores.locate(archive.record(DAYS[1]).url)
    store.delete(name)
    assert str(retired(archive)).endswith("is missing: `archive_logins` writes it again")
    assert archive.record(DAYS[1]).verified_at is None
    assert DAYS[1] in archive.due()
    archive.archived(DAYS[1])
    assert partition_is_there(archive)
    assert retired(archive) is None


def dropped(archive: Archive, month: Any = OLD_MONTH) -> str | None:
    """Do the last step only, in which the database checks everything itself; return why the month stays."""
    reason: str | None = archive.run(lambda connection: drop_month(connection, month))
    return reason


def test_the_database_itself_compares_every_row_before_it_drops(archive: Archive) -> None:
    def execute(statement: str, *parameters: Any) -> None:
        archive.execute(f"UPDATE loginpipe.archived_days SET {statement} WHERE day = %s", *parameters, OLD)

    sha256 = archive.record().sha256
    late = OLD + timedelta(days=5)
    for change, undo, reason in (
        ("row_count = row_count + 1", "row_count = row_count - 1", f"{OLD} differs from its archive: archive it again"),
        (f"sha256 = '{'0' * 64}'", f"sha256 = '{sha256}'", f"{OLD} differs from its archive: archive it again"),
        ("verified_at = now() - interval '25 hours'", "verified_at = now()",
         f"the archive of {OLD} was not read back within a day"),
        ("verified_at = NULL", "verified_at = now()", f"the archive of {OLD} was not read back within a day"),
        ("dropped_at = now()", "dropped_at = NULL", f"{OLD} has rows that came after it was dropped: restore it"),
    ):  # fmt: skip
        execute(change)
        assert dropped(archive) == reason
        execute(undo)
    archive.execute("INSERT INTO loginpipe.day_changes VALUES (%s)", OLD)
    assert dropped(archive) == f"{OLD} has changed since its insights were computed: run refresh_insights"
    archive.computed()
    archive.insert(late)
    assert dropped(archive) == f"{late} is not archived"
    archive.execute("DELETE FROM user_logins WHERE create_date IN (%s, %s)", late, OLD)
    assert dropped(archive) == f"{OLD} has no rows any more, and its archive has: restore it, or archive it again"
    assert partition_is_there(archive)
    restored(archive)
    execute("kept_until = NULL")
    assert dropped(archive) is None


def test_a_row_that_is_being_written_while_the_month_is_dropped_keeps_it(archive: Archive) -> None:
    with closing(psycopg2.connect(archive.pipeline_url)) as load, ThreadPoolExecutor(1) as pool:
        load.cursor().execute("INSERT INTO user_logins (user_id, create_date) VALUES ('late', %s)", (OLD,))
        dropping = pool.submit(dropped, archive)
        waits = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = %s::regclass"
        eventually(lambda: archive.rows(waits, str(OLD_MONTH)) == [(True,)], "the drop waits for the load")
        load.commit()
        assert dropping.result(timeout=60) == f"{OLD} differs from its archive: archive it again"
    assert archive.stored()[("late", None, None, None, None, None, OLD)] == 1


def test_the_pipelines_role_drops_nothing_but_an_old_month_of_the_plan_that_is_archived(archive: Archive) -> None:
    young = month_of(today())
    archive.execute("CREATE TABLE user_logins_y2019m01 (LIKE user_logins)")
    for start, code in ((young.start, "22023"), (date(2019, 1, 1), "22023"), (OLD, "22023"), (None, "22023")):
        with closing(psycopg2.connect(archive.pipeline_url)) as connection, connection.cursor() as cursor:
            with pytest.raises(psycopg2.Error) as refusal:
                cursor.execute("SELECT loginpipe.drop_archived_partition(%s)", (start,))
            assert refusal.value.pgcode == code
    for statement in (
        f"DROP TABLE {OLD_MONTH}",
        f"ALTER TABLE user_logins DETACH PARTITION {OLD_MONTH}",
        "DELETE FROM loginpipe.archived_days",
        f"SELECT loginpipe.why_not_dropped('{OLD_MONTH.start}', '{OLD_MONTH.end}')",
        f"BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT loginpipe.drop_archived_partition('{OLD_MONTH.start}')",
    ):
        with closing(psycopg2.connect(archive.pipeline_url)) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            with pytest.raises(psycopg2.Error) as refusal:
                cursor.execute(statement)
            assert refusal.value.pgcode in {"42501", "25001"}, statement
    assert partition_is_there(archive)


def test_months_are_old_enough_by_the_setting_and_never_before_the_queue_has_forgotten_them(archive: Archive) -> None:
    archive.insert(date(2019, 5, 5))

    def outlived(today: date, days: int) -> list[date]:
        found = archive.run(lambda connection: outlived_months(connection, today=today, days=days))
        assert (found.not_ours, found.rows_in_default) == (None, len(LOGINS))
        return [month.start for month in found.months]

    age = (today() - OLD_MONTH.end).days
    assert outlived(today(), age) == [OLD_MONTH.start]
    assert outlived(today(), age + 1) == []
    assert outlived(OLD_MONTH.end + timedelta(days=28), 1) == []
    assert outlived(OLD_MONTH.end + timedelta(days=29), 1) == [OLD_MONTH.start]


def counted(archive: Archive) -> Counter[tuple[Any, ...]]:
    """Return the number of logins of each day, device type, locale and version."""
    kinds = "create_date, device_type, locale, app_version"
    rows = archive.rows(f"SELECT {kinds}, sum(logins)::integer FROM loginpipe.daily_logins GROUP BY {kinds}")
    return Counter({tuple(kind): logins for *kind, logins in rows})


def test_days_that_were_dropped_keep_their_counts_whatever_recomputes_and_logins_that_come_late_are_added(
    archive: Archive,
) -> None:
    def recomputed() -> None:
        for day in DAYS:
            archive.run(partial(refresh_daily_logins, day=day))

    before = counted(archive)
    assert before.total() == 5 + 4 + 3
    assert retired(archive) is None
    recomputed()
    assert counted(archive) == before

    archive.insert(OLD, LOGINS[2:3])
    assert archive.run(stale_days) == {OLD: ["daily_logins", "duplicate_devices", "duplicate_ips"]}
    archive.computed()
    recomputed()
    late = Counter({(OLD, *LOGINS[2][1:2], *LOGINS[2][4:]): 1})
    assert counted(archive) == before + late

    assert restored(archive) == Restored(rows=len(LOGINS), beside=1)
    archive.computed()
    recomputed()
    assert counted(archive) == before + late
    rows = archive.rows(
        "SELECT device_type, logins, users, kept FROM loginpipe.daily_logins WHERE create_date = %s", OLD
    )
    assert ("android", 2, 1, False) in rows, "computed from the table again"


# --- what is not restored, and what is kept ---


def test_users_who_were_erased_since_do_not_come_back_and_what_they_did_after_an_earlier_erasure_does(
    archive: Archive, custodian_url: str
) -> None:
    keys = token_keys(1, 2)

    def erased(user: str) -> None:
        with closing(connect(custodian_url)) as custodian:
            erase_user(custodian, user, keys)

    erased("bob")
    archive.insert(OLD, LOGINS[2:3])
    archive.archived(OLD)
    for day in DAYS[1:]:
        archive.archived(day)
    assert retired(archive) is None
    erased("ann")
    with pytest.raises(ArchivedDayError, match=r"^a user was erased at .* key version 1 or 2 only; add it to "):
        restored(archive, keys=lambda: token_keys(3))
    assert restored(archive, keys=lambda: token_keys(1)) == Restored(rows=len(LOGINS) - 2, erased=2)
    assert archive.stored() == of_day(LOGINS[2:])

    assert archive.due() == [OLD], "the file still has them"
    assert archive.archived().record.row_count == len(LOGINS) - 2
    assert restored(archive, keys=no_keys) == Restored(already_there=True)


@both
def test_users_who_are_erased_are_taken_out_of_the_files_of_days_that_were_dropped(
    archive: Archive, custodian_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete = type(archive.store).delete

    def killed_at_the_old_file(store: Any, name: str) -> None:
        if before[OLD].url.endswith(name):
            raise ArchiveError("killed here")
        delete(store, name)

    def forgotten(day: date, *versions: int) -> int:
        work = partial(forget_erased, day=day, token_keys=lambda: token_keys(*versions), stores=archive.stores)
        logins: int = archive.run(work)
        return logins

    assert retired(archive) is None
    before = {day: archive.record(day) for day in DAYS}
    assert archive.run(days_to_search) == []
    with closing(connect(custodian_url)) as custodian:
        erase_user(custodian, "ann", token_keys(1, 2))
    assert archive.run(days_to_search) == DAYS

    with pytest.raises(ArchivedDayError, match=r"^a user was erased at .* key version 1 or 2 only; add it to "):
        forgotten(OLD, 3)
    assert archive.record(OLD) == before[OLD]
    with monkeypatch.context() as patch:
        patch.setattr(type(archive.store), "delete", killed_at_the_old_file)
        with pytest.raises(ArchiveError, match="killed here"):
            forgotten(OLD, 1)
    assert archive.record(OLD).row_count == 3
    assert archive.run(days_to_search) == DAYS, "the old file is still there"
    assert [forgotten(day, 1) for day in DAYS] == [0, 1, 0]
    assert archive.run(days_to_search) == []
    after = {day: archive.record(day) for day in DAYS}
    assert [record.row_count for record in after.values()] == [3, 3, 3]
    assert after[DAYS[2]].url == before[DAYS[2]].url, "nothing to leave out, nothing written"
    assert archive.store.names() == sorted(archive.stores.locate(record.url)[1] for record in after.values())
    for day in DAYS:
        assert archive.run(partial(verify_day, record=after[day], stores=archive.stores)) is None
    for day in (DAYS[0], DAYS[2]):
        assert restored(archive, day) == Restored(rows=3), "no keys are needed: the file has no erased user"
        assert archive.stored(day) == of_day(LOGINS[2:], day)

    with closing(connect(custodian_url)) as custodian:
        for user in {str(login[0]) for login in LOGINS[2:]}:
            erase_user(custodian, user, token_keys(1, 2))
    assert forgotten(DAYS[1], 1) == 3
    assert archive.record(DAYS[1]).row_count == 0
    assert restored(archive, DAYS[1]) == Restored(already_there=True), "a day of erased users only"


def test_an_erasure_deletes_the_sealed_values_that_only_the_users_logins_of_dropped_days_had(
    archive: Archive, custodian_url: str
) -> None:
    key = str(uuid4())
    archive.execute(
        "INSERT INTO vault.data_keys (data_key_id, recipient, wrapped_key) VALUES (%s, repeat('0', 64), %s)",
        key, bytes(256),
    )  # fmt: skip
    sealed = {"ip.v1.home": "ip", "ip.v1.work": "ip", "dev.v1.phone": "device_id", "dev.v1.Tablet": "device_id"}
    for position, (token, field) in enumerate(sealed.items()):
        archive.execute(
            "INSERT INTO vault.sealed_values (token, field, data_key_id, position, ciphertext) "
            "VALUES (%s, %s, %s, %s, %s)",
            token, field, key, position, bytes(48),
        )  # fmt: skip

    def erased(user: str) -> tuple[Any, ...]:
        with closing(connect(custodian_url)) as custodian:
            erasure = erase_user(custodian, user, token_keys(1))
        left = {token for (token,) in archive.rows("SELECT token FROM vault.sealed_values")}
        return erasure.logins, set(sealed) - left, set(erasure.kept), erasure.dropped

    assert retired(archive) is None
    dropped = (DAYS[0], DAYS[2])
    assert erased("ann") == (0, {"ip.v1.home"}, {"dev.v1.phone"}, dropped)
    assert erased("bob") == (0, {"ip.v1.home", "dev.v1.phone"}, {"ip.v1.work"}, dropped)
    # The reverse case: a login in the table, whose values are also in a dropped day of another user.
    archive.insert(today(), [("new", "ios", "ip.v1.work", "dev.v1.Tablet", None, None)])
    assert erased("new") == (1, {"ip.v1.home", "dev.v1.phone"}, {"ip.v1.work", "dev.v1.Tablet"}, dropped)
    assert erased("zoë\t\\N")[1:3] == (set(sealed), set())
    for statement in ("DELETE FROM vault.sealed_values", "SELECT vault.forget_pairs('ann')"):
        with closing(psycopg2.connect(archive.pipeline_url)) as connection, connection.cursor() as cursor:
            with pytest.raises(psycopg2.Error) as refusal:
                cursor.execute(statement)
            assert refusal.value.pgcode == "42501", statement


def test_rows_that_came_after_a_day_was_dropped_stay_beside_those_that_come_back(archive: Archive) -> None:
    assert retired(archive) is None
    archive.insert(OLD, LOGINS[:1])
    with pytest.raises(ArchivedDayError, match=rf"^{OLD} was dropped from user_logins, and 1 rows of it came since: "):
        archive.archived()
    assert restored(archive) == Restored(rows=len(LOGINS), beside=1)
    assert archive.stored() == of_day([*LOGINS, LOGINS[0]])
    assert archive.rows("SELECT count(*) FROM user_logins_default") == [(0,)]
    assert archive.archived().record.row_count == len(LOGINS) + 1


def test_a_day_with_other_rows_one_without_archive_and_one_whose_file_is_gone_are_not_restored(
    archive: Archive,
) -> None:
    archive.insert(OLD, LOGINS[:1])
    with pytest.raises(ArchivedDayError, match=rf"^user_logins has 6 rows of {OLD}, and not those of its file \(5\): "):
        restored(archive)
    unknown = OLD + timedelta(days=7)
    with pytest.raises(ArchivedDayError, match=rf"^{unknown} is not in the archive: "):
        restored(archive, unknown)
    archive.archived()
    assert retired(archive) is None
    store, name = archive.stores.locate(archive.record().url)
    store.delete(name)
    with pytest.raises(ArchivedDayError, match=r"is missing$"):
        restored(archive)
    assert archive.stored() == Counter()
    assert not partition_is_there(archive)


def test_a_table_that_is_not_partitioned_is_left_alone_and_its_days_are_archived_and_restored(
    archive: Archive, owner_url: str
) -> None:
    with closing(psycopg2.connect(owner_url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(
            "DROP VIEW loginpipe.user_logins_canonical CASCADE; DROP VIEW loginpipe.user_logins_with_extras; "
            "DROP TABLE user_logins; "
            "CREATE TABLE user_logins (user_id varchar(128), device_type varchar(32), masked_ip varchar(256), "
            "masked_device_id varchar(256), locale varchar(32), app_version integer, create_date date); "
            "GRANT SELECT, INSERT ON user_logins TO loginpipe_writer"
        )
    with closing(connect(archive.pipeline_url)) as connection:
        found = outlived_months(connection, today=today(), days=30)
    assert (found.months, found.not_ours) == ((), "it is not partitioned")
    assert restored(archive) == Restored(rows=len(LOGINS))
    assert archive.stored() == of_day(LOGINS)
    assert archive.archived().outcome == "unchanged"
