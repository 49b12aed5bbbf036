"""Values written with a real COPY and read back: they arrive unchanged."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from loginpipe.common.errors import DatabaseError
from loginpipe.local.stack import LocalStack
from loginpipe.postgres.connections import Connection, connect, transaction
from loginpipe.postgres.copy import copy_rows

COLUMNS = ("place", "words", "bytes", "list")
CREATE = """
    CREATE TEMPORARY TABLE copied (
        place integer, words text, bytes bytea, list text[],
        id uuid, day date, at timestamptz, number bigint, "a ""quoted"" column" text
    ) ON COMMIT DROP
"""

moderate = settings(max_examples=150, deadline=None, print_blob=True)
# Characters with a meaning in COPY's format, in an array or in a line, much more often than by chance.
special = st.sampled_from("\t\n\r\\\"'{},;.N \b\f\v\x01\x1c\x7f\x85\u2028\ufeff\U0001f600")
plain = st.characters(codec="utf-8", exclude_characters="\x00")
words = st.lists(st.one_of(special, plain, st.sampled_from([r"\N", r"\.", "NULL"])), max_size=30).map("".join)
row = st.tuples(st.none() | words, st.none() | st.binary(max_size=40), st.none() | st.lists(words, max_size=5))


@pytest.fixture(scope="module")
def connection(stack: LocalStack) -> Iterator[Connection]:
    connection = connect(stack.database_url)
    yield connection
    connection.close()


def there_and_back(connection: Connection, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> list[Any]:
    """Copy rows into a table; return its rows, ordered by the first column."""
    with transaction(connection) as cursor:
        cursor.execute(CREATE)
        copy_rows(cursor, "copied", columns, zip(*rows, strict=True))
        names = ", ".join('"' + name.replace('"', '""') + '"' for name in columns)
        cursor.execute(f"SELECT {names} FROM copied ORDER BY 1")
        return [tuple(bytes(cell) if isinstance(cell, memoryview) else cell for cell in row) for row in cursor]


def uuids_as_text(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [tuple(str(cell) if isinstance(cell, UUID) else cell for cell in row) for row in rows]


@moderate
@given(rows=st.lists(row, max_size=6))
@example(rows=[("", b"", []), (None, None, None), (r"\N", rb"\N", [r"\N"]), (r"\.", rb"\.", [r"\."])])
@example(
    rows=[("\\", b"\\", ["\\"]), ('"', b'"', ['"']), ("\t", b"\t", ["\t"]), ("\r\n", b"\r\n", ["\r\n", "", "NULL"])]
)
def test_texts_bytes_and_lists_arrive_as_they_were(connection: Connection, rows: list[tuple[Any, ...]]) -> None:
    numbered = [(place, *values) for place, values in enumerate(rows)]
    assert there_and_back(connection, COLUMNS, numbered) == numbered


@moderate
@given(rows=st.lists(st.tuples(words, st.binary(max_size=40), st.lists(words, max_size=3)), min_size=1, max_size=6))
@example(rows=[(r"\N", b"\\", [r"\N"]), (r"\.", b"\t", [r"\."])])
def test_columns_that_hold_no_null_arrive_as_they_were(connection: Connection, rows: list[tuple[Any, ...]]) -> None:
    numbered = [(place, *values) for place, values in enumerate(rows)]
    assert there_and_back(connection, COLUMNS, numbered) == numbered


def test_columns_of_different_lengths_are_refused_and_leave_the_connection_usable(connection: Connection) -> None:
    with pytest.raises((ValueError, DatabaseError)), transaction(connection) as cursor:  # noqa: PT012
        cursor.execute(CREATE)
        copy_rows(cursor, "copied", ("place", "words"), ([1, 2], ["one"]))
    assert there_and_back(connection, ("place",), [(1,)]) == [(1,)]


def test_an_empty_text_is_not_null_and_null_is_not_a_text(connection: Connection) -> None:
    with transaction(connection) as cursor:
        cursor.execute(CREATE)
        copy_rows(cursor, "copied", ("words",), [["", None, "NULL"]])
        cursor.execute("SELECT count(*) FILTER (WHERE words IS NULL), count(*) FILTER (WHERE words = '') FROM copied")
        assert cursor.fetchone() == (1, 1)


def test_ids_days_times_and_numbers_arrive_as_they_were(connection: Connection) -> None:
    columns = ("number", "id", "day", "at")
    rows: list[tuple[Any, ...]] = [
        (-(2**63), UUID(int=0), date.min, datetime(1, 1, 1, tzinfo=UTC)),
        (0, None, None, None),
        (2**63 - 1, UUID(int=2**128 - 1), date.max, datetime(2026, 11, 21, 23, 59, 59, 999999, UTC)),
    ]
    assert there_and_back(connection, columns, rows) == uuids_as_text(rows)


def test_a_time_of_another_zone_is_the_same_moment(connection: Connection) -> None:
    moment = datetime(2026, 11, 21, 5, 45, tzinfo=timezone(timedelta(hours=5, minutes=45)))
    assert there_and_back(connection, ("at",), [(moment,)]) == [(datetime(2026, 11, 21, tzinfo=UTC),)]


def test_rows_many_times_larger_than_a_chunk_arrive_whole(connection: Connection) -> None:
    rows = [
        (0, "\\\t\n" * 100_000, bytes(range(256)) * 1000, ['"\\\n' * 50_000] * 2),
        (1, "é😀" * 100_000, b"", []),
        (2, "the last", b"x", ["y"]),
    ]
    assert there_and_back(connection, COLUMNS, rows) == rows


def test_ten_thousand_rows_keep_their_order(connection: Connection) -> None:
    with transaction(connection) as cursor:
        cursor.execute(CREATE)
        copy_rows(cursor, "copied", ("place", "words"), (range(10_000), [f"row {i}" for i in range(10_000)]))
        cursor.execute("SELECT place FROM copied ORDER BY ctid")
        assert [place for (place,) in cursor] == list(range(10_000))


def test_no_rows_are_no_rows(connection: Connection) -> None:
    assert there_and_back(connection, COLUMNS, []) == []


def test_names_of_columns_are_quoted(connection: Connection) -> None:
    assert there_and_back(connection, ('a "quoted" column',), [("x",)]) == [("x",)]


def test_a_value_that_the_column_does_not_take_is_refused_without_being_quoted(connection: Connection) -> None:
    with pytest.raises(DatabaseError, match=r"\[22P02\]") as caught:
        there_and_back(connection, ("place",), [("593-47-5928",)])
    assert "593" not in str(caught.value)
    assert there_and_back(connection, ("place",), [(1,)]) == [(1,)]


def test_rows_that_cannot_be_made_stop_the_copy_and_leave_the_connection_usable(connection: Connection) -> None:
    class Unwritable:
        def __str__(self) -> str:
            raise LookupError("no second row")

    def copy() -> None:
        with transaction(connection) as cursor:
            cursor.execute(CREATE)
            copy_rows(cursor, "copied", ("place",), [[1, Unwritable()]])

    with pytest.raises((LookupError, DatabaseError)):
        copy()
    assert there_and_back(connection, ("place",), [(1,)]) == [(1,)]
