"""Sealing and opening: the private key opens what was sealed, but nothing that was changed since."""

import base64
import dataclasses
import traceback
from collections import Counter, defaultdict
from hashlib import sha256
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import example, given, settings
from hypothesis import strategies as st

from loginpipe.common.errors import OpeningError
from loginpipe.custody.opening import open_value, unwrap
from loginpipe.masking.key_files import read_seal_key
from loginpipe.masking.sealing import (
    OAEP,
    PADDING_BLOCK,
    VALUES_PER_DATA_KEY,
    Sealed,
    SealedValue,
    SealKey,
    WrappedDataKey,
    associated_data,
    nonce,
    pad,
    seal,
    unpad,
)
from loginpipe_tests.conftest import KeyFiles

GCM_TAG = 16
SECRET = b"199.172.111.135"

moderate = settings(max_examples=30, deadline=None, print_blob=True)
subjects = st.text(st.characters(exclude_characters="\x00", codec="utf-8"), max_size=60)


@dataclasses.dataclass(frozen=True)
class Pair:
    seal_key: SealKey
    private: rsa.RSAPrivateKey = dataclasses.field(repr=False)

    @property
    def name(self) -> str:
        return self.seal_key.fingerprint


def new_pair() -> Pair:
    private = rsa.generate_private_key(public_exponent=65537, key_size=3072)
    return Pair(SealKey(private.public_key()), private)


@pytest.fixture(scope="module")
def pair(key_files: KeyFiles) -> Pair:
    private = serialization.load_pem_private_key(key_files.seal_private.read_bytes(), password=None)
    assert isinstance(private, rsa.RSAPrivateKey)
    return Pair(read_seal_key(key_files.seal_public), private)


@pytest.fixture(scope="module")
def other_pair() -> Pair:
    return new_pair()


def open_all(sealed: Sealed, pair: Pair, recipients: list[str]) -> list[tuple[str, bytes]]:
    data_keys = {key.data_key_id: unwrap(key, pair.private) for key in sealed.data_keys if key.recipient == pair.name}
    return [(v.subject, open_value(v, data_keys[v.data_key_id], recipients)) for v in sealed.values]


def sealed_one(pair: Pair, plaintext: bytes = SECRET) -> tuple[SealedValue, bytes]:
    """Return one sealed value, and its data key as the custodian unwraps it."""
    sealed = seal([("ip.v1.token", plaintext)], "ip", [pair.seal_key])
    return sealed.values[0], unwrap(sealed.data_keys[0], pair.private)


def refused(value: SealedValue, data_key: bytes, recipients: list[str]) -> OpeningError:
    """Return the refusal; check that it shows neither the value nor the key."""
    with pytest.raises(OpeningError) as caught:
        open_value(value, data_key, recipients)
    shown = "".join(traceback.format_exception(caught.value))
    assert SECRET.decode() not in shown
    assert not data_key or data_key.hex() not in shown
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None
    return caught.value


# --- there and back ---------------------------------------------------------------------------------------------------


@moderate
@given(items=st.lists(st.tuples(subjects, st.binary(max_size=100)), max_size=12), field=st.sampled_from(["ip", "body"]))
@example(items=[("a", b""), ("b", b"\x00"), ("c", b"\x80"), ("d", b"\x80\x00\x00"), ("e", b"\x00" * 32)], field="ip")
def test_any_bytes_open_as_they_were_sealed_and_in_order(
    pair: Pair, items: list[tuple[str, bytes]], field: str
) -> None:
    sealed = seal(items, field, [pair.seal_key])
    assert open_all(sealed, pair, [pair.name]) == items
    assert {value.field_name for value in sealed.values} <= {field}


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 600])
def test_any_number_of_values_opens_and_a_data_key_seals_at_most_256_of_them(pair: Pair, count: int) -> None:
    items = [(f"subject-{i}", f"value-{i}".encode()) for i in range(count)]
    sealed = seal(items, "device_id", [pair.seal_key])
    assert open_all(sealed, pair, [pair.name]) == items
    used = Counter(value.data_key_id for value in sealed.values)
    assert max(used.values(), default=0) <= VALUES_PER_DATA_KEY == 256
    assert set(used) == {key.data_key_id for key in sealed.data_keys}
    assert len(sealed.data_keys) == len(used) == -(-count // 256)


def test_no_nonce_comes_twice_under_one_data_key_and_no_data_key_twice_at_all(pair: Pair) -> None:
    batches = [seal([("s", b"v")] * 600, "ip", [pair.seal_key]) for _ in range(2)]
    nonces = defaultdict(list)
    for value in (value for sealed in batches for value in sealed.values):
        nonces[value.data_key_id].append(nonce(value.position))
    assert all(len(set(used)) == len(used) for used in nonces.values())
    assert {len(each) for used in nonces.values() for each in used} == {12}
    keys = [unwrap(key, pair.private) for sealed in batches for key in sealed.data_keys]
    assert {len(key) for key in keys} == {32}
    assert len(set(keys)) == len(keys) == len(nonces) == 6


@moderate
@given(
    items=st.lists(st.tuples(subjects, st.binary(max_size=100)), max_size=300), field=st.sampled_from(["ip", "body"])
)
def test_each_value_is_aes_gcm_of_its_padded_bytes_bound_to_all_that_it_belongs_to(
    pair: Pair, other_pair: Pair, items: list[tuple[str, bytes]], field: str
) -> None:
    """Written out, so that the expected bytes do not come from the code under test."""
    sealed = seal(items, field, [pair.seal_key, other_pair.seal_key])
    data_keys = {key.data_key_id: unwrap(key, pair.private) for key in sealed.data_keys if key.recipient == pair.name}
    for place, (value, (subject, plaintext)) in enumerate(zip(sealed.values, items, strict=True)):
        assert (value.subject, value.field_name, value.position) == (subject, field, place % 256)
        padded = plaintext + b"\x80"
        padded += bytes(-len(padded) % 32)
        names = sorted([pair.name, other_pair.name])
        bound = "\x00".join(["loginpipe.seal.v1", field, subject, str(value.data_key_id), *names]).encode()
        nonce_bytes = bytes(10) + (place % 256).to_bytes(2, "big")
        assert AESGCM(data_keys[value.data_key_id]).encrypt(nonce_bytes, padded, bound) == value.ciphertext


def test_a_block_without_some_of_its_subjects_keeps_the_others_as_they_were(pair: Pair) -> None:
    sealed = seal([(f"s{i}", bytes([i])) for i in range(5)], "ip", [pair.seal_key])
    (block,) = sealed.blocks
    part = Sealed(sealed.data_keys, [block.only({"s3", "s1", "another"})])
    assert part.values == [sealed.values[1], sealed.values[3]]
    assert (len(sealed), len(part), len(Sealed(sealed.data_keys, [block.only(())]))) == (5, 2, 0)
    assert open_all(part, pair, [pair.name]) == [("s1", b"\x01"), ("s3", b"\x03")]


def test_equal_values_seal_to_different_bytes(pair: Pair) -> None:
    sealed = seal([("s", SECRET)] * 300, "ip", [pair.seal_key])
    assert len({value.ciphertext for value in sealed.values}) == 300


def test_a_megabyte_opens(pair: Pair) -> None:
    body = b"\x80" * (1024 * 1024)
    assert open_all(seal([("m", body)], "body", [pair.seal_key]), pair, [pair.name]) == [("m", body)]


def test_each_of_two_recipients_opens_the_same_values(pair: Pair, other_pair: Pair) -> None:
    items = [(f"s{i}", bytes([i])) for i in range(5)]
    sealed = seal(items, "ip", [pair.seal_key, other_pair.seal_key])
    assert [key.recipient for key in sealed.data_keys] == [pair.name, other_pair.name]
    both = [pair.name, other_pair.name]
    assert open_all(sealed, pair, both) == open_all(sealed, other_pair, both) == items
    assert open_all(sealed, pair, both[::-1]) == items, "in whatever order the database gives them"


# --- padding ----------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None, print_blob=True)
@given(st.binary(max_size=200))
def test_padding_is_undone_and_fills_blocks_of_32_bytes(plaintext: bytes) -> None:
    padded = pad(plaintext)
    assert unpad(padded) == plaintext
    assert len(padded) % PADDING_BLOCK == 0
    assert 0 < len(padded) - len(plaintext) <= PADDING_BLOCK


@pytest.mark.parametrize(("length", "block"), [(0, 32), (7, 32), (15, 32), (31, 32), (32, 64), (63, 64), (64, 96)])
def test_the_length_of_a_ciphertext_tells_the_block_alone(pair: Pair, length: int, block: int) -> None:
    value, _ = sealed_one(pair, b"x" * length)
    assert len(value.ciphertext) == block + GCM_TAG


def test_every_address_is_sealed_to_one_of_two_lengths(pair: Pair) -> None:
    longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
    lengths = {len(sealed_one(pair, text.encode())[0].ciphertext) for text in ("::", "255.255.255.255", longest)}
    assert lengths == {32 + GCM_TAG, 64 + GCM_TAG}


# --- changed values are refused ---------------------------------------------------------------------------------------


def test_a_bit_flipped_anywhere_in_a_ciphertext_is_refused(pair: Pair) -> None:
    value, data_key = sealed_one(pair)
    for bit in range(len(value.ciphertext) * 8):
        flipped = bytearray(value.ciphertext)
        flipped[bit // 8] ^= 1 << bit % 8
        refused(dataclasses.replace(value, ciphertext=bytes(flipped)), data_key, [pair.name])


def test_a_ciphertext_cut_short_or_drawn_out_is_refused(pair: Pair) -> None:
    value, data_key = sealed_one(pair)
    for length in range(len(value.ciphertext)):
        refused(dataclasses.replace(value, ciphertext=value.ciphertext[:length]), data_key, [pair.name])
    refused(dataclasses.replace(value, ciphertext=value.ciphertext + b"\x00"), data_key, [pair.name])


@pytest.mark.parametrize(
    "change",
    [
        {"subject": "ip.v1.another-token"},
        {"subject": ""},
        {"field_name": "device_id"},
        {"field_name": "body"},
        {"data_key_id": UUID(int=0)},
        {"position": 1},
        {"position": 2**32},
    ],
    ids=str,
)
def test_a_value_moved_to_another_subject_field_key_or_place_is_refused(pair: Pair, change: dict[str, object]) -> None:
    value, data_key = sealed_one(pair)
    refused(dataclasses.replace(value, **change), data_key, [pair.name])


@pytest.mark.parametrize("position", [-1, 2**96])
def test_a_place_that_no_nonce_has_is_refused(pair: Pair, position: int) -> None:
    value, data_key = sealed_one(pair)
    refused(dataclasses.replace(value, position=position), data_key, [pair.name])


@pytest.mark.parametrize("swapped", [["subject"], ["position"], ["ciphertext"], ["ciphertext", "position"]], ids=str)
def test_two_rows_that_swapped_a_part_are_both_refused(pair: Pair, swapped: list[str]) -> None:
    sealed = seal([("token-a", b"value a"), ("token-b", b"value b")], "ip", [pair.seal_key])
    data_key = unwrap(sealed.data_keys[0], pair.private)
    left, right = sealed.values
    for here, there in ((left, right), (right, left)):
        refused(dataclasses.replace(here, **{name: getattr(there, name) for name in swapped}), data_key, [pair.name])


def test_two_rows_under_different_data_keys_cannot_swap_their_ciphertexts(pair: Pair) -> None:
    (left, left_key), (right, right_key) = sealed_one(pair), sealed_one(pair)
    refused(dataclasses.replace(left, ciphertext=right.ciphertext), left_key, [pair.name])
    refused(left, right_key, [pair.name])


def test_a_value_for_other_recipients_than_it_was_sealed_for_is_refused(pair: Pair, other_pair: Pair) -> None:
    value, data_key = sealed_one(pair)
    for recipients in (
        [],
        [other_pair.name],
        [pair.name, other_pair.name],
        [pair.name, pair.name],
        [pair.name.upper()],
    ):
        refused(value, data_key, recipients)
    assert open_value(value, data_key, [pair.name]) == SECRET


def test_the_name_of_one_recipient_cannot_be_moved_into_the_subject(pair: Pair, other_pair: Pair) -> None:
    data_key_id = uuid4()
    bound = associated_data("ip", "token", data_key_id, [pair.name, other_pair.name])
    assert bound != associated_data("ip", "token", data_key_id, [pair.name])
    assert bound.count(b"\x00") == 5


def test_another_private_key_does_not_unwrap(pair: Pair, other_pair: Pair) -> None:
    sealed = seal([("s", SECRET)], "ip", [pair.seal_key])
    with pytest.raises(OpeningError, match=str(sealed.data_keys[0].data_key_id)) as caught:
        unwrap(sealed.data_keys[0], other_pair.private)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_bit_flipped_in_a_wrapped_data_key_is_refused(pair: Pair) -> None:
    (wrapped,) = seal([("s", SECRET)], "ip", [pair.seal_key]).data_keys
    for bit in range(0, len(wrapped.wrapped_key) * 8, 97):
        flipped = bytearray(wrapped.wrapped_key)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(OpeningError):
            unwrap(dataclasses.replace(wrapped, wrapped_key=bytes(flipped)), pair.private)


@pytest.mark.parametrize("length", [0, 1, 32, 383, 385, 768])
def test_a_wrapped_data_key_of_another_length_is_refused(pair: Pair, length: int) -> None:
    wrapped = WrappedDataKey(uuid4(), pair.name, b"\x01" * length)
    with pytest.raises(OpeningError):
        unwrap(wrapped, pair.private)


@pytest.mark.parametrize("length", [0, 1, 16, 24, 31, 33, 64])
def test_a_planted_data_key_of_another_length_than_32_bytes_is_refused(pair: Pair, length: int) -> None:
    """Anyone who has the public key can wrap one."""
    value, _ = sealed_one(pair)
    planted = WrappedDataKey(value.data_key_id, pair.name, pair.seal_key.public_key.encrypt(b"k" * length, OAEP))
    with pytest.raises(OpeningError, match="does not unwrap"):
        unwrap(planted, pair.private)


@pytest.mark.parametrize("length", [0, 1, 16, 24, 31, 33, 64])
def test_a_value_does_not_open_with_a_data_key_of_another_length(pair: Pair, length: int) -> None:
    value, _ = sealed_one(pair)
    refused(value, b"\xfe" * length, [pair.name])


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_the_fingerprint_is_the_sha_256_of_the_key_as_the_pem_file_holds_it(pair: Pair, key_files: KeyFiles) -> None:
    lines = key_files.seal_public.read_text().strip().splitlines()
    assert lines[0] == "-----BEGIN PUBLIC KEY-----"
    assert pair.name == sha256(base64.b64decode("".join(lines[1:-1]))).hexdigest()


def test_the_repr_of_what_was_sealed_shows_neither_bytes_nor_keys(pair: Pair) -> None:
    sealed = seal([("token", SECRET)], "ip", [pair.seal_key])
    shown = repr(sealed) + repr(pair.seal_key)
    (value,), (wrapped,) = sealed.values, sealed.data_keys
    for secret in (SECRET, value.ciphertext, wrapped.wrapped_key, unwrap(wrapped, pair.private)):
        assert repr(secret)[2:-1] not in shown
        assert secret.hex() not in shown
    assert "token" in shown
    assert str(value.data_key_id) in shown
