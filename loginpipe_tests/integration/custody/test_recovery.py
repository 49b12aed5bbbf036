"""Values recovered through the database, and what is refused if the vault was tampered with."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from loginpipe.common.errors import LoginpipeError
from loginpipe.custody.access import Reason, request_access
from loginpipe.custody.opening import Opener, Problem
from loginpipe.custody.recovery import Recovery, recover
from loginpipe.custody.token_checks import TokenChecks
from loginpipe.masking.compat import BASE64, MD5, PLAIN, SALTED, CompatMasking
from loginpipe.masking.sealing import SealKey, seal
from loginpipe.postgres.connections import Connection, transaction
from loginpipe.postgres.vault import insert_sealed
from loginpipe_tests.custody import REASON, Store, new_private_key, opener_of, plant_sealed
from loginpipe_tests.wire import login

IP, DEVICE = "199.172.111.135", "593-47-5928"


@dataclass(frozen=True)
class Custodian:
    """Requests and recovers in one step."""

    connection: Connection
    store: Store
    opener: Opener
    schemes: tuple[CompatMasking, ...] = ()

    def recover(self, *asked: str, limit: int = 10) -> Recovery:
        request = request_access(self.connection, asked, REASON)
        assert not request.needs_approval
        checks = TokenChecks(self.store.keys, self.schemes)
        return recover(self.connection, request.request_id, self.opener, checks, limit=limit)

    def clear(self, *asked: str) -> list[str]:
        """Return the values of tokens; fail if one is refused or missing."""
        recovery = self.recover(*asked)
        assert (recovery.refused, recovery.missing) == ([], [])
        return [value.text for value in recovery.recovered]

    def problems(self, *asked: str) -> list[str]:
        """Return the problem of each value; fail if one is recovered."""
        recovery = self.recover(*asked)
        assert (recovery.recovered, recovery.missing) == ([], [])
        for error in recovery.refused:
            assert not [clear for clear in (IP, DEVICE, "203.0.113.9") if clear in str(error)]
            assert "\n" not in str(error)
        return [error.problem for error in recovery.refused]


@pytest.fixture
def custody(custodian: Connection, store: Store, opener: Opener) -> Custodian:
    return Custodian(custodian, store, opener)


@pytest.fixture
def tokens(store: Store) -> tuple[str, str]:
    """Return the tokens of the address and the device of a stored login."""
    (tokens,) = store.load(login())
    return tokens


# --- there and back ---------------------------------------------------------------------------------------------------


def test_what_was_loaded_is_recovered_by_its_tokens_and_both_steps_are_on_record(
    custody: Custodian, tokens: tuple[str, str]
) -> None:
    recovery = custody.recover(*tokens)
    assert [(v.subject, v.field_name, v.text, v.by_alias) for v in recovery.recovered] == [
        (tokens[0], "ip", IP, False),
        (tokens[1], "device_id", DEVICE, False),
    ]
    assert (recovery.refused, recovery.missing) == ([], [])
    assert custody.store.log() == [("custodian", "request", None), ("custodian", "release", "2 of 2 found")]


@pytest.mark.parametrize(
    ("sent", "canonical"),
    [("::ffff:199.172.111.135", IP), ("2001:DB8:0:0:0:0:0:1", "2001:db8::1"), (" 127.0.0.1 ", "127.0.0.1")],
)
def test_an_address_is_recovered_as_the_token_stands_for_it(
    custody: Custodian, store: Store, sent: str, canonical: str
) -> None:
    ((ip, _),) = store.load(login(ip=sent))
    assert custody.clear(ip) == [canonical]


def test_values_of_several_data_keys_and_fields_come_in_the_order_asked(custody: Custodian, store: Store) -> None:
    devices = [store.load(login(device_id=f"device-{number}"))[0][1] for number in range(5)]
    assert custody.clear(*reversed(devices)) == [f"device-{number}" for number in reversed(range(5))]


def test_the_body_of_a_rejected_message_is_recovered_by_its_id(custody: Custodian, store: Store) -> None:
    bodies = ["no JSON", login(ip="nowhere")]
    ids = store.reject(*bodies)
    assert custody.clear(*ids) == bodies


def test_what_is_not_in_the_vault_is_missing_and_the_rest_is_recovered(
    custody: Custodian, tokens: tuple[str, str]
) -> None:
    (nothing,) = custody.store.keys.tokens("device_id", [b"never seen"])
    recovery = custody.recover(nothing, tokens[0])
    assert [value.text for value in recovery.recovered] == [IP]
    assert recovery.missing == [nothing]


def test_more_values_than_meant_are_not_opened(custody: Custodian, store: Store) -> None:
    devices = [store.load(login(device_id=f"device-{number}"))[0][1] for number in range(3)]
    with pytest.raises(LoginpipeError, match=r"^the request has 3 values, more than --limit 2: none was opened"):
        custody.recover(*devices, limit=2)
    assert len(custody.recover(*devices, limit=3).recovered) == 3


# --- across versions of the token key ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sealed", ["older", "newer"])
def test_a_value_that_is_sealed_under_the_other_version_alone_is_found_by_the_alias(
    custody: Custodian, store: Store, sealed: str
) -> None:
    ((_, old),) = store.load(login())
    later = store.with_keys(1, 2)
    ((_, new),) = later.load(login())
    kept, other = (old, new) if sealed == "older" else (new, old)
    store.execute("DELETE FROM vault.sealed_values WHERE token = %s", other)
    custody = replace(custody, store=later)
    assert custody.clear(other) == custody.clear(kept) == [DEVICE]
    requested = store.rows("SELECT subjects FROM vault.access_log WHERE action = 'request' ORDER BY seq LIMIT 1")
    assert requested == [([other],)], "of the value, not of its family"


def test_where_the_older_key_is_gone_the_alias_is_what_is_checked(custody: Custodian, store: Store) -> None:
    ((_, old),) = store.load(login())
    store.with_keys(1, 2).load(login())
    custody = replace(custody, store=store.with_keys(2))
    ((value,),) = (custody.recover(old).recovered,)
    assert (value.text, value.by_alias) == (DEVICE, True)


def test_an_alias_that_was_planted_leads_to_nothing(custody: Custodian, store: Store) -> None:
    ((_, victim), (_, other)) = store.with_keys(2).load(login(device_id="victim"), login(device_id="other"))
    (asked,) = store.keys.tokens("device_id", [b"never loaded"])
    with store.connection() as connection, transaction(connection) as cursor:
        cursor.execute("INSERT INTO loginpipe.token_aliases VALUES (%s, %s)", (asked, victim))
    assert replace(custody, store=store.with_keys(1, 2)).problems(asked) == [Problem.ALIAS_PLANTED]
    assert other != victim


# --- of an older masking ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scheme", [CompatMasking(MD5), CompatMasking(BASE64), CompatMasking(PLAIN), CompatMasking(SALTED, b"salt")], ids=str
)
def test_a_value_under_a_token_of_an_older_scheme_is_recovered_and_compared(
    custody: Custodian, store: Store, scheme: CompatMasking
) -> None:
    """They are recovered as received, because those schemes masked values as received."""
    ((ip, device),) = replace(store, compat=scheme).load(login(ip="::ffff:199.172.111.135"))
    (victim,) = scheme.tokens([b"victim"])
    with store.connection() as connection, transaction(connection) as cursor:
        insert_sealed(cursor, seal([(victim, b"another's")], "device_id", store.recipients))
    custody = replace(custody, schemes=(scheme,))
    assert custody.clear(ip, device) == ["::ffff:199.172.111.135", DEVICE]
    # A token of the plain scheme looks like one of the salted scheme, which cannot be checked without its salt.
    assert custody.problems(victim) == [Problem.UNCHECKED if scheme.name == PLAIN else Problem.PLANTED]
    assert replace(custody, schemes=()).problems(ip) == [Problem.UNCHECKED]


# --- several recipients -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> tuple[SealKey, Opener]:
    """Return the break-glass key: the public key, and an opener with the private key."""
    path = tmp_path_factory.mktemp("offline") / "private.pem"
    return new_private_key(path), opener_of(path)


def test_each_of_several_recipients_opens_what_was_sealed_for_them(
    custody: Custodian, store: Store, offline: tuple[SealKey, Opener]
) -> None:
    key, opener = offline
    ((ip, _),) = replace(store, recipients=(*store.recipients, key)).load(login())
    assert custody.clear(ip) == replace(custody, opener=opener).clear(ip) == [IP]


def test_a_data_key_for_another_recipient_is_an_error_of_its_own_that_names_them(
    custody: Custodian, tokens: tuple[str, str], offline: tuple[SealKey, Opener]
) -> None:
    recovery = replace(custody, opener=offline[1]).recover(tokens[0])
    ((error,),) = (recovery.refused,)
    assert error.problem == Problem.OTHER_RECIPIENT
    assert custody.store.recipients[0].fingerprint[:16] in str(error)


# --- the vault tampered with ------------------------------------------------------------------------------------------


def test_a_flipped_bit_is_refused(custody: Custodian, tokens: tuple[str, str]) -> None:
    custody.store.execute(
        "UPDATE vault.sealed_values SET ciphertext = set_bit(ciphertext, 77, 1 - get_bit(ciphertext, 77)) "
        "WHERE token = %s",
        tokens[0],
    )
    assert custody.problems(tokens[0]) == [Problem.CHANGED]
    assert custody.clear(tokens[1]) == [DEVICE]


SWAP = """
    UPDATE vault.sealed_values AS this
    SET {columns}
    FROM vault.sealed_values AS other
    WHERE (this.token, other.token) IN ((%s, %s), (%s, %s))
"""


def swap(store: Store, one: str, other: str, columns: Sequence[str]) -> None:
    """Exchange some columns of two rows of the vault."""
    assignments = ", ".join(f"{column} = other.{column}" for column in columns)
    store.execute(SWAP.format(columns=assignments), one, other, other, one)


@pytest.fixture
def two_devices(store: Store) -> tuple[str, str]:
    """Return the tokens of two devices, each sealed with its own data key."""
    return store.load(login(device_id="one"))[0][1], store.load(login(device_id="other"))[0][1]


@pytest.mark.parametrize("together", [True, False], ids=["both asked for", "one at a time"])
def test_swapped_rows_are_refused(custody: Custodian, two_devices: tuple[str, str], *, together: bool) -> None:
    swap(custody.store, *two_devices, ["data_key_id", "position", "ciphertext"])
    asked = [two_devices] if together else [(token,) for token in two_devices]
    assert [problem for tokens in asked for problem in custody.problems(*tokens)] == [Problem.CHANGED] * 2


def test_swapped_fields_are_refused(custody: Custodian, tokens: tuple[str, str]) -> None:
    swap(custody.store, *tokens, ["field"])
    assert custody.problems(*tokens) == [Problem.CHANGED] * 2


def test_swapped_data_keys_are_refused(custody: Custodian, two_devices: tuple[str, str]) -> None:
    swap(custody.store, *two_devices, ["data_key_id"])
    assert custody.problems(*two_devices) == [Problem.CHANGED] * 2


def test_wrapped_keys_that_were_swapped_are_refused(custody: Custodian, two_devices: tuple[str, str]) -> None:
    custody.store.execute(
        "UPDATE vault.data_keys AS this SET wrapped_key = other.wrapped_key "
        "FROM vault.data_keys AS other WHERE this.data_key_id <> other.data_key_id"
    )
    assert custody.problems(*two_devices) == [Problem.CHANGED] * 2


def test_a_wrapped_key_that_was_changed_is_refused(custody: Custodian, tokens: tuple[str, str]) -> None:
    custody.store.execute(
        "UPDATE vault.data_keys SET wrapped_key = set_byte(wrapped_key, 5, get_byte(wrapped_key, 5) # 1)"
    )
    assert set(custody.problems(*tokens)) == {Problem.CHANGED}


def test_a_recipient_that_was_put_in_by_hand_is_refused(custody: Custodian, tokens: tuple[str, str]) -> None:
    custody.store.execute(
        "ALTER TABLE vault.data_keys DISABLE TRIGGER refuse_later_recipients; "
        "INSERT INTO vault.data_keys (data_key_id, recipient, wrapped_key) "
        "SELECT data_key_id, repeat('0', 64), wrapped_key FROM vault.data_keys"
    )
    assert custody.problems(*tokens) == [Problem.CHANGED] * 2


def test_a_row_that_the_pipelines_own_role_planted_is_refused(custody: Custodian, store: Store) -> None:
    """The role has the public key and may insert. What it seals can be opened, but does not match the token."""
    victim = plant_sealed(store, b"victim", b"another's")
    assert custody.problems(victim) == [Problem.PLANTED]


def test_a_purpose_and_a_ticket_are_on_record_as_they_were_typed(custody: Custodian, tokens: tuple[str, str]) -> None:
    request_access(custody.connection, tokens, Reason("  who is behind this?  ", " SEC-7 "))
    assert custody.store.rows("SELECT purpose, ticket, subjects FROM vault.access_log") == [
        ("who is behind this?", "SEC-7", list(tokens))
    ]
