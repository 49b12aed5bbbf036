"""Archiving days in a folder and in S3: written, read back, recorded, and written again if they change."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import psycopg2
import pyarrow.parquet as pq
import pytest

from loginpipe.archive.days import Outcome, compare_with_table, counted_ranges, problem_of
from loginpipe.archive.store import Folder, Store, Stores, open_store
from loginpipe.common.errors import ArchivedDayError, ArchiveError, DatabaseError, SettingError
from loginpipe.common.settings import Settings
from loginpipe.postgres.archive import ArchivedDay, content_in_table, work_on_day
from loginpipe.postgres.connections import connect, transaction
from loginpipe_tests.archive import LOGINS, OLD, Archive, of_day, today


@pytest.fixture(params=["folder", "S3"])
def archive(request: pytest.FixtureRequest, database_url: str, pipeline_url: str, tmp_path: Path) -> Iterator[Archive]:
    """Yield an archive in a folder, and one in a bucket of this test."""
    if request.param == "folder":
        yield Archive(database_url, pipeline_url, f"file://{tmp_path}/the archive")
        return
    request.getfixturevalue("aws")
    bucket = f"archive-{uuid4().hex}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    yield Archive(database_url, pipeline_url, f"s3://{bucket}/logins/archive/")


def test_a_day_is_archived_to_the_row_and_archived_anew_only_when_it_has_changed(archive: Archive) -> None:
    archive.insert(OLD)
    archive.insert(OLD + timedelta(days=1), LOGINS[:1])
    first = archive.archived()
    assert (first.outcome, first.record.row_count) == (Outcome.WRITTEN, len(LOGINS))
    assert archive.store.names() == [first.record.url.removeprefix(f"{archive.store.url}/")]
    store, name = archive.stores.locate(first.record.url)
    with store.fetched(name) as path:
        assert name.startswith(f"day={OLD}/part-")
        rows = pq.read_table(path).to_pylist()
    assert of_day(LOGINS) == of_day([tuple(row.values())[:6] for row in rows]), "equal rows are kept apart"
    with closing(connect(archive.pipeline_url)) as connection, transaction(connection) as cursor:
        assert content_in_table(cursor, OLD, OLD) == {OLD: (first.record.row_count, first.record.sha256)}

    again = archive.archived()
    assert (again.outcome, again.record.url) == (Outcome.UNCHANGED, first.record.url)

    archive.insert(OLD, LOGINS[1:2])
    changed = archive.archived()
    assert (changed.outcome, changed.record.row_count) == (Outcome.WRITTEN, len(LOGINS) + 1)
    assert changed.record.url != first.record.url
    assert archive.store.names() == [archive.stores.locate(changed.record.url)[1]], "the old file is gone"
    assert changed.record.archived_at > first.record.archived_at


def test_a_flipped_byte_and_a_missing_file_are_noticed_and_written_again(archive: Archive, tmp_path: Path) -> None:
    archive.insert(OLD)
    record = archive.archived().record
    store, name = archive.stores.locate(record.url)
    with store.fetched(name) as path:
        content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "flipped").write_bytes(content)
    store.put(tmp_path / "flipped", name)
    assert problem_of(record, archive.stores) == (
        f"the file of {OLD} is damaged: its checksum is not the one recorded, {record.url}"
    )
    second = archive.archived()
    assert second.outcome == Outcome.WRITTEN
    assert problem_of(second.record, archive.stores) is None

    store, name = archive.stores.locate(second.record.url)
    store.delete(name)
    assert str(problem_of(second.record, archive.stores)).endswith(f"{name} is missing")
    assert archive.archived().outcome == Outcome.WRITTEN


class Killed(BaseException):
    pass


class Elsewhere(Stores):
    """Stores whose new files go to a store of the test."""

    def __init__(self, store: Any) -> None:
        super().__init__(Settings())
        self._current = store

    @property
    def current(self) -> Any:
        return self._current


class Dying:
    """A store whose process dies at a call."""

    def __init__(self, store: Store, at: str) -> None:
        self._store, self._at = store, at

    def __getattr__(self, name: str) -> Any:
        if name == self._at:
            raise Killed
        return getattr(self._store, name)


@pytest.mark.parametrize("at", ["fetched", "names"])
def test_a_crash_before_the_record_leaves_the_old_file_in_force_and_the_stray_one_goes_with_the_next(
    archive: Archive, at: str
) -> None:
    """The process is killed before the file is read back, or after it has its name but before the commit."""
    archive.insert(OLD)
    first = archive.archived().record
    foreign = f"day={OLD}/somebody_elses.parquet"
    store, name = archive.stores.locate(first.url)
    with store.fetched(name) as path:
        store.put(path, foreign)
    archive.insert(OLD, LOGINS[:1])
    with pytest.raises(Killed):
        archive.archived(stores=Elsewhere(Dying(archive.store, at)))
    assert archive.record() == first
    assert problem_of(first, archive.stores) is None
    stray = set(archive.store.names()) - {name, foreign}
    assert len(stray) == 1
    assert ("/_part-" in stray.pop()) == (at == "fetched"), "hidden until it was read back"

    second = archive.archived().record
    assert set(archive.store.names()) == {archive.stores.locate(second.url)[1], foreign}


def test_an_archive_that_moves_leaves_what_is_there_in_force_and_takes_the_changed_days_along(
    archive: Archive, tmp_path: Path
) -> None:
    archive.insert(OLD)
    before = archive.archived().record
    elsewhere = Folder(tmp_path / "elsewhere")
    assert archive.archived(stores=Elsewhere(elsewhere)).outcome == Outcome.UNCHANGED
    assert elsewhere.names() == []
    archive.insert(OLD, LOGINS[:1])
    assert archive.archived(stores=Elsewhere(elsewhere)).record.url.startswith(elsewhere.url)
    assert archive.stores.locate(before.url)[1] not in archive.store.names()


# --- what is refused ---


@pytest.fixture
def in_folder(database_url: str, pipeline_url: str, tmp_path: Path) -> Archive:
    return Archive(database_url, pipeline_url, f"file://{tmp_path}/archive")


def test_a_day_that_is_not_over_one_that_shrank_and_one_that_someone_works_on_are_left_as_they_are(
    in_folder: Archive,
) -> None:
    with pytest.raises(ArchivedDayError, match=rf"^{today()} is not over yet \(UTC\): "):
        in_folder.archived(today())
    in_folder.insert(OLD)
    record = in_folder.archived().record

    in_folder.execute("DELETE FROM user_logins WHERE user_id = 'ann'")
    with pytest.raises(ArchivedDayError, match=rf"^{OLD} has 2 rows fewer than its archive, and no user was erased: "):
        in_folder.archived()
    assert in_folder.record() == record
    in_folder.bury(b"ann")
    assert in_folder.archived().record.row_count == len(LOGINS) - 2

    refused = pytest.raises(DatabaseError, match=r"is being archived or restored by another process")
    with closing(connect(in_folder.pipeline_url)) as connection, work_on_day(connection, OLD), refused as caught:
        in_folder.archived()
    assert caught.value.sqlstate == "55P03", "a session waits for it"


def test_a_user_who_is_erased_while_a_day_is_archived_is_not_in_a_file_that_counts(in_folder: Archive) -> None:
    class Warehouse(Folder):
        def put(self, source: Path, name: str) -> None:
            in_folder.execute("DELETE FROM user_logins WHERE user_id = 'ann'")
            in_folder.bury(b"ann")
            super().put(source, name)

    in_folder.insert(OLD)
    with pytest.raises(DatabaseError, match=r"^a user was erased meanwhile: run again$") as caught:
        in_folder.archived(stores=Elsewhere(Warehouse(Path(in_folder.url.removeprefix("file://")))))
    assert caught.value.sqlstate == "40001", "a session tries again"
    assert in_folder.rows("SELECT * FROM loginpipe.archived_days") == []
    assert in_folder.archived().record.row_count == len(LOGINS) - 2


def test_days_are_due_when_they_are_over_and_not_archived_or_have_changed_since(in_folder: Archive) -> None:
    yesterday, before = today() - timedelta(days=1), today() - timedelta(days=2)
    for day in (OLD, before, yesterday, today()):
        in_folder.insert(day)
    assert in_folder.due() == [OLD, before, yesterday]
    for day in in_folder.due():
        in_folder.archived(day)
    assert in_folder.due() == []
    in_folder.insert(OLD, LOGINS[:1])
    # The number of rows is the same, but a batch has added some since, so a user may have been erased on that day too.
    in_folder.execute(
        "INSERT INTO loginpipe.batches (batch_id, queue, started_at, inserted, days, rows_by_day) "
        "VALUES (gen_random_uuid(), 'q', now(), 1, ARRAY[%s::date], '{1}')", before
    )  # fmt: skip
    assert in_folder.due() == [OLD, before]


def test_a_batch_that_commits_while_its_day_is_archived_leaves_the_day_due(in_folder: Archive) -> None:
    in_folder.insert(OLD)
    assert in_folder.due() == [OLD]
    with closing(psycopg2.connect(in_folder.pipeline_url)) as batch, batch.cursor() as cursor:
        cursor.execute("INSERT INTO user_logins (user_id, create_date) VALUES ('late', %s)", (OLD,))
        cursor.execute(
            "INSERT INTO loginpipe.batches (batch_id, queue, started_at, recorded_at, days, rows_by_day) "
            "VALUES (gen_random_uuid(), 'q', now(), now() - interval '3 hours', ARRAY[%s::date], '{1}')", (OLD,)
        )  # fmt: skip
        assert in_folder.archived().record.row_count == len(LOGINS)
        assert in_folder.due() == []
        batch.commit()
    assert in_folder.due() == [OLD]
    assert in_folder.archived().record.row_count == len(LOGINS) + 1
    assert in_folder.due() == []


def test_rows_that_the_pipeline_did_not_write_are_found_by_the_comparison_and_archived_the_next_time(
    in_folder: Archive,
) -> None:
    """On the newest days at once, in an older month when its turn comes."""
    yesterday, compared = today() - timedelta(days=1), partial(compare_with_table, today=today())
    in_folder.insert(OLD)
    in_folder.archived()
    in_folder.insert(OLD, LOGINS[:1], noted=False)
    in_folder.insert(yesterday, noted=False)
    assert in_folder.due() == []
    found = in_folder.run(compared)
    assert (dict(found.differing), found.not_archived) == ({OLD: "6 rows in the table, 5 in the archive"}, 1)
    assert in_folder.due() == [OLD, yesterday]
    in_folder.run(compared)
    assert in_folder.rows("SELECT day, changes FROM loginpipe.days ORDER BY day") == [(OLD, 2), (yesterday, 1)]
    for day in in_folder.due():
        in_folder.archived(day)
    assert in_folder.due() == []
    assert dict(in_folder.run(compared).differing) == {}


def test_the_older_months_are_compared_in_turn() -> None:
    def of(day: date, *, dropped: bool = False) -> ArchivedDay:
        at = datetime(2026, 11, 29, tzinfo=UTC)
        return ArchivedDay(day, 1, "0" * 64, "file:///x", 1, "0" * 64, at, at, None, at if dropped else None)

    today = date(2026, 11, 29)
    newest = (date(2026, 10, 29), date(2026, 11, 28))
    assert counted_ranges([], today) == [newest]
    records = [of(date(2026, 8, 3), dropped=True), of(date(2026, 9, 1)), of(date(2026, 10, 7)), of(date(2026, 11, 5))]
    turns = [counted_ranges(records, today + timedelta(days=days))[0] for days in range(4)]
    september, october = (date(2026, 9, 1), date(2026, 9, 30)), (date(2026, 10, 1), date(2026, 10, 28))
    assert {(first, min(last, october[1])) for first, last in turns} == {september, october}


# --- stores ---


@pytest.mark.parametrize(
    "url", ["s3://", "s3:bucket/prefix", "http://host/archive", "/folder", "file:", "file://host/x"]
)
def test_a_url_of_no_store_is_refused(url: str) -> None:
    with pytest.raises(SettingError, match=r"^LOGINPIPE_ARCHIVE_URL is no URL of an archive: set it to where "):
        open_store(url, production=False)


def test_a_relative_folder_is_from_the_current_one_and_recorded_as_absolute(tmp_path: Path) -> None:
    assert open_store("file:days", production=True).url == (tmp_path / "days").as_uri()


def test_what_s3_refuses_is_named_and_production_demands_https(aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ArchiveError, match=r"^the bucket 'no-such-bucket' does not exist in this account and region: create "
    ):
        open_store("s3://no-such-bucket/x", production=False).names()
    with pytest.raises(ArchivedDayError, match=r"^the file s3://no-such-bucket/x/day is missing$"):
        open_store("s3://no-such-bucket/x", production=False).fetched("day").__enter__()
    with pytest.raises(ArchiveError, match=r"^the bucket 'no\\\\bucket' is no name of a bucket: fix LOGIN"):
        open_store("s3://no\\bucket/x", production=False).require_usable()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3.example.com:9000")
    with pytest.raises(
        ArchiveError, match=r"^the bucket .*: production requires https for AWS, and the endpoint at s3.example.com"
    ):
        open_store("s3://bucket/x", production=True)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    monkeypatch.setattr("loginpipe.common.aws._ATTEMPTS", 1)
    with pytest.raises(ArchiveError, match=r"^the bucket 'bucket': the endpoint is unreachable: "):
        open_store("s3://bucket/x", production=False).names()


def test_what_is_written_to_s3_is_encrypted_there(aws: None, tmp_path: Path) -> None:
    client = boto3.client("s3")
    client.create_bucket(Bucket="encrypted-archive")
    store = open_store("s3://encrypted-archive", production=False)
    (tmp_path / "file").write_bytes(b"x")
    store.put(tmp_path / "file", "day/_file")
    store.rename("day/_file", "day/file")
    assert client.head_object(Bucket="encrypted-archive", Key="day/file")["ServerSideEncryption"] == "AES256"
    assert store.names() == ["day/file"]


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(ArchiveError, match=r"^the archive in .*/file/below cannot be used: Not a directory; fix "):
        Folder(tmp_path / "file" / "below").put(tmp_path / "file", "day/file")
