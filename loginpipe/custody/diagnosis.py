"""Why a sealed value does not open. Pure.

AES-GCM says no more than that value, key, nonce or associated data are not the ones of the sealing. So each way in
which rows of the vault can be exchanged is tried: what opens under another row's name was that row's. Nothing that is
found this way is ever given out.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from loginpipe.common.errors import OpeningError
from loginpipe.custody.opening import Fault, open_value
from loginpipe.masking.sealing import PADDING_BLOCK, VALUES_PER_DATA_KEY, SealedValue, nonce, unpad

FIELDS = ("ip", "device_id", "body")
"""What is sealed."""

_SAYS = {
    Fault.CHANGED: "it, or what it is bound to, was changed",
    Fault.ROW_SWAPPED: "it was sealed for another one, and put in this one's place",
    Fault.FIELD_SWAPPED: "it was sealed as another field",
    Fault.KEY_SWAPPED: "it was sealed under another data key than the one it names",
}
_GCM_TAG_BYTES = 16
_ASCII = 0x80
_MOSTLY = 0.75


@dataclass(frozen=True)
class Unwrapped:
    """A sealed value as stored, the data key that it names, unwrapped, and the fingerprints that key is wrapped for."""

    value: SealedValue
    data_key: bytes = field(repr=False)
    recipients: Sequence[str]

    def open(self) -> bytes:
        """Return the plaintext.

        Raises:
            OpeningError: as `open_value`.
        """
        return open_value(self.value, self.data_key, self.recipients)

    @property
    def opens(self) -> bool:
        """Whether it opens as it is."""
        try:
            self.open()
        except OpeningError:
            return False
        return True

    def but(self, **changed: object) -> "Unwrapped":
        """Return it with some attributes of the value as given."""
        return replace(self, value=replace(self.value, **changed))  # type: ignore[arg-type]  # names are ours


def diagnosed(
    failed: Unwrapped, neighbours: Iterable[Unwrapped], tokens_of: Callable[[str, bytes], Iterable[str]]
) -> OpeningError:
    """Return the error of a value that does not open, with the fault that explains it.

    Args:
        failed: the value.
        neighbours: others, one of which it may have been exchanged with.
        tokens_of: every token that a value of a field can have, as far as the keys for that are at hand.
    """
    fault = next(_explanations(failed, neighbours, tokens_of))
    return OpeningError(
        f"the sealed {failed.value.field_name} of {failed.value.subject} does not open: {_SAYS[fault]}; see "
        "docs/security.md",
        fault,
        failed.value.subject,
    )


def _explanations(
    failed: Unwrapped, neighbours: Iterable[Unwrapped], tokens_of: Callable[[str, bytes], Iterable[str]]
) -> Iterator[Fault]:
    if any(failed.but(field_name=name).opens for name in FIELDS):
        yield Fault.FIELD_SWAPPED
    for neighbour in neighbours:
        for put_back in _exchanged(failed, neighbour):
            if put_back.opens:
                yield _difference(failed, put_back)
    plaintext = _unauthenticated(failed)
    for name in FIELDS:
        if any(failed.but(subject=t, field_name=name).opens for t in tokens_of(name, unpad(plaintext))):
            yield Fault.ROW_SWAPPED
    if any(failed.but(position=place).opens for place in range(VALUES_PER_DATA_KEY)):
        yield Fault.CHANGED
    yield Fault.CHANGED if _looks_sealed(plaintext) else Fault.KEY_SWAPPED


def _exchanged(failed: Unwrapped, other: Unwrapped) -> Iterator[Unwrapped]:
    """Yield the value with what may have been exchanged with another one put back; the fewest exchanges first."""
    keys = (failed, replace(failed, data_key=other.data_key), other)
    for named, key, place in product((failed, other), keys, (failed, other)):
        value = replace(failed.value, subject=named.value.subject, field_name=named.value.field_name)
        value = replace(value, data_key_id=key.value.data_key_id, position=place.value.position)
        yield Unwrapped(value, key.data_key, key.recipients)


def _difference(failed: Unwrapped, put_back: Unwrapped) -> Fault:
    if put_back.value.subject != failed.value.subject:
        return Fault.ROW_SWAPPED
    return Fault.CHANGED if put_back.data_key == failed.data_key else Fault.KEY_SWAPPED


def _unauthenticated(failed: Unwrapped) -> bytes:
    """Decrypt without the tag: GCM is counter mode, its first block the nonce and the number 2 (NIST SP 800-38D)."""
    try:
        counter = nonce(failed.value.position) + (2).to_bytes(4, "big")
    except OverflowError:
        return b""
    decryptor = Cipher(algorithms.AES(failed.data_key), modes.CTR(counter)).decryptor()
    return decryptor.update(failed.value.ciphertext[:-_GCM_TAG_BYTES])


def _looks_sealed(plaintext: bytes) -> bool:
    """Say whether the data key was the right one: a wrong one gives bytes at random, which look right once in 200."""
    if not plaintext or len(plaintext) % PADDING_BLOCK:
        return True  # something was cut off or put on, and no data key explains that
    padded = plaintext.rstrip(b"\x00").endswith(b"\x80")
    return padded or sum(byte < _ASCII for byte in plaintext) > _MOSTLY * len(plaintext)
