"""Tokens: equal only for equal values, and always the same for one key."""

import re
import unicodedata
from base64 import urlsafe_b64encode
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loginpipe.masking.tokens import PREFIXES, TokenKeys, derivation_label, derive_field_keys, token_pattern

KEY = bytes(range(32))
KEYS = TokenKeys(1, {1: derive_field_keys(KEY)})
FIELDS = tuple(PREFIXES)

moderate = settings(max_examples=100, deadline=None, print_blob=True)
token_keys = st.binary(min_size=32, max_size=32)
values = st.binary(max_size=80)
versions = st.integers(1, 99_999)


def rfc_2104(key: bytes, message: bytes) -> bytes:
    """Compute HMAC-SHA-256 step by step, so that the expected tokens do not come from the code under test."""
    block = (sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\x00")
    inner = sha256(bytes(byte ^ 0x36 for byte in block) + message).digest()
    return sha256(bytes(byte ^ 0x5C for byte in block) + inner).digest()


def expected_token(key: bytes, version: int, field: str, prefix: str, value: bytes) -> str:
    mac = rfc_2104(rfc_2104(key, b"loginpipe.token.v1." + field.encode()), value)
    return f"{prefix}.v{version}.{urlsafe_b64encode(mac).decode().rstrip('=')}"


def with_key(key: bytes, version: int = 1) -> TokenKeys:
    return TokenKeys(version, {version: derive_field_keys(key)})


def test_the_hmac_that_the_other_tests_expect_is_the_one_of_rfc_4231() -> None:
    assert rfc_2104(b"Jefe", b"what do ya want for nothing?").hex() == (
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    )
    assert rfc_2104(b"\xaa" * 131, b"Test Using Larger Than Block-Size Key - Hash Key First").hex() == (
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
    )


@pytest.mark.parametrize(
    ("field", "value", "token"),
    [
        ("ip", bytes([199, 172, 111, 135]), "ip.v1.2AfzR3o0qJtJJfL3mnNip7js1AzUruuewBbX9C9xXL0"),
        ("ip", bytes(15) + b"\x01", "ip.v1.uPsoH_CSvepmsso0Tv15acG2KeqmO7whe4jJCWE7xyA"),
        ("device_id", b"593-47-5928", "dev.v1.hHJ7ntDjan9kirWyFS2BkOO91q_AjVTV_oRzkkMPdoA"),
        ("device_id", b"caf\xc3\xa9", "dev.v1.HEGR2OmgrXMeYX5vrG7DwWub7RCWoH4neuZrzfxaCWE"),
    ],
)
def test_a_token_written_down_once_is_made_again_for_ever(field: str, value: bytes, token: str) -> None:
    assert KEYS.tokens(field, [value]) == [token]


@moderate
@given(token_keys, versions, st.sampled_from([("ip", "ip"), ("device_id", "dev")]), values)
def test_a_token_is_the_hmac_of_the_value_under_a_key_derived_for_its_field(
    key: bytes, version: int, field_and_prefix: tuple[str, str], value: bytes
) -> None:
    field, prefix = field_and_prefix
    assert with_key(key, version).tokens(field, [value]) == [expected_token(key, version, field, prefix, value)]


@moderate
@given(token_keys, st.lists(values, max_size=20))
def test_the_tokens_of_many_values_are_those_of_each(key: bytes, many: list[bytes]) -> None:
    assert with_key(key).tokens("ip", many) == [expected_token(key, 1, "ip", "ip", value) for value in many]


@moderate
@given(st.sampled_from(FIELDS), st.lists(values, max_size=20))
def test_tokens_are_equal_exactly_where_their_values_are_and_come_in_order(field: str, many: list[bytes]) -> None:
    tokens = KEYS.tokens(field, many)
    assert len(tokens) == len(many)
    for left, left_token in zip(many, tokens, strict=True):
        assert [left_token == token for token in tokens] == [left == right for right in many]


@moderate
@given(values)
def test_one_value_has_another_mac_in_another_field(value: bytes) -> None:
    (ip,), (device,) = KEYS.tokens("ip", [value]), KEYS.tokens("device_id", [value])
    assert ip.rpartition(".")[2] != device.rpartition(".")[2]


@moderate
@given(st.sampled_from(FIELDS), token_keys, token_keys, values)
def test_one_value_has_another_token_under_another_key(field: str, left: bytes, right: bytes, value: bytes) -> None:
    same = with_key(left).tokens(field, [value]) == with_key(right).tokens(field, [value])
    assert same == (left == right)


@moderate
@given(st.sampled_from(FIELDS), versions, versions, values)
def test_one_value_has_another_token_under_another_version_even_of_one_key(
    field: str, left: int, right: int, value: bytes
) -> None:
    same = with_key(KEY, left).tokens(field, [value]) == with_key(KEY, right).tokens(field, [value])
    assert same == (left == right)


@pytest.mark.parametrize(("field", "length"), [("ip", 49), ("device_id", 50)])
def test_a_token_of_version_1_has_49_or_50_characters(field: str, length: int) -> None:
    tokens = KEYS.tokens(field, [bytes([byte]) for byte in range(256)])
    assert {len(token) for token in tokens} == {length}


@moderate
@given(st.sampled_from(FIELDS), versions, values)
def test_every_token_matches_the_pattern_of_its_field_and_of_no_other(field: str, version: int, value: bytes) -> None:
    (token,) = with_key(KEY, version).tokens(field, [value])
    assert [name for name in FIELDS if token_pattern(name).fullmatch(token)] == [field]
    assert len(token) <= 256


@pytest.mark.parametrize(
    "text",
    [
        "",
        "199.172.111.135",
        "ip.v1.",
        "ip.v1." + "A" * 42,
        "ip.v1." + "A" * 44,
        "ip.v1." + "A" * 43 + "\n",
        " ip.v1." + "A" * 43,
        "ip.v1." + "A" * 42 + "=",
        "ip.v1." + "A" * 42 + "+",
        "ip.v1." + "A" * 42 + "/",
        "ip.v1." + "A" * 42 + "\u0663",
        "ip.v0." + "A" * 43,
        "ip.v01." + "A" * 43,
        "ip.v." + "A" * 43,
        "ip.1." + "A" * 43,
        "ip.v\u0661." + "A" * 43,
        "ipxv1." + "A" * 43,
        "IP.v1." + "A" * 43,
        "dev.v1." + "A" * 43,
        "device_id.v1." + "A" * 43,
    ],
    ids=ascii,
)
def test_what_is_no_token_does_not_match(text: str) -> None:
    assert not token_pattern("ip").fullmatch(text)


def test_new_tokens_are_made_with_the_current_version_where_several_are_held() -> None:
    both = TokenKeys(2, {1: derive_field_keys(b"1" * 32), 2: derive_field_keys(b"2" * 32)})
    assert both.tokens("ip", [b"x"]) == [expected_token(b"2" * 32, 2, "ip", "ip", b"x")]


def test_each_field_has_a_key_of_its_own_of_32_bytes_and_none_is_the_token_key() -> None:
    derived = derive_field_keys(KEY)
    assert set(derived) == {"ip", "device_id", "user_id"}
    assert {len(key) for key in derived.values()} == {32}
    assert len({KEY, *derived.values()}) == 4


@pytest.mark.parametrize("field", ["ip", "device_id", "user_id"])
def test_what_derives_a_key_is_the_label_that_kms_would_mac(field: str) -> None:
    label = f"loginpipe.token.v1.{field}".encode()
    assert derivation_label(field) == label
    assert derive_field_keys(KEY)[field] == rfc_2104(KEY, label)


def test_the_check_value_of_a_key_written_down_once_is_made_again_for_ever() -> None:
    assert KEYS.check_values() == {1: bytes.fromhex("04a300e33e0259e477ba45dc9a2aaf0aacb6d6036fb5d57ea7d4ce8ae8b97e09")}


def test_what_proves_that_a_key_is_held_is_made_again_for_ever_and_is_not_the_check_value() -> None:
    keys = derive_field_keys(KEY)
    proof = rfc_2104(keys["ip"], b"loginpipe.token-key-successor.v1" + keys["device_id"])
    assert KEYS.successor_proofs() == {1: proof}
    assert proof not in KEYS.check_values().values()


@moderate
@given(token_keys, token_keys)
def test_check_values_tell_two_keys_apart_and_hold_neither(left: bytes, right: bytes) -> None:
    (left_check,), (right_check,) = with_key(left).check_values().values(), with_key(right).check_values().values()
    assert (left_check == right_check) == (left == right)
    assert left_check not in {left, *derive_field_keys(left).values()}


@pytest.mark.parametrize("field", FIELDS)
def test_a_check_value_notices_one_wrong_derived_key(field: str) -> None:
    """Each derived key from AWS KMS comes from its own call."""
    wrong = TokenKeys(1, {1: {**derive_field_keys(KEY), field: b"x" * 32}})
    assert wrong.check_values() != KEYS.check_values()


def test_there_is_a_check_value_for_each_version() -> None:
    several = TokenKeys(7, {version: derive_field_keys(KEY) for version in (1, 2, 7)})
    assert set(several.check_values()) == {1, 2, 7}


# --- older versions ---------------------------------------------------------------------------------------------------


@moderate
@given(st.sampled_from([("ip", "ip"), ("device_id", "dev")]), st.lists(values, max_size=5))
def test_tokens_of_any_version_that_is_held_can_be_made_again(
    field_and_prefix: tuple[str, str], many: list[bytes]
) -> None:
    field, prefix = field_and_prefix
    both = TokenKeys(2, {1: derive_field_keys(b"1" * 32), 2: derive_field_keys(b"2" * 32)})
    assert both.tokens(field, many, version=1) == [expected_token(b"1" * 32, 1, field, prefix, value) for value in many]
    assert both.tokens(field, many, version=2) == both.tokens(field, many)


def test_a_version_that_is_not_held_makes_no_tokens() -> None:
    with pytest.raises(KeyError):
        KEYS.tokens("ip", [b"x"], version=2)


@pytest.mark.parametrize(
    ("current", "held", "older"), [(1, [1], ()), (1, [1, 2], ()), (2, [1, 2], (1,)), (9, [7, 9, 3, 10], (3, 7))]
)
def test_the_older_versions_are_those_below_the_current_one(
    current: int, held: list[int], older: tuple[int, ...]
) -> None:
    assert TokenKeys(current, {version: derive_field_keys(KEY) for version in held}).older == older


# --- tombstones -------------------------------------------------------------------------------------------------------


def test_the_tombstone_of_a_user_written_down_once_is_made_again_for_ever() -> None:
    tombstones = KEYS.tombstones("424cdd21-063a-43a7-b91b-7ca1a833afae")
    assert tombstones == {1: bytes.fromhex("807d13e60f17b6268cbe801aa8bf88b9b6d368a8872550ba804bab65d37a9804")}


@moderate
@given(token_keys, st.text(st.characters(codec="utf-8"), min_size=1, max_size=128))
def test_a_tombstone_is_the_hmac_of_the_user_id_under_a_key_of_its_own(key: bytes, user_id: str) -> None:
    value = unicodedata.normalize("NFC", user_id).strip().encode()
    expected = rfc_2104(rfc_2104(key, b"loginpipe.token.v1.user_id"), value)
    assert with_key(key).tombstones(user_id) == {1: expected}
    assert expected not in [rfc_2104(derive_field_keys(key)[field], value) for field in FIELDS]


def test_every_spelling_of_a_user_id_has_one_tombstone() -> None:
    assert len({KEYS.tombstones(text)[1] for text in ("caf\u00e9", "cafe\u0301", " caf\u00e9\n", "\tcafe\u0301 ")}) == 1
    assert KEYS.tombstones("caf\u00e9") != KEYS.tombstones("cafe")


def test_there_is_a_tombstone_for_each_version_held_and_they_differ() -> None:
    several = TokenKeys(2, {version: derive_field_keys(bytes([version]) * 32) for version in (1, 2, 3)})
    tombstones = several.tombstones("a user")
    assert set(tombstones) == {1, 2, 3}
    assert len(set(tombstones.values())) == 3
    assert {len(tombstone) for tombstone in tombstones.values()} == {32}


@moderate
@given(st.lists(st.text(max_size=20), max_size=5))
def test_the_tombstones_of_many_users_are_those_of_each_in_order(users: list[str]) -> None:
    several = TokenKeys(2, {version: derive_field_keys(bytes([version]) * 32) for version in (1, 2, 3)})
    of_all = several.tombstones_of_all(users)
    assert of_all == {version: [several.tombstones(user)[version] for user in users] for version in (1, 2, 3)}


def test_what_no_login_can_hold_has_a_tombstone_all_the_same_and_raises_nothing_that_quotes_it() -> None:
    assert len(KEYS.tombstones("\udc80")[1]) == 32


@moderate
@given(token_keys)
def test_the_repr_of_token_keys_shows_no_key(key: bytes) -> None:
    shown = repr(with_key(key)) + str(with_key(key))
    assert re.sub(r"\s", "", shown) == "TokenKeys(current=1,development=False)" * 2
