"""Masking: its result holds only tokens, and the value of each token can be sealed once."""

import json
import time
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pandas as pd
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from loginpipe.logins.canonical import address_text, canonical_address, canonical_device_id
from loginpipe.logins.messages import Message
from loginpipe.logins.splitting import split_batch
from loginpipe.masking.compat import CompatMasking
from loginpipe.masking.key_files import read_seal_key
from loginpipe.masking.mask import MaskedLogins, clear_cells, mask_logins, seal_originals, seen_before
from loginpipe.masking.sealing import SealKey
from loginpipe.masking.tokens import TokenKeys, derive_field_keys
from loginpipe_tests.conftest import KeyFiles

KEY = bytes(range(32))
KEYS = TokenKeys(1, {1: derive_field_keys(KEY)})
SENT_MS = 1_794_000_000_123
GOOD = {
    "user_id": "a user",
    "device_type": "ios",
    "ip": "199.172.111.135",
    "device_id": "593-47-5928",
    "locale": "RU",
    "app_version": "2.3.0",
}

moderate = settings(max_examples=25, deadline=None, print_blob=True)
# So long that none of them occurs by chance in a token, a column name or a time.
device_ids = (
    st.uuids().map(str)
    | st.from_regex(r"[0-9]{3}-[0-9]{2}-[0-9]{4}", fullmatch=True)
    | st.text(st.characters(exclude_categories=("C", "Z", "M")), min_size=5, max_size=40).map("\u2666".__add__)
)
logins = st.fixed_dictionaries(
    {
        "user_id": st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=20),
        "device_type": st.sampled_from(["ios", "android"]),
        "ip": st.ip_addresses().map(str),
        "device_id": device_ids,
        "locale": st.none() | st.just("RU"),
        "app_version": st.just("2.3.0"),
    }
)


@pytest.fixture(scope="module")
def seal_key(key_files: KeyFiles) -> SealKey:
    return read_seal_key(key_files.seal_public)


@pytest.fixture
def local_time(request: pytest.FixtureRequest) -> Iterator[None]:
    """Set the machine's time zone, in POSIX notation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield
    time.tzset()


def messages_of(events: Iterable[dict[str, Any]], sent_ms: int = SENT_MS) -> list[Message]:
    return [
        Message(
            f"message-{i}", f"delivery-{i}", f"handle-{i}", json.dumps(event), sent_ms, sent_ms, 1, body_intact=True
        )
        for i, event in enumerate(events)
    ]


def validated(*events: dict[str, Any], sent_ms: int = SENT_MS) -> pd.DataFrame:
    accepted = split_batch(messages_of(events, sent_ms)).accepted
    assert len(accepted) == len(events)
    return accepted


def with_cells(masked: MaskedLogins, column: str, *cells: Any) -> MaskedLogins:
    """Return the same logins with other cells in one column."""
    return replace(masked, columns={**masked.columns, column: list(cells)})


def with_cell(masked: MaskedLogins, column: str, place: int, cell: Any) -> MaskedLogins:
    cells = list(masked.columns[column])
    cells[place] = cell
    return with_cells(masked, column, *cells)


@moderate
@given(events=st.lists(logins, min_size=1, max_size=6))
def test_no_clear_value_and_no_key_is_in_what_masking_passes_on(
    seal_key: SealKey, events: list[dict[str, Any]]
) -> None:
    messages = messages_of(events)
    masked = mask_logins(split_batch(messages).accepted, KEYS)
    sealed = seal_originals(masked.originals, frozenset(), (seal_key,))
    shown = "\n".join(
        [
            repr(masked.columns),
            *(str(cell) for cells in masked.columns.values() for cell in cells),
            repr(masked),
            repr(sealed),
            repr([*sealed.values, *sealed.data_keys]),
            repr(KEYS),
            repr(seal_key),
            repr(messages),
        ]
    )
    secrets = {event[name] for event in events for name in ("ip", "device_id")}
    secrets |= {message.body for message in messages} | {message.receipt_handle for message in messages}
    secrets |= {repr(event["device_id"])[1:-1] for event in events}
    for key in (KEY, *KEYS.field_keys[1].values()):
        secrets |= {key.hex(), repr(key)[2:-1], b64encode(key).decode(), urlsafe_b64encode(key).decode()}
    assert not [secret for secret in secrets if secret in shown]


@moderate
@given(st.lists(logins, max_size=6))
def test_every_cell_is_the_token_of_its_value_and_the_rest_stays(events: list[dict[str, Any]]) -> None:
    before = validated(*events)
    masked = mask_logins(before, KEYS)
    after = masked.columns
    assert list(after["masked_ip"]) == KEYS.tokens("ip", [canonical_address(event["ip"]) for event in events])
    assert list(after["masked_device_id"]) == KEYS.tokens(
        "device_id", [canonical_device_id(event["device_id"]) for event in events]
    )
    for name in ("message_id", "user_id", "device_type", "locale", "app_version"):
        assert list(after[name]) == list(before[name])
    assert list(after["sent_ms"]) == [SENT_MS] * len(events)
    assert len(masked) == len(events)
    assert clear_cells(masked) == {"masked_ip": 0, "masked_device_id": 0}


def test_the_masked_logins_have_no_column_of_clear_values() -> None:
    masked = mask_logins(validated(GOOD), KEYS)
    assert {name: type(cell) for name, (cell,) in masked.columns.items()} == {
        "message_id": str,
        "user_id": str,
        "device_type": str,
        "masked_ip": str,
        "masked_device_id": str,
        "locale": str,
        "app_version": int,
        "sent_ms": int,
        "create_date": date,
    }


def test_no_logins_are_masked_to_none() -> None:
    masked = mask_logins(validated(), KEYS)
    assert len(masked) == 0
    assert masked.originals == {"ip": {}, "device_id": {}}
    assert clear_cells(masked) == {"masked_ip": 0, "masked_device_id": 0}


def test_two_spellings_of_one_address_and_one_device_have_one_token() -> None:
    masked = mask_logins(
        validated(
            {**GOOD, "ip": "1.2.3.4", "device_id": "caf\u00e9"},
            {**GOOD, "ip": "::FFFF:1.2.3.4", "device_id": " cafe\u0301\n"},
        ),
        KEYS,
    )
    assert len(set(masked.columns["masked_ip"])) == 1
    assert len(set(masked.columns["masked_device_id"])) == 1
    assert [list(values.values()) for values in masked.originals.values()] == [[b"1.2.3.4"], ["caf\u00e9".encode()]]


SPELLINGS = [
    ["1.2.3.4", " 1.2.3.4", "1.2.3.4\n", "::ffff:1.2.3.4", "::FFFF:102:304", "0:0:0:0:0:ffff:1.2.3.4",
     "0000:0000:0000:0000:0000:ffff:0102:0304"],
    ["2001:db8::1", "2001:DB8::1", "2001:db8:0:0:0:0:0:1", "2001:0db8:0000:0000:0000:0000:0000:0001",
     "2001:db8::0:1", "2001:db8:0:0::1", "2001:db8::0.0.0.1", "\t2001:Db8::1 "],
    ["::1", "0:0:0:0:0:0:0:1", "::0:1", "0000::0001", "::0.0.0.1"],
]  # fmt: skip


@pytest.mark.parametrize("spellings", SPELLINGS, ids=lambda spellings: spellings[0])
def test_every_spelling_of_one_address_has_one_token_and_one_value_in_the_vault(spellings: list[str]) -> None:
    masked = mask_logins(validated(*({**GOOD, "ip": ip} for ip in spellings)), KEYS)
    (token,) = set(masked.columns["masked_ip"])
    assert masked.originals["ip"] == {token: spellings[0].encode()}


def test_addresses_that_are_not_one_have_tokens_of_their_own() -> None:
    addresses = [spellings[0] for spellings in SPELLINGS] + ["1.2.3.5", "::1.2.3.4", "64:ff9b::1.2.3.4"]
    masked = mask_logins(validated(*({**GOOD, "ip": ip} for ip in addresses)), KEYS)
    assert len(set(masked.columns["masked_ip"])) == len(addresses)


def test_the_locale_that_is_missing_stays_none() -> None:
    masked = mask_logins(validated({**GOOD, "locale": None}, GOOD), KEYS)
    assert list(masked.columns["locale"]) == [None, "RU"]


@moderate
@given(st.lists(logins, max_size=6))
def test_the_originals_are_what_the_tokens_stand_for(events: list[dict[str, Any]]) -> None:
    masked = mask_logins(validated(*events), KEYS)
    addresses = {address_text(canonical_address(event["ip"])).encode() for event in events}
    devices = {canonical_device_id(event["device_id"]) for event in events}
    assert set(masked.originals["ip"].values()) == addresses
    assert set(masked.originals["device_id"].values()) == devices
    assert set(masked.originals["ip"]) == set(masked.columns["masked_ip"])
    assert set(masked.originals["device_id"]) == set(masked.columns["masked_device_id"])


@pytest.mark.parametrize(
    ("sent_at", "day"),
    [
        (datetime(2026, 2, 28, 23, 59, 59, 999_000, UTC), date(2026, 2, 28)),
        (datetime(2026, 3, 1, 0, 0, 0, 0, UTC), date(2026, 3, 1)),
        (datetime(2024, 2, 29, 12, 0, 0, 0, UTC), date(2024, 2, 29)),
    ],
)
@pytest.mark.parametrize("local_time", ["UTC", "EARLY-14", "LATE+11"], indirect=True)
def test_the_date_of_a_login_is_the_utc_date_it_was_sent_on_wherever_it_is_processed(
    sent_at: datetime, day: date, local_time: None
) -> None:
    masked = mask_logins(validated(GOOD, sent_ms=round(sent_at.timestamp() * 1000)), KEYS)
    assert list(masked.columns["create_date"]) == [day]
    assert type(masked.columns["create_date"][0]) is date


@moderate
@given(st.lists(st.integers(-200_000_000, 4_102_444_800_000), max_size=8))
def test_every_login_of_a_batch_has_the_date_of_its_own_time(sent_ms: list[int]) -> None:
    times = [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds) for milliseconds in sent_ms]
    sent_at = pd.Series(sent_ms, dtype="int64").astype("datetime64[ms]").dt.tz_localize("UTC")
    masked = mask_logins(validated(*[GOOD] * len(times)).assign(sent_at=sent_at), KEYS)
    assert list(masked.columns["sent_ms"]) == sent_ms
    assert list(masked.columns["create_date"]) == [time.date() for time in times]


def test_a_frame_that_is_a_part_of_another_is_masked_row_by_row() -> None:
    whole = validated(*({**GOOD, "user_id": f"user {i}", "ip": f"1.2.3.{i}"} for i in range(4)))
    part = mask_logins(whole.iloc[[3, 1]], KEYS).columns
    assert list(part["user_id"]) == ["user 3", "user 1"]
    assert list(part["masked_ip"]) == KEYS.tokens("ip", [bytes([1, 2, 3, 3]), bytes([1, 2, 3, 1])])


# --- versions and older schemes ---------------------------------------------------------------------------------------

ROTATED = TokenKeys(3, {version: derive_field_keys(bytes([version]) * 32) for version in (1, 2, 3, 4)})

COMPAT = [
    CompatMasking("compat-sha256"),
    CompatMasking("compat-sha256-salted", b"pepper"),
    CompatMasking("compat-sha256-base64"),
    CompatMasking("compat-md5"),
]


def test_there_are_no_aliases_where_one_version_is_held() -> None:
    assert list(mask_logins(validated(GOOD), KEYS).aliases) == []


def test_each_distinct_value_has_an_alias_from_every_older_version_to_the_current_one() -> None:
    masked = mask_logins(validated(GOOD, GOOD, {**GOOD, "ip": " ::ffff:199.172.111.135", "device_id": "x"}), ROTATED)
    address, devices = bytes([199, 172, 111, 135]), [b"593-47-5928", b"x"]
    expected = [
        alias
        for field, values in (("ip", [address]), ("device_id", devices))
        for version in (1, 2)
        for alias in zip(ROTATED.tokens(field, values, version), ROTATED.tokens(field, values), strict=True)
    ]
    assert list(masked.aliases) == expected
    assert len({old for old, _ in masked.aliases}) == 6
    assert {new for _, new in masked.aliases} == {*masked.columns["masked_ip"], *masked.columns["masked_device_id"]}


@moderate
@given(st.lists(logins, max_size=6))
def test_an_alias_leads_from_what_the_older_key_made_to_what_the_current_one_makes(
    events: list[dict[str, Any]],
) -> None:
    before = mask_logins(validated(*events), TokenKeys(1, {1: ROTATED.field_keys[1]})).columns
    both = TokenKeys(3, {version: ROTATED.field_keys[version] for version in (1, 3)})
    masked = mask_logins(validated(*events), both)
    new = dict(masked.aliases)
    for column in ("masked_ip", "masked_device_id"):
        assert [new[old] for old in before[column]] == list(masked.columns[column])


@pytest.mark.parametrize("compat", COMPAT, ids=lambda compat: compat.name)
def test_an_older_scheme_masks_the_stripped_text_as_received(compat: CompatMasking) -> None:
    masked = mask_logins(
        validated(
            {**GOOD, "ip": " 1.2.3.4\n", "device_id": "\u00e9 "},
            {**GOOD, "ip": "::ffff:1.2.3.4", "device_id": "e\u0301"},
        ),
        ROTATED,
        compat,
    )
    ips, devices = [b"1.2.3.4", b"::ffff:1.2.3.4"], ["\u00e9".encode(), "e\u0301".encode()]
    assert list(masked.columns["masked_ip"]) == compat.tokens(ips)
    assert list(masked.columns["masked_device_id"]) == compat.tokens(devices)
    assert list(masked.originals["ip"].items()) == list(zip(compat.tokens(ips), ips, strict=True))
    assert list(masked.originals["device_id"].items()) == list(zip(compat.tokens(devices), devices, strict=True))
    assert list(masked.aliases) == [], "there is no older version of an older scheme"
    assert clear_cells(masked, compat) == {"masked_ip": 0, "masked_device_id": 0}


@pytest.mark.parametrize("compat", COMPAT, ids=lambda compat: compat.name)
def test_only_values_of_the_masking_in_force_pass_the_wall(compat: CompatMasking) -> None:
    tokens, older = mask_logins(validated(GOOD), KEYS), mask_logins(validated(GOOD), KEYS, compat)
    assert clear_cells(tokens, compat) == clear_cells(older) == {"masked_ip": 1, "masked_device_id": 1}
    others = [each for each in COMPAT if each.pattern.pattern != compat.pattern.pattern]
    assert others
    assert all(clear_cells(older, other) == {"masked_ip": 1, "masked_device_id": 1} for other in others)


@pytest.mark.parametrize("compat", COMPAT, ids=lambda compat: compat.name)
def test_a_clear_cell_is_counted_under_an_older_scheme_too(compat: CompatMasking) -> None:
    masked = with_cell(mask_logins(validated(GOOD, GOOD), KEYS, compat), "masked_device_id", 1, GOOD["device_id"])
    assert clear_cells(masked, compat) == {"masked_ip": 0, "masked_device_id": 1}


# --- the check on tokens ----------------------------------------------------------------------------------------------

NO_IP_TOKENS = [
    "199.172.111.135", "::1", "", " ", None, float("nan"), pd.NA, pd.NaT, 0, True, b"ip.v1." + b"A" * 43, ["ip.v1."],
    "ip.v1." + "A" * 42, "ip.v1." + "A" * 44, "ip.v1." + "A" * 43 + "\n", " ip.v1." + "A" * 43, "ip.v0." + "A" * 43,
    "dev.v1." + "A" * 43, "ip.v1." + "A" * 42 + "=", "IP.v1." + "A" * 43, "ip.v1." + "A" * 43 + " 199.172.111.135",
]  # fmt: skip


@pytest.mark.parametrize("cell", NO_IP_TOKENS, ids=ascii)
def test_a_cell_that_is_no_token_of_its_field_is_counted(cell: object) -> None:
    masked = with_cell(mask_logins(validated(GOOD, GOOD, GOOD), KEYS), "masked_ip", 1, cell)
    assert clear_cells(masked) == {"masked_ip": 1, "masked_device_id": 0}


def test_cells_that_are_tokens_only_when_they_are_read_together_are_counted_one_by_one() -> None:
    masked = mask_logins(validated(GOOD, GOOD, GOOD, GOOD), KEYS)
    token = masked.columns["masked_ip"][0]
    for cells in (
        [f"{token}\n{token}", token, token, token],
        [f"{token}\n", token, token, token],
        [token[:20], f"{token[20:]}\n{token}", token, token],
        ["", f"{token}\n{token}", token, token],
    ):
        expected = sum(cell != token for cell in cells)
        assert clear_cells(with_cells(masked, "masked_ip", *cells))["masked_ip"] == expected


def test_an_address_token_in_the_device_column_is_counted_and_so_is_the_other_way_round() -> None:
    masked = mask_logins(validated(GOOD), KEYS)
    ips, devices = masked.columns["masked_ip"], masked.columns["masked_device_id"]
    swapped = with_cells(with_cells(masked, "masked_ip", *devices), "masked_device_id", *ips)
    assert clear_cells(swapped) == {"masked_ip": 1, "masked_device_id": 1}


@moderate
@given(st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), *[st.sets(st.integers(0, n - 1))] * 2)), st.data())
def test_as_many_clear_cells_are_counted_as_were_planted(
    planted: tuple[int, set[int], set[int]], data: st.DataObject
) -> None:
    rows, in_ip, in_device = planted
    masked = mask_logins(validated(*[GOOD] * rows), KEYS)
    for column, places in (("masked_ip", in_ip), ("masked_device_id", in_device)):
        for place in places:
            masked = with_cell(masked, column, place, data.draw(st.ip_addresses().map(str) | device_ids))
    assert clear_cells(masked) == {"masked_ip": len(in_ip), "masked_device_id": len(in_device)}


# --- sealing the values of tokens -------------------------------------------------------------------------------------


def test_each_distinct_value_is_sealed_once_under_its_token(seal_key: SealKey) -> None:
    masked = mask_logins(validated(GOOD, GOOD, {**GOOD, "ip": "1.2.3.4"}), KEYS)
    sealed = seal_originals(masked.originals, frozenset(), (seal_key,))
    assert {(value.field_name, value.subject) for value in sealed.values} == {
        *(("ip", token) for token in masked.columns["masked_ip"]),
        *(("device_id", token) for token in masked.columns["masked_device_id"]),
    }
    assert len(sealed.values) == 3
    assert {value.data_key_id for value in sealed.values} == {key.data_key_id for key in sealed.data_keys}


def test_what_the_vault_knows_is_not_sealed_again(seal_key: SealKey) -> None:
    masked = mask_logins(validated(GOOD, {**GOOD, "ip": "1.2.3.4"}), KEYS)
    known = frozenset({masked.columns["masked_ip"][0], masked.columns["masked_device_id"][0]})
    sealed = seal_originals(masked.originals, known, (seal_key,))
    assert [value.subject for value in sealed.values] == [masked.columns["masked_ip"][1]]
    assert len(sealed.data_keys) == 1


def test_nothing_is_sealed_where_everything_is_known_or_sealing_is_off(seal_key: SealKey) -> None:
    masked = mask_logins(validated(GOOD), KEYS)
    everything = frozenset(token for values in masked.originals.values() for token in values)
    for nothing in (
        seal_originals(masked.originals, everything, (seal_key,)),
        seal_originals(masked.originals, frozenset(), ()),
    ):
        assert (list(nothing.values), list(nothing.data_keys)) == ([], [])


def test_what_is_sealed_is_nowhere_in_the_stored_bytes(seal_key: SealKey) -> None:
    masked = mask_logins(validated(GOOD), KEYS)
    sealed = seal_originals(masked.originals, frozenset(), (seal_key,))
    stored = b"".join([*(v.ciphertext for v in sealed.values), *(k.wrapped_key for k in sealed.data_keys)])
    assert GOOD["ip"].encode() not in stored
    assert GOOD["device_id"].encode() not in stored


def test_the_public_key_shows_nothing_but_its_type(seal_key: SealKey) -> None:
    der = seal_key.public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert repr(seal_key) == "SealKey()"
    assert der.hex()[:20] not in repr(seal_key)


def test_a_message_shows_its_id_alone() -> None:
    (message,) = messages_of([GOOD])
    assert repr(message) == str(message) == "Message(message-0)"


def test_a_value_was_seen_before_where_the_batch_or_the_vault_had_it() -> None:
    ips, devices = ["10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.3"], ["a", "a", "a", "a"]
    masked = mask_logins(
        validated(*(GOOD | {"ip": i, "device_id": d} for i, d in zip(ips, devices, strict=True))), KEYS
    )
    assert seen_before(masked, frozenset()) == {"ip": 0.25, "device_id": 0.75}
    in_vault = frozenset(masked.columns["masked_ip"][2:])
    assert seen_before(masked, in_vault) == {"ip": 0.75, "device_id": 0.75}
    assert seen_before(mask_logins(validated(), KEYS), frozenset()) == {"ip": 0.0, "device_id": 0.0}
