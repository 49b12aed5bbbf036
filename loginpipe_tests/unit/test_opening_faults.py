"""Sealed values that were tampered with: each way is refused, and told from the others."""

from collections.abc import Iterable
from dataclasses import replace
from hashlib import sha256
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from loginpipe.common.errors import OpeningError
from loginpipe.custody.access import Released
from loginpipe.custody.diagnosis import Unwrapped, diagnosed
from loginpipe.custody.opening import Fault
from loginpipe.custody.private_keys import Opener
from loginpipe.custody.released import DataKeys, Opening, open_released
from loginpipe.custody.token_checks import TokenChecks
from loginpipe.logins.canonical import canonical_address
from loginpipe.masking.compat import MD5, CompatMasking
from loginpipe.masking.sealing import SealedValue, WrappedDataKey, associated_data, nonce, pad
from loginpipe_tests.custody import token_keys

KEYS = token_keys(1, 2)
CHECKS = TokenChecks(KEYS)
RECIPIENTS = ["a" * 64, "b" * 64]
ADDRESS, OTHER_ADDRESS, DEVICE = "199.172.111.135", "203.0.113.9", "593-47-5928"


def data_key(number: int) -> bytes:
    return sha256(bytes([number])).digest()


def token(field: str, value: str, version: int = 2) -> str:
    canonical = canonical_address(value) if field == "ip" else value.encode()
    return KEYS.tokens(field, [canonical], version)[0]


def sealed(field: str, value: str, key: int = 1, place: int = 0, subject: str | None = None) -> Unwrapped:
    """A value sealed under the data key of that number, the same one every time."""
    subject, key_id = subject or token(field, value), UUID(int=key)
    bound = associated_data(field, subject, key_id, RECIPIENTS)
    ciphertext = AESGCM(data_key(key)).encrypt(nonce(place), pad(value.encode()), bound)
    return Unwrapped(SealedValue(subject, field, key_id, place, ciphertext), data_key(key), RECIPIENTS)


def fault(failed: Unwrapped, *neighbours: Unwrapped, tokens_of: Any = CHECKS.all_of) -> str:
    """The fault of a value that does not open; nothing in clear is in its error."""
    assert not failed.opens
    error = diagnosed(failed, neighbours, tokens_of)
    assert isinstance(error, OpeningError)
    assert error.subject == failed.value.subject
    for clear in (ADDRESS, OTHER_ADDRESS, DEVICE):
        assert clear not in str(error)
    assert "\n" not in str(error)
    return error.fault


def nobody(_field: str, _plaintext: bytes) -> Iterable[str]:
    return []


def with_bit_flipped(value: Unwrapped, bit: int) -> Unwrapped:
    changed = bytearray(value.value.ciphertext)
    changed[bit // 8] ^= 1 << bit % 8
    return value.but(ciphertext=bytes(changed))


# --- told apart -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bit", [0, 7, 100, 130, 255, 256, 383])
def test_a_flipped_bit_wherever_it_is(bit: int) -> None:
    assert fault(with_bit_flipped(sealed("ip", ADDRESS), bit)) == Fault.CHANGED


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 47])
def test_a_ciphertext_that_was_cut_off(length: int) -> None:
    value = sealed("ip", ADDRESS)
    assert fault(value.but(ciphertext=value.value.ciphertext[:length])) == Fault.CHANGED


@pytest.mark.parametrize("place", [1, 255, 256, -1, 32_767])
def test_another_place_under_its_data_key(place: int) -> None:
    assert fault(sealed("ip", ADDRESS).but(position=place)) == Fault.CHANGED


def exchanged(one: Unwrapped, other: Unwrapped, *names: str) -> Unwrapped:
    return one.but(**{name: getattr(other.value, name) for name in names})


@pytest.mark.parametrize(
    "names",
    [("data_key_id", "position", "ciphertext"), ("position", "ciphertext"), ("ciphertext",)],
    ids=["whole", "under one data key", "the ciphertext alone"],
)
def test_the_value_of_another_row_of_the_same_release(names: tuple[str, ...]) -> None:
    other = sealed("ip", OTHER_ADDRESS, place=5)
    row = exchanged(sealed("ip", ADDRESS), other, *names)
    assert fault(row, other, tokens_of=nobody) == Fault.ROW_SWAPPED


def test_the_value_of_another_row_that_was_not_asked_for_is_told_by_its_own_token() -> None:
    other = sealed("ip", OTHER_ADDRESS, key=2, place=5)
    row = replace(
        exchanged(sealed("ip", ADDRESS), other, "data_key_id", "position", "ciphertext"), data_key=data_key(2)
    )
    assert fault(row) == Fault.ROW_SWAPPED
    assert fault(row, tokens_of=nobody) == Fault.CHANGED, "without the token keys it cannot be told"


def test_the_value_of_another_field_in_the_place_of_this_one() -> None:
    other = sealed("device_id", DEVICE, place=3)
    row = exchanged(sealed("ip", ADDRESS), other, "position", "ciphertext")
    assert fault(row) == Fault.ROW_SWAPPED


@pytest.mark.parametrize(("sealed_as", "said"), [("ip", "device_id"), ("device_id", "ip"), ("ip", "body")])
def test_a_field_that_was_exchanged(sealed_as: str, said: str) -> None:
    row = sealed(sealed_as, ADDRESS).but(field_name=said)
    assert fault(row) == Fault.FIELD_SWAPPED


def test_the_data_key_of_another_row_of_the_same_release() -> None:
    one, other = sealed("ip", ADDRESS, key=1), sealed("device_id", DEVICE, key=2)
    this = replace(one.but(data_key_id=UUID(int=2)), data_key=data_key(2))
    that = replace(other.but(data_key_id=UUID(int=1)), data_key=data_key(1))
    assert fault(this, that) == Fault.KEY_SWAPPED
    assert fault(that, this) == Fault.KEY_SWAPPED


def test_wrapped_keys_that_were_exchanged_between_two_data_keys() -> None:
    one, other = sealed("ip", ADDRESS, key=1), sealed("device_id", DEVICE, key=2)
    this, that = replace(one, data_key=data_key(2)), replace(other, data_key=data_key(1))
    assert fault(this, that) == Fault.KEY_SWAPPED
    assert fault(that, this) == Fault.KEY_SWAPPED


def test_a_data_key_that_is_none_of_this_release() -> None:
    row = replace(sealed("ip", ADDRESS, key=1), data_key=data_key(7))
    assert fault(row) == Fault.KEY_SWAPPED


# --- a whole release --------------------------------------------------------------------------------------------------


def opener() -> Opener:
    """Unwraps nothing: the wrapped key is the data key itself."""
    return Opener({RECIPIENTS[0]: lambda wrapped: wrapped.wrapped_key})


def released(value: Unwrapped, recipients: list[str] = RECIPIENTS) -> Released:
    keys = tuple(WrappedDataKey(value.value.data_key_id, name, value.data_key) for name in recipients)
    return Released(value.value, keys)


def opening(*values: Unwrapped, checks: TokenChecks = CHECKS) -> Opening:
    return open_released([released(value) for value in values], DataKeys(opener()), checks)


def test_good_values_are_opened_beside_bad_ones_and_each_bad_one_is_named() -> None:
    good = [sealed("ip", ADDRESS), sealed("device_id", DEVICE, place=1)]
    bad = with_bit_flipped(sealed("ip", OTHER_ADDRESS, key=2), 9)
    found = opening(*good, bad)
    assert {value.plaintext for value in found.opened.values()} == {ADDRESS.encode(), DEVICE.encode()}
    assert all(value.checked for value in found.opened.values())
    assert [(error.subject, error.fault) for error in found.refused] == [(bad.value.subject, Fault.CHANGED)]


@pytest.mark.parametrize("version", [1, 2])
def test_a_value_that_gives_another_token_is_planted(version: int) -> None:
    """Whoever may write to the vault has the public key too: what they seal themselves opens."""
    row = sealed("ip", OTHER_ADDRESS, subject=token("ip", ADDRESS, version))
    found = opening(row)
    assert found.opened == {}
    assert [error.fault for error in found.refused] == [Fault.PLANTED]


@pytest.mark.parametrize("field", ["body", "device_id"])
def test_a_planted_value_gets_round_the_check_by_no_other_field(field: str) -> None:
    found = opening(sealed(field, ADDRESS, subject=token("ip", ADDRESS)))
    assert [error.fault for error in found.refused] == [Fault.PLANTED]


def test_an_address_that_is_none_is_planted() -> None:
    found = opening(sealed("ip", "no address", subject=token("ip", ADDRESS)))
    assert [error.fault for error in found.refused] == [Fault.PLANTED]


def test_the_body_of_a_message_has_no_token_to_be_checked() -> None:
    subject = "7f0c3f6e-3c1b-4a35-9d3e-5b9f2f3f9b11"
    found = opening(sealed("body", "{}", subject=subject))
    assert found.opened[subject].plaintext == b"{}"
    assert found.opened[subject].checked is None


def test_a_token_of_a_version_that_is_not_held_is_opened_and_said_to_be_unchecked() -> None:
    row = sealed("ip", ADDRESS, subject=token("ip", ADDRESS, 1))
    found = opening(row, checks=TokenChecks(token_keys(2)))
    assert found.opened[row.value.subject].checked is None


def test_tokens_of_an_older_scheme_are_compared_as_far_as_that_goes() -> None:
    md5 = CompatMasking(MD5)
    good = md5.tokens([ADDRESS.encode()])[0]
    for checks, subject, checked in (
        (TokenChecks(KEYS, [md5]), good, True),
        (TokenChecks(KEYS), good, None),
        (TokenChecks(None, [md5]), good, True),
    ):
        assert opening(sealed("ip", ADDRESS, subject=subject), checks=checks).opened[subject].checked is checked
    planted = opening(sealed("ip", OTHER_ADDRESS, subject=good), checks=TokenChecks(KEYS, [md5]))
    assert [error.fault for error in planted.refused] == [Fault.PLANTED]


def test_a_data_key_for_others_is_said_to_be_that_and_names_them() -> None:
    value = released(sealed("ip", ADDRESS), ["c" * 64, "d" * 64])
    found = open_released([value], DataKeys(opener()), CHECKS)
    ((error,),) = (found.refused,)
    assert (error.fault, error.subject) == (Fault.OTHER_RECIPIENT, value.value.subject)
    assert "cccccccccccccccc… or dddddddddddddddd…" in str(error)


def test_each_data_key_is_unwrapped_once_also_where_it_fails() -> None:
    asked: list[UUID] = []

    def unwrap(wrapped: WrappedDataKey) -> bytes:
        asked.append(wrapped.data_key_id)
        if wrapped.data_key_id == UUID(int=2):
            raise OpeningError("does not unwrap", Fault.DATA_KEY_CHANGED)
        return wrapped.wrapped_key

    values = [sealed("device_id", f"{key}-{place}", key, place) for key in (1, 2, 3) for place in range(4)]
    data_keys = DataKeys(Opener({RECIPIENTS[1]: unwrap}))
    for _ in range(2):
        found = open_released([released(value) for value in values], data_keys, CHECKS)
        assert len(found.opened) == 8
        assert {error.fault for error in found.refused} == {Fault.DATA_KEY_CHANGED}
        assert len({error.subject for error in found.refused}) == 4
    assert sorted(asked) == [UUID(int=1), UUID(int=2), UUID(int=3)]


def test_nothing_in_clear_is_shown_by_what_holds_it() -> None:
    found = opening(sealed("ip", ADDRESS))
    shown = repr(found) + repr(list(found.opened.values())) + repr(sealed("ip", ADDRESS)) + repr(DataKeys(opener()))
    assert ADDRESS not in shown
    assert repr(data_key(1)) not in shown
    assert repr(CHECKS).count("b'") == 0
