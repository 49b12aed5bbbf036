"""Check values of token keys in a real database: the right key passes, a wrong one is reported before it is used."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from loginpipe.common.errors import TokenKeyMismatchError
from loginpipe.masking.key_files import generate_token_keys, read_token_keys
from loginpipe.masking.tokens import TokenKeys, derive_field_keys
from loginpipe.postgres.connections import Connection, connect, transaction
from loginpipe.postgres.token_keys import check_token_keys
from loginpipe_tests.conftest import execute

FIRST, SECOND, OTHER = (bytes([number]) * 32 for number in (1, 2, 3))


def token_keys(current: int | None = None, **keys: bytes) -> TokenKeys:
    """Return token keys by version, ``v1=…, v2=…``; the newest is current unless ``current`` is given."""
    field_keys = {int(version.removeprefix("v")): derive_field_keys(key) for version, key in keys.items()}
    return TokenKeys(current or max(field_keys), field_keys)


def check_values(**keys: bytes) -> dict[int, bytes]:
    return token_keys(**keys).check_values()


@pytest.fixture
def connection(pipeline_url: str) -> Iterator[Connection]:
    connection = connect(pipeline_url)
    yield connection
    connection.close()


def recorded(connection: Connection) -> dict[int, bytes]:
    with transaction(connection) as cursor:
        cursor.execute("SELECT key_version, check_value FROM loginpipe.token_key_checks")
        return {version: bytes(value) for version, value in cursor}


def test_the_first_key_is_recorded_and_passes_from_then_on(connection: Connection) -> None:
    check_token_keys(connection, token_keys(v1=FIRST))
    check_token_keys(connection, token_keys(v1=FIRST))
    assert recorded(connection) == check_values(v1=FIRST)


def test_a_new_version_is_recorded_beside_the_old_one(connection: Connection) -> None:
    check_token_keys(connection, token_keys(v1=FIRST))
    check_token_keys(connection, token_keys(v1=FIRST, v2=SECOND))
    assert recorded(connection) == check_values(v1=FIRST, v2=SECOND)


def test_a_new_version_takes_the_newest_one_or_the_owners_word_that_it_is_lost(
    connection: Connection, owner_url: str
) -> None:
    check_token_keys(connection, token_keys(v1=FIRST))
    check_token_keys(connection, token_keys(v1=FIRST, v2=SECOND))
    for without in (token_keys(v3=OTHER), token_keys(v1=FIRST, v3=OTHER)):
        with pytest.raises(TokenKeyMismatchError) as refusal:
            check_token_keys(connection, without)
        said = str(refusal.value)
        assert said.startswith("token key version 3 is new to this database, and the newest version it knows is not ")
        assert "\n" not in said
    assert recorded(connection) == check_values(v1=FIRST, v2=SECOND)
    execute(owner_url, said.split("`")[3])
    check_token_keys(connection, token_keys(v3=OTHER))
    check_token_keys(connection, token_keys(v3=OTHER, v4=FIRST))
    with pytest.raises(TokenKeyMismatchError, match=r"^token key version 5 is new "):
        check_token_keys(connection, token_keys(v3=OTHER, v5=SECOND))


def test_a_current_version_older_than_one_that_was_used_is_refused_and_says_what_to_do(connection: Connection) -> None:
    check_token_keys(connection, token_keys(v1=FIRST, v2=SECOND))
    for stale in (token_keys(v1=FIRST), token_keys(v1=FIRST, v2=SECOND, current=1)):
        with pytest.raises(TokenKeyMismatchError) as refusal:
            check_token_keys(connection, stale)
        assert str(refusal.value) == (
            "the current token key is version 1, and this database has tokens of version 2 already: give this machine "
            "the keys with version 2, and make that the current one"
        )
    assert recorded(connection) == check_values(v1=FIRST, v2=SECOND)


def test_a_version_that_is_handed_out_before_it_is_used_is_not_recorded_yet(connection: Connection) -> None:
    for _ in range(2):
        check_token_keys(connection, token_keys(v1=FIRST, v2=SECOND, current=1))
        assert recorded(connection) == check_values(v1=FIRST)
    check_token_keys(connection, token_keys(v1=FIRST, v2=SECOND))
    assert recorded(connection) == check_values(v1=FIRST, v2=SECOND)


@pytest.mark.parametrize("wrong", [{"v1": OTHER}, {"v1": OTHER, "v2": SECOND}], ids=["alone", "beside a new version"])
def test_a_wrong_key_is_refused_and_nothing_is_recorded(connection: Connection, wrong: dict[str, bytes]) -> None:
    check_token_keys(connection, token_keys(v1=FIRST))
    with pytest.raises(TokenKeyMismatchError, match=r"^token key version 1 is not the key .* or use another database$"):
        check_token_keys(connection, token_keys(**wrong))
    assert recorded(connection) == check_values(v1=FIRST)


def test_a_new_version_with_an_old_key_is_taken_for_what_it_is(connection: Connection) -> None:
    check_token_keys(connection, token_keys(v1=FIRST, v2=SECOND))
    with pytest.raises(TokenKeyMismatchError, match="token key version 2"):
        check_token_keys(connection, token_keys(v1=FIRST, v2=FIRST))


def test_of_two_programs_that_start_at_once_with_different_keys_one_is_refused(pipeline_url: str) -> None:
    both_connected = Barrier(2)

    def start(key: bytes) -> bool:
        connection = connect(pipeline_url)
        try:
            both_connected.wait(timeout=30)
            check_token_keys(connection, token_keys(v1=key))
        except TokenKeyMismatchError:
            return False
        finally:
            connection.close()
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(start, (FIRST, OTHER))) == [False, True]


def test_what_is_recorded_is_no_key(connection: Connection, tmp_path: Path) -> None:
    path = tmp_path / "token_keys.json"
    generate_token_keys(path, development=True)
    keys = read_token_keys(path)
    check_token_keys(connection, keys)
    (value,) = recorded(connection).values()
    assert len(value) == 32
    assert value not in keys.field_keys[1].values()
    assert value.hex() not in path.read_text()
