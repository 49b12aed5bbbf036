"""Tokens of one value under several versions of the token key: connected by aliases and by the canonical view."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Barrier

import psycopg2
import pytest

from loginpipe.ingest.process import Masking
from loginpipe.ingest.record import record_batch
from loginpipe.masking.tokens import TokenKeys, derive_field_keys
from loginpipe.postgres.connections import Connection, connect, transaction
from loginpipe.postgres.vault import insert_aliases
from loginpipe_tests.batches import processed, received
from loginpipe_tests.custody import made_up_token
from loginpipe_tests.wire import login

FIELD_KEYS = {version: derive_field_keys(bytes([version]) * 32) for version in (1, 2, 3)}


@pytest.fixture
def pipeline(pipeline_url: str) -> Iterator[Connection]:
    with closing(connect(pipeline_url)) as connection:
        yield connection


def keys(*versions: int) -> TokenKeys:
    """Return token keys, the newest version current."""
    return TokenKeys(max(versions), {version: FIELD_KEYS[version] for version in versions})


def know_versions(connection: Connection) -> None:
    """Record the versions as used, because aliases may lead to used versions only."""
    with transaction(connection) as cursor:
        cursor.execute(
            "SELECT loginpipe.record_token_key(n::smallint, 'x', NULL, NULL) FROM generate_series(1, 6) AS n "
            "WHERE n NOT IN (SELECT key_version FROM loginpipe.token_key_checks)"
        )


def load(pipeline: Connection, token_keys: TokenKeys, *bodies: str) -> None:
    know_versions(pipeline)
    record_batch(pipeline, processed(received(bodies), Masking(token_keys)), queue="q")


def token(version: str) -> str:
    """Return the token of one value under a version."""
    return made_up_token(f"dev.v{int(version) + 1}", "the value")


def tokens(aliases: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(token(old), token(new)) for old, new in aliases]


def insert(database_url: str, *aliases: tuple[str, str]) -> None:
    with closing(connect(database_url)) as connection:
        know_versions(connection)
        with transaction(connection) as cursor:
            insert_aliases(cursor, tokens(aliases))


def aliases(database_url: str) -> dict[str, str]:
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT old_token, new_token FROM loginpipe.token_aliases")
        return dict(cursor.fetchall())


def distinct(analyst_url: str, relation: str) -> tuple[int, int, int]:
    """Return the numbers of rows, distinct addresses and distinct devices, as an analyst."""
    with closing(psycopg2.connect(analyst_url)) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*), count(DISTINCT masked_ip), count(DISTINCT masked_device_id) FROM {relation}")
        (row,) = cursor.fetchall()
    return row  # type: ignore[no-any-return]


def test_duplicates_are_counted_across_two_rotations(pipeline: Connection, analyst_url: str) -> None:
    one, other = login(ip="198.51.100.1", device_id="one"), login(ip="198.51.100.2", device_id="other")
    load(pipeline, keys(1), one, other)
    load(pipeline, keys(1, 2), one)
    load(pipeline, keys(1, 2, 3), one, other)
    assert distinct(analyst_url, "user_logins") == (5, 5, 5)
    assert distinct(analyst_url, "loginpipe.user_logins_canonical") == (5, 2, 2)


def test_also_when_the_first_key_is_gone_before_the_second_rotation(pipeline: Connection, analyst_url: str) -> None:
    load(pipeline, keys(1), login())
    load(pipeline, keys(1, 2), login())
    load(pipeline, keys(2, 3), login())
    assert distinct(analyst_url, "user_logins") == (3, 3, 3)
    assert distinct(analyst_url, "loginpipe.user_logins_canonical") == (3, 1, 1)


def test_without_an_older_key_there_is_no_alias_and_the_view_is_the_table(
    pipeline: Connection, database_url: str, analyst_url: str
) -> None:
    load(pipeline, keys(1), login(), login(device_id="another"))
    assert aliases(database_url) == {}
    assert distinct(analyst_url, "loginpipe.user_logins_canonical") == distinct(analyst_url, "user_logins")


def test_the_view_has_the_columns_of_the_table(database_url: str) -> None:
    columns = """
        SELECT array_agg(attname || ' ' || format_type(atttypid, atttypmod) ORDER BY attnum)
        FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0
    """
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        found = []
        for relation in ("public.user_logins", "loginpipe.user_logins_canonical"):
            cursor.execute(columns, (relation,))
            found += cursor.fetchall()
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([[("1", "2")], [("1", "2")]], {"1": "2"}),
        ([[("1", "2")], [("2", "3")]], {"1": "3", "2": "3"}),
        ([[("1", "2"), ("0", "2")], [("2", "3")], [("3", "4")]], {"0": "4", "1": "4", "2": "4", "3": "4"}),
        ([[("1", "2")], [("1", "3"), ("2", "3")]], {"1": "3", "2": "3"}),
        ([[("2", "3")], [("1", "2")]], {"1": "3", "2": "3"}),
        ([[("1", "1")]], {}),
    ],
    ids=["again", "chain", "long chain", "both versions held", "a straggler with the older key", "itself"],
)
def test_an_old_token_leads_straight_to_the_newest(
    database_url: str, pipeline_url: str, steps: Sequence[Sequence[tuple[str, str]]], expected: dict[str, str]
) -> None:
    for step in steps:
        insert(pipeline_url, *step)
    assert aliases(database_url) == dict(tokens(expected.items()))


def test_runs_with_different_keys_that_load_at_once_leave_no_token_behind(
    database_url: str, pipeline_url: str, analyst_url: str
) -> None:
    """Four of six started before the last rotation. No run sees the aliases that the others are about to commit."""
    together = Barrier(6)
    bodies = [login(ip=f"198.51.100.{i}", device_id=f"device {i}") for i in range(40)]

    def run(number: int) -> None:
        with closing(connect(pipeline_url)) as own:
            together.wait(timeout=30)
            ordered = bodies if number % 2 else bodies[::-1]
            load(own, keys(1, 2) if number % 3 else keys(1, 2, 3), *ordered)

    with closing(connect(pipeline_url)) as first:
        load(first, keys(1), *bodies)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(run, range(6)))
    found = aliases(database_url)
    assert set(found.values()).isdisjoint(found)
    assert len(found) == 2 * 2 * len(bodies)
    assert distinct(analyst_url, "loginpipe.user_logins_canonical") == (7 * 40, 40, 40)


def test_aliases_that_are_known_hold_up_nobody(database_url: str, pipeline_url: str) -> None:
    insert(pipeline_url, ("1", "2"))
    with closing(connect(pipeline_url)) as other, transaction(other) as cursor:
        insert_aliases(cursor, tokens([("3", "4")]))
        insert(pipeline_url, ("1", "2"))
    assert aliases(database_url) == dict(tokens([("1", "2"), ("3", "4")]))
