"""Sealed values that were tampered with: each kind is refused, and good values beside them are opened."""

from dataclasses import dataclass, field, replace
from hashlib import sha256
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from loginpipe.common.errors import OpeningError
from loginpipe.custody.access import Released
from loginpipe.custody.opening import DataKeys, Opener, Opening, Problem, open_released
from loginpipe.custody.token_checks import TokenChecks
from loginpipe.logins.canonical import canonical_address
from loginpipe.masking.compat import MD5, CompatMasking
from loginpipe.masking.sealing import SealedValue, WrappedDataKey, associated_data, nonce, pad
from loginpipe_tests.custody import token_keys

KEYS = token_keys(1, 2)
CHECKS = TokenChecks(KEYS)
RECIPIENTS = ["a" * 64, "b" * 64]
ADDRESS, OTHER_ADDRESS, DEVICE = "199.172.111.135", "203.0.113.9", "593-47-5928"


@dataclass(frozen=True)
class Stored:
    """A sealed value, and the unwrapped form of the data key that it names."""

    value: SealedValue
    data_key: bytes = field(repr=False)

    def but(self, **changed: object) -> "Stored":
        return replace(self, value=replace(self.value, **changed))  # type: ignore[arg-type]


def data_key(number: int) -> bytes:
    return sha256(bytes([number])).digest()


def token(field: str, value: str, version: int = 2) -> str:
    canonical = canonical_address(value) if field == "ip" else value.encode()
    return KEYS.tokens(field, [canonical], version)[0]


def sealed(field: str, value: str, key: int = 1, place: int = 0, subject: str | None = None) -> Stored:
    """Return a value sealed with the data key of that number; the same in every call."""
    subject, key_id = subject or token(field, value), UUID(int=key)
    bound = associated_data(field, subject, key_id, RECIPIENTS)
    ciphertext = AESGCM(data_key(key)).encrypt(nonce(place), pad(value.encode()), bound)
    return Stored(SealedValue(subject, field, key_id, place, ciphertext), data_key(key))


def with_bit_flipped(stored: Stored, bit: int) -> Stored:
    changed = bytearray(stored.value.ciphertext)
    changed[bit // 8] ^= 1 << bit % 8
    return stored.but(ciphertext=bytes(changed))


def opener() -> Opener:
    """Return an opener that unwraps nothing: the wrapped key is the data key itself."""
    return Opener({RECIPIENTS[0]: lambda wrapped: wrapped.wrapped_key})


def released(stored: Stored, recipients: list[str] = RECIPIENTS) -> Released:
    keys = tuple(WrappedDataKey(stored.value.data_key_id, name, stored.data_key) for name in recipients)
    return Released(stored.value, keys)


def opening(*values: Stored, checks: TokenChecks = CHECKS) -> Opening:
    return open_released([released(value) for value in values], DataKeys(opener()), checks)


ROW = sealed("ip", ADDRESS)
OTHER_ROW = sealed("ip", OTHER_ADDRESS, place=5)


@pytest.mark.parametrize(
    "tampered",
    [
        *(with_bit_flipped(ROW, bit) for bit in (0, 7, 100, 130, 255, 256, 383)),
        *(ROW.but(ciphertext=ROW.value.ciphertext[:length]) for length in (0, 1, 15, 16, 17, 47)),
        *(ROW.but(position=place) for place in (1, 255, 256, -1, 32_767)),
        *(ROW.but(field_name=name) for name in ("device_id", "body")),
        ROW.but(position=5, ciphertext=OTHER_ROW.value.ciphertext),
        ROW.but(ciphertext=OTHER_ROW.value.ciphertext),
        ROW.but(ciphertext=sealed("device_id", DEVICE).value.ciphertext),
        ROW.but(data_key_id=UUID(int=2)),
        replace(ROW.but(data_key_id=UUID(int=2)), data_key=data_key(2)),
        replace(ROW, data_key=data_key(7)),
    ],
)
def test_what_was_altered_or_sealed_with_another_key_is_refused_and_nothing_of_it_shown(tampered: Stored) -> None:
    found = opening(tampered)
    assert found.opened == {}
    (error,) = found.refused
    assert (error.subject, error.problem) == (tampered.value.subject, Problem.CHANGED)
    assert str(error) == (
        f"the sealed {tampered.value.field_name} of {tampered.value.subject} cannot be opened: it was altered, or "
        "sealed with another key; see docs/security.md"
    )


@pytest.mark.parametrize("recipients", [RECIPIENTS[:1], [*RECIPIENTS, "c" * 64]], ids=["left out", "put in"])
def test_other_recipients_than_it_was_sealed_for_are_refused(recipients: list[str]) -> None:
    found = open_released([released(ROW, recipients)], DataKeys(opener()), CHECKS)
    assert [error.problem for error in found.refused] == [Problem.CHANGED]


def test_good_values_are_opened_beside_bad_ones_and_each_bad_one_is_named() -> None:
    good = [sealed("ip", ADDRESS), sealed("device_id", DEVICE, place=1)]
    bad = with_bit_flipped(sealed("ip", OTHER_ADDRESS, key=2), 9)
    found = opening(*good, bad)
    assert {value.plaintext for value in found.opened.values()} == {ADDRESS.encode(), DEVICE.encode()}
    assert all(value.checked for value in found.opened.values())
    assert [(error.subject, error.problem) for error in found.refused] == [(bad.value.subject, Problem.CHANGED)]


@pytest.mark.parametrize("version", [1, 2])
def test_a_value_that_gives_another_token_is_planted(version: int) -> None:
    """Anyone who may write to the vault also has the public key, so a value that they seal themselves can be opened."""
    row = sealed("ip", OTHER_ADDRESS, subject=token("ip", ADDRESS, version))
    found = opening(row)
    assert found.opened == {}
    assert [error.problem for error in found.refused] == [Problem.PLANTED]


@pytest.mark.parametrize("field", ["body", "device_id"])
def test_a_planted_value_gets_round_the_check_by_no_other_field(field: str) -> None:
    found = opening(sealed(field, ADDRESS, subject=token("ip", ADDRESS)))
    assert [error.problem for error in found.refused] == [Problem.PLANTED]


def test_an_address_that_is_none_is_planted() -> None:
    found = opening(sealed("ip", "no address", subject=token("ip", ADDRESS)))
    assert [error.problem for error in found.refused] == [Problem.PLANTED]


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
    assert [error.problem for error in planted.refused] == [Problem.PLANTED]


def test_a_data_key_for_others_is_said_to_be_that_and_names_them() -> None:
    value = released(sealed("ip", ADDRESS), ["c" * 64, "d" * 64])
    found = open_released([value], DataKeys(opener()), CHECKS)
    ((error,),) = (found.refused,)
    assert (error.problem, error.subject) == (Problem.OTHER_RECIPIENT, value.value.subject)
    assert "cccccccccccccccc… or dddddddddddddddd…" in str(error)


def test_each_data_key_is_unwrapped_once_also_where_it_fails() -> None:
    asked: list[UUID] = []

    def unwrap(wrapped: WrappedDataKey) -> bytes:
        asked.append(wrapped.data_key_id)
        if wrapped.data_key_id == UUID(int=2):
            raise OpeningError("does not unwrap", Problem.CHANGED)
        return wrapped.wrapped_key

    values = [sealed("device_id", f"{key}-{place}", key, place) for key in (1, 2, 3) for place in range(4)]
    data_keys = DataKeys(Opener({RECIPIENTS[1]: unwrap}))
    for _ in range(2):
        found = open_released([released(value) for value in values], data_keys, CHECKS)
        assert len(found.opened) == 8
        assert {error.problem for error in found.refused} == {Problem.CHANGED}
        assert len({error.subject for error in found.refused}) == 4
    assert sorted(asked) == [UUID(int=1), UUID(int=2), UUID(int=3)]


def test_nothing_in_clear_is_shown_by_what_holds_it() -> None:
    found = opening(sealed("ip", ADDRESS))
    shown = repr(found) + repr(list(found.opened.values())) + repr(sealed("ip", ADDRESS)) + repr(DataKeys(opener()))
    assert ADDRESS not in shown
    assert repr(data_key(1)) not in shown
    assert repr(CHECKS).count("b'") == 0
