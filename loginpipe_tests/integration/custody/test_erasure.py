"""Erasing a user: what is deleted, what is kept because others share it, and what rejects their later messages."""

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from loginpipe.common.errors import AccessRefusedError, DatabaseError, LoginpipeError
from loginpipe.custody.access import Reason
from loginpipe.custody.erasure import Erasure
from loginpipe.custody.replay import replay
from loginpipe.ingest.process import Outcome, process_batch
from loginpipe.masking.key_files import read_seal_key, read_token_keys
from loginpipe.masking.sealing import seal
from loginpipe.masking.tokens import TokenKeys
from loginpipe.postgres.connections import Connection
from loginpipe.postgres.ledger import RejectFilter, find_rejects
from loginpipe_tests.conftest import KeyFiles, Pipeline
from loginpipe_tests.custody import REASON, bulk, closing_psycopg2, connected, opener_of, write_token_keys
from loginpipe_tests.custody import erased as erase_user
from loginpipe_tests.wire import checks, ingest, login, tables, take

GONE = "424cdd21-063a-43a7-b91b-7ca1a833afae"
SHARED, OWN = "203.0.113.77", "198.51.100.4"


@pytest.fixture
def keys(key_files: KeyFiles) -> TokenKeys:
    return read_token_keys(key_files.token_keys)


def erased(custodian: Connection, keys: TokenKeys, user: str = GONE) -> Erasure:
    return erase_user(custodian, user, keys)


def users(pipeline: Pipeline) -> list[str]:
    return [user for (user,) in pipeline.rows("SELECT user_id FROM user_logins ORDER BY user_id")]


def rejects(pipeline: Pipeline) -> list[tuple[list[str], bool]]:
    """Return the reasons of each reject, and whether its sealed body is kept."""
    return pipeline.rows(
        "SELECT reasons, sealed_body IS NOT NULL FROM loginpipe.rejected_messages ORDER BY received_at, reasons"
    )


def test_logins_go_and_the_sealed_values_that_no_one_shares(
    pipeline: Pipeline, custodian: Connection, keys: TokenKeys
) -> None:
    bodies = [
        login(user_id=GONE, ip=SHARED, device_id="own device"),
        login(user_id=GONE, ip=OWN, device_id="family device"),
        login(user_id="stays", ip=SHARED, device_id="family device"),
    ]
    ingest(pipeline, *bodies)
    left = pipeline.rows("SELECT masked_ip, masked_device_id FROM user_logins WHERE user_id = 'stays'")[0]
    assert erased(custodian, keys) == Erasure(logins=2, sealed_values=2, kept=tuple(sorted(left)))
    assert users(pipeline) == ["stays"]
    assert {token for (token,) in pipeline.rows("SELECT token FROM vault.sealed_values")} == set(left)
    assert pipeline.rows("SELECT action, purpose, ticket, detail FROM vault.access_log ORDER BY seq") == [
        ("request", REASON.purpose, REASON.ticket, "erasure"),
        ("release", None, None, "erasure: 0 aliases to verify"),
        ("erasure", None, None, "logins=2 sealed_values=2 aliases=0 extras=0 kept=2"),
    ]
    everywhere = "\n".join(row for rows in tables(pipeline).values() for row in rows)
    assert GONE not in everywhere, "the log neither"


def test_messages_from_before_come_again_and_leave_nothing(
    pipeline: Pipeline, custodian: Connection, keys: TokenKeys
) -> None:
    pipeline.send([login(user_id=GONE), login(user_id="stays", device_id="another", ip=OWN)])
    assert erased(custodian, keys) == Erasure(0, 0)
    result = take(pipeline, 2)
    assert result.success
    assert users(pipeline) == ["stays"]
    assert rejects(pipeline) == [(["user_erased"], False)]
    assert pipeline.rows("SELECT count(*) FROM vault.sealed_values") == [(2,)]
    assert checks(result)["reject_rate"], "the producer is not to blame"
    assert checks(result)["counts_add_up"]
    assert pipeline.depth() == (0, 0)


def test_a_later_login_of_the_same_user_is_a_new_one(
    pipeline: Pipeline, custodian: Connection, keys: TokenKeys
) -> None:
    ingest(pipeline, login(user_id=GONE))
    erased(custodian, keys)
    ingest(pipeline, login(user_id=GONE, device_id="new device"))
    assert users(pipeline) == [GONE]
    assert rejects(pipeline) == []


def test_a_login_that_was_loaded_and_is_delivered_again_after_the_erasure_is_a_duplicate(
    pipeline: Pipeline, custodian: Connection, keys: TokenKeys
) -> None:
    ingest(pipeline, login(user_id=GONE))
    ((message_id, sent_on),) = pipeline.rows("SELECT message_id::text, sent_on FROM loginpipe.ingested_messages")
    erased(custodian, keys)
    # As a redrive sends it: with its first id and sent time.
    attributes: Mapping[str, Any] = {
        "loginpipe.redrive_of": {"DataType": "String", "StringValue": message_id},
        "loginpipe.sent_ms": {"DataType": "String", "StringValue": str(sent_ms(sent_on))},
    }
    pipeline.queue.client.send_message(
        QueueUrl=pipeline.queue.url, MessageBody=login(user_id=GONE), MessageAttributes=attributes
    )
    assert take(pipeline, 1).success
    assert users(pipeline) == []
    assert rejects(pipeline) == []
    assert pipeline.depth() == (0, 0)
    assert pipeline.rows("SELECT received, rejected, duplicates FROM loginpipe.batches ORDER BY recorded_at")[-1] == (
        1,
        0,
        1,
    )


def sent_ms(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)


def test_a_reject_that_is_replayed_after_its_user_was_erased_leaves_nothing(
    pipeline: Pipeline, custodian: Connection, keys: TokenKeys, key_files: KeyFiles
) -> None:
    ingest(pipeline, login(user_id=GONE, app_version="not yet"))
    ((message_id,),) = pipeline.rows("SELECT message_id::text FROM loginpipe.rejected_messages")
    # As if the rules had been stricter at that time: the sealed body is a good login.
    sealed = seal([(message_id, login(user_id=GONE).encode())], "body", [read_seal_key(key_files.seal_public)])
    (value,), (key,) = sealed.values, sealed.data_keys
    with closing_psycopg2(pipeline.database_url) as cursor:
        cursor.execute(
            "INSERT INTO vault.data_keys (data_key_id, recipient, wrapped_key) VALUES (%s, %s, %s)",
            (str(key.data_key_id), key.recipient, key.wrapped_key),
        )
        cursor.execute(
            "UPDATE loginpipe.rejected_messages SET sealed_body = %s, data_key_id = %s, position = %s",
            (value.ciphertext, str(key.data_key_id), value.position),
        )
    erased(custodian, keys)
    found = find_rejects(custodian, RejectFilter())
    assert replay(custodian, pipeline.queue, opener_of(key_files.seal_private), found, bulk(custodian)).sent == 1
    assert take(pipeline, 1).success
    assert users(pipeline) == []
    assert rejects(pipeline) == [(["invalid_version"], True), (["user_erased"], False)]
    assert pipeline.rows("SELECT count(*) FROM vault.sealed_values") == [(0,)]


@pytest.mark.parametrize("made_under", [1, 2])
def test_a_tombstone_of_every_version_that_was_held_keeps_its_force(
    pipeline: Pipeline, custodian: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made_under: int
) -> None:
    for name, versions in (("both", (1, 2)), ("one", (made_under,))):
        write_token_keys(tmp_path / name, *versions)
    pipeline.send([login(user_id=GONE)])
    erased(custodian, read_token_keys(tmp_path / "both"))
    monkeypatch.setenv("LOGINPIPE_TOKEN_KEYS", f"file:{tmp_path / 'one'}")
    assert take(pipeline, 1).success
    assert users(pipeline) == []
    assert rejects(pipeline) == [(["user_erased"], False)]


def once_processed(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], object]) -> None:
    """Call ``act`` once, after ``number`` batches were processed and before the last of them is recorded."""
    processed = count(1)

    def process(*arguments: Any, **named: Any) -> Outcome:
        outcome = process_batch(*arguments, **named)
        if next(processed) == number:
            act()
        return outcome

    monkeypatch.setattr("loginpipe.ingest.record.process_batch", process)


def test_a_user_who_is_erased_while_a_run_is_active_is_not_brought_back_and_the_run_succeeds(
    pipeline: Pipeline, custodian: Connection, keys: TokenKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Erasure] = []
    once_processed(monkeypatch, 2, lambda: done.append(erased(custodian, keys)))
    bodies = [
        body
        for i in range(6)
        for body in (login(user_id=GONE, ip=OWN, device_id=f"own {i}"), login(user_id=f"stays {i}", ip=SHARED))
    ]
    pipeline.send(bodies)
    result = take(pipeline, 4)
    assert result.success
    assert users(pipeline) == [f"stays {i}" for i in range(6)]
    (erasure,) = done
    assert erasure.logins == 2, "those of the first batch"
    assert rejects(pipeline) == [(["user_erased"], False)] * 4
    assert pipeline.rows("SELECT count(*) FROM vault.sealed_values") == [(2,)], "of those who stay"
    counts = "SELECT received, inserted, rejected FROM loginpipe.batches ORDER BY recorded_at"
    assert pipeline.rows(counts) == [(4, 4, 0), (4, 2, 2), (4, 2, 2)]
    assert checks(result)["counts_add_up"]
    assert pipeline.depth() == (0, 0)


def test_a_second_erasure_of_the_same_user_is_noticed_too(
    pipeline: Pipeline, custodian: Connection, keys: TokenKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    erased(custodian, keys)
    once_processed(monkeypatch, 1, lambda: erased(custodian, keys))
    pipeline.send([login(user_id=GONE)])
    assert take(pipeline, 1).success
    assert users(pipeline) == []
    assert rejects(pipeline) == [(["user_erased"], False)]


def test_without_a_purpose_and_a_ticket_no_one_is_erased(
    pipeline: Pipeline, custodian: Connection, keys: TokenKeys
) -> None:
    ingest(pipeline, login(user_id=GONE))
    for reason, code in ((Reason("short", "TEST-1"), "purpose_too_short"), (Reason(REASON.purpose, " "), "no_ticket")):
        with pytest.raises(AccessRefusedError) as caught:
            erase_user(custodian, GONE, keys, reason=reason)
        assert caught.value.code == code
    assert users(pipeline) == [GONE]
    assert pipeline.rows("SELECT action, detail FROM vault.access_log") == [
        ("refusal", "erasure: purpose_too_short"),
        ("refusal", "erasure: no_ticket"),
    ]


@pytest.mark.parametrize("user", ["", "  ", "\u00a0"])
def test_a_blank_user_id_is_refused(custodian: Connection, keys: TokenKeys, user: str) -> None:
    with pytest.raises(LoginpipeError, match=r"^the user id is blank: "):
        erased(custodian, keys, user)


def test_the_pipelines_role_may_not_erase(pipeline: Pipeline, keys: TokenKeys, pipeline_url: str) -> None:
    with connected(pipeline_url) as connection, pytest.raises(DatabaseError) as caught:
        erased(connection, keys)
    assert caught.value.sqlstate == "42501"
