"""Completing a rotation of the token key: duplicates are counted across it, also if it is killed or others work too."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread

import pytest

from loginpipe.common.errors import AccessRefusedError, DatabaseError, KeyFileError, OpeningError
from loginpipe.custody.access import request_access
from loginpipe.custody.erasure import request_erasure
from loginpipe.custody.opening import Opener, Problem
from loginpipe.custody.recovery import recover
from loginpipe.custody.rotation import Rotation, count_to_rotate, rotate, tokens_to_rotate
from loginpipe.custody.token_checks import TokenChecks
from loginpipe.masking.sealing import seal
from loginpipe.postgres.connections import Connection, transaction
from loginpipe.postgres.token_keys import check_token_keys
from loginpipe.postgres.vault import insert_sealed
from loginpipe_tests.custody import (
    REASON,
    Store,
    bulk,
    closing_psycopg2,
    connected,
    new_private_key,
    opener_of,
    token_keys,
    write_token_keys,
)
from loginpipe_tests.wire import eventually, login

CANONICAL = (
    "SELECT count(*), count(DISTINCT masked_device_id), count(DISTINCT masked_ip) FROM loginpipe.user_logins_canonical"
)


def devices(*numbers: int) -> list[str]:
    """Return a login from each of these devices, all from the same address."""
    return [login(user_id=f"user-{number}", device_id=f"device-{number}") for number in numbers]


def rotated(connection: Connection, store: Store, opener: Opener) -> Rotation:
    """Complete the rotation to the current version of a store's keys."""
    looked_at: list[int] = []
    pending = count_to_rotate(connection, store.keys.current)
    under = bulk(connection, "rotate", max(pending, 1))
    done = rotate(connection, under, opener, store.keys, store.recipients, progress=looked_at.append)
    assert sum(looked_at) == pending
    return done


def counts(done: Rotation) -> tuple[int, int, list[str]]:
    return done.rotated, done.sealed, sorted(error.problem for error in done.refused)


# --- what it does -----------------------------------------------------------------------------------------------------


def test_a_value_that_never_comes_back_gets_a_token_of_the_current_version_and_an_alias(
    store: Store, rotating: Connection, opener: Opener
) -> None:
    ((ip, device),) = store.load(login())
    later = store.with_keys(1, 2)
    assert counts(rotated(rotating, later, opener)) == (2, 2, [])
    new = [
        later.keys.tokens("device_id", [b"593-47-5928"])[0],
        later.keys.tokens("ip", [bytes([199, 172, 111, 135])])[0],
    ]
    assert store.rows("SELECT old_token, new_token FROM loginpipe.token_aliases ORDER BY 1") == [
        (device, new[0]),
        (ip, new[1]),
    ]
    assert store.rows("SELECT masked_ip, masked_device_id FROM loginpipe.user_logins_canonical") == [(new[1], new[0])]
    assert counts(rotated(rotating, later, opener)) == (0, 0, [])
    # The older key may be removed now: both the new token and the old one lead to the value.
    request = request_access(rotating, [new[0], device], REASON)
    recovery = recover(rotating, request.request_id, opener, TokenChecks(token_keys(2)), limit=10)
    assert [(value.subject, value.text, value.by_alias) for value in recovery.recovered] == [
        (new[0], "593-47-5928", False),
        (device, "593-47-5928", True),
    ]


def test_what_the_pipeline_has_seen_again_meanwhile_is_verified_and_not_sealed_again(
    store: Store, rotating: Connection, opener: Opener
) -> None:
    store.load(*devices(1, 2, 3))
    later = store.with_keys(1, 2)
    later.load(*devices(2))
    assert len(tokens_to_rotate(rotating, 2)) == count_to_rotate(rotating, 2) == 4
    assert counts(rotated(rotating, later, opener)) == (4, 2, [])
    assert count_to_rotate(rotating, 2) == 0


def test_over_three_versions_every_token_leads_to_the_newest(
    store: Store, rotating: Connection, opener: Opener
) -> None:
    """Logins come with the first two keys, two rotations are completed, and both older keys are gone at the end."""
    store.load(*devices(1, 2))
    store.with_keys(1, 2).load(*devices(1))
    rotated(rotating, store.with_keys(1, 2), opener)
    rotated(rotating, store.with_keys(1, 2, 3), opener)
    third = store.with_keys(3)
    third.load(*devices(1, 2))
    assert store.rows(CANONICAL) == [(5, 2, 1)]
    assert store.rows("SELECT count(*) FROM loginpipe.token_aliases WHERE new_token !~ '[.]v3[.]'") == [(0,)]


def test_an_alias_that_leads_to_a_version_in_between_is_led_on_to_the_newest(
    store: Store, rotating: Connection, opener: Opener
) -> None:
    ((_, first),) = store.load(*devices(1))
    ((_, second),) = store.with_keys(1, 2).load(*devices(1))
    store.execute("DELETE FROM vault.sealed_values WHERE token ~ '[.]v2[.]'")
    store.lose_token_key()
    last = store.with_keys(1, 3)
    assert counts(rotated(rotating, last, opener)) == (2, 2, [])
    (third,) = last.keys.tokens("device_id", [b"device-1"])
    assert set(store.rows("SELECT old_token, new_token FROM loginpipe.token_aliases WHERE new_token = %s", third)) == {
        (first, third),
        (second, third),
    }


def test_batches_are_of_256_and_each_is_on_record_under_the_bulk_request(
    store: Store, rotating: Connection, opener: Opener
) -> None:
    store.load(*devices(*range(300)))
    assert counts(rotated(rotating, store.with_keys(1, 2), opener)) == (301, 301, [])
    assert store.rows("SELECT action, cardinality(subjects), under IS NOT NULL FROM vault.access_log ORDER BY seq") == [
        ("request", None, False),
        ("request", 256, True),
        ("release", 256, True),
        ("request", 45, True),
        ("release", 45, True),
    ]


# --- what is refused --------------------------------------------------------------------------------------------------


def test_bad_values_stay_as_they_are_are_named_and_hold_up_nothing(
    store: Store, rotating: Connection, opener: Opener
) -> None:
    ((_, changed), (_, good)) = store.load(*devices(1, 2))
    store.execute("UPDATE vault.sealed_values SET ciphertext = set_byte(ciphertext, 3, 0) WHERE token = %s", changed)
    store.execute("UPDATE vault.sealed_values SET ciphertext = set_byte(ciphertext, 4, 0) WHERE token = %s", changed)
    (victim,) = store.keys.tokens("device_id", [b"victim"])
    with store.connection() as connection, transaction(connection) as cursor:
        insert_sealed(cursor, seal([(victim, b"another's")], "device_id", store.recipients))
    done = rotated(rotating, store.with_keys(1, 2), opener)
    assert counts(done) == (2, 2, [Problem.CHANGED, Problem.PLANTED])
    assert {error.subject for error in done.refused} == {changed, victim}
    aliased = {old for (old,) in store.rows("SELECT old_token FROM loginpipe.token_aliases")}
    assert good in aliased
    assert not {changed, victim} & aliased


def test_an_alias_that_was_planted_is_corrected_whatever_version_it_leads_to(
    store: Store, rotating: Connection, opener: Opener
) -> None:
    ((_, token), (_, other)) = store.load(*devices(1, 2))
    later = store.with_keys(1, 2, 3)
    (stranger,) = later.keys.tokens("device_id", [b"device-2"], 2)
    with store.connection() as connection:
        check_token_keys(connection, later.keys)
    store.execute("INSERT INTO loginpipe.token_aliases VALUES (%s, %s)", token, stranger)
    done = rotated(rotating, later, opener)
    assert (*counts(done), done.corrected) == (3, 3, [], 1)
    new = later.keys.tokens("device_id", [b"device-1", b"device-2"])
    for old, led_to in zip((token, other), new, strict=True):
        assert store.rows("SELECT new_token FROM loginpipe.token_aliases WHERE old_token = %s", old) == [(led_to,)]


def test_with_another_private_key_nothing_is_done(store: Store, rotating: Connection, tmp_path: Path) -> None:
    store.load(*devices(1, 2))
    new_private_key(tmp_path / "other.pem", 2048)
    with pytest.raises(OpeningError) as caught:
        rotated(rotating, store.with_keys(1, 2), opener_of(tmp_path / "other.pem"))
    assert caught.value.problem == Problem.OTHER_RECIPIENT
    assert store.rows("SELECT count(*) FROM loginpipe.token_aliases") == [(0,)]


def test_every_version_that_there_are_values_of_must_be_held(
    store: Store, rotating: Connection, opener: Opener
) -> None:
    store.load(*devices(1))
    store.lose_token_key()
    with pytest.raises(KeyFileError, match=r"LOGINPIPE_TOKEN_KEYS does not have version 1, "):
        rotated(rotating, store.with_keys(2, 3), opener)
    assert [action for _, action, _ in store.log()] == ["request"], "nothing was released for it"


def test_where_the_older_key_is_lost_values_are_joined_by_what_they_are_stored_as(
    store: Store, rotating: Connection, opener: Opener
) -> None:
    store.load(*devices(1, 2))
    (odd,) = store.keys.tokens("ip", [b"\x01\x02\x03\x04"])
    with store.connection() as connection, transaction(connection) as cursor:
        insert_sealed(cursor, seal([(odd, b"no address")], "ip", store.recipients))
    store.lose_token_key()
    later = store.with_keys(2)
    done = rotate(rotating, bulk(rotating, "rotate"), opener, later.keys, later.recipients, lost=[1])
    assert (*counts(done), done.unchecked) == (3, 3, [Problem.PLANTED], 3)
    later.load(*devices(1, 2))
    assert store.rows(CANONICAL) == [(4, 2, 1)]


def test_a_custodian_who_is_not_the_writer_as_well_cannot_rotate(
    store: Store, custodian: Connection, opener: Opener
) -> None:
    store.load(*devices(1))
    with pytest.raises(DatabaseError) as caught:
        rotated(custodian, store.with_keys(1, 2), opener)
    assert caught.value.sqlstate == "42501"


def test_a_bulk_request_that_is_not_approved_releases_nothing(
    store: Store, owner: Connection, rotating: Connection, opener: Opener
) -> None:
    from loginpipe.custody.access import set_second_person

    store.load(*devices(1))
    set_second_person(owner, required=True, ticket="TEST-2")
    with pytest.raises(AccessRefusedError) as caught:
        rotated(rotating, store.with_keys(1, 2), opener)
    assert caught.value.code == "needs_approval"


# --- beside others ----------------------------------------------------------------------------------------------------


def test_two_rotations_at_once_come_to_the_same_as_one(
    store: Store, rotator_url: str, rotating: Connection, opener: Opener
) -> None:
    store.load(*devices(*range(600)))
    later = store.with_keys(1, 2)
    done: list[Rotation] = []

    def run() -> None:
        with connected(rotator_url) as connection:
            done.append(rotate(connection, bulk(connection, "rotate"), opener, later.keys, later.recipients))

    threads = [Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.refused for each in done] == [[], []]
    assert sum(each.sealed for each in done) == 601, "each value was sealed once"
    assert count_to_rotate(rotating, 2) == 0
    assert store.rows("SELECT count(*) FROM loginpipe.token_aliases") == [(601,)]
    assert store.rows("SELECT count(*) FROM vault.sealed_values") == [(1202,)]
    assert store.rows(
        "SELECT count(*) FROM vault.sealed_values AS value "
        "WHERE NOT EXISTS (SELECT FROM vault.data_keys AS key WHERE key.data_key_id = value.data_key_id)"
    ) == [(0,)], "no value without its data key"


def test_a_user_who_is_erased_while_a_batch_is_open_is_not_brought_back(
    store: Store, rotator_url: str, custodian: Connection, opener: Opener
) -> None:
    """The batch waits for the erasure to commit, and then finds that the values are gone."""
    before = store.load(login(user_id="gone", device_id="of the one"), login(user_id="stays", device_id="of the other"))
    later = store.with_keys(1, 2)

    def run() -> None:
        with connected(rotator_url) as connection:
            under = bulk(connection, "rotate", 3)
            rotate(connection, under, opener, later.keys, later.recipients, progress=lambda _: None)

    thread = Thread(target=run)
    asked = request_erasure(custodian, "gone", store.keys.tombstones("gone"), REASON)
    of_nobody = request_erasure(custodian, "of nobody", {}, REASON)
    with custodian.cursor() as cursor:
        # Done but not committed. The rotation has already released the values when it waits here.
        cursor.execute("SELECT refusal FROM vault.erase_user(%s::uuid, '{}', '{}', '{}')", (str(of_nobody.request_id),))
        assert cursor.fetchall() == [(None,)]
        thread.start()
        eventually(lambda: waiting_for_a_lock(store) == 1, "the rotation waits for the erasure")
        own = [token for pair in before for token in pair]
        cursor.execute(
            "SELECT refusal, logins, sealed_values FROM vault.erase_user(%s::uuid, '{}', '{}', %s)",
            (str(asked.request_id), own),
        )
        assert cursor.fetchall() == [(None, 1, 1)]
    custodian.commit()
    thread.join()
    gone, stays = later.keys.tokens("device_id", [b"of the one", b"of the other"])
    tokens = {token for (token,) in store.rows("SELECT token FROM vault.sealed_values")}
    tokens |= {token for row in store.rows("SELECT old_token, new_token FROM loginpipe.token_aliases") for token in row}
    assert stays in tokens
    assert gone not in tokens
    assert store.keys.tokens("device_id", [b"of the one"])[0] not in tokens


def waiting_for_a_lock(store: Store) -> int:
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    ((count,),) = store.rows(query)
    return int(count)


# --- killed, started again -------------------------------------------------------------------------------------------

DEVICES = 1_300


@dataclass(frozen=True)
class Command:
    """`loginpipe pii rotate`, in its own process."""

    folder: Path
    environment: dict[str, str]

    @contextmanager
    def started(self) -> Iterator["subprocess.Popen[bytes]"]:
        program = Path(sys.executable).parent / "loginpipe"
        command = [program, "pii", "rotate", "--purpose", "a test of rotation", "--ticket", "TEST-1", "--json"]
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def log(self) -> str:
        return (self.folder / "log").read_text()


@pytest.fixture
def command(tmp_path: Path, rotator_url: str, seal_public: Path) -> Command:
    write_token_keys(tmp_path / "tokens.json", 1, 2)
    settings = {
        "LOGINPIPE_DATABASE_URL": rotator_url,
        "LOGINPIPE_TOKEN_KEYS": f"file:{tmp_path / 'tokens.json'}",
        "LOGINPIPE_SEAL_KEY": f"file:{seal_public}",
    }
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(Path(__file__).parents[3])]))
    return Command(tmp_path, {**kept, **settings, "PYTHONPATH": path})


def aliases(store: Store) -> int:
    ((count,),) = store.rows("SELECT count(*) FROM loginpipe.token_aliases")
    return int(count)


@contextmanager
def second_batch_held_up(store: Store) -> Iterator[None]:
    """Let a rotation write the aliases of one batch. The next batch has sealed its values when it is held up."""
    store.execute(
        f"""
        CREATE TABLE public.gate AS SELECT;
        CREATE FUNCTION public.hold_up() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
        BEGIN
            IF (SELECT count(*) FROM loginpipe.token_aliases) > {aliases(store)} THEN
                PERFORM FROM public.gate FOR SHARE;
            END IF;
            RETURN NULL;
        END $$;
        CREATE TRIGGER hold_up BEFORE INSERT ON loginpipe.token_aliases EXECUTE FUNCTION public.hold_up();
        """
    )
    with closing_psycopg2(store.database_url) as cursor:
        cursor.execute("SELECT FROM public.gate FOR UPDATE")
        yield
    store.execute("DROP TRIGGER hold_up ON loginpipe.token_aliases")


def test_duplicates_are_counted_across_a_rotation_that_was_killed_half_way_and_begun_again(
    store: Store, rotating: Connection, command: Command
) -> None:
    store.load(*devices(*range(DEVICES)))
    both = store.with_keys(1, 2)
    both.load(*devices(*range(0, DEVICES, 13)))
    pending = count_to_rotate(rotating, 2)
    assert pending == DEVICES + 1

    with second_batch_held_up(store), command.started() as process:
        eventually(lambda: waiting_for_a_lock(store) == 1, "a batch half-way through", 120)
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
    eventually(lambda: waiting_for_a_lock(store) == 0, "the server notices")
    half = count_to_rotate(rotating, 2)
    assert 0 < half < pending
    assert (pending - half) % 256 == 0, "whole batches, and nothing of the one it was killed in"
    assert store.rows("SELECT count(*) FROM vault.sealed_values WHERE token ~ '[.]v2[.]'") == [(aliases(store),)]
    # The pipeline does not wait for the rotation.
    both.load(*devices(*range(0, DEVICES, 7)))

    with command.started() as process:
        assert process.wait(120) == 0, command.log()
    assert count_to_rotate(rotating, 2) == 0
    assert json.loads(command.log())["refused"] == []

    replace(store, keys=token_keys(2)).load(*devices(*range(DEVICES)))
    logins = 2 * DEVICES + len(range(0, DEVICES, 13)) + len(range(0, DEVICES, 7))
    assert store.rows(CANONICAL) == [(logins, DEVICES, 1)]
    assert store.rows("SELECT count(DISTINCT masked_device_id) FROM user_logins") == [(2 * DEVICES,)]
    once = "SELECT FROM loginpipe.user_logins_canonical GROUP BY masked_device_id HAVING count(*) < 2"
    assert store.rows(f"SELECT count(*) FROM ({once}) AS seen_once") == [(0,)]
