"""Opening what the pipeline sealed, with a private key that it never has. Pure: keys and bytes in, bytes out."""

from collections.abc import Sequence
from enum import StrEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from loginpipe.common.errors import OpeningError
from loginpipe.masking.sealing import DATA_KEY_BYTES, OAEP, SealedValue, WrappedDataKey, associated_data, nonce, unpad


class Fault(StrEnum):
    """What is wrong with a value that does not open, or may not be believed."""

    OTHER_RECIPIENT = "other_recipient"
    """Its data key was wrapped for other keys than the ones at hand: nothing is wrong with it."""
    DATA_KEY_CHANGED = "data_key_changed"
    """Its data key is for a key at hand, and does not unwrap."""
    CHANGED = "changed"
    """Bits of it, or of what it is bound to, are others than were sealed."""
    ROW_SWAPPED = "row_swapped"
    """It was sealed for another token or message."""
    FIELD_SWAPPED = "field_swapped"
    """It was sealed as a value of another field."""
    KEY_SWAPPED = "key_swapped"
    """It was sealed under another data key."""
    PLANTED = "planted"
    """It opens, and gives another token than the one it is stored under: it was made by hand."""
    ALIAS_PLANTED = "alias_planted"
    """It is a good value of the alias, which is none of this token's."""
    UNCHECKED = "unchecked"
    """It opens, and the key that would show whether it is the token's is not at hand."""


def unwrap(data_key: WrappedDataKey, private_key: rsa.RSAPrivateKey) -> bytes:
    """Return the 32 bytes of a data key.

    Raises:
        OpeningError: `Fault.DATA_KEY_CHANGED`: it was changed, or wrapped for another key than it says.
    """
    try:
        key = private_key.decrypt(data_key.wrapped_key, OAEP)
    except ValueError:
        key = b""
    return require_data_key(data_key, key)


def require_data_key(data_key: WrappedDataKey, key: bytes) -> bytes:
    """Return what a data key was unwrapped to, if that is one.

    Raises:
        OpeningError: `Fault.DATA_KEY_CHANGED`: it is not of a data key's length.
    """
    if len(key) == DATA_KEY_BYTES:
        return key
    raise OpeningError(
        f"data key {data_key.data_key_id} does not unwrap with the key that it is for, {data_key.recipient[:16]}…: it "
        "was changed in the vault, see docs/security.md",
        Fault.DATA_KEY_CHANGED,
    )


def open_value(value: SealedValue, data_key: bytes, recipients: Sequence[str]) -> bytes:
    """Return the plaintext of a sealed value.

    Args:
        value: the sealed value as stored.
        data_key: its data key, unwrapped.
        recipients: the fingerprints of all keys that the data key was wrapped for.

    Raises:
        OpeningError: `Fault.CHANGED`: another data key, or value, field, subject or place was changed since;
            `loginpipe.custody.diagnosis` tells which.
    """
    bound = associated_data(value.field_name, value.subject, value.data_key_id, recipients)
    try:
        return unpad(AESGCM(data_key).decrypt(nonce(value.position), value.ciphertext, bound))
    except (InvalidTag, ValueError, OverflowError):
        raise OpeningError(
            f"the sealed {value.field_name} of {value.subject} does not open: it, or what it is bound to, was changed",
            Fault.CHANGED,
            value.subject,
        ) from None
