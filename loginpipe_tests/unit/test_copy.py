"""COPY's text format as we write it, and the stream that COPY reads from, tested without a server."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from itertools import count
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loginpipe.postgres.copy import _Stream, _texts, copy_text

moderate = settings(max_examples=200, deadline=None, print_blob=True)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, r"\N"),
        ("", ""),
        (r"\N", r"\\N"),
        (r"\.", r"\\."),
        ("a\tb\nc\rd\\e", r"a\tb\nc\rd\\e"),
        ("'\"é😀\u2028\x85", "'\"é😀\u2028\x85"),
        (b"", r"\\x"),
        (b"\x00\\\n\xff", r"\\x005c0aff"),
        ([], "{}"),
        (["a", "", "null", "NULL"], '{"a","","null","NULL"}'),
        (['a"b', r"c\d", "e\nf", "{g,h}"], r'{"a\\"b","c\\\\d","e\nf","{g,h}"}'),
        (7, "7"),
        (date(2026, 11, 21), "2026-11-21"),
        (datetime(2026, 11, 21, 12, tzinfo=UTC), "2026-11-21 12:00:00+00:00"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    ],
    ids=repr,
)
def test_a_value_is_written_as_copy_reads_it(value: object, written: str) -> None:
    assert copy_text(value) == written


anything = (
    st.none()
    | st.text(st.sampled_from('ab\t\n\r\\"{,}\u00e9\U0001f600'), max_size=5)
    | st.integers()
    | st.booleans()
    | st.binary(max_size=5)
    | st.dates()
    | st.datetimes(timezones=st.just(UTC))
    | st.lists(st.text('a\\"\t,', max_size=3), max_size=2)
)
columns = st.lists(anything, max_size=6) | st.sampled_from(
    [st.text("ab\t\n\r\\", max_size=5), st.text("ab\u00e9", max_size=5), st.none() | st.text("ab\\", max_size=3),
     st.integers(), st.booleans(), st.binary(max_size=5), st.dates(), st.uuids()]
).flatmap(lambda of_one_kind: st.lists(of_one_kind, max_size=6))  # fmt: skip


@moderate
@given(columns)
def test_a_column_is_written_as_its_values_are_one_by_one(column: list[object]) -> None:
    assert list(_texts(column)) == list(map(copy_text, column))


def read_all(stream: _Stream, sizes: Iterator[int]) -> list[bytes]:
    """Read to the end as COPY does: until a read is empty."""
    chunks = []
    while chunk := stream.read(next(sizes)):
        chunks.append(chunk)
    return chunks


@moderate
@given(
    lines=st.lists(st.text(st.characters(codec="utf-8"), max_size=40), max_size=20),
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=8),
)
def test_what_is_read_is_all_lines_in_order_and_never_more_at_once_than_was_asked_for(
    lines: list[str], sizes: list[int]
) -> None:
    text = "".join(f"{line}\n" for line in lines).encode()
    asked = [sizes[number % len(sizes)] for number in range(len(text) + 1)]
    chunks = read_all(_Stream(iter(lines)), iter(asked))
    assert b"".join(chunks) == text
    assert all(len(chunk) <= size for chunk, size in zip(chunks, asked, strict=False))
    assert all(len(chunk) == size for chunk, size in zip(chunks[:-1], asked, strict=False)), "short before the end"


def test_the_end_stays_the_end() -> None:
    stream = _Stream(iter(["line"]))
    assert [stream.read(100), stream.read(100), stream.read(100)] == [b"line\n", b"", b""]


def test_a_line_longer_than_what_is_asked_for_comes_in_parts() -> None:
    line = "0123456789abcdef" * 16_000
    chunks = read_all(_Stream(iter([line, "next"])), iter([65536] * 9))
    assert b"".join(chunks) == f"{line}\nnext\n".encode()
    assert max(map(len, chunks)) == 65536


@pytest.mark.parametrize(("size", "lines"), [(1, 1), (10, 1), (11, 2), (100, 10)])
def test_no_more_lines_are_made_than_are_read(size: int, lines: int) -> None:
    """Large bodies are sealed and written one by one, because all of them together would double the memory."""
    made = count()
    stream = _Stream(f"{next(made):9}" for _ in range(1000))
    stream.read(size)
    assert next(made) == lines
