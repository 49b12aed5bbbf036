"""Rows of a day as a Parquet file: typed, equal rows kept separately, and a checksum that changes with the content."""

from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loginpipe.archive.parquet import Digest, Row, content_of, read_day, write_day
from loginpipe.common.errors import ArchivedDayError
from loginpipe.common.logins_table import USER_LOGINS_COLUMNS

DAY = date(2026, 11, 20)
ROW: Row = ("u", "ios", "ip.v1.a", "dev.v1.a", None, 2_003_000, DAY)


def digest_of(*rows: Row) -> str:
    digest = Digest()
    digest.add(rows)
    return digest.hexdigest()


def test_the_checksum_depends_on_every_value_on_how_often_a_row_is_there_and_on_nothing_else() -> None:
    others: list[tuple[Row, ...]] = [
        (),
        (ROW,),
        (ROW, ROW),
        ((*ROW[:4], "", *ROW[5:]),),
        ((*ROW[:4], "-", *ROW[5:]),),
        (("u", "ios2:ip", *ROW[2:]),),
        (("u3:ios", *ROW[1:]),),
        ((*ROW[:5], None, DAY),),
        ((*ROW[:6], date(2026, 11, 21)),),
    ]
    assert len({digest_of(*rows) for rows in others}) == len(others)
    in_parts = Digest()
    for _ in range(2):
        in_parts.add([ROW])
    assert in_parts.hexdigest() == digest_of(ROW, ROW)


def test_many_rows_are_hashed_in_blocks_whatever_batches_they_come_in() -> None:
    rows: list[Row] = [(f"user-{i:06}", *ROW[1:]) for i in range(65_536 + 10)]
    whole, parts = Digest(), Digest()
    whole.add(rows)
    for start in range(0, len(rows), 9_999):
        parts.add(rows[start : start + 9_999])
    assert (whole.rows, whole.hexdigest()) == (parts.rows, parts.hexdigest())
    assert whole.hexdigest() != digest_of(*rows[:65_536])


def test_a_file_is_typed_compressed_and_says_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "day.parquet"
    other: Row = ("zoë\t", "", None, None, "", -1, DAY)
    content = write_day(path, DAY, [[ROW, ROW], [other]])
    assert [row for rows in read_day(path) for row in rows] == [ROW, ROW, other]
    assert content == content_of(path)
    assert (content.row_count, content.sha256, content.file_bytes) == (
        3,
        digest_of(ROW, ROW, other),
        path.stat().st_size,
    )

    file = pq.ParquetFile(path)
    text = [pa.string()] * 5
    assert [(field.name, field.type) for field in file.schema_arrow] == list(
        zip([name for name, _ in USER_LOGINS_COLUMNS], [*text, pa.int32(), pa.date32()], strict=True)
    )
    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    assert [group.num_rows for group in groups] == [3]
    assert {group.column(i).compression for group in groups for i in range(7)} == {"ZSTD"}
    said = {key.decode(): value.decode() for key, value in file.metadata.metadata.items()}
    assert said["loginpipe.day"] == "2026-11-20"
    assert said["loginpipe.row_count"] == "3"
    assert said["loginpipe.rows_sha256"] == content.sha256
    assert {"loginpipe.version", "loginpipe.schema_version"} <= set(said)


def test_row_groups_are_large_whatever_batches_the_rows_come_in(tmp_path: Path) -> None:
    batches = [[(f"user-{start + i:06}", *ROW[1:]) for i in range(10_000)] for start in range(0, 110_000, 10_000)]
    content = write_day(tmp_path / "day.parquet", DAY, iter(batches))
    metadata = pq.ParquetFile(tmp_path / "day.parquet").metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [100_000, 10_000]
    assert content_of(tmp_path / "day.parquet") == content


def test_a_day_without_logins_is_a_file_without_rows(tmp_path: Path) -> None:
    content = write_day(tmp_path / "day.parquet", DAY, [])
    assert (content.row_count, content.sha256) == (0, digest_of())
    assert content_of(tmp_path / "day.parquet") == content


def test_no_flipped_byte_goes_unnoticed(tmp_path: Path) -> None:
    path = tmp_path / "day.parquet"
    written = write_day(path, DAY, [[(f"user-{i}", *ROW[1:]) for i in range(100)]])
    good = path.read_bytes()
    for place in range(0, len(good), 37):
        path.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
        try:
            noticed = content_of(path) != written
        except ArchivedDayError:
            noticed = True
        assert noticed, place


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"user_id": ["u"]}), "its columns are not those of user_logins"),
        (None, "it cannot be read as Parquet"),
    ],
    ids=["other columns", "no Parquet"],
)
def test_another_file_is_told_as_such(tmp_path: Path, table: pa.Table | None, message: str) -> None:
    path = tmp_path / "day.parquet"
    path.write_bytes(b"user_id\nu\n") if table is None else pq.write_table(table, path)
    with pytest.raises(ArchivedDayError, match=message):
        content_of(path)
