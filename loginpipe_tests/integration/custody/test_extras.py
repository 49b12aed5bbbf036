"""Unknown fields of logins in the database: stored once, joined with their rows, recovered, erased."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from loginpipe.common.logins_table import DEFAULT_TABLE as USER_LOGINS
from loginpipe.custody.access import request_access
from loginpipe.custody.opening import Opener
from loginpipe.custody.recovery import recover
from loginpipe.custody.token_checks import TokenChecks
from loginpipe.ingest.record import record_batch
from loginpipe.logins.extras import UnknownFields
from loginpipe.postgres.connections import Connection
from loginpipe.postgres.partitions import EXTRAS, month_of
from loginpipe_tests.batches import again, processed, received
from loginpipe_tests.conftest import execute
from loginpipe_tests.custody import REASON, Store, erased
from loginpipe_tests.wire import login

KEPT = "SELECT user_id, extras, sealed_extras IS NOT NULL FROM loginpipe.login_extras ORDER BY 1"
NOW = datetime.now(UTC)


@pytest.fixture
def named(store: Store) -> Store:
    """Return a store with a field that is stored in clear."""
    return replace(store, unknown_fields=UnknownFields(frozenset({"country"})))


def test_extras_are_kept_with_new_logins_alone_and_a_custodian_can_open_what_is_sealed(
    named: Store, custodian: Connection, opener: Opener
) -> None:
    messages = received(
        [
            login(user_id="both", country="DE", session="s-1"), login(user_id="clear", country="FR"),
            login(user_id="sealed", n=10**30), login(user_id="neither"), "no JSON",
        ]
    )  # fmt: skip
    outcome = processed(messages, named.masking)
    with named.connection() as connection:
        record_batch(connection, outcome, queue="q")
        before = named.rows("SELECT * FROM loginpipe.login_extras ORDER BY 1"), named.rows("TABLE vault.data_keys")
        # Delivered again, sealed with other data keys.
        record_batch(connection, again(outcome), queue="q")
        record_batch(connection, processed(messages, named.masking), queue="q")
    assert named.rows(KEPT) == [
        ("both", {"country": "DE"}, True), ("clear", {"country": "FR"}, False), ("sealed", None, True)
    ]  # fmt: skip
    after = named.rows("SELECT * FROM loginpipe.login_extras ORDER BY 1"), named.rows("TABLE vault.data_keys")
    assert after == before
    same = "user_id, device_type, masked_ip, masked_device_id, locale, app_version, create_date"
    rows = named.rows(f"SELECT {same} FROM loginpipe.login_extras ORDER BY 1")
    assert rows == named.rows(f"SELECT {same} FROM user_logins WHERE user_id <> 'neither' ORDER BY 1")

    asked = [messages[0].message_id, messages[2].message_id]
    request = request_access(custodian, asked, REASON)
    recovery = recover(custodian, request.request_id, opener, TokenChecks(named.keys), limit=10)
    assert (recovery.refused, recovery.missing) == ([], [])
    found = [(value.field_name, value.text) for value in recovery.recovered]
    assert found == [("extras", '{"session":"s-1"}'), ("extras", f'{{"n":{10**30}}}')]


HARD = {
    "NUL": r'"a\u0000b"',
    "a NUL in a name": r'{"\u0000": 1}',
    "deep": "[" * 1000 + "]" * 1000,
    "a huge integer": "1" * 300,
    "as small as may be": "1e-90000",
    "a mebibyte": '"' + "x" * 1_000_000 + '"',
    "what COPY escapes": r'"\\N\t\n\r\\. \" \\"',
    "characters": '"\u2028\U0001f600\u00e9"',
    "a list": "[1.10, {}, [], null, true]",
}


def test_no_value_that_is_json_keeps_a_login_out(store: Store) -> None:
    named = replace(store, unknown_fields=UnknownFields(frozenset({"x"})))
    for value in HARD.values():
        named.load(login()[:-1] + f', "x": {value}, "y": {value}}}')
        store.load(login()[:-1] + f', "x": {value}}}')
    kept = named.rows("SELECT extras IS NOT NULL, sealed_extras IS NOT NULL FROM loginpipe.login_extras")
    assert Counter(kept) == {(True, True): len(HARD) - 3, (False, True): len(HARD) + 3}
    assert named.rows("SELECT count(*) FROM loginpipe.rejected_messages") == [(0,)]


def test_the_view_gives_each_login_its_own_extras_and_reads_no_other_month(named: Store, analyst_url: str) -> None:
    def shown(statement: str) -> list[tuple[Any, ...]]:
        return execute(analyst_url, statement)

    yesterday = NOW - timedelta(days=1)
    equal = [login(country="DE"), login(country="FR"), login(), login(session="s"), login()]
    named.load(*equal, sent_at=NOW)
    named.load(login(country="IT"), sent_at=yesterday)
    named.load(login(device_type="ios"), login(device_type="web", country="ES", locale=None), sent_at=NOW)
    named.load(login(device_type="web", locale=None), login(device_type="web", locale=""), sent_at=NOW)
    view = "SELECT device_type, locale, create_date, extras->>'country' FROM loginpipe.user_logins_with_extras"
    today, before = NOW.date(), yesterday.date()
    assert Counter(shown(view)) == Counter(
        [
            *(("android", "RU", today, country) for country in ("DE", "FR", None, None, None)),
            ("android", "RU", before, "IT"), ("ios", "RU", today, None),
            ("web", None, today, "ES"), ("web", None, today, None), ("web", "", today, None),
        ]
    )  # fmt: skip
    columns = "user_id, device_type, masked_ip, masked_device_id, locale, app_version, create_date"
    assert Counter(shown(f"SELECT {columns} FROM loginpipe.user_logins_with_extras")) == Counter(
        shown(f"SELECT {columns} FROM user_logins")
    )
    plan = "\n".join(
        line
        for (line,) in shown(
            "EXPLAIN SELECT count(extras) FROM loginpipe.user_logins_with_extras "
            f"WHERE create_date >= '{today}' AND create_date < '{today + timedelta(days=1)}'"
        )
    )
    for table in (USER_LOGINS, EXTRAS):
        mine, other = month_of(today, table).name, month_of(today.replace(day=1) - timedelta(days=1), table).name
        assert mine in plan
        assert other not in plan


def test_an_erased_user_s_extras_go_and_no_one_else_s(named: Store, custodian: Connection) -> None:
    for user in ("zo\u00eb", "stays"):
        named.load(login(user_id=user, device_id=f"of {user}", country="DE", session="s"))
        named.load(login(user_id=user, session="s"))
    # One more with another spelling of the same id, and one as if the month of its login had been dropped.
    named.load(login(user_id="zoe\u0308", device_id="x", session="s"))
    named.execute("DELETE FROM user_logins WHERE masked_device_id = (SELECT min(masked_device_id) FROM user_logins)")
    erased(custodian, "zo\u00eb", named.keys)
    assert {user for user, _, _ in named.rows(KEPT)} == {"stays"}
    assert len(named.rows(KEPT)) == 2
    ((_, _, detail),) = [entry for entry in named.log() if entry[1] == "erasure"]
    assert " extras=3 " in detail
