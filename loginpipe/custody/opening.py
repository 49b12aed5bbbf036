"""Opening what the pipeline sealed, with a private key that it never has. Pure: keys and bytes in, bytes out."""

from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from loginpipe.errors import OpeningError
from loginpipe.masking.sealing import DATA_KEY_BYTES, OAEP, SealedValue, WrappedDataKey, associated_data, nonce, unpad


def unwrap(data_key: WrappedDataKey, private_key: rsa.RSAPrivateKey) -> bytes:
    """Return the 32 bytes of a data key.

    Raises:
        OpeningError: it was wrapped for another key, or changed since.
    """
    try:
        key = private_key.decrypt(data_key.wrapped_key, OAEP)
    except ValueError:
        key = b""
    if len(key) != DATA_KEY_BYTES:
        raise OpeningError(
            f"data key {data_key.data_key_id} does not unwrap: it is for {data_key.recipient[:16]}…, or was changed"
        )
    return key


def open_value(value: SealedValue, data_key: bytes, recipients: Sequence[str]) -> bytes:
    """Return the plaintext of a sealed value.

    Args:
        value: the sealed value as stored.
        data_key: its data key, unwrapped.
        recipients: the fingerprints of all keys that the data key was wrapped for.

    Raises:
        OpeningError: another data key, or value, field, subject or place was changed since.
    """
    bound = associated_data(value.field_name, value.subject, value.data_key_id, recipients)
    try:
        return unpad(AESGCM(data_key).decrypt(nonce(value.position), value.ciphertext, bound))
    except (InvalidTag, ValueError, OverflowError):
        raise OpeningError(
            f"the sealed {value.field_name} of {value.subject} does not open: it, or what it is bound to, was changed"
        ) from None
